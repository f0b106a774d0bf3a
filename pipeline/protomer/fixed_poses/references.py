"""The M-step at known poses: the map that all classes have in common, and by how much each class differs from it where it may.

Of a class is known, before its images are seen, that it is near the map V of all images of its half (whatever their class),

(1) D_k ~ Normal(0, tau_k^2) in each shell,  V_k = m V + g f D_k,  with m the solvent mask, f the focus mask, g of scores.py, eq. (3)

and its own images, counted by their posteriors, give

(2) D_k = (numerator_k - weight_k V) / (weight_k + 1 / tau_k^2)
(3) tau_k^2 / noise_k = S / N,  S = <f D_k^a, f D_k^b>,  N = (|f D_k^a|^2 + |f D_k^b|^2) / 2 - S,  by shell, of unregularised half maps

so that a difference which the two half-sets do not share is taken for noise: with as many images as tell nothing apart, D_k is zero and
posteriors are the classes' sizes. Outside the focus mask all classes have the same density, and it drops out of what tells them apart.

While images lie in classes that were drawn at random there is nothing to share yet: tau_k^2 is then that of V itself (its FSC), up to the
radius of the start, so that what chance made different can grow where images follow it (`search_radius`).

Half-sets share (3), the focus mask and the names of classes, and no density.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from protomer.engine.maximisation import (
    LEAST_SSNR,
    Sums,
    first_shell_below,
    half_map_curve,
    half_totals,
    signal_to_noise,
    unregularised,
)
from protomer.fixed_poses.work import Fixed, Maps
from protomer.maps.volumes import Halves
from protomer.running.batches import Key
from protomer_kernels.libraries import library_of
from protomer_kernels.shells import shell_cross_sums
from protomer_kernels.wiener import shell_weights, solve_volume

Totals = dict[Key, np.ndarray]
SMOOTHED = 3  # shells over which S and N are added up
SPARE = 1e-12  # of a weight: keeps voxels that no slice met from dividing by zero


@dataclass(frozen=True)
class References:
    """mean and apart as in work.Standing; curves: FSC of the common map, then of each class's unregularised half maps, in the solvent mask;
    ratio (K, shells): S / N of eq. (3)."""

    mean: Maps
    apart: tuple[Maps, ...]
    curves: list[np.ndarray]
    ratio: np.ndarray


def references(fixed: Fixed, totals: Sequence[Totals], scale: float, search_radius: int = 0) -> References:
    """References of all classes from their accumulators, where they are computed on; the maps, on the host, are the same on every rank."""
    box, shells, threads, setup = fixed.box, fixed.radius + 1, fixed.setup.threads, fixed.setup
    arithmetic = setup.arithmetic
    solvent, focus = (arithmetic.here(mask) for mask in fixed.masks(box))
    pool = together(totals)
    halves, pooled = [half_totals(of_class) for of_class in totals], half_totals(pool)
    half_maps = [each.map(lambda total: unregularised(Sums.of(total, scale), box, shells, threads)) for each in (pooled, *halves)]
    curves = [half_map_curve(maps, solvent) for maps in half_maps]
    common = signal_to_noise(np.resize(curves[0], shells), min(first_shell_below(curves[0]), shells - 1))
    ratio = np.stack([shared_difference(maps, half_maps[0], focus, shells) for maps in half_maps[1:]])
    if search_radius:
        ratio = np.tile(np.where(np.arange(shells) <= search_radius, common, 0.0), (len(totals), 1))
    mean_weight = [each.map(lambda total: shell_weights(Sums.of(total, scale).weight, shells)) for each in (pooled, *halves)]
    own = [key for n, key in enumerate(setup.keys) if n % setup.team.size == setup.team.rank]
    made = []
    for key in own:
        of_all = without_fold(pool, pooled, key, setup.keys, scale)
        ridge = mean_weight[0][key[0]] / np.maximum(common, LEAST_SSNR) + SPARE
        made.append(arithmetic.on_host(solve_volume(of_all.numerator, of_all.weight, ridge, box, threads) * solvent))
        mean_ft = of_all.numerator  # the quotient took its place
        for k, of_class in enumerate(totals):
            sums = without_fold(of_class, halves[k], key, setup.keys, scale)
            difference = sums.numerator
            difference -= sums.weight * mean_ft
            ridge = mean_weight[k + 1][key[0]] / np.maximum(ratio[k], LEAST_SSNR**2) + SPARE
            made.append(arithmetic.on_host(solve_volume(difference, sums.weight, ridge, box, threads) * focus))
    classes = len(totals) + 1
    gathered = setup.team.gather_rows(np.array(made, np.float32).reshape(-1, classes, box, box, box))
    owners = [key for rank in range(setup.team.size) for n, key in enumerate(setup.keys) if n % setup.team.size == rank]
    mean = {key: gathered[n, 0] for n, key in enumerate(owners)}
    apart = tuple({key: gathered[n, k] for n, key in enumerate(owners)} for k in range(1, classes))
    return References(mean, apart, curves, ratio)


def shared_difference(own: Halves[np.ndarray], common: Halves[np.ndarray], focus: np.ndarray, shells: int) -> np.ndarray:
    """S / N of eq. (3) by shell (shells,), from unregularised half maps of a class and of all images."""
    transform = library_of(focus).fft.rfftn
    a, b = (transform((own[half] - common[half]) * focus) for half in (0, 1))
    shared, power_a, power_b = (np.convolve(sums, np.ones(SMOOTHED), "same") for sums in shell_cross_sums(a, b).T)
    noise = np.maximum(0.5 * (power_a + power_b) - shared, 1e-3 * (power_a + power_b))
    ratio = np.divide(np.maximum(shared, 0.0), noise, out=np.zeros(len(noise)), where=noise > 0)
    return np.concatenate([ratio, np.zeros(max(shells - len(ratio), 0))])[:shells]


def together(totals: Sequence[Totals]) -> Totals:
    """The accumulators of all classes added up."""
    pool = {key: total.copy() for key, total in totals[0].items()}
    for of_class in totals[1:]:
        for key in pool:
            pool[key] += of_class[key]
    return pool


def without_fold(totals: Totals, halves: Halves[np.ndarray], key: Key, keys: list[Key], scale: float) -> Sums:
    """What images of a half and fold are compared with is made from: the other folds of the half."""
    return Sums.of(halves[key[0]] if len(keys) == 2 else halves[key[0]] - totals[key], scale)


def blended(earlier: Sequence[Totals], new: Sequence[Totals], kept: float) -> tuple[Totals, ...]:
    """What online EM goes on with: a share of the earlier accumulators, and those of the last block."""
    if not earlier:
        return tuple(new)
    return tuple({key: np.rint(before[key] * kept).astype(np.int64) + after[key] for key in after}
                 for before, after in zip(earlier, new, strict=True))
