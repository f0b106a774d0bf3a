"""The M-step: from accumulated slices to half maps, their FSC, and the references of the next E-step.

All of it is done where the accumulators lie: on the host or on a device (computing/cuda_maps.py); maps stay there until asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft

from protomer.computing.arithmetic import CPU, Arithmetic
from protomer.maps.resolution import corrected_fsc, first_random_shell
from protomer.maps.volumes import Halves
from protomer.randomness import generator
from protomer.running.batches import Key
from protomer.running.ranks import Team
from protomer_kernels.fourier import phases_of, with_phases
from protomer_kernels.insertion import accumulator_values
from protomer_kernels.libraries import HOST, Library, library_of
from protomer_kernels.masks import sphere_mask
from protomer_kernels.padded import PADDING
from protomer_kernels.shells import fourier_shell_correlation
from protomer_kernels.wiener import shell_weights, solve_volume

THRESHOLD = 0.143
UNREGULARISED = 1e-3  # of the shell's mean weight: keeps voxels that no slice met from dividing by zero
LEAST_SSNR, MOST_FSC = 1e-3, 0.999


@dataclass(frozen=True)
class Sums:
    """Numerator and weight of one reconstruction, (n, n, r + 1) complex64 and float32."""

    numerator: np.ndarray
    weight: np.ndarray

    @classmethod
    def of(cls, accumulator: np.ndarray, scale: float) -> Sums:
        """From fixed point."""
        return cls(*accumulator_values(accumulator, scale))


def add_up_ranks(
    accumulators: dict[Key, Any], keys: list[Key], radius: int, team: Team, arithmetic: Arithmetic = CPU
) -> dict[Key, Any]:
    """Every rank's accumulators summed over ranks, on every rank; exact, since they are integers. They stay where they were computed, but
    for those of several ranks on devices whose memory MPI does not take: these meet on the host."""
    through_host = team.size > 1 and not team.takes_device_arrays
    totals = {}
    for key in keys:
        own = accumulators.get(key)
        total = arithmetic.empty_accumulator(radius) if own is None else own
        totals[key] = arithmetic.on_host(total) if through_host else total
        arithmetic.finish()
        team.add_up(totals[key])
    return totals


def half_totals(accumulators: Mapping[Key, np.ndarray]) -> Halves[np.ndarray]:
    """The folds of each half together; with one fold, its accumulator itself."""

    def total(half: int) -> np.ndarray:
        folds = [a for (h, _), a in accumulators.items() if h == half]
        if len(folds) == 1:
            return folds[0]
        together = folds[0] + folds[1]
        for fold in folds[2:]:
            together += fold
        return together

    return Halves(total(0), total(1))


def working_box(box: int, radius: int) -> int:
    """The smallest good even box, up to `box`, whose Nyquist lies beyond `radius`: the same field of view in coarser voxels."""
    return box if 2 * radius + 4 >= box else min(box, 2 * int(scipy.fft.next_fast_len(radius + 2, real=True)))


def unregularised(sums: Sums, box: int, shells: int, workers: int) -> np.ndarray:
    """A half map for the FSC: weights alone, no prior."""
    return solve_volume(sums.numerator, sums.weight, UNREGULARISED * shell_weights(sums.weight, shells) + 1e-12, box, workers)


def half_map_curve(half_maps: Halves[np.ndarray], mask: np.ndarray) -> np.ndarray:
    """FSC by shell of two masked half maps; the first two shells, which a mask rules, count as one."""
    curve = fourier_shell_correlation(half_maps.a * mask, half_maps.b * mask)
    curve[:2] = 1.0
    return curve


def corrected_curve(
    half_maps: Halves[np.ndarray], mask: np.ndarray, curve: np.ndarray, seed: int, arithmetic: Arithmetic = CPU
) -> np.ndarray:
    """FSC of half maps in a tight mask, less what the mask itself contributes (Chen et al. 2013); curve: theirs in a sphere."""
    from_shell, box = first_random_shell(curve), len(half_maps.a)
    masked = half_map_curve(half_maps, mask)
    if from_shell >= len(masked):
        return masked

    def randomised(half: np.ndarray, which: int) -> np.ndarray:
        def phases() -> np.ndarray:
            noise = generator(seed, which, "mask correction").standard_normal((box,) * 3, dtype=np.float32)
            return phases_of(arithmetic.here(noise))

        return with_phases(half, from_shell, arithmetic.made_once(("phases", seed, which, box), phases))

    a, b = (randomised(half, which) for which, half in enumerate((half_maps.a, half_maps.b)))
    return corrected_fsc(masked, fourier_shell_correlation(a * mask, b * mask), from_shell)


def first_shell_below(curve: np.ndarray, threshold: float = THRESHOLD) -> int:
    """The first shell at which the curve is below the threshold; its last where it never is."""
    below = np.flatnonzero(curve < threshold)
    return int(below[0]) if len(below) else len(curve) - 1


def shell_after_last_above(curve: np.ndarray, threshold: float = THRESHOLD) -> int:
    """The shell after the last one at which the curve reaches the threshold, or its last shell: dips before it do not count."""
    above = np.flatnonzero(curve >= threshold)
    return min(int(above[-1]) + 1, len(curve) - 1) if len(above) else 0


def signal_to_noise(curve: np.ndarray, resolved: int) -> np.ndarray:
    """SSNR of a half map by shell, FSC / (1 - FSC), and next to nothing beyond what is resolved."""
    fsc = np.clip(curve, LEAST_SSNR, MOST_FSC)
    ratio = fsc / (1.0 - fsc)
    ratio[resolved + 1:] = LEAST_SSNR
    return ratio


def regularised(sums: Sums, ssnr: np.ndarray, box: int, workers: int) -> np.ndarray:
    """Wiener solution with the prior that the SSNR of each shell gives."""
    mean = shell_weights(sums.weight, len(ssnr))
    return solve_volume(sums.numerator, sums.weight, mean / np.maximum(ssnr, LEAST_SSNR) + 1e-12, box, workers)


def join_below(own: Sums, other: np.ndarray, scale: float, join_shell: int) -> None:
    """Adds the other half's accumulator to a half's sums within `join_shell`: the one place where halves meet before the end, for the low
    frequencies on which both must agree (Scheres and Chen 2012)."""
    if join_shell < 1:
        return
    c, reach = (own.weight.shape[0] - 1) // 2, PADDING * join_shell
    axis = np.arange(-reach, reach + 1)
    arrays = library_of(own.weight).arrays
    low = arrays.asarray((axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + np.arange(reach + 1) ** 2) <= reach * reach)
    core = (slice(c - reach, c + reach + 1), slice(c - reach, c + reach + 1), slice(0, reach + 1))
    added = Sums.of(arrays.ascontiguousarray(other[core]), scale)
    own.numerator[core] += np.where(low, added.numerator, 0)
    own.weight[core] += np.where(low, added.weight, 0)


def solid_sphere(box: int, fraction: float, edge_fraction: float = 0.06, library: Library = HOST) -> np.ndarray:
    """A soft sphere of radius `fraction` of the box's width."""
    return sphere_mask(box, fraction * box, edge_fraction * box, library=library)
