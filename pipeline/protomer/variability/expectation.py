"""A pass over all images: coordinates of each by the modes of its own half, and the sums from which the next modes are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from protomer.computing.mode_arithmetic import ModeArithmetic
from protomer.engine.sums import by_batch
from protomer.fixed_poses.scores import Seen, scale_of, updated_noise
from protomer.imaging.in_flight import in_flight
from protomer.variability.posterior import posterior_of
from protomer.variability.work import Coordinates, Standing, Varying
from protomer_kernels.modes import empty_mode_accumulator
from protomer_kernels.slices import transform_volume

MOST_SIGMAS = 6.0  # a coordinate further out counts in the sums as if it were here: of a junk image, or of one of very many
Source = Callable[[Sequence[int]], Iterator[tuple[Sequence[int], Seen]]]  # numbers of batches of one half, and their images


@dataclass(frozen=True)
class Pass:
    """What a pass gave, the same on every rank: coordinates of all rows, in table order; the noise spectrum; accumulators of both halves,
    unless nothing was inserted, and one over their fixed-point scale."""

    coordinates: Coordinates
    noise: np.ndarray
    totals: tuple[np.ndarray, ...]
    factor: float


@dataclass(frozen=True)
class Views:
    """A mean map and modes as images at their poses see them. volumes: Fourier volumes, as `arithmetic` has them."""

    volumes: Any
    arithmetic: ModeArithmetic

    @classmethod
    def of(cls, mean: np.ndarray, modes: np.ndarray, radius: int, arithmetic: ModeArithmetic) -> Views:
        """mean (d, d, d) and modes (K, d, d, d)."""
        where = arithmetic.arithmetic
        transforms = [transform_volume(where.here(volume), radius, workers=where.threads) for volume in (mean, *modes)]
        return cls(arithmetic.volumes(transforms), arithmetic)

    def seen_by(self, seen: Seen, plane: tuple[np.ndarray, np.ndarray, int]) -> tuple[Any, np.ndarray]:
        """What see_modes gives."""
        return self.arithmetic.see_modes(self.volumes, (seen.magnified, seen.shift_px), seen.batch.arrays, plane)


def real_images(varying: Varying, noise: np.ndarray) -> Source:
    """Batches as they were recorded."""
    fixed = varying.fixed

    def source(numbers: Sequence[int]) -> Iterator[tuple[Sequence[int], Seen]]:
        for together, crops in in_flight(fixed.setup.store, fixed.setup.batches, numbers, fixed.setup.arithmetic):
            yield together, Seen.of(fixed, together, crops, noise, fixed.radius)

    return source


def look(varying: Varying, standing: Standing, source: Source, label: str, inserts: bool = True) -> Pass:
    """Every image against the mean and modes of its half. Every rank takes part; each works on its own batches."""
    fixed, setup, arithmetic = varying.fixed, varying.fixed.setup, varying.arithmetic
    groups, shells = standing.noise.shape
    scale = scale_of(fixed, standing.noise, fixed.radius) / 2.0 ** np.ceil(np.log2(2.0 * MOST_SIGMAS**2))
    scales = standing.scales if varying.finds_scale else None
    totals: dict[int, Any] = {}
    found, residuals, current = [], [np.zeros((0, groups, 3, shells))], -1
    with setup.progress(label, sum(len(setup.batches[n].rows) for n in setup.numbers)) as line:
        for together, seen in source(setup.numbers):
            half, length = setup.batches[together[0]].key[0], seen.batch.amplitude.shape[1]
            plane = setup.store.plane.arrays(length)
            if half != current:
                current = half
                views = Views.of(standing.mean[half], standing.modes[half], fixed.radius, arithmetic)
                if inserts and half not in totals:
                    totals[half] = arithmetic.empty_accumulator(fixed.radius, varying.number)
            shown, products = views.seen_by(seen, plane)
            one = posterior_of(products, scales)
            amount = one.scale[:, None]
            moments = np.concatenate([amount, amount * one.mean], axis=1), amount[:, :, None] ** 2 * one.covariance
            left, power = arithmetic.leave_modes(seen.batch.data, shown, moments, setup.store.plane.shell, shells)
            if inserts:
                insert(seen, left, one, plane, scale, arithmetic, totals[half])
            sizes = [len(setup.batches[n].rows) for n in together]
            residuals.append(by_batch(np.repeat(power[:, None], 3, axis=1), setup.particles.optics[seen.rows], sizes, groups))
            found.append(one)
            line.advance(len(seen.rows))
            setup.check_stop()
    residual = setup.team.gather_rows(np.concatenate(residuals)).sum(axis=0)
    noise = updated_noise(fixed, standing.noise, residual, np.arange(len(setup.particles)))
    noise[:, 0] = standing.noise[:, 0]  # the origin is left out of everything
    summed = [total_of(totals.get(half), varying) for half in (0, 1)] if inserts else []
    return Pass(in_table_order(varying, found), noise, tuple(summed), 1.0 / scale)


def insert(
    seen: Seen, left: Any, one: Coordinates, plane: tuple[np.ndarray, np.ndarray, int], scale: float, arithmetic: ModeArithmetic, out: Any
) -> None:
    """Add a batch's residuals to an accumulator, by the moments of its coordinates times grey scales. scale: of the fixed point."""
    first = one.scale[:, None] * np.clip(one.mean, -MOST_SIGMAS, MOST_SIGMAS)
    second = one.scale[:, None, None] ** 2 * one.covariance + first[:, :, None] * first[:, None, :]
    lower = np.tril_indices(second.shape[1])
    moments = np.ascontiguousarray(first), np.ascontiguousarray(second[:, lower[0], lower[1]])
    arithmetic.insert_modes((seen.magnified, seen.shift_px), moments, (left, seen.batch.amplitude), plane, scale, out)


def total_of(own: Any | None, varying: Varying) -> np.ndarray:
    """An accumulator summed over ranks, on every rank's host; exact, since it is of integers."""
    setup = varying.fixed.setup
    total = empty_mode_accumulator(varying.fixed.radius, varying.number) if own is None else setup.arithmetic.on_host(own)
    setup.team.add_up(total)
    return total


def in_table_order(varying: Varying, found: Sequence[Coordinates]) -> Coordinates:
    """The coordinates of all ranks' rows, in the order of the particle table, on every rank."""
    k, setup = varying.number, varying.fixed.setup
    empty = Coordinates(np.zeros((0, k)), np.zeros((0, k, k)), np.zeros(0), np.zeros(0), np.zeros((0, 2)))
    order = np.argsort(setup.row_order, kind="stable")
    names = ("mean", "covariance", "scale", "gain", "fit")
    return Coordinates(*(setup.team.gather_rows(np.concatenate([getattr(one, name) for one in (empty, *found)]))[order] for name in names))
