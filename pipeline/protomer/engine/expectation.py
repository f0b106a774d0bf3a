"""The E-step: poses of all particles against references that do not hold them, inserted as they are found.

Particles are divided by half-set and, within a half, by fold: an image is compared with a map made from the other folds of its own half
(cross-fitting), so that it never meets its own noise. The work comes in fixed batches of one half and fold; ranks take contiguous shares.
Where there are several classes, each batch is compared with all of them while it is at hand, and counts in each by its probability.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from protomer.arithmetic import CPU, Arithmetic
from protomer.engine.alignment import IDENTITY, LEAST_WEIGHT, Poses, Reference, Search, at_nearest_copies, refine_modes, search_globally
from protomer.engine.filaments import Filaments
from protomer.engine.hypotheses import Hypotheses
from protomer.engine.local_alignment import Local, align_locally, back_from, without_rest
from protomer.engine.pose_table import PoseTable, at_heaviest_mode, drawn
from protomer.engine.unknown import projected_power, unknown_log_odds
from protomer.imaging.aberrations import usable_radius
from protomer.imaging.images import ImageStore, Whitened, contrast_transfer, whiten
from protomer.running.batches import Batch, Key
from protomer.tables.particles import Particles
from protomer_kernels.fourier import shift_volume
from protomer_kernels.half_plane import HalfPlane
from protomer_kernels.insertion import fixed_point_scale
from protomer_kernels.newton import UNBOUNDED

__all__ = ["Context", "Expectation", "Model", "PoseTable", "at_heaviest_mode", "drawn", "expect", "insert_poses", "insertion_scale",
           "residual_sums"]


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

    def reference(self, key: Key, plane: HalfPlane, search: Search, arithmetic: Arithmetic = CPU) -> Reference:
        """The map of a half and fold, to compare images with, its origin in the box centre."""
        volume = self.about_origin(self.maps[key], plane)
        return Reference.prepare(volume, plane, self.insertion_radius, self.operators, search, self.mates, arithmetic)

    def about_origin(self, volume: np.ndarray, plane: HalfPlane) -> np.ndarray:
        """A map of the images' field of view with the origin of references moved to the box centre."""
        return shift_volume(volume, -self.origin_px * len(volume) / plane.box) if self.origin_px.any() else volume

    def root_weight(self, plane: HalfPlane, length: int) -> np.ndarray:
        """sqrt(m) / sigma at the first `length` coefficients: (groups, length) float32."""
        return np.sqrt(plane.multiplicity[:length] / self.noise[:, plane.shell[:length]]).astype(np.float32)


@dataclass(frozen=True)
class Expectation:
    """What one rank's share of the E-step gives. Of each class: poses, and one accumulator for each half and fold that it met. Posterior
    (n, K) of the classes, log odds (n,) of something unknown (0 where they are not asked for), grey sums (n, 2) of Re(X* M) and |M|^2 (rows
    in the order of its batches), and residual sums of each batch (b, groups, 3, shells)."""

    poses: tuple[PoseTable, ...]
    posterior: np.ndarray
    unknown: np.ndarray
    grey: np.ndarray
    residuals: np.ndarray
    accumulators: tuple[dict[Key, np.ndarray], ...]
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
    numbers: Sequence[int],
    store: ImageStore,
    particles: Particles,
    models: Sequence[Model],
    search: Search,
    pose_tables: Sequence[PoseTable],
    context: Context,
) -> Expectation:
    """Align the batches `numbers` of this rank to the maps of all classes, and insert them. All models share noise and radius."""
    plane, shells, groups = store.plane, models[0].noise.shape[1], len(models[0].noise)
    arithmetic, length = context.arithmetic, plane.prefix(usable_radius(particles, models[0].insertion_radius))
    weights = models[0].root_weight(plane, length)
    found: list[list[PoseTable]] = [[] for _ in models]
    posteriors, unknowns, grey, residuals = [np.zeros((0, len(models)))], [np.zeros(0)], [np.zeros((0, 2))], []
    accumulators: list[dict[Key, Any]] = [{} for _ in models]
    references: list[Reference] = []
    power = np.zeros(0)
    current: Key | None = None
    for number, crops in store.stream(numbers):
        key, rows = batches[number].key, batches[number].rows
        if key != current:
            current = key
            references = _references(models, key, plane, search, context)
            if context.hypotheses.structures is not None:
                power = projected_power(references, context.hypotheses.structures, search.final_radius)
            for of_class in accumulators:
                of_class[key] = arithmetic.empty_accumulator(models[0].insertion_radius)
        transfer = contrast_transfer(particles, rows, plane, length, context.pixel_size_A, arithmetic)
        batch = whiten(crops, transfer, weights[particles.optics[rows]], arithmetic)
        aligned = _align_to_all(batch, references, search, pose_tables, rows, key[0], context)
        unknown = np.zeros(len(rows)) if context.hypotheses.structures is None else unknown_log_odds(batch, power, plane, arithmetic)
        posterior = context.hypotheses.posterior([poses for poses, _, _ in aligned], rows, unknown)
        counted, explained = context.hypotheses.counted(posterior), _among_classes(posterior)
        sums = np.zeros((len(rows), 3, shells))
        for k, (poses, compared, seen) in enumerate(aligned):
            shown = _as_counted(poses, rows, context)
            here = replace(shown, weight=shown.weight * counted[:, k, None])
            insert_poses(batch, here, plane, models[k].operators, context.scale, accumulators[k][key], arithmetic)
            sums += explained[:, k, None, None] * residual_sums(compared, seen, references[k], shells)
            found[k].append(PoseTable.of(shown))
        residuals.append(by_group(sums, particles.optics[rows], groups))
        unknowns.append(unknown)
        grey.append(sums[:, 1:, 1:].sum(axis=2))
        posteriors.append(posterior)
        context.advance(len(rows))
    poses_of = tuple(PoseTable.joined(of_class, table) for of_class, table in zip(found, pose_tables, strict=True))
    totals = tuple({key: arithmetic.on_host(sums) for key, sums in of_class.items()} for of_class in accumulators)
    residual = np.array(residuals).reshape(-1, groups, 3, shells)
    posterior, unknown, powers = (np.concatenate(column) for column in (posteriors, unknowns, grey))
    return Expectation(poses_of, posterior, unknown, powers, residual, totals, context.scale)


def _references(models: Sequence[Model], key: Key, plane: HalfPlane, search: Search, context: Context) -> list[Reference]:
    """The reference of each class for a half and fold; classes that have the very same map share one."""
    made: dict[int, Reference] = {}
    for model in models:
        if id(model.maps[key]) not in made:
            made[id(model.maps[key])] = model.reference(key, plane, search, context.arithmetic)
    return [made[id(model.maps[key])] for model in models]


def _among_classes(posterior: np.ndarray) -> np.ndarray:
    """Posterior (n, K) given that the image shows one of the classes: rows that sum to one."""
    total = posterior.sum(axis=1, keepdims=True)
    return np.where(total > 0, posterior / np.where(total > 0, total, 1.0), 1.0 / posterior.shape[1])


def _as_counted(poses: Poses, rows: np.ndarray, context: Context) -> Poses:
    """The poses, with the weights at which modes are inserted."""
    poses = poses if context.marginalise else at_heaviest_mode(poses)
    return poses if context.draw is None else drawn(poses, context.draw[rows])


@dataclass(frozen=True)
class Context:
    """How an E-step is carried out: which particles are searched globally in each class (K, N) bool, fixed-point scale, a call per
    batch that tells progress and raises where the run is to stop, what an image may show, and whether it counts at all modes of its
    posterior or at the heaviest alone. draw (N,) in [0, 1): each image counts at one mode, drawn from its posterior. local: poses are
    looked for near given ones only; is_first: for the first time. arithmetic: what computes on arrays. filaments: what is known of the
    poses of all images (N,)."""

    search_again: np.ndarray
    scale: float
    pixel_size_A: float
    advance: Callable[[int], None]
    hypotheses: Hypotheses
    marginalise: bool = True
    draw: np.ndarray | None = None
    local: Local | None = None
    is_first: bool = False
    arithmetic: Arithmetic = CPU
    filaments: Filaments | None = None


Aligned = tuple[Poses, Whitened, Poses]


def _align_to_all(
    batch: Whitened,
    references: list[Reference],
    search: Search,
    tables: Sequence[PoseTable],
    rows: np.ndarray,
    half: int,
    context: Context,
) -> list[Aligned]:
    """What `_align` gives for each class; classes that start alike share what the first of them finds."""
    aligned: list[Aligned] = []
    for k, (reference, table) in enumerate(zip(references, tables, strict=True)):
        alike = [j for j in range(k) if references[j] is reference and tables[j] is table]
        aligned.append(
            aligned[alike[0]] if alike else _align(batch, reference, search, table.take(rows), rows, half, context.search_again[k], context)
        )
    return aligned


def _align(
    batch: Whitened,
    reference: Reference,
    search: Search,
    known: Poses,
    rows: np.ndarray,
    half: int,
    search_again: np.ndarray,
    context: Context,
) -> Aligned:
    """Poses of a batch; what was compared with the reference, and the poses in its frame: both other than the first only in a local
    refinement."""
    local = context.local
    if local is None:
        poses = _search_or_climb(batch, reference, search, known, search_again[rows], context, rows)
        return poses, batch, poses
    compared = without_rest(batch, half, local, rows, reference.plane) if local.takes_rest else batch
    seen = align_locally(compared, reference, search, known, rows, local, context.is_first)
    return back_from(seen, local.origin_px), compared, seen


def _search_or_climb(
    batch: Whitened,
    reference: Reference,
    search: Search,
    known: Poses,
    again: np.ndarray,
    context: Context,
    rows: np.ndarray,
) -> Poses:
    """Global search for some images, a climb from known modes for the others; in the batch's order."""
    filaments = None if context.filaments is None else context.filaments.take(rows)
    again = again | (known.weight.sum(axis=1) == 0)
    parts, order = [], []
    for chosen, is_global in ((np.flatnonzero(again), True), (np.flatnonzero(~again), False)):
        if len(chosen) == 0:
            continue
        part, own = batch.take(chosen), None if filaments is None else filaments.take(chosen)
        if is_global:
            parts.append(search_globally(part, reference, search, own))
        else:
            parts.append(refine_modes(part, reference, search, *_known_starts(known, chosen, reference), own or UNBOUNDED))
        order.append(chosen)
    back = np.argsort(np.concatenate(order), kind="stable")
    found = Poses(*(np.concatenate([getattr(p, name) for p in parts])[back] for name in Poses.__dataclass_fields__))
    return found if filaments is None else at_nearest_copies(found, filaments)


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
    out: Any,
    arithmetic: Arithmetic = CPU,
    translations_px: np.ndarray | None = None,
) -> None:
    """Insert every image at its modes by posterior weight, under every operator x -> g x + t (operator_sets.py, eq. 1; unset: t = 0)."""
    image, mode = np.nonzero(poses.weight > LEAST_WEIGHT)
    length = batch.amplitude.shape[1]
    rotations = batch.magnified(poses.rotation[image, mode], image)
    moves_px = np.zeros((len(operators), 3)) if translations_px is None else translations_px
    curvature = None if batch.curvature is None else batch.curvature[image]
    for operator, move_px in zip(operators, moves_px, strict=True):
        turned = np.ascontiguousarray(operator @ rotations)
        at = (image, turned, poses.shift_px[image, mode] + (move_px @ turned)[:, :2], poses.weight[image, mode])
        arithmetic.insert(at, batch.arrays, plane.arrays(length), scale, out, curvature)


def residual_sums(batch: Whitened, poses: Poses, reference: Reference, shells: int) -> np.ndarray:
    """Sums by image and shell of what residual_power gives at the heaviest mode: (n, 3, shells)."""
    plane, length = reference.plane, batch.amplitude.shape[1]
    rotations = batch.magnified(poses.rotation[:, 0], np.arange(len(batch.data)))
    waves, shift = plane.arrays(length), np.ascontiguousarray(poses.shift_px[:, 0])
    views = reference.arithmetic.slices(reference.volume_ft, rotations, waves)
    return reference.arithmetic.residual_power(views, shift, batch.arrays, waves, plane.shell[:length], shells)


def by_group(each: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Sums (n, ...) of images added up by optics group (n,): (groups, ...)."""
    return np.stack([each[group == g].sum(axis=0) for g in range(groups)])
