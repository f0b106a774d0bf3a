"""The particles' images as prefix-ordered Fourier crops, in fixed batches, kept in memory or in a node-local cache.

A batch is keyed by what it holds, not by who runs it; its crops depend only on the stacks' bytes and the preparation. Where memory is too
small, or a cache folder is given, each batch is part of one entry of a cache, named by a digest of all that went into it. Symmetry
copies of an image lie in one batch and have one crop there, in memory as on disk; batches of copies share the file that a batch of their
images would have, so that they find what was prepared for those.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np

from protomer.computing.arithmetic import CPU, Arithmetic
from protomer.errors import InputError
from protomer.formats.mrc import StackReader
from protomer.imaging.aberrations import correct_odd_phases, even_turns, magnification_of, odd_correction
from protomer.imaging.ahead import read_ahead
from protomer.imaging.image_cache import ImageCache
from protomer.imaging.packed import Packed, as_pairs_of_halves
from protomer.tables.image_uids import image_uids
from protomer.tables.particles import Particles
from protomer_kernels.ctf import CtfParameters
from protomer_kernels.half_plane import HalfPlane

READ_AT_ONCE = 64
_SERIALS = count()


def common_frame(particles: Particles) -> tuple[int, float]:
    """Box and pixel size (A) that all optics groups with particles share; InputError where they differ."""
    used = [particles.optics_groups[g] for g in np.unique(particles.optics)]
    frames = sorted({(group.box, round(group.pixel_size_A, 4)) for group in used})
    if len(frames) != 1:
        listed = ", ".join(f"{box} px of {pixel} A" for box, pixel in frames)
        raise InputError(
            f"the optics groups have different images: {listed}",
            "one box and pixel size (within 0.0001 A) in a refinement",
            "import the groups separately with --bin or a common pixel size, then join them",
        )
    return used[0].box, used[0].pixel_size_A


def read_images(particles: Particles, rows: np.ndarray, readers: dict[int, StackReader]) -> np.ndarray:
    """Raw images of the given rows with grey offset and gain applied: (n, D, D) float32 in the stacks' own box."""
    images: np.ndarray | None = None
    stacks = particles.at("stack", rows)
    for stack in np.unique(stacks):
        if stack not in readers:
            readers[stack] = _open_unchanged(particles, int(stack))
        here = np.flatnonzero(stacks == stack)
        raw = readers[stack].read(particles.at("stack_index", rows[here]))
        if images is None:
            images = np.empty((len(rows), *raw.shape[1:]), np.float32)
        images[here] = raw
    assert images is not None
    offset, gain = (particles.at(name, rows).astype(np.float32)[:, None, None] for name in ("grey_offset", "grey_gain"))
    return (images - offset) * gain


def _open_unchanged(particles: Particles, number: int) -> StackReader:
    """The stack, if it is still the file that was imported."""
    stack = particles.stacks[number]
    if not os.path.exists(stack.path):
        raise InputError(
            f"the image stack {stack.path} is gone", "the stack where it was imported", "bring it back, or import again from where it is"
        )
    status = os.stat(stack.path)
    if status.st_size != stack.size_bytes:
        raise InputError(
            f"{stack.path} has {status.st_size} bytes",
            f"{stack.size_bytes} bytes, as when it was imported",
            "bring the original back, or import the particles again",
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # import has said what is odd about the header
        return StackReader(stack.path)


@dataclass
class ImageStore:
    """Fourier crops (n, K) complex64 of the batches of this rank, with odd aberrations taken out. `cache` None keeps them in memory.
    arithmetic: what transforms the images."""

    particles: Particles
    plane: HalfPlane
    batches: Sequence[np.ndarray]  # rows of the particle table
    cache: ImageCache | None = None
    arithmetic: Arithmetic = CPU
    half_precision: bool = False
    blocks: Sequence[int] | None = None  # for each batch the number of its file; unset: each has its own
    _held: dict[int, np.ndarray] = field(default_factory=dict)
    _readers: dict[int, StackReader] = field(default_factory=dict)
    _serial: int = field(init=False, default_factory=_SERIALS.__next__)

    def load(self, number: int) -> np.ndarray:
        """Crops of the batch, (n, K) complex64 in the order of its rows."""
        return self.packed(number).unpacked()

    def packed(self, number: int) -> Packed:
        """The same as they are kept; those of copies are read and held once."""
        rows = self.batches[number]
        first, back = _distinct(self.particles.pictures(rows))
        if self.cache is not None:
            stored = self._from_cache(number)
        else:
            if number not in self._held:
                self._held[number] = self._stored(self._prepare(rows[first]))
            stored = self._held[number]
        return Packed(stored, None if len(first) == len(rows) else back, self._serial, number)

    @property
    def held_bytes(self) -> int:
        """What the crops in memory take."""
        return sum(crops.nbytes for crops in self._held.values())

    def stream(self, numbers: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Every batch with its number, the next one being read and prepared while the caller works on one."""
        return read_ahead(numbers, self.load, self.arithmetic.bringer)

    def _prepare(self, rows: np.ndarray) -> np.ndarray:
        crops = np.empty((len(rows), len(self.plane)), np.complex64)
        for start in range(0, len(rows), READ_AT_ONCE):
            part = slice(start, start + READ_AT_ONCE)
            crops[part] = self.arithmetic.transform(read_images(self.particles, rows[part], self._readers), self.plane)
            correct_odd_phases(self.particles, rows[part], self.plane, crops[part])
        return crops

    def _stored(self, crops: np.ndarray) -> np.ndarray:
        return as_pairs_of_halves(crops) if self.half_precision else crops

    def _from_cache(self, number: int) -> np.ndarray:
        """Crops of the different images of a batch: its part of an entry, or prepared for it alone where the cache has no room."""
        assert self.cache is not None
        blocks = range(len(self.batches)) if self.blocks is None else self.blocks
        together = slice(bisect_left(blocks, blocks[number]), bisect_right(blocks, blocks[number]))
        shown = [rows[_distinct(self.particles.pictures(rows))[0]] for rows in self.batches[together]]
        own, start = shown[number - together.start], sum(map(len, shown[: number - together.start]))
        rows = np.concatenate(shown)
        size = len(rows) * len(self.plane) * (4 if self.half_precision else 8)
        kept = self.cache.fetch(self._digest(rows), size, lambda: self._stored(self._prepare(rows)))
        return self._stored(self._prepare(own)) if kept is None else kept[start : start + len(own)]

    def _digest(self, rows: np.ndarray) -> str:
        digest = hashlib.sha256(f"{self.plane.box} {self.plane.radius} {self.half_precision} rings{self.arithmetic.of_transforms}".encode())
        particles = self.particles
        digest.update(image_uids(particles.stacks, particles.at("stack", rows), particles.at("stack_index", rows)).tobytes())
        for name in ("grey_offset", "grey_gain"):
            digest.update(particles.at(name, rows).tobytes())
        optics = particles.at("optics", rows)
        for group in np.unique(optics):
            correction = odd_correction(particles.optics_groups[group], self.plane)
            if correction is not None:
                digest.update((optics == group).tobytes() + correction.tobytes())
        return digest.hexdigest()[:32]


def _distinct(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first row of each picture, in their order, and which of these each row shows."""
    _, first, inverse = np.unique(pictures, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    order = np.argsort(first)
    rank[order] = np.arange(len(first))
    return first[order], rank[inverse]


@dataclass(frozen=True)
class Whitened:
    """A batch as the kernels take it: data sqrt(m) X / sigma (n, 2, K) and amplitude sqrt(m) s C / sigma (n, K), float32 (newton.py), where
    an arithmetic computes; the images' magnifications (n, 2, 2) float64, None where all are the identity; and how they are curved,
    quadratic forms (n, 3) float32 as insertion takes them, None where they are flat."""

    data: Any
    amplitude: Any
    magnification: np.ndarray | None = None
    curvature: np.ndarray | None = None

    @property
    def arrays(self) -> tuple[Any, Any]:
        """Data and amplitude, as kernels take them to which rotations come magnified."""
        return self.data, self.amplitude

    @property
    def climbable(self) -> tuple[Any, Any, np.ndarray]:
        """Data, amplitude and magnification, as the climb takes them, which turns rotations itself."""
        given = self.magnification
        return self.data, self.amplitude, np.tile(np.eye(2), (len(self.data), 1, 1)) if given is None else given

    def magnified(self, rotations: np.ndarray, image: np.ndarray) -> np.ndarray:
        """R M (s, 3, 3) of rotations of the given images (s,): what takes an image's frequencies to the map's."""
        if self.magnification is None:
            return rotations
        turned = rotations.copy()
        turned[:, :, :2] = rotations[:, :, :2] @ self.magnification[image]
        return turned

    def of_map(self, volume_ft: Any, rotations: np.ndarray, shift_px: np.ndarray, plane: HalfPlane, arithmetic: Arithmetic = CPU) -> Any:
        """What the images would be without noise, (n, 2, K): a map's transform (transform_volume) seen at rotations (n, 3, 3) and shifts
        (n, 2), under the images' amplitudes; all where `arithmetic` computes."""
        number, length = self.amplitude.shape
        waves = plane.arrays(length)
        slices = arithmetic.slices(volume_ft, self.magnified(rotations, np.arange(number)), waves)
        turns = arithmetic.here(shift_px) @ arithmetic.here(np.stack(waves[:2]).astype(np.float64)) / plane.box
        image = self.amplitude * (slices[:, 0] + 1j * slices[:, 1]) * np.exp(2j * np.pi * turns)
        return np.stack([image.real, image.imag], axis=1).astype(np.float32)

    def on(self, arithmetic: Arithmetic) -> Whitened:
        """The batch where an arithmetic computes."""
        return Whitened(arithmetic.here(self.data), arithmetic.here(self.amplitude), self.magnification, self.curvature)

    def take(self, rows: np.ndarray) -> Whitened:
        """Some images of the batch."""
        given = (None if part is None else part[rows] for part in (self.magnification, self.curvature))
        return Whitened(self.data[rows], self.amplitude[rows], *given)


@dataclass(frozen=True)
class Transfer:
    """CTF times per-particle scale (n, K) float32 of a batch, where an arithmetic computes, and magnifications as in Whitened."""

    values: Any
    magnification: np.ndarray | None = None


def contrast_transfer(
    particles: Particles, rows: np.ndarray, plane: HalfPlane, length: int, pixel_size_A: float, arithmetic: Arithmetic = CPU,
    retarded_rad: float = 0.0
) -> Transfer:
    """The CTF of a batch with its even aberrations and magnification, times per-particle scale, at the first `length` coefficients.

    retarded_rad is added to the phase shift: a quarter turn makes cos gamma of -sin gamma.
    """
    group = particles.at("optics", rows)
    voltage, aberration, contrast = (
        np.array([getattr(g, name) for g in particles.optics_groups])[group]
        for name in ("voltage_V", "spherical_aberration_A", "amplitude_contrast")
    )
    column = {name: particles.at(name, rows) for name in ("defocus_u_A", "defocus_v_A", "defocus_angle_rad", "phase_shift_rad")}
    column["phase_shift_rad"] = column["phase_shift_rad"] + retarded_rad
    parameters = CtfParameters(
        voltage_V=voltage,
        spherical_aberration_A=aberration,
        amplitude_contrast=contrast,
        bfactor_A2=particles.at("ctf_bfactor_A2", rows),
        magnification=magnification_of(particles.optics_groups, group),
        **column,
    )
    added = even_turns(particles, rows, plane, length)
    values = arithmetic.ctf(parameters, plane.arrays(length), 1.0 / (plane.box * pixel_size_A), added)
    return Transfer(values * arithmetic.here(particles.at("scale", rows).astype(np.float32)[:, None]), parameters.magnification)


def whiten(crops: Any, transfer: Transfer, root_weights: np.ndarray, group: np.ndarray, arithmetic: Arithmetic = CPU) -> Whitened:
    """crops (n, >= K) complex64, where `arithmetic` computes; transfer of K coefficients; root_weights (groups, K) float32
    = sqrt(m) / sigma, and which of these each image has (n,)."""
    return Whitened(*arithmetic.whiten(crops, transfer.values, root_weights, group), transfer.magnification)


def whitened(
    particles: Particles, rows: np.ndarray, crops: Any, root_weights: np.ndarray, plane: HalfPlane, pixel_size_A: float,
    arithmetic: Arithmetic = CPU
) -> Whitened:
    """Some rows of the particles and their crops, with their own contrast transfer; as whiten."""
    transfer = contrast_transfer(particles, rows, plane, root_weights.shape[1], pixel_size_A, arithmetic)
    return whiten(crops, transfer, root_weights, particles.at("optics", rows), arithmetic)
