"""Passes over the images: grey scale and noise, defocus of each image, and the sums from which aberrations and magnification follow.

Images are compared with the half map of their own half-set, weighted by what the FSC leaves of it, but not with their own part of it: an
image agrees with its own noise best under the CTF with which that was put into the map, which would hold every parameter where it is. Of a
map that is a weighted mean of its images, V = v sum(C X / sigma^2) with v = 1 / sum(C^2 / sigma^2),

(1) V without image i = (V - v C_i X_i / sigma^2) / (1 - v C_i^2 / sigma^2)

at the coefficients of the image, C_i and X_i as they were when the map was made. Since the same image has no part in the other half map V',

(2) v = sum Re((V - V')* C X) / sum |C X|^2 / sigma^2

of each shell, which also knows how much of a part stays in its place when it is put in and read between the points of a grid. Beside this
number, the grey scale and the noise, nothing goes from one half-set to the other. Crops are read with the aberrations that particles had
at the start; what these have changed by since is taken out in each pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from protomer.ctf_refinement.changes import stretched_group
from protomer.imaging.aberrations import magnification_of, odd_correction
from protomer.imaging.images import ImageStore, Whitened, contrast_transfer, whiten
from protomer.maps.volumes import Halves
from protomer.running.batches import Batch, share_of_batches
from protomer.running.exact_sums import ExactSum
from protomer.running.ranks import Team
from protomer.tables.optics import OpticsGroup
from protomer.tables.particles import Particles
from protomer_kernels.ctf import electron_wavelength_A
from protomer_kernels.ctf_fit import SUMS, fit_one_number, pixel_driver, ring_driver
from protomer_kernels.half_plane import HalfPlane
from protomer_kernels.rotations import matrices_from_quaternions

RINGS_PER_SHELL = 4
LEAST_LEFT = 0.5  # of a map without one image
STRETCH_SHELLS = 0.25  # by which the outermost coefficient moves in a trial of the magnification


@dataclass(frozen=True)
class Band:
    """The coefficients that are used: `length` first ones of the plane, of which those before `first_shell` have no weight."""

    plane: HalfPlane
    length: int
    first_shell: int

    @property
    def radius(self) -> int:
        """The outermost shell."""
        return int(self.plane.shell[: self.length].max())


@dataclass(frozen=True)
class OwnPart:
    """For (1): the particles as they were when the map was made; v (2, shells) of either half map as it is used, and before it was weighted
    by the FSC."""

    particles: Particles
    amount: np.ndarray
    unweighted: np.ndarray


@dataclass(frozen=True)
class Engine:
    """What passes work with: volumes_ft of both halves (transform_volume), noise sigma^2 (groups, shells); own: of images in their maps,
    whose optics groups are also those whose odd phases were taken out of the crops. numbers: this rank's batches; progress and check_stop
    as a job has them (JobRun.shared_progress)."""

    store: ImageStore
    batches: Sequence[Batch]
    band: Band
    volumes_ft: Halves[np.ndarray]
    own: OwnPart
    noise: np.ndarray
    numbers: range
    team: Team = field(default_factory=Team)
    progress: Callable[[str, int], Any] = lambda label, total: nullcontext(SimpleNamespace(advance=lambda number: None))
    check_stop: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Seen:
    """A batch under the current parameters: rows, whitened images and slices (n, 2, K), P and Q of ctf_fit.py (n, K), and the pieces."""

    rows: np.ndarray
    half: int
    batch: Whitened
    slices: np.ndarray
    quadrature: np.ndarray
    root_weight: np.ndarray
    rotations: np.ndarray
    shift_px: np.ndarray


def seen_batches(engine: Engine, particles: Particles, label: str) -> Iterator[Seen]:
    """This rank's batches, to be gone through to the end on every rank, since ranks stop together where they are asked to."""
    with engine.progress(label, sum(len(engine.batches[n].rows) for n in engine.numbers)) as line:
        for seen in _seen(engine, particles):
            yield seen
            line.advance(len(seen.rows))
            engine.check_stop()


def _seen(engine: Engine, particles: Particles) -> Iterator[Seen]:
    """Each batch; whitened.amplitude is P without the weight of the noise, which the slices have."""
    band, plane = engine.band, engine.band.plane
    pixel_A = particles.optics_groups[int(particles.at("optics", engine.batches[0].rows[:1])[0])].pixel_size_A
    weight = root_weight(engine.noise, band)
    for number, crops in engine.store.stream(engine.numbers):
        rows, half = engine.batches[number].rows, engine.batches[number].key[0]
        optics = particles.at("optics", rows)
        data = rephased(crops[:, : band.length], optics, engine.own.particles.optics_groups, particles.optics_groups, plane)
        transfer = contrast_transfer(particles, rows, plane, band.length, pixel_A)
        quarter = particles.take(rows).with_columns(phase_shift_rad=particles.at("phase_shift_rad", rows) + 0.5 * np.pi)
        quadrature = contrast_transfer(quarter, np.arange(len(rows)), plane, band.length, pixel_A).values
        batch = whiten(data, transfer, weight, optics)
        rotations = matrices_from_quaternions(particles.at("rotation", rows))
        shift_px = particles.at("shift_A", rows) / pixel_A
        bare = Whitened(batch.data, weight[optics], transfer.magnification)
        slices = bare.of_map(engine.volumes_ft[half], rotations, shift_px, plane)
        if engine.own.amount.any():
            slices = without_own(engine, particles, rows, half, crops[:, : band.length] * weight[optics], slices)
        yield Seen(rows, half, Whitened(batch.data, transfer.values, transfer.magnification), slices, quadrature, weight[optics], rotations,
                   shift_px)


def without_own(engine: Engine, particles: Particles, rows: np.ndarray, half: int, data: np.ndarray, slices: np.ndarray) -> np.ndarray:
    """(1) for the slices (n, 2, K) of a batch; data (n, K) complex64 as they went into the map, with the phases that were known then; all
    whitened."""
    band, plane, own = engine.band, engine.band.plane, engine.own
    shell, optics = plane.shell[: band.length], particles.at("optics", rows)
    pixel_A = particles.optics_groups[int(optics[0])].pixel_size_A
    put_in = contrast_transfer(own.particles, rows, plane, band.length, pixel_A).values / engine.noise[optics][:, shell]
    turns = (particles.at("shift_A", rows) - own.particles.at("shift_A", rows)) / pixel_A / plane.box
    phase = np.exp(2j * np.pi * (turns @ np.stack([plane.kx, plane.ky])[:, : band.length]))
    part = data * phase * put_in * own.amount[half][shell]
    share = own.unweighted[half][shell] * put_in**2 * engine.noise[optics][:, shell]
    left = np.maximum(1.0 - share, LEAST_LEFT)
    return np.stack([(slices[:, 0] - part.real) / left, (slices[:, 1] - part.imag) / left], axis=1).astype(np.float32)


def root_weight(noise: np.ndarray, band: Band) -> np.ndarray:
    """sqrt(m) / sigma of the coefficients, (groups, K) float32, 0 before the band."""
    shell = band.plane.shell[: band.length]
    weight = np.sqrt(band.plane.multiplicity[: band.length] / noise[:, shell])
    weight[:, shell < band.first_shell] = 0.0
    return np.asarray(weight.astype(np.float32))


def rephased(crops: np.ndarray, optics: np.ndarray, before: Sequence[OpticsGroup], now: Sequence[OpticsGroup],
             plane: HalfPlane) -> np.ndarray:
    """Crops (n, K), from which the odd phases of groups `before` were taken, with those of `now` taken out instead."""
    out = crops
    for group in np.unique(optics).tolist():
        if before[group] == now[group]:
            continue
        if out is crops:
            out = crops.copy()
        old, new = odd_correction(before[group], plane), odd_correction(now[group], plane)
        for factor in (None if old is None else old.conj(), new):
            if factor is not None:
                out[optics == group] *= factor[: crops.shape[1]]
    return out


@dataclass(frozen=True)
class Survey:
    """grey (2,): scale of each half map in the other's images; noise sigma^2 (groups, shells); own (2, shells): v of eq. (2)."""

    grey: np.ndarray
    noise: np.ndarray
    own: np.ndarray


def survey(engine: Engine, particles: Particles, most_batches: int) -> Survey:
    """What images and maps have in common, from batches spread over the set; engine.noise is 1."""
    band, groups = engine.band, len(particles.optics_groups)
    shell, shells = band.plane.shell[: band.length], band.radius + 1
    part = np.unique(np.linspace(0, len(engine.batches) - 1, min(most_batches, len(engine.batches))).astype(int))
    store = ImageStore(particles, band.plane, [engine.batches[n].rows for n in part])
    numbers = share_of_batches(len(part), engine.team.rank, engine.team.size)
    some = replace(engine, store=store, batches=[engine.batches[n] for n in part], numbers=numbers)
    total, images = ExactSum((2, groups, 5, shells)), np.zeros(groups, np.int64)
    for seen in seen_batches(some, particles, "surveying images"):
        sums = np.zeros((2, groups, 5, shells))
        bare = Whitened(seen.batch.data, seen.root_weight, seen.batch.magnification)
        other = bare.of_map(engine.volumes_ft[1 - seen.half], seen.rotations, seen.shift_px, band.plane)
        data, amplitude = seen.batch.data, seen.batch.amplitude[:, None]
        products = ((data * amplitude * other).sum(axis=1), ((amplitude * other) ** 2).sum(axis=1), (data**2).sum(axis=1),
                    (data * amplitude * (seen.slices - other)).sum(axis=1), ((amplitude * data) ** 2).sum(axis=1))
        optics = particles.at("optics", seen.rows)
        for group in np.unique(optics).tolist():
            here = optics == group
            images[group] += here.sum()
            sums[seen.half, group] += [np.bincount(shell, each[here].sum(axis=0, dtype=np.float64), minlength=shells) for each in products]
        total.add(sums)
    sums, images = total.over(engine.team), engine.team.total(images)
    cross, power = sums[:, :, 0].sum(axis=(1, 2)), sums[:, :, 1].sum(axis=(1, 2))
    grey = np.divide(cross, power, out=np.ones(2), where=power > 0)
    count = np.bincount(shell, band.plane.multiplicity[: band.length], minlength=shells)
    scale = grey[:, None, None]
    rest = (sums[:, :, 2] - 2.0 * scale * sums[:, :, 0] + scale**2 * sums[:, :, 1]).sum(axis=0)
    noise = rest / np.maximum(images[:, None] * count, 1.0)
    noise = np.maximum(noise, 1e-9 * (float(noise.max()) if noise.max() > 0 else 1.0))
    put_in = (sums[:, :, 4] / noise).sum(axis=1)
    own = np.divide(sums[:, :, 3].sum(axis=1), put_in, out=np.zeros((2, shells)), where=put_in > 0)
    return Survey(grey[::-1], noise, np.maximum(own, 0.0))


def defocus_changes(engine: Engine, particles: Particles, reach_A: float, mean_A: np.ndarray,
                    precision: float) -> tuple[np.ndarray, np.ndarray]:
    """For each row the change of defocus (A) of its image, and the information about it (1 / A^2).

    Copies of an image have one value: that of their mean likelihood, since they share the image's noise. mean_A (n,) and precision: of a
    Gaussian prior on the change.
    """
    band = engine.band
    kx, ky = (axis[: band.length].astype(np.float64) for axis in (band.plane.kx, band.plane.ky))
    ring = np.rint(np.hypot(kx, ky) * RINGS_PER_SHELL).astype(np.int64)
    rings = int(ring.max()) + 1
    square = np.bincount(ring, kx * kx + ky * ky, minlength=rings) / np.maximum(np.bincount(ring, minlength=rings), 1)
    change_A, information = np.zeros(len(particles)), np.zeros(len(particles))
    for seen in seen_batches(engine, particles, "refining defocus"):
        sums = np.zeros((len(seen.rows), rings, SUMS))
        ring_driver(seen.batch.data, seen.slices, seen.batch.amplitude, seen.quadrature, ring, sums)
        _, first, image = np.unique(particles.at("image_uid", seen.rows), return_index=True, return_inverse=True)
        together = np.zeros((len(first), rings, SUMS))
        np.add.at(together, image, sums / np.bincount(image)[image, None, None])
        groups = [particles.optics_groups[g] for g in particles.at("optics", seen.rows[first])]
        per_A = np.array([-np.pi * float(electron_wavelength_A(g.voltage_V)) / (band.plane.box * g.pixel_size_A) ** 2 for g in groups])
        found, known = fit_one_number(together, per_A[:, None] * square, reach_A, mean_A[seen.rows[first]], precision)
        change_A[seen.rows], information[seen.rows] = found[image], known[image]
    return engine.team.total(change_A) + 0.0, engine.team.total(information) + 0.0  # each row is some rank's, and 0 elsewhere


@dataclass(frozen=True)
class GroupSums:
    """Of each optics group: products (groups, K, 6) of pixel_driver; normal equations of the stretch (groups, 2, 2) and (groups, 2)."""

    pixels: np.ndarray
    curvature: np.ndarray
    slope: np.ndarray


def group_sums(engine: Engine, particles: Particles, with_stretch: bool) -> GroupSums:
    """One pass for all groups."""
    band, groups = engine.band, particles.optics_groups
    pixels, curvature, slope = (ExactSum((len(groups), *shape)) for shape in ((band.length, SUMS + 1), (2, 2), (2,)))
    for seen in seen_batches(engine, particles, "refining aberrations"):
        optics = particles.at("optics", seen.rows)
        for group in np.unique(optics).tolist():
            here = optics == group
            own = np.zeros((band.length, SUMS + 1))
            pixel_driver(seen.batch.data[here], seen.slices[here], seen.batch.amplitude[here], seen.quadrature[here], own)
            pixels.add(own, group)
        if with_stretch:
            slopes = stretch_slopes(engine, particles, seen)
            residual = seen.batch.data - seen.batch.amplitude[:, None] * seen.slices
            for group in np.unique(optics).tolist():
                here = optics == group
                slope.add(np.array([float((each[here] * residual[here]).sum(dtype=np.float64)) for each in slopes]), group)
                curvature.add(np.array([[float((a[here] * b[here]).sum(dtype=np.float64)) for b in slopes] for a in slopes]), group)
    return GroupSums(*(total.over(engine.team) for total in (pixels, curvature, slope)))


def stretch_slopes(engine: Engine, particles: Particles, seen: Seen) -> list[np.ndarray]:
    """Derivatives (n, 2, K) of what images show with the two numbers of `stretched_group`, the CTF at each k staying what it is."""
    step = STRETCH_SHELLS / engine.band.radius
    slopes = []
    for axis in range(2):
        sides = []
        for sign in (1.0, -1.0):
            groups = [stretched_group(group, sign * step * np.eye(2)[axis]) for group in particles.optics_groups]
            magnification = magnification_of(groups, particles.at("optics", seen.rows))
            shown = Whitened(seen.batch.data, seen.root_weight * seen.batch.amplitude, magnification)
            sides.append(shown.of_map(engine.volumes_ft[seen.half], seen.rotations, seen.shift_px, engine.band.plane))
        slopes.append((sides[0] - sides[1]) / np.float32(2.0 * step))
    return slopes
