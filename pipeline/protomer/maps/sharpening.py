"""Filtering and sharpening of a map by its own half-map FSC.

(1) Guinier plot: ln <|F|> against s^2; over the range where atoms scatter like random points it falls along a line of slope -B/4, and
    exp(+B s^2 / 4) undoes it: Rosenthal & Henderson (2003), J. Mol. Biol. 333, 721.
(2) FSC weight sqrt(2 FSC / (1 + FSC)): the same paper; protomer.maps.resolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft

from protomer.maps.fsc_curves import FscSet
from protomer.maps.resolution import combined_map_correlation
from protomer.maps.volumes import Volume
from protomer_kernels.fourier import apply_shell_filter
from protomer_kernels.shells import friedel_weight, half_shell_index

FEWEST_SHELLS = 5  # of a line that is fitted
EDGE_SHELLS = 3.0  # of the low-pass at the map's resolution


@dataclass(frozen=True)
class GuinierFit:
    """ln <|F|> per shell, before and after the FSC weight, and the line through its range, equation (1).

    s2_per_A2, log_amplitude, log_weighted: (box // 2 + 1,) float64, -inf where there is no power. first, last: shells of the fit.
    b_factor_A2 is the decay of the map: positive for a blurred one, and its negative is what sharpening applies.
    """

    s2_per_A2: np.ndarray
    log_amplitude: np.ndarray
    log_weighted: np.ndarray
    first: int
    last: int
    b_factor_A2: float
    intercept: float


def fit_line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Least-squares slope and intercept."""
    centred = x - x.mean()
    slope = float((centred * y).sum() / (centred * centred).sum())
    return slope, float(y.mean() - slope * x.mean())


def fit_guinier(volume: Volume, weight: np.ndarray, from_resolution_A: float, to_resolution_A: float) -> GuinierFit | None:
    """Equation (1) for a map whose transform is multiplied by a per-shell weight, between two resolutions (coarse, fine).

    None where fewer than FEWEST_SHELLS shells with power lie between them, so that a line would mean nothing.
    """
    box = volume.box
    amplitude = mean_amplitude(volume.data)
    shell = np.arange(box // 2 + 1)
    s = shell / (box * volume.voxel_size_A)
    with np.errstate(divide="ignore"):
        log_amplitude, log_weighted = np.log(amplitude), np.log(amplitude * weight)
    usable = np.flatnonzero((s >= 1 / from_resolution_A) & (s <= 1 / to_resolution_A) & np.isfinite(log_weighted))
    if len(usable) < FEWEST_SHELLS:
        return None
    slope, intercept = fit_line(s[usable] ** 2, log_weighted[usable])
    return GuinierFit(s * s, log_amplitude, log_weighted, int(usable[0]), int(usable[-1]), -4 * slope, intercept)


def mean_amplitude(volume: np.ndarray) -> np.ndarray:
    """Mean |F| per shell of a real volume (D, D, D), F normalised by 1 / D^3: (D // 2 + 1,) float64."""
    box = volume.shape[0]
    amplitude = np.abs(fft.rfftn(volume))
    weight = np.broadcast_to(friedel_weight(box), amplitude.shape).ravel()
    index = half_shell_index(box, 3).ravel()
    sums, counts = np.bincount(index, weight * amplitude.ravel()), np.bincount(index, weight)
    return (sums / counts)[: box // 2 + 1] / box**3


def fsc_weight(fsc: FscSet, curve_name: str = "corrected", threshold: float = 0.143) -> np.ndarray:
    """Equation (2) per shell, with a soft end (EDGE_SHELLS wide) at the resolution where the curve crosses the threshold: (D // 2 + 1,).

    Shell 0, the mean grey, has weight 1. A curve that reaches no resolution gives 0 everywhere else.
    """
    limit = fsc.shell_at(curve_name, threshold)
    weight = combined_map_correlation(fsc.curve(curve_name))
    weight[0] = 1.0
    return weight * soft_end(fsc.box, limit) if limit < fsc.box // 2 else weight


def soft_end(box: int, limit: float) -> np.ndarray:
    """1 up to a shell and 0 from EDGE_SHELLS beyond it on: (box // 2 + 1,)."""
    phase = np.clip((np.arange(box // 2 + 1) - limit) / EDGE_SHELLS, 0, 1)
    return np.asarray(0.5 + 0.5 * np.cos(np.pi * phase))


def sharpened_map(volume: Volume, weight: np.ndarray, b_factor_A2: float) -> Volume:
    """The map times a per-shell weight and exp(+B s^2 / 4), with B its own decay as `fit_guinier` gives it (0: only filtered)."""
    s = np.arange(volume.box // 2 + 1) / (volume.box * volume.voxel_size_A)
    return Volume(apply_shell_filter(volume.data, weight * np.exp(b_factor_A2 / 4 * s * s)), volume.voxel_size_A)
