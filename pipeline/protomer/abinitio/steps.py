"""The E-steps of an ab-initio run: coarse ones over a whole grid, fine ones with the engine's search; and its random beginning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import logsumexp

from protomer.abinitio.schedule import Step
from protomer.abinitio.setting_up import AbInitio
from protomer.abinitio.structures import Structures
from protomer.engine.alignment import Poses
from protomer.engine.batch_alignment import Context
from protomer.engine.expectation import Expectation, expect
from protomer.engine.hypotheses import Hypotheses, evidence
from protomer.engine.maximisation import Sums, add_up_ranks
from protomer.engine.model import Model, insertion_scale
from protomer.engine.pose_table import PoseTable
from protomer.engine.sums import insert_poses
from protomer.imaging.aberrations import usable_radius
from protomer.imaging.images import Whitened, whitened
from protomer.randomness import combine, uniform
from protomer_kernels.grid_posterior import GridPosterior
from protomer_kernels.grid_scores import shift_ramps
from protomer_kernels.rotations import (
    asymmetric_unit_rows,
    matrices_from_quaternions,
    quaternions_from_matrices,
    shift_grid,
    super_fibonacci_grid,
)
from protomer_kernels.slices import transform_volume

LEAST_MASS = 1e-5  # of an image: a rotation that holds less adds no slice
SHIFT_SPREAD = 0.75  # standard deviation of the particles' places, in extents of the search


@dataclass(frozen=True)
class Found:
    """What a batch gave, the same on every rank: sums of each class; means over images of log evidence, of the posterior of each class
    (K,), and of the highest posterior of any single pose."""

    sums: list[Sums]
    log_evidence: float
    fractions: np.ndarray
    certainty: float


def model_of(work: AbInitio, volume: np.ndarray, radius: int) -> Model:
    """One class, as the engine takes it."""
    return Model({(0, 0): volume}, work.noise, work.setup.operators, radius)


def random_start(work: AbInitio, step: Step, nothing: Structures) -> list[Sums]:
    """Sums of each class with the images of the step at rotations drawn at random."""
    setup, radius = work.setup, (nothing.numerator.shape[3] - 3) // 2
    accumulators = [setup.arithmetic.empty_accumulator(radius) for _ in range(work.classes)]
    model = model_of(work, nothing.maps[0], radius)
    scale = insertion_scale(setup.largest, setup.particles, model)
    for unit in work.own(work.units(step)):
        batch, rows = prepared(work, unit, model, radius)
        for k in range(work.classes):
            keys = combine(setup.particles.image_uid[rows], step.start, k)
            rotation = matrices_from_quaternions(random_quaternions(setup.seed, keys))
            poses = Poses(rotation[:, None], np.zeros((len(rows), 1, 2)), np.ones((len(rows), 1)), *(np.zeros((len(rows),)),) * 3)
            insert_poses(batch, poses, setup.store.plane, setup.operators, scale, accumulators[k], setup.arithmetic)
    return totals(work, accumulators, radius, scale)


def random_quaternions(seed: int, keys: np.ndarray) -> np.ndarray:
    """Rotations drawn evenly over all (Shoemake 1992): (n, 4) for keys (n,) uint64."""
    u, v, w = (uniform(seed, keys, f"ab-initio/rotation {n}") for n in range(3))
    a, b = np.sqrt(1.0 - u), np.sqrt(u)
    return np.stack([a * np.sin(2 * np.pi * v), a * np.cos(2 * np.pi * v), b * np.sin(2 * np.pi * w), b * np.cos(2 * np.pi * w)], axis=1)


def prepared(work: AbInitio, unit: int, model: Model, radius: int) -> tuple[Whitened, np.ndarray]:
    """A batch up to a radius, and its rows."""
    setup, rows = work.setup, work.setup.batches[unit].rows
    length = setup.store.plane.prefix(usable_radius(setup.particles, radius))
    crops, weights = setup.arithmetic.crops([setup.store.packed(unit)]), model.root_weight(setup.store.plane, length)
    return whitened(setup.particles, rows, crops, weights, setup.store.plane, setup.pixel_size_A, setup.arithmetic), rows


def totals(work: AbInitio, accumulators: list[Any], radius: int, scale: float) -> list[Sums]:
    """The sums of all ranks, exact since they are integers; where they are computed on."""
    setup, keys = work.setup, [(0, k) for k in range(work.classes)]
    added = add_up_ranks(dict(zip(keys, accumulators, strict=True)), keys, radius, setup.team, setup.arithmetic)
    return [Sums.of(setup.arithmetic.here(added[key]), scale) for key in keys]


def expect_coarsely(work: AbInitio, step: Step, now: Structures) -> Found:
    """Every image of the step at all rotations and shifts of a grid, which is turned at random, so that no step has another's points."""
    setup, arithmetic, plane = work.setup, work.setup.arithmetic, work.setup.store.plane
    grid, waves = turned_grid(work, step), plane.arrays(plane.prefix(step.radius))
    slices = np.stack([arithmetic.slices(transform_volume(volume, step.radius, workers=setup.threads), grid, waves) for volume in now.maps])
    model = model_of(work, now.maps[0], (now.numerator.shape[3] - 3) // 2)
    scale = insertion_scale(setup.largest, setup.particles, model)
    accumulators = [arithmetic.empty_accumulator(model.insertion_radius) for _ in range(work.classes)]
    own, rows = work.own(work.units(step)), []
    weigh = grid_weigher(work, step, slices, np.log(now.prior))
    for first in range(0, len(own), arithmetic.grids_at_once):
        units = own[first : first + arithmetic.grids_at_once]
        batches = [prepared(work, unit, model, step.insertion_radius)[0] for unit in units]
        for unit, result in zip(units, weigh(batches), strict=True):
            for k in range(work.classes):
                insert_sums(work, result, k, grid, scale, accumulators[k])
            rows.append([unit, len(result.highest), result.log_evidence.sum(), result.highest.sum(), *result.posterior.sum(axis=0)])
    return found_by_units(work, totals(work, accumulators, model.insertion_radius, scale), rows)


def turned_grid(work: AbInitio, step: Step) -> np.ndarray:
    """Rotations (G, 3, 3) in one asymmetric unit of the group, from an even grid turned at random."""
    turn = matrices_from_quaternions(random_quaternions(work.setup.seed, np.array([step.number], np.uint64)))[0]
    grid = matrices_from_quaternions(super_fibonacci_grid(step.rotations)) @ turn
    return np.asarray(grid[asymmetric_unit_rows(quaternions_from_matrices(grid), work.setup.operators)])


def grid_weigher(
    work: AbInitio, step: Step, slices: Any, log_prior: np.ndarray
) -> Callable[[Sequence[Whitened]], Iterator[GridPosterior]]:
    """What gives the posteriors of batches over this grid."""
    plane, extent_px, arithmetic = work.setup.store.plane, work.setup.shift_extent_px, work.setup.arithmetic
    shifts = shift_grid(extent_px, step.shift_step_px(plane.box))
    spread = -0.5 * (shifts.astype(np.float64) ** 2).sum(axis=1) / max(SHIFT_SPREAD * extent_px, 0.5) ** 2
    prior = spread - logsumexp(spread)

    def weigh(batches: Sequence[Whitened]) -> Iterator[GridPosterior]:
        length = batches[0].amplitude.shape[1]
        ramps = shift_ramps(shifts, plane.kx[:length], plane.ky[:length], plane.box)
        return arithmetic.posteriors_of_grid([batch.arrays for batch in batches], slices, ramps, (prior, log_prior), step.shared)

    return weigh


def insert_sums(work: AbInitio, found: GridPosterior, k: int, grid: np.ndarray, scale: float, out: Any) -> None:
    """Insert the slices that hold anything: as images of amplitude sqrt(weight), whose numerator and weight are these sums."""
    setup, held = work.setup, np.flatnonzero(found.mass[k] > LEAST_MASS)
    there, waves = setup.arithmetic.here(held), setup.store.plane.arrays(found.weight.shape[2])
    amplitude = np.sqrt(found.weight[k][there])
    data = found.numerator[k][there] / np.maximum(amplitude, np.float32(1e-12))[:, None]
    image, no_shift, one = np.arange(len(held)), np.zeros((len(held), 2)), np.ones(len(held))
    for operator in setup.operators:
        turned = np.ascontiguousarray(operator @ grid[held])
        setup.arithmetic.insert((image, turned, no_shift, one), (data, amplitude), waves, scale, out)


def found_by_units(work: AbInitio, sums: list[Sums], rows: list[list[float]]) -> Found:
    """Means over the images of all ranks, summed in the order of the batches: rows of unit, images, and sums over its images."""
    table = work.setup.team.gather_rows(np.array(rows, np.float64).reshape(-1, 4 + work.classes))
    sums_over = table[np.argsort(table[:, 0])][:, 1:].sum(axis=0)
    means = sums_over[1:] / sums_over[0]
    return Found(sums, float(means[0]), means[2:], float(means[1]))


def expect_finely(work: AbInitio, step: Step, now: Structures, units: list[int], advance: Callable[[int], None]) -> Expectation:
    """Poses climbed from the best of a grid; this rank's share of the batches."""
    setup = work.setup
    radius = (now.numerator.shape[3] - 3) // 2
    models = [model_of(work, volume, radius) for volume in now.maps]
    number = len(setup.particles)
    tables = [PoseTable.empty(number)] * work.classes
    hypotheses = Hypotheses(np.log(now.prior), -np.inf, None, False, setup.shift_extent_px)
    context = Context(np.ones((work.classes, number), bool), insertion_scale(setup.largest, setup.particles, models[0]), setup.pixel_size_A,
                      advance, hypotheses, arithmetic=setup.arithmetic)
    search = step.search(setup.shift_extent_px, setup.store.plane.box)
    return expect(setup.batches, work.own(units), setup.store, setup.particles, models, search, tables, context)


def found_finely(work: AbInitio, share: Expectation, units: list[int], radius: int, log_prior: np.ndarray) -> Found:
    """What all ranks found."""
    nothing = work.setup.arithmetic.empty_accumulator
    accumulators = [of_class[0, 0] if of_class else nothing(radius) for of_class in share.accumulators]
    log_z = np.stack([evidence(poses, work.setup.shift_extent_px) for poses in share.poses], axis=1)
    certainty = (share.posterior * np.stack([poses.weight[:, 0] for poses in share.poses], axis=1)).max(axis=1)
    values = np.stack([logsumexp(log_z + log_prior, axis=1), certainty], axis=1)
    rows, first = [], 0
    for unit in work.own(units):
        part = slice(first, first + len(work.setup.batches[unit].rows))
        first = part.stop
        rows.append([unit, part.stop - part.start, *values[part].sum(axis=0), *share.posterior[part].sum(axis=0)])
    return found_by_units(work, totals(work, accumulators, radius, share.scale), rows)


def with_prior(now: Structures, found: Found, gain: float) -> Structures:
    """The classes' prior moved towards the fractions found; none falls below a hundredth of an even share."""
    prior = (1.0 - gain) * now.prior + gain * found.fractions
    prior = np.maximum(prior, 0.01 / len(prior))
    return replace(now, prior=prior / prior.sum())

