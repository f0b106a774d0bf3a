"""The E-step: poses of all particles against references that do not hold them, inserted as they are found.

Particles are divided by half-set and, within a half, by fold: an image is compared with a map made from the other folds of its own half
(cross-fitting), so that it never meets its own noise. The work comes in fixed batches of one half and fold; ranks take contiguous shares.
Where there are several classes, each batch is compared with all of them while it is at hand, and counts in each by its probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np

from protomer.computing.arithmetic import Arithmetic
from protomer.engine.alignment import Poses, Reference, Search
from protomer.engine.batch_alignment import Context, align_to_all
from protomer.engine.model import Model
from protomer.engine.pose_table import PoseTable, at_heaviest_mode, drawn
from protomer.engine.sums import by_batch, insert_poses, residual_sums
from protomer.engine.unknown import projected_power, unknown_log_odds
from protomer.imaging.aberrations import usable_radius
from protomer.imaging.images import ImageStore, whitened
from protomer.imaging.in_flight import done_in_flight, rows_of
from protomer.running.batches import Batch, Key
from protomer.tables.particles import Particles
from protomer_kernels.half_plane import HalfPlane


@dataclass(frozen=True)
class Expectation:
    """What one rank's share of the E-step gives. Of each class: poses, and one accumulator for each half and fold that it met. Posterior
    (n, K) of the classes, log odds (n,) of something unknown (0 where they are not asked for), grey sums (n, 2) of Re(X* M) and |M|^2 (rows
    in the order of its batches), and residual sums of each batch (b, groups, 3, shells). Accumulators are where `arithmetic` computes."""

    poses: tuple[PoseTable, ...]
    posterior: np.ndarray
    unknown: np.ndarray
    grey: np.ndarray
    residuals: np.ndarray
    accumulators: tuple[dict[Key, Any], ...]
    scale: float


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
    plane, radius, noise = store.plane, models[0].insertion_radius, models[0].noise
    weights = models[0].root_weight(plane, plane.prefix(usable_radius(particles, radius)))
    step = _Step(batches, particles, plane, weights, models, search, pose_tables, context)
    seen: list[_Seen] = []
    accumulators: list[dict[Key, Any]] = [{} for _ in models]
    for key, of_key in groupby(numbers, lambda number: batches[number].key):
        fold = _Fold.of(step, key)
        for of_class, accumulator in zip(accumulators, fold.accumulators, strict=True):
            of_class[key] = accumulator
        for part in done_in_flight(store, batches, list(of_key), context.arithmetic, partial(step.seen, fold)):
            seen.append(part)
            context.advance(len(part.posterior))
    return _joined(seen, pose_tables, (len(noise), 3, noise.shape[1]), tuple(accumulators), context.scale)


@dataclass(frozen=True)
class _Step:
    """What all batches of an E-step share. weights (groups, K): root weights of coefficients."""

    batches: Sequence[Batch]
    particles: Particles
    plane: HalfPlane
    weights: np.ndarray
    models: Sequence[Model]
    search: Search
    pose_tables: Sequence[PoseTable]
    context: Context

    def seen(self, fold: _Fold, together: list[int], crops: Any) -> _Seen:
        """Align the batches `together`, all of one half and fold, and insert them; crops (n, K)."""
        context, hypotheses, rows = self.context, self.context.hypotheses, rows_of(self.batches, together)
        groups, shells = self.models[0].noise.shape
        batch = whitened(self.particles, rows, crops, self.weights, self.plane, context.pixel_size_A, context.arithmetic)
        aligned = align_to_all(batch, fold.references, self.search, self.pose_tables, rows, fold.half, context)
        is_asked = hypotheses.structures is not None
        unknown = unknown_log_odds(batch, fold.power, self.plane, context.arithmetic) if is_asked else np.zeros(len(rows))
        posterior = hypotheses.posterior([poses for poses, _, _ in aligned], rows, unknown)
        counted, explained = hypotheses.counted(posterior), _among_classes(posterior)
        sums, tables = np.zeros((len(rows), 3, shells)), []
        for k, (poses, compared, in_reference) in enumerate(aligned):
            shown = _as_counted(poses, rows, context)
            here = replace(shown, weight=shown.weight * counted[:, k, None])
            insert_poses(batch, here, self.plane, self.models[k].operators, context.scale, fold.accumulators[k], context.arithmetic)
            sums += explained[:, k, None, None] * residual_sums(compared, in_reference, fold.references[k], shells)
            tables.append(PoseTable.of(shown))
        residuals = by_batch(sums, self.particles.optics[rows], [len(self.batches[number].rows) for number in together], groups)
        return _Seen(tables, posterior, unknown, sums[:, 1:, 1:].sum(axis=2), residuals)


@dataclass(frozen=True)
class _Fold:
    """What the images of one half and fold are compared with, and accumulated in: one of each class. power (shells,): of the references'
    projections, where something unknown is a hypothesis."""

    half: int
    references: list[Reference]
    power: np.ndarray
    accumulators: list[Any]

    @classmethod
    def of(cls, step: _Step, key: Key) -> _Fold:
        """References, and empty accumulators."""
        arithmetic, structures = step.context.arithmetic, step.context.hypotheses.structures
        references = _references(step.models, key, step.plane, step.search, arithmetic)
        power = np.zeros(0) if structures is None else projected_power(references, structures, step.search.final_radius)
        return cls(key[0], references, power, [arithmetic.empty_accumulator(model.insertion_radius) for model in step.models])


@dataclass(frozen=True)
class _Seen:
    """What the images of some batches give: as in Expectation, without accumulators."""

    poses: Sequence[PoseTable]
    posterior: np.ndarray
    unknown: np.ndarray
    grey: np.ndarray
    residuals: np.ndarray


def _joined(
    seen: Sequence[_Seen],
    like: Sequence[PoseTable],
    residual_shape: tuple[int, ...],
    accumulators: tuple[dict[Key, Any], ...],
    scale: float,
) -> Expectation:
    """All batches of the rank, which may be none, one after the other."""
    poses = tuple(PoseTable.joined([part.poses[k] for part in seen], table) for k, table in enumerate(like))
    none = _Seen((), np.zeros((0, len(like))), np.zeros(0), np.zeros((0, 2)), np.zeros((0, *residual_shape)))
    posterior, unknown, grey, residuals = (
        np.concatenate([getattr(part, name) for part in (none, *seen)]) for name in ("posterior", "unknown", "grey", "residuals")
    )
    return Expectation(poses, posterior, unknown, grey, residuals, accumulators, scale)


def _references(models: Sequence[Model], key: Key, plane: HalfPlane, search: Search, arithmetic: Arithmetic) -> list[Reference]:
    """The reference of each class for a half and fold; classes that have the very same map share one."""
    made: dict[int, Reference] = {}
    for model in models:
        if id(model.maps[key]) not in made:
            made[id(model.maps[key])] = model.reference(key, plane, search, arithmetic)
    return [made[id(model.maps[key])] for model in models]


def _among_classes(posterior: np.ndarray) -> np.ndarray:
    """Posterior (n, K) given that the image shows one of the classes: rows that sum to one."""
    total = posterior.sum(axis=1, keepdims=True)
    return np.where(total > 0, posterior / np.where(total > 0, total, 1.0), 1.0 / posterior.shape[1])


def _as_counted(poses: Poses, rows: np.ndarray, context: Context) -> Poses:
    """The poses, with the weights at which modes are inserted."""
    poses = poses if context.marginalise else at_heaviest_mode(poses)
    return poses if context.draw is None else drawn(poses, context.draw[rows])
