"""The E-step: poses of all particles against references that do not hold them, inserted as they are found.

Particles are divided by half-set and, within a half, by fold: an image is compared with a map made from the other folds of its own half
(cross-fitting), so that it never meets its own noise. The work comes in fixed batches of one half and fold; ranks take contiguous shares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from scipy.special import expit

from protomer.aberrations import usable_radius
from protomer.alignment import IDENTITY, LEAST_WEIGHT, MODES, Poses, Reference, Search, refine_modes, search_globally
from protomer.batches import Batch, Key
from protomer.images import ImageStore, Whitened, contrast_transfer, whiten
from protomer.local_alignment import Local, align_locally, back_from, without_rest
from protomer.particles import Particles
from protomer_kernels.fourier import shift_volume
from protomer_kernels.half_plane import HalfPlane
from protomer_kernels.insertion import empty_accumulator, fixed_point_scale, insert_slices
from protomer_kernels.noise import residual_power
from protomer_kernels.rotations import matrices_from_quaternions, quaternions_from_matrices
from protomer_kernels.slices import extract_slices


@dataclass(frozen=True)
class PoseTable:
    """Poses of all N particles (alignment.Poses, with rotations as quaternions (N, m, 4))."""

    rotation: np.ndarray
    shift_px: np.ndarray
    weight: np.ndarray
    log_likelihood: np.ndarray
    covariance: np.ndarray
    log_odds: np.ndarray

    @property
    def presence(self) -> np.ndarray:
        """Probability (N,) that each image holds the particle, and not noise alone."""
        return np.asarray(expit(self.log_odds))

    @classmethod
    def empty(cls, number: int, modes: int | None = None) -> PoseTable:
        """No modes yet; room for MODES of each, or for as many as are said."""
        modes = MODES if modes is None else modes
        return cls(
            np.zeros((number, modes, 4)),
            np.zeros((number, modes, 2)),
            np.zeros((number, modes)),
            np.full(number, -np.inf),
            np.zeros((number, 15)),
            np.zeros(number),
        )

    def take(self, rows: np.ndarray) -> Poses:
        """Some rows, with rotations as matrices."""
        return Poses(
            matrices_from_quaternions(self.rotation[rows]),
            self.shift_px[rows].copy(),
            self.weight[rows],
            self.log_likelihood[rows],
            self.covariance[rows],
            self.log_odds[rows],
        )

    @classmethod
    def of(cls, poses: Poses) -> PoseTable:
        """The same with quaternions."""
        rotation = quaternions_from_matrices(poses.rotation.reshape(-1, 3, 3)).reshape(*poses.shift_px.shape[:2], 4)
        return cls(rotation, poses.shift_px, poses.weight, poses.log_likelihood, poses.covariance, poses.log_odds)


P = TypeVar("P", Poses, PoseTable)


@dataclass(frozen=True)
class Model:
    """What one E-step compares images with. `noise` (groups, shells) is sigma^2 of each shell; maps are of the images' field of view.
    `mates` (m, 3, 3): a group that the maps have only nearly (alignment.Reference)."""

    maps: Mapping[Key, np.ndarray]
    noise: np.ndarray
    operators: np.ndarray
    insertion_radius: int
    mates: np.ndarray = field(default_factory=lambda: IDENTITY)
    origin_px: np.ndarray = field(default_factory=lambda: np.zeros(3))  # where references have their origin, from the box centre

    def reference(self, key: Key, plane: HalfPlane, search: Search, threads: int) -> Reference:
        """The map of a half and fold, to compare images with, its origin in the box centre."""
        volume = self.about_origin(self.maps[key], plane)
        return Reference.prepare(volume, plane, self.insertion_radius, self.operators, search, threads, self.mates)

    def about_origin(self, volume: np.ndarray, plane: HalfPlane) -> np.ndarray:
        """A map of the images' field of view with the origin of references moved to the box centre."""
        return shift_volume(volume, -self.origin_px * len(volume) / plane.box) if self.origin_px.any() else volume

    def root_weight(self, plane: HalfPlane, length: int) -> np.ndarray:
        """sqrt(m) / sigma at the first `length` coefficients: (groups, length) float32."""
        return np.sqrt(plane.multiplicity[:length] / self.noise[:, plane.shell[:length]]).astype(np.float32)


@dataclass(frozen=True)
class Expectation:
    """What one rank's share of the E-step gives: poses and grey sums (n, 2) of Re(X* M) and |M|^2 (rows in the order of its batches),
    residual sums of each batch (b, groups, 3, shells), and one accumulator for each half and fold that it met."""

    poses: PoseTable
    grey: np.ndarray
    residuals: np.ndarray
    accumulators: dict[Key, np.ndarray]
    scale: float


def insertion_scale(largest: np.ndarray, particles: Particles, model: Model) -> float:
    """The fixed-point scale of an iteration, from bounds alone, so that every rank finds the same.

    largest (groups, shells): the largest |X| of any image.
    """
    greatest_scale = float(np.abs(particles.scale).max())
    shells = min(largest.shape[1], model.noise.shape[1])
    terms = 2.0 * np.maximum(greatest_scale * largest[:, :shells], greatest_scale**2) / model.noise[:, :shells]
    return fixed_point_scale(float(terms.max()), len(particles) * len(model.operators))


def expect(
    batches: list[Batch],
    numbers: range,
    store: ImageStore,
    particles: Particles,
    model: Model,
    search: Search,
    pose_table: PoseTable,
    context: Context,
) -> Expectation:
    """Align and insert the batches `numbers` of this rank."""
    plane, shells = store.plane, model.noise.shape[1]
    length = plane.prefix(usable_radius(particles, model.insertion_radius))
    weights = model.root_weight(plane, length)
    found, grey, residuals, accumulators = [], [np.zeros((0, 2))], [], {}
    reference: Reference | None = None
    current: Key | None = None
    for number, crops in store.stream(numbers):
        key, rows = batches[number].key, batches[number].rows
        if reference is None or key != current:
            current = key
            reference = model.reference(key, plane, search, context.threads)
            accumulators[key] = empty_accumulator(model.insertion_radius)
        transfer = contrast_transfer(particles, rows, plane, length, context.pixel_size_A)
        batch = whiten(crops, transfer, weights[particles.optics[rows]])
        poses, compared, seen = _align(batch, reference, search, pose_table.take(rows), rows, key[0], context)
        if not context.marginalise:
            poses = at_heaviest_mode(poses)
        if context.draw is not None:
            poses = drawn(poses, context.draw[rows])
        counted = counted_by_presence(poses) if context.null_class else poses
        insert_poses(batch, counted, plane, model.operators, context.scale, context.threads, accumulators[key])
        sums = residual_sums(compared, seen, reference, shells)
        residuals.append(by_group(sums, particles.optics[rows], len(model.noise)))
        grey.append(sums[:, 1:, 1:].sum(axis=2))
        found.append(PoseTable.of(poses))
        context.advance(len(rows))
    joined = PoseTable(
        *(
            np.concatenate([getattr(f, name) for f in found] or [getattr(pose_table, name)[:0]])
            for name in PoseTable.__dataclass_fields__
        )
    )
    residual = np.array(residuals).reshape(-1, len(model.noise), 3, shells)
    return Expectation(joined, np.concatenate(grey), residual, accumulators, context.scale)


@dataclass(frozen=True)
class Context:
    """How an E-step is carried out: which particles are searched globally (N,) bool, fixed-point scale, threads, a call per batch that
    tells progress and raises where the run is to stop, whether images count by their probability of holding the particle, and whether at
    all modes of their posterior or at the heaviest alone. draw (N,) in [0, 1): each image counts at one mode, drawn from its posterior.
    local: poses are looked for near given ones only; is_first: for the first time."""

    search_again: np.ndarray
    scale: float
    pixel_size_A: float
    threads: int
    advance: Callable[[int], None]
    null_class: bool = False
    marginalise: bool = True
    draw: np.ndarray | None = None
    local: Local | None = None
    is_first: bool = False


def at_heaviest_mode(poses: P) -> P:
    """The poses with all weight on the first mode, where there is one."""
    return replace(poses, weight=np.eye(1, poses.weight.shape[1]) * (poses.weight[:, :1] > 0))


def drawn(poses: Poses, at: np.ndarray) -> Poses:
    """Each image at one mode, the one at which its cumulated weights pass `at` (n,); it becomes the first and has all the weight."""
    passed = np.cumsum(poses.weight, axis=1) <= at[:, None] * poses.weight.sum(axis=1, keepdims=True)
    chosen = np.minimum(passed.sum(axis=1), poses.weight.shape[1] - 1)
    order = np.argsort(np.arange(poses.weight.shape[1]) != chosen[:, None], axis=1, kind="stable")
    rows = np.arange(len(order))[:, None]
    one = np.eye(1, order.shape[1]) * (poses.weight.sum(axis=1, keepdims=True) > 0)
    return replace(poses, rotation=poses.rotation[rows, order], shift_px=poses.shift_px[rows, order], weight=one)


def counted_by_presence(poses: P) -> P:
    """The poses with every weight times the probability that the image holds the particle."""
    return replace(poses, weight=poses.weight * expit(poses.log_odds)[:, None])


def _align(
    batch: Whitened, reference: Reference, search: Search, known: Poses, rows: np.ndarray, half: int, context: Context
) -> tuple[Poses, Whitened, Poses]:
    """Poses of a batch; what was compared with the reference, and the poses in its frame: both other than the first only in a local
    refinement."""
    local = context.local
    if local is None:
        poses = _search_or_climb(batch, reference, search, known, context.search_again[rows], context.threads)
        return poses, batch, poses
    compared = without_rest(batch, half, local, rows, reference.plane) if local.takes_rest else batch
    seen = align_locally(compared, reference, search, known, rows, local, context.is_first)
    return back_from(seen, local.origin_px), compared, seen


def _search_or_climb(
    batch: Whitened, reference: Reference, search: Search, known: Poses, again: np.ndarray, threads: int
) -> Poses:
    """Global search for some images, a climb from known modes for the others; in the batch's order."""
    again = again | (known.weight.sum(axis=1) == 0)
    parts, order = [], []
    for chosen, is_global in ((np.flatnonzero(again), True), (np.flatnonzero(~again), False)):
        if len(chosen) == 0:
            continue
        part = batch.take(chosen)
        if is_global:
            parts.append(search_globally(part, reference, search, threads))
        else:
            parts.append(refine_modes(part, reference, search, *_known_starts(known, chosen, reference)))
        order.append(chosen)
    back = np.argsort(np.concatenate(order), kind="stable")
    return Poses(*(np.concatenate([getattr(p, name) for p in parts])[back] for name in Poses.__dataclass_fields__))


def _known_starts(known: Poses, chosen: np.ndarray, reference: Reference) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rotations, shifts and presence of the modes to climb from: those that weigh something, or the heaviest and all its mates."""
    if len(reference.mates) > 1:
        return reference.with_mates(known.rotation[chosen, :1], known.shift_px[chosen, :1], np.ones((len(chosen), 1), bool))
    return known.rotation[chosen], known.shift_px[chosen], known.weight[chosen] > LEAST_WEIGHT


def insert_poses(
    batch: Whitened,
    poses: Poses,
    plane: HalfPlane,
    operators: np.ndarray,
    scale: float,
    threads: int,
    out: np.ndarray,
    translations_px: np.ndarray | None = None,
) -> None:
    """Insert every image at its modes by posterior weight, under every operator x -> g x + t (operator_sets.py, eq. 1; unset: t = 0)."""
    image, mode = np.nonzero(poses.weight > LEAST_WEIGHT)
    length = batch.amplitude.shape[1]
    rotations = batch.magnified(poses.rotation[image, mode], image)
    moves_px = np.zeros((len(operators), 3)) if translations_px is None else translations_px
    for operator, move_px in zip(operators, moves_px, strict=True):
        turned = np.ascontiguousarray(operator @ rotations)
        at = (image, turned, poses.shift_px[image, mode] + (move_px @ turned)[:, :2], poses.weight[image, mode])
        insert_slices(at, batch.arrays, plane.arrays(length), scale, threads, out)


def residual_sums(batch: Whitened, poses: Poses, reference: Reference, shells: int) -> np.ndarray:
    """Sums by image and shell of what residual_power gives at the heaviest mode: (n, 3, shells)."""
    plane, length = reference.plane, batch.amplitude.shape[1]
    slices = np.empty_like(batch.data)
    rotations = batch.magnified(poses.rotation[:, 0], np.arange(len(batch.data))).astype(np.float32)
    extract_slices(reference.volume_ft, rotations, plane.kx[:length], plane.ky[:length], slices)
    each = np.empty((len(batch.data), 3, shells))
    shift = np.ascontiguousarray(poses.shift_px[:, 0])
    residual_power(slices, shift, batch.arrays, plane.arrays(length), plane.shell[:length], each)
    return each


def by_group(each: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Sums (n, ...) of images added up by optics group (n,): (groups, ...)."""
    return np.stack([each[group == g].sum(axis=0) for g in range(groups)])
