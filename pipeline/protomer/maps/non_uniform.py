"""Non-uniform regularisation: each place of a map is filtered as far as its two half maps bear it (Punjani, Zhang and Fleet 2020,
Nature Methods 17, 1214).

With f_r the Butterworth filter of order n whose amplitude falls to 0.71 at shell r,

(1) f_r(k) = (1 + (k / r)^(2 n))^(-1/2)
(2) E_r = |f_r A - B|^2 + |f_r B - A|^2

is, but for |A|^2 + |B|^2, which does not depend on r, the error of filtered half maps against what they would be without noise. That part
is mostly noise, of which windows of different widths see different samples, so it is left out; and <f_r A, B> is the same, with less noise,
for two maps filtered halfway. The cut-off at x is the r of the least

(3) E'_r(x) = mean over a window about x of (f_r A)^2 + (f_r B)^2 - 4 (f_r^(1/2) A) (f_r^(1/2) B)

The window is `window_factor` wavelengths of r wide. This is how the map that a job leaves is filtered. References are regularised band by
band (local_wiener.py), which cut-offs alone do worse: where signal is strong beside weak, windows of different widths see different amounts
of it, and (3) then errs to the fine side. Halves share nothing but this cut-off.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.fft
from scipy.ndimage import uniform_filter

from protomer.declarations.engine import EngineSettings
from protomer.maps.volumes import Halves
from protomer_kernels.fourier import half_radius

LEAST_SHELL, STEP = 2.0, 1.15  # candidates grow by this factor, and by one shell at least
SMALLEST_WINDOW = 3


@dataclass(frozen=True)
class NonUniform:
    """Settings: width of the window of eq. (3) in wavelengths, and order of the filters."""

    window_factor: float
    order: int

    @classmethod
    def of(cls, settings: EngineSettings) -> NonUniform | None:
        """None where it is off."""
        return cls(settings.nu_window_factor, settings.nu_filter_order) if settings.non_uniform else None


@dataclass(frozen=True)
class CutOffs:
    """What a place is filtered at: `level` (D, D, D) int8, an index into `shells`, cycles per box; order of the filters."""

    level: np.ndarray
    shells: tuple[float, ...]
    order: int

    def resolution_A(self, voxel_size_A: float) -> np.ndarray:
        """(D, D, D) float32: the resolution that the cut-off stands for."""
        return (len(self.level) * voxel_size_A / np.array(self.shells, np.float32))[self.level]

    def finest_in(self, mask: np.ndarray) -> float:
        """The finest cut-off, cycles per box, in a mask (D, D, D); the coarsest candidate where the mask is empty."""
        return self.shells[int(self.level[mask > 0.5].max(initial=0))]

    def apply(self, volume: np.ndarray) -> np.ndarray:
        """A map (D, D, D) filtered at each place as far as its cut-off there."""
        out = np.zeros_like(volume)
        for level, filtered in enumerate(_filtered(volume, self.shells, self.order)):
            np.copyto(out, filtered, where=self.level == level)
        return out


def candidates(finest_shell: float) -> tuple[float, ...]:
    """Shells to choose from, the last of them the finest."""
    shells = [LEAST_SHELL]
    while shells[-1] < finest_shell:
        shells.append(min(max(shells[-1] * STEP, shells[-1] + 1.0), finest_shell))
    return tuple(shells)


def find_cut_offs(half_maps: Halves[np.ndarray], finest_shell: float, how: NonUniform) -> CutOffs:
    """The cut-off of least cross-validated error, eq. (3), at every place of two unregularised half maps (D, D, D)."""
    shells, box = candidates(finest_shell), len(half_maps.a)
    least, level = np.full(half_maps.a.shape, np.inf, np.float32), np.zeros(half_maps.a.shape, np.int8)
    filtered = (_filtered(half, shells, how.order, power) for power in (1.0, 0.5) for half in (half_maps.a, half_maps.b))
    for at, (a, b, half_a, half_b) in enumerate(zip(*filtered, strict=True)):
        width = max(SMALLEST_WINDOW, round(how.window_factor * box / shells[at]) | 1)
        error = uniform_filter(a * a + b * b - 4.0 * half_a * half_b, min(width, box | 1), mode="nearest")
        better = error < least
        np.copyto(least, error, where=better)
        level[better] = at
    return CutOffs(level, shells, how.order)


def _filtered(volume: np.ndarray, shells: tuple[float, ...], order: int, power: float = 1.0) -> Iterator[np.ndarray]:
    """The map filtered by a power of eq. (1) at each shell."""
    spectrum, radius = scipy.fft.rfftn(volume.astype(np.float32)), half_radius(len(volume), 3).astype(np.float32)
    for shell in shells:
        gain = (1.0 + (radius / np.float32(shell)) ** np.float32(2 * order)) ** np.float32(-0.5 * power)
        yield scipy.fft.irfftn(spectrum * gain, volume.shape)
