"""What scatters in a simulated image: an atomic model, or a map; both give exact Fourier transforms of images and volumes.

A particle is one rigid body or several (`bodies`); body b is seen with a rotation of its own and displaced in the image by an offset of
its own. Transforms are plain (unnormalised), about the centre box // 2, with |k| < box / 2; an image is the sum of its volume along z.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from protomer.errors import SettingsError
from protomer.maps.volumes import Volume
from protomer.simulation.atom_files import read_atoms
from protomer_kernels.atom_layers import chebyshev_nodes, layer_fts, layers_needed, off_plane
from protomer_kernels.atoms import envelope, image_grid_ft, spread_images, volume_ft_of_atoms
from protomer_kernels.nufft import OVERSAMPLING, half_plane_frequencies, window_table
from protomer_kernels.volume_sampling import sample_volume_ft, sampling_grid

IMAGES_AT_ONCE = 32


class Scatterer(Protocol):
    """What the simulator needs to know of a particle."""

    @property
    def body_centres_A(self) -> np.ndarray:
        """Centre of mass of each rigid body, (b, 3) [x, y, z] from the box centre."""

    @property
    def radius_A(self) -> float:
        """Distance of the farthest density from the box centre."""

    def image_total(self, pixel_size_A: float) -> float:
        """Sum over the pixels of any of its images, before the CTF."""

    def image_fts(self, rotations: np.ndarray, offsets_A: np.ndarray, box: int, pixel_size_A: float) -> np.ndarray:
        """Image transforms (n, box, box // 2 + 1) complex64 for rotations (n, b, 3, 3) and displacements (n, b, 2)."""

    def curved_fts(self, rotations: np.ndarray, offsets_A: np.ndarray, height: np.ndarray, box: int,
                   pixel_size_A: float) -> tuple[np.ndarray, np.ndarray]:
        """As image_fts, at the heights +height and -height (box, box // 2 + 1) in cycles per box above the planes of the images.

        All bodies count as where the model has them along the beam: nothing is known of how they have moved along it.
        """

    def volume_ft(self, box: int, pixel_size_A: float) -> np.ndarray:
        """Volume transform (box, box, box // 2 + 1) complex64 [z, y, x] in the order of a real FFT, bodies where the model has them."""


@dataclass(frozen=True)
class AtomModel:
    """Point atoms with one B-factor. The grey value of a volume is electrons (or whatever `weights` count) per voxel."""

    positions_A: np.ndarray  # (a, 3) float64 [x, y, z] from the box centre, sorted by body
    weights: np.ndarray  # (a,) float32
    bfactor_A2: float
    body_starts: tuple[int, ...] = (0,)  # first atom of each rigid body

    def __post_init__(self) -> None:
        if self.positions_A.shape != (len(self.weights), 3) or self.positions_A.dtype != np.float64 or self.weights.dtype != np.float32:
            raise ValueError("expected positions (a, 3) float64 and weights (a,) float32")
        if self.body_starts[0] != 0 or any(np.diff((*self.body_starts, len(self.weights))) <= 0):
            raise ValueError(f"bodies begin at 0 and hold at least one atom each; found {self.body_starts} of {len(self.weights)} atoms")

    @property
    def bodies(self) -> list[slice]:
        """The atoms of each rigid body."""
        return [slice(start, stop) for start, stop in zip(self.body_starts, (*self.body_starts[1:], len(self.weights)), strict=True)]

    @property
    def body_centres_A(self) -> np.ndarray:
        """Centre of mass of each rigid body, (b, 3)."""
        return np.stack([np.average(self.positions_A[body], axis=0, weights=self.weights[body]) for body in self.bodies])

    @property
    def radius_A(self) -> float:
        """Distance of the farthest atom from the box centre."""
        return float(np.sqrt((self.positions_A**2).sum(1).max()))

    def image_total(self, pixel_size_A: float) -> float:
        """Sum of the atoms' weights, whatever the pixel size."""
        return float(self.weights.sum(dtype=np.float64))

    def image_fts(self, rotations: np.ndarray, offsets_A: np.ndarray, box: int, pixel_size_A: float) -> np.ndarray:
        """Image transforms; see Scatterer."""
        out = np.empty((len(rotations), box, box // 2 + 1), np.complex64)
        table, positions_px = window_table(), self.positions_A / pixel_size_A
        for first in range(0, len(rotations), IMAGES_AT_ONCE):
            rows = slice(first, first + IMAGES_AT_ONCE)
            grid = np.zeros((len(rotations[rows]), OVERSAMPLING * box, OVERSAMPLING * box), np.float32)
            for index, body in enumerate(self.bodies):
                turn, offset_px = np.ascontiguousarray(rotations[rows, index]), offsets_A[rows, index] / pixel_size_A
                spread_images(positions_px[body], self.weights[body], turn, offset_px, table, grid)
            out[rows] = image_grid_ft(grid, self.bfactor_A2 / pixel_size_A**2)
            out[rows] *= _envelope_ratio(rotations[rows, 0], box, self.bfactor_A2 / pixel_size_A**2)
        return out

    def curved_fts(self, rotations: np.ndarray, offsets_A: np.ndarray, height: np.ndarray, box: int,
                   pixel_size_A: float) -> tuple[np.ndarray, np.ndarray]:
        """Image transforms off the plane; see Scatterer."""
        above, below = np.empty((2, len(rotations), box, box // 2 + 1), np.complex64)
        positions_px, bfactor_px2 = self.positions_A / pixel_size_A, self.bfactor_A2 / pixel_size_A**2
        depth_px = self.radius_A / pixel_size_A * (1 + 1e-9) + 1e-9
        nodes = chebyshev_nodes(layers_needed(float(np.abs(height).max()), depth_px, box), depth_px)
        thinner = np.exp(-0.25 * bfactor_px2 * height**2 / box**2).astype(np.float32)  # the envelope is that of the point off the plane
        for n in range(len(rotations)):
            layers = np.zeros((1, len(nodes), box, box // 2 + 1), np.complex64)
            for index, body in enumerate(self.bodies):
                turn, offset_px = np.ascontiguousarray(rotations[n : n + 1, index]), offsets_A[n : n + 1, index] / pixel_size_A
                layers += layer_fts(positions_px[body], self.weights[body], turn, offset_px, nodes, box, bfactor_px2)
            layers *= _envelope_ratio(rotations[n : n + 1, 0], box, bfactor_px2)[:, None] * thinner
            above[n], below[n] = (off_plane(layers, nodes, sign * height)[0] for sign in (1, -1))
        return above, below

    def volume_ft(self, box: int, pixel_size_A: float) -> np.ndarray:
        """Volume transform; see Scatterer."""
        return volume_ft_of_atoms(self.positions_A / pixel_size_A, self.weights, box, self.bfactor_A2 / pixel_size_A**2)


def _envelope_ratio(turns: np.ndarray, box: int, bfactor_px2: float) -> np.ndarray:
    """e(R M k) / e(k) of atoms.py, eq. (1), (n, box, box // 2 + 1) float32 for matrices R M (n, 3, 3); 1 where M is the identity."""
    metric = np.swapaxes(turns[:, :, :2], 1, 2) @ turns[:, :, :2] - np.eye(2)
    if np.abs(metric).max() < 1e-9:
        return np.ones((1, 1, 1), np.float32)
    ky, kx = half_plane_frequencies(box)
    excess = np.einsum("nij,iyx,jyx->nyx", metric, *2 * [np.stack(np.broadcast_arrays(kx, ky[:, None]))])
    return np.exp(-0.25 * bfactor_px2 * excess / box**2).astype(np.float32)


@dataclass(frozen=True)
class MapModel:
    """A map as one rigid body, band-limited at its own Nyquist frequency; grey values are kept whatever the pixel size of the images."""

    volume: Volume
    bfactor_A2: float = 0.0

    @property
    def body_centres_A(self) -> np.ndarray:
        """The box centre, (1, 3)."""
        return np.zeros((1, 3))

    @property
    def radius_A(self) -> float:
        """Distance from the box centre within which 98% of the map's power lies; half the box at most."""
        axis = np.arange(self.volume.box) - self.volume.box // 2
        radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).ravel()
        power = np.cumsum(np.bincount(np.rint(radius).astype(int), self.volume.data.ravel().astype(np.float64) ** 2))
        return min(float(np.searchsorted(power, 0.98 * power[-1])), self.volume.box / 2) * self.volume.voxel_size_A

    def image_total(self, pixel_size_A: float) -> float:
        """Sum of the grey values at voxels of `pixel_size_A`."""
        return float(self.volume.data.sum(dtype=np.float64)) * (self.volume.voxel_size_A / pixel_size_A) ** 3

    @cached_property
    def _sampled(self) -> tuple[np.ndarray, int]:
        limit = self.volume.box // 2
        return sampling_grid(self.volume.data, limit), limit

    def _sample(self, points: np.ndarray, box: int, pixel_size_A: float) -> np.ndarray:
        """Transform at points (..., 3) in cycles per box of the target, times the target's envelope."""
        grid, limit = self._sampled
        scale = self.volume.box * self.volume.voxel_size_A / (box * pixel_size_A)
        weight = envelope((points**2).sum(-1), box, self.bfactor_A2 / pixel_size_A**2) * (self.volume.voxel_size_A / pixel_size_A) ** 3
        return sample_volume_ft(grid, limit, points * scale) * weight.astype(np.float32)

    def image_fts(self, rotations: np.ndarray, offsets_A: np.ndarray, box: int, pixel_size_A: float) -> np.ndarray:
        """Image transforms; see Scatterer."""
        return self._image_fts(rotations, offsets_A, np.zeros((box, box // 2 + 1)), box, pixel_size_A)

    def curved_fts(self, rotations: np.ndarray, offsets_A: np.ndarray, height: np.ndarray, box: int,
                   pixel_size_A: float) -> tuple[np.ndarray, np.ndarray]:
        """Image transforms off the plane; see Scatterer."""
        above, below = (self._image_fts(rotations, offsets_A, sign * height, box, pixel_size_A) for sign in (1, -1))
        return above, below

    def _image_fts(self, rotations: np.ndarray, offsets_A: np.ndarray, height: np.ndarray, box: int, pixel_size_A: float) -> np.ndarray:
        ky, kx = half_plane_frequencies(box)
        slab = np.stack(np.broadcast_arrays(kx, ky[:, None], height), axis=-1).astype(np.float64)  # (box, box // 2 + 1, 3) [x, y, z]
        out = np.empty((len(rotations), *slab.shape[:2]), np.complex64)
        for first in range(0, len(rotations), IMAGES_AT_ONCE):
            rows = slice(first, first + IMAGES_AT_ONCE)
            points = np.einsum("nij,yxj->nyxi", rotations[rows, 0], slab)
            phase = np.einsum("nj,yxj->nyx", offsets_A[rows, 0] / (box * pixel_size_A), slab[..., :2])
            out[rows] = self._sample(points, box, pixel_size_A) * np.exp(-2j * np.pi * phase)
        return out

    def volume_ft(self, box: int, pixel_size_A: float) -> np.ndarray:
        """Volume transform; see Scatterer."""
        k, kx = half_plane_frequencies(box)
        out = np.empty((box, box, len(kx)), np.complex64)
        for z, kz in enumerate(k):
            points = np.stack(np.broadcast_arrays(kx, k[:, None], kz), axis=-1).astype(np.float64)
            out[z] = self._sample(points, box, pixel_size_A)
        return out


def read_atom_model(path: str | Path, bfactor_A2: float, subunits: str | None = None, about_z: bool = False) -> AtomModel:
    """Read the first model of a PDB or mmCIF file (gzipped or not), without waters, centred on its centre of mass, or (about_z) only along
    z, so that the file's z axis stays where it is.

    Weights are atomic numbers; occupancies and the file's own B-factors are not used.
    `subunits` names what moves as one rigid body: chains joined by `+`, bodies by `,` ("A+B,C+D"); chains that are not named stay
    fixed as one more body, the last; "each" makes every chain a body; None makes one body of all.
    Raises InputError for a file that holds no atoms, SettingsError for a chain that is not in the model.
    """
    atoms = read_atoms(path)
    body = _body_of_chains(list(dict.fromkeys(atoms.chain)), subunits)
    number = np.array([body[name] for name in atoms.chain])
    order = np.argsort(number, kind="stable")
    positions_A, weights = atoms.positions_A[order], atoms.weights[order]
    starts = np.unique(number[order], return_index=True)[1]
    centre_A = np.average(positions_A, axis=0, weights=weights) * (np.array([0.0, 0.0, 1.0]) if about_z else 1.0)
    return AtomModel(positions_A - centre_A, weights, bfactor_A2, tuple(int(s) for s in starts))


def _body_of_chains(chains: list[str], subunits: str | None) -> dict[str, int]:
    """The rigid body of each chain, by name."""
    if subunits is None:
        return dict.fromkeys(chains, 0)
    if subunits == "each":
        return {name: index for index, name in enumerate(chains)}
    groups = [group.split("+") for group in subunits.replace(" ", "").split(",")]
    named = [name for group in groups for name in group]
    unknown = sorted(set(named) - set(chains))
    if unknown or len(named) != len(set(named)):
        raise SettingsError(f"subunits {subunits!r}" + (f" name chains {', '.join(unknown)}" if unknown else " name a chain twice"),
                            f"each of the model's chains at most once: {', '.join(chains)}", "join chains by + and subunits by ,")
    return {name: next((i for i, group in enumerate(groups) if name in group), len(groups)) for name in chains}


def with_symmetry(model: AtomModel, operators: np.ndarray, radius_A: float, translations_A: np.ndarray | None = None) -> AtomModel:
    """Copies of a model under a group's operators (g, 3, 3), each a rigid body, the model first moved by `radius_A` along x; each copy is
    then moved by its translation (g, 3), where there are any, as along a helix."""
    moved = model.positions_A + np.array([radius_A, 0.0, 0.0])
    along_A = np.zeros((len(operators), 3)) if translations_A is None else translations_A
    positions_A = np.concatenate([moved @ operator.T + along for operator, along in zip(operators, along_A, strict=True)])
    number, copies = len(model.weights), len(operators)
    return AtomModel(positions_A, np.tile(model.weights, copies), model.bfactor_A2, tuple(range(0, number * copies, number)))
