"""References that are regularised place by place: a Wiener filter whose signal is local, and whose noise is that of the whole map.

In bands b of Fourier space, with A_b and B_b the parts of two unregularised half maps that lie in a band,

(1) A = sum_b A_b,  band b: f_b - f_(b-1),  f_b(k) = 1 / (1 + (k / r_b)^(2 n)), the last one 1 up to the finest shell
(2) N_b(x) = mean of (A_b - B_b)^2 / 2,  of a half map, over the sphere of the references, or over a wide window about x where that is more
(3) S_b(x) = mean of A_b B_b over a window about x,  R_b = max(S_b, 0) / N_b
(4) R'_b = R_b^3 / (R_b^2 + (SURE sigma_b)^2),  sigma_b the spread of (3) where there is noise alone
(5) V(x) = sum_b g_b(x) / h_b V_b(x),  g_b = R'_b / (1 + R'_b),  h_b the greatest g_b but for a few places

g_b is the factor of least cross-validated error |g A_b - B_b|^2 + |g B_b - A_b|^2 about x: what Punjani, Zhang and Fleet (2020) choose a
cut-off for, in each band by itself. The shells of V are first weighted, coefficient by coefficient, as the best places bear it, by h_b
(`ssnr`), so that (5) only takes away. One FSC for all places would hold a core back by the noise in a belt about it, and leave that noise
to blur poses. Half-sets share g_b and h_b, and no density.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from protomer.maps.non_uniform import NonUniform
from protomer.maps.volumes import Halves
from protomer_kernels.fourier import half_radius
from protomer_kernels.libraries import HOST, Library, library_of
from protomer_kernels.shells import friedel_weight

LEAST_SHELL, STEP = 2.0, 1.25  # bands widen by this factor, and are a shell wide at least
WINDOW = 1.0 / 3.0  # of the window of cut-offs (NonUniform.window_factor), by default: one wavelength
WIDER = 2.0  # times the window of signal: that of noise
SURE = 2.0  # standard deviations at which half of a local signal is believed
BEST_PLACES = 99.0  # percentile of g_b in the sphere that is h_b
LEAST_GAIN = 1e-3
MOST_RATIO = 1e6  # of signal over noise: two halves may be one map
LEVELS = 255


@dataclass(frozen=True)
class LocalGains:
    """What (5) multiplies the bands by: gain (bands, D, D, D) uint8 in units of h_b / LEVELS; best (bands,) h_b; shells (bands,) r_b."""

    gain: np.ndarray
    best: np.ndarray
    shells: tuple[float, ...]
    order: int

    def ssnr(self, shells: int) -> np.ndarray:
        """(shells,) SSNR of a half map in the best places, between the bands by interpolation."""
        gain = np.interp(np.arange(shells), self.shells, self.best)
        return np.asarray(gain / np.maximum(1.0 - gain, LEAST_GAIN))

    def apply(self, volume: np.ndarray) -> np.ndarray:
        """Eq. (5) for a map (D, D, D) that is weighted by h_b already."""
        out: np.ndarray = library_of(volume).arrays.zeros(volume.shape, np.float32)
        for gain, part in zip(self.gain, parts_of(volume, self.shells, self.order), strict=True):
            out += gain * part * np.float32(1.0 / LEVELS)
        return out


def bands(finest_shell: float, coarsest_shell: float = LEAST_SHELL) -> tuple[float, ...]:
    """Upper ends of the bands of eq. (1), from the coarsest shell to the finest."""
    shells = [coarsest_shell]
    while shells[-1] < finest_shell:
        shells.append(min(max(shells[-1] * STEP, shells[-1] + 1.0), finest_shell))
    return tuple(shells)


def find_gains(
    half_maps: Halves[np.ndarray], sphere: np.ndarray, finest_shell: float, how: NonUniform, coarsest_shell: float = LEAST_SHELL
) -> LocalGains:
    """Eqs. (2) to (5) of two unregularised half maps (D, D, D); sphere (D, D, D): where references live. All shells up to the coarsest one
    are one band."""
    shells, box, library = bands(finest_shell, coarsest_shell), len(half_maps.a), library_of(half_maps.a)
    inside, gains, best = sphere > 0.5, [], []
    pairs = zip(*(parts_of(half, shells, how.order) for half in half_maps), strict=True)
    for shell, weight, (a, b) in zip(shells, band_weights(box, shells, how.order, library), pairs, strict=True):
        sigma_px = min(max(3.0, WINDOW * how.window_factor * box / shell), float(box)) / np.sqrt(12.0)  # as wide as a window of that width
        signal = np.maximum(library.ndimage.gaussian_filter(a * b, sigma_px, mode="nearest"), 0.0)
        ratio = np.minimum(signal / noise_about(a, b, inside, WIDER * sigma_px), np.float32(MOST_RATIO))
        unsure = SURE * spread_of_noise(weight, sigma_px)
        ratio = ratio**3 / (ratio**2 + np.float32(unsure**2))
        gain = ratio / (1.0 + ratio)
        best.append(max(float(np.percentile(gain[inside], BEST_PLACES)), LEAST_GAIN))
        gains.append(np.rint(np.minimum(gain / best[-1], 1.0) * LEVELS).astype(np.uint8))
    return LocalGains(np.stack(gains), np.array(best), shells, how.order)


def noise_about(a: np.ndarray, b: np.ndarray, inside: np.ndarray, sigma_px: float) -> np.ndarray:
    """Eq. (2) (D, D, D) of the parts of two half maps in a band."""
    apart = (a - b) ** 2 * np.float32(0.5)
    everywhere = np.float32(max(float(apart[inside].mean(dtype=np.float64)), 1e-30))
    return np.maximum(library_of(apart).ndimage.gaussian_filter(apart, sigma_px, mode="nearest"), everywhere)


def spread_of_noise(weight: np.ndarray, sigma_px: float) -> float:
    """sigma_b of eq. (4), over N_b: of the mean over a Gaussian window of the product of two noises in a band (D, D, D // 2 + 1).

    Such a product is correlated as the square of the noise is, and the window lets pass what is smooth in it.
    """
    box, library = len(weight), library_of(weight)
    correlation = library.fft.irfftn(weight.astype(np.float32) ** 2, (box,) * 3)
    power = library.fft.rfftn((correlation / max(float(correlation[0, 0, 0]), 1e-30)) ** 2).real
    passed = np.exp(-((2.0 * np.pi * sigma_px / box * half_radius(box, 3, library)) ** 2))
    mates = library.arrays.asarray(friedel_weight(box))
    return float(np.sqrt(max(float((power * passed * mates).sum()), 0.0) / box**3))


def band_weights(box: int, shells: tuple[float, ...], order: int, library: Library = HOST) -> Iterator[np.ndarray]:
    """Eq. (1): (D, D, D // 2 + 1) float32 for each band, one after the other; together 1 up to the finest shell, and 0 beyond."""
    radius = half_radius(box, 3, library)
    inside = (radius <= shells[-1] + 0.5).astype(np.float32)
    lower: np.ndarray | None = None
    for shell in shells[:-1]:
        upper = 1.0 / (1.0 + (radius / np.float32(shell)) ** np.float32(2 * order))
        yield (upper if lower is None else upper - lower) * inside
        lower = upper
    yield inside * inside if lower is None else (inside - lower) * inside


def parts_of(volume: np.ndarray, shells: tuple[float, ...], order: int) -> Iterator[np.ndarray]:
    """A map (D, D, D) in bands, one after the other."""
    library = library_of(volume)
    spectrum = library.fft.rfftn(volume.astype(np.float32))
    for weight in band_weights(len(volume), shells, order, library):
        yield library.fft.irfftn(spectrum * weight, volume.shape)
