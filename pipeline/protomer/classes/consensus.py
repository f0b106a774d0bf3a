"""References of classes that have most of their structure in common.

Maps of classes differ by what their particles differ in, and by noise. If each class is regularised by itself, the noise of its own map
looks like a difference: images then sort themselves by noise, with posteriors near 1, and a small class, whose map is blurred more, loses
images to a large one. Here what is expected of a class, before its own images are seen, is the map of all classes together:

(1) V_k ~ Normal(c_k V, tau_k^2) in each shell, V the map of all images
(2) c_k = <u_k, u> / <u, u>, held between 0 and 1, from unregularised maps u of different halves, so that no noise enters;
    0 for a class that holds nothing of the structure
(3) tau_k^2 = <u_k, u_k> - 2 c_k <u_k, u> + c_k^2 <u, u>, halves apart again: the power in which a class differs reproducibly
(4) where classes are not yet told apart, their maps are mixed, u_k = sum_j C_kj V_j with C_kj = sum_i p_ik p_ij / sum_i p_ik, and differ
    by less than their particles do: tau_k^2 is divided by kappa_k^2, kappa_k = (C_kk - pi_k) / (1 - pi_k), the share that is left. Without
    this, softer posteriors made smaller differences and these softer posteriors, until nothing was left of classes that the images do
    tell apart
(5) V_k = (numerator_k + c_k V / tau_k^2) / (weight_k + 1 / tau_k^2)          wiener.py, eq. (2)
(6) V_k - c_k V counts only where classes differ (differing.py); tau_k^2 there is larger by the share of the volume that this is

Of a decoy its start is expected, with c_k = 1: it stays what it was made as until images say reproducibly that it is something else. Junk
that has no structure in common would otherwise leave it with no map, and lie among the good classes again.

So a difference that the two halves do not share is taken for noise. It is the empirical Bayes estimate of maps that vary about a mean.
Halves are joined at low frequency in V alone: a difference that both were given would be found again in both, since images that resemble it
are the ones that count in its class, although it may be nothing but noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from protomer.classes.differing import differing_places
from protomer.engine.maximisation import (
    LEAST_SSNR,
    Sums,
    first_shell_below,
    half_map_curve,
    half_totals,
    join_below,
    signal_to_noise,
    solid_sphere,
    unregularised,
    working_box,
)
from protomer.engine.schedule import Band
from protomer.maps.volumes import Halves
from protomer.refinement.setup import MASK_FRACTION, Setup
from protomer.running.batches import Key
from protomer_kernels.fourier import apply_shell_filter, crop_volume
from protomer_kernels.libraries import library_of
from protomer_kernels.shells import shell_cross_sums
from protomer_kernels.slices import gridding_correction, transform_volume
from protomer_kernels.wiener import add_expected, map_of_quotient, quotient, shell_weights, solve_volume

Totals = dict[Key, np.ndarray]
SMOOTHED = 3  # shells over which differences and noise are added up
LEAST_TOLD_APART = 0.3
LEAST_PLACE = 0.02  # of the sphere: differences in less than that are not told from noise
SPARE = 1e-12  # of a weight: keeps voxels that no slice met from dividing by zero


def references_about_consensus(
    setup: Setup,
    totals: Sequence[Totals],
    scale: float,
    band: Band,
    posterior: np.ndarray,
    decoys: Mapping[int, np.ndarray],
    is_random: bool = False,
) -> tuple[list[Totals], list[np.ndarray]]:
    """References (5) of each class for the next iteration, and the FSC of its unregularised half maps in a sphere. posterior
    (N, K): by which images were counted in the classes; decoys: the starts (D, D, D) of some classes; is_random: these were
    drawn, and what chance made different stays, in both halves alike, up to each class's own FSC."""
    box, shells = working_box(band.box, band.insertion_radius), band.insertion_radius + 1
    arithmetic, threads = setup.arithmetic, setup.threads
    mask = solid_sphere(box, MASK_FRACTION, library=arithmetic.library)
    totals = [{key: arithmetic.here(total) for key, total in of_class.items()} for of_class in totals]
    pool = _together([of_class for k, of_class in enumerate(totals) if k not in decoys] or totals)
    halves, pooled = [half_totals(of_class) for of_class in totals], half_totals(pool)
    half_maps = [each.map(lambda total: unregularised(Sums.of(total, scale), box, shells, threads)) for each in (*halves, pooled)]
    curves = [half_map_curve(maps, mask) for maps in half_maps]
    common = signal_to_noise(np.resize(curves[-1], shells), min(first_shell_below(curves[-1]), shells - 1))
    rfftn, starts = arithmetic.library.fft.rfftn, {k: arithmetic.here(start) for k, start in decoys.items()}
    masked_ft = [maps.map(lambda data: rfftn(data * mask)) for maps in half_maps]
    starts_ft = {k: Halves.of(rfftn(crop_volume(start, box) * mask)) for k, start in starts.items()}
    share, apart = np.stack([expected(own_ft, starts_ft.get(k, masked_ft[-1]), shells, k in decoys) for k, own_ft in
                             enumerate(masked_ft[:-1])], axis=1)
    start_means = {k: mean_of_map(start, band.insertion_radius, threads) for k, start in starts.items()}
    apart = apart / told_apart(posterior)[:, None] ** 2
    if is_random:
        apart = np.stack([signal_to_noise(np.resize(curve, shells), first_shell_below(curve)) for curve in curves[:-1]])
    places = [np.ones(1, np.float32) if k in decoys or is_random else
              differing_places(masked_ft[k], masked_ft[-1], share[k], apart[k], mask) for k in range(len(totals))]
    of_sphere = [1.0 if place.size == 1 else float((place * mask).sum() / mask.sum()) for place in places]
    apart = apart / np.maximum(of_sphere, LEAST_PLACE)[:, None]
    weights = [each.map(lambda total: shell_weights(Sums.of(total, scale).weight, shells)) for each in (*halves, pooled)]
    join_shell = min(setup.join_shell, band.insertion_radius)
    own = [key for n, key in enumerate(setup.keys) if n % setup.team.size == setup.team.rank]
    maps = []
    for key in own:
        of_all = _sums(pool, pooled, key, setup.keys, scale, join_shell)
        mean_ft = quotient(of_all.numerator, of_all.weight, weights[-1][key[0]] / np.maximum(common, LEAST_SSNR) + SPARE)
        mean_map = map_of_quotient(mean_ft.copy(), box, threads)
        for k, of_class in enumerate(totals):
            sums = _sums(of_class, halves[k], key, setup.keys, scale, join_shell if is_random else 0)
            ridge = weights[k][key[0]] / np.maximum(apart[k], LEAST_SSNR) + SPARE
            add_expected(sums.numerator, ridge * share[k], start_means.get(k, mean_ft))
            volume = solve_volume(sums.numerator, sums.weight, ridge, box, threads)
            if places[k].size > 1:
                awaited = apply_shell_filter(mean_map, _long(share[k], box // 2 + 1))
                volume = awaited + places[k] * (volume - awaited)
            maps.append(arithmetic.on_host(volume * mask))
    gathered = setup.team.gather_rows(np.array(maps, np.float32).reshape(-1, len(totals), box, box, box))
    owners = [key for rank in range(setup.team.size) for n, key in enumerate(setup.keys) if n % setup.team.size == rank]
    return [{key: gathered[n, k] for n, key in enumerate(owners)} for k in range(len(totals))], curves[:-1]


def mean_of_map(volume: np.ndarray, radius: int, workers: int) -> np.ndarray:
    """A map (D, D, D) as the quotient of a numerator and weights would have it, (n, n, r + 1) complex64: not yet corrected for gridding,
    which `transform_volume` and `solve_volume` both do."""
    arrays = library_of(volume).arrays
    along = arrays.asarray(gridding_correction(len(volume)).astype(np.float32) ** 2)
    transform = transform_volume(volume * along[:, None, None] * along[:, None] * along, radius, workers=workers)
    mean: np.ndarray = arrays.ascontiguousarray(transform[..., 0] + np.complex64(1j) * transform[..., 1])
    return mean


def expected(
    own_ft: Halves[np.ndarray], all_ft: Halves[np.ndarray], shells: int, is_decoy: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """c of eq. (2), and tau^2 of eq. (3) over the noise of a class's half map, by shell (shells,), from transforms of half maps and of what
    is expected of them."""
    own, power_a, power_b = shell_cross_sums(own_ft.a, own_ft.b).T
    all_together = shell_cross_sums(all_ft.a, all_ft.b)[:, 0]
    across = 0.5 * (shell_cross_sums(own_ft.a, all_ft.b)[:, 0] + shell_cross_sums(all_ft.a, own_ft.b)[:, 0])
    share = np.clip(np.divide(across, all_together, out=np.zeros(len(own)), where=all_together > 0), 0.0, 1.0)
    share = np.ones(len(own)) if is_decoy else share
    apart = own - 2.0 * share * across + share**2 * all_together
    noise = np.maximum(0.5 * (power_a + power_b) - own, 1e-3 * (power_a + power_b))
    apart, noise = (np.convolve(sums, np.ones(SMOOTHED), "same") for sums in (apart, noise))
    ratio = np.divide(np.maximum(apart, 0.0), noise, out=np.zeros(len(own)), where=noise > 0)
    return _long(share, shells), _long(ratio, shells)


def told_apart(posterior: np.ndarray) -> np.ndarray:
    """kappa (K,) of eq. (4), from posteriors (N, K); not below LEAST_TOLD_APART."""
    total = np.maximum(posterior.sum(axis=0), SPARE)
    pure, size = (posterior**2).sum(axis=0) / total, total / max(float(total.sum()), SPARE)
    kappa = np.divide(pure - size, 1.0 - size, out=np.ones(len(size)), where=size < 1.0 - 1e-6)
    return np.asarray(np.clip(kappa, LEAST_TOLD_APART, 1.0))


def _long(curve: np.ndarray, shells: int) -> np.ndarray:
    """A curve of at least `shells` shells, zero past its end."""
    return np.concatenate([curve, np.zeros(max(shells - len(curve), 0))])[:shells]


def _together(totals: Sequence[Totals]) -> Totals:
    """The accumulators of all classes added up."""
    pool = {key: total.copy() for key, total in totals[0].items()}
    for of_class in totals[1:]:
        for key in pool:
            pool[key] += of_class[key]
    return pool


def _sums(totals: Totals, halves: Halves[np.ndarray], key: Key, keys: list[Key], scale: float, join_shell: int) -> Sums:
    """What the reference of a half and fold is made from: the other folds of the half, and the other half at low frequency."""
    half = key[0]
    sums = Sums.of(halves[half] if len(keys) == 2 else halves[half] - totals[key], scale)
    join_below(sums, halves[1 - half], scale, join_shell)
    return sums
