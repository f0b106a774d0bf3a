"""Window and deconvolution of the non-uniform Fourier transform on a twice oversampled grid.

(1) phi(x) = I0(beta sqrt(1 - (2 x / w)^2)) for |x| < w/2, in steps of the oversampled grid      Kaiser-Bessel window
(2) beta = pi sqrt((w / a)^2 (a - 1/2)^2 - 0.8), a = 2 the oversampling                          Beatty, Nishimura & Pauly 2005, eq. (5)
(3) FT phi(f) = w sinh(b) / b, b = sqrt(beta^2 - (pi w f)^2), f in cycles per grid step          same, eq. (4)

With w = 8 the error is near float32's own. The window is read from a table by linear interpolation (error below 1e-6).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

OVERSAMPLING = 2
WIDTH = 8  # of the window, in grid steps; even
HALF_WIDTH = WIDTH // 2
TABLE_STEPS = 2048
BETA = math.pi * math.sqrt((WIDTH / OVERSAMPLING) ** 2 * (OVERSAMPLING - 0.5) ** 2 - 0.8)


@lru_cache(maxsize=1)
def window_table() -> np.ndarray:
    """Eq. (1) as (TABLE_STEPS + 1, WIDTH) float32: row f, column j holds phi(f / TABLE_STEPS - w/2 + j), scaled to a peak of 1.

    A point whose lowest grid neighbour lies f steps above (x - w/2) has the row f as its weights.
    """
    distance = np.arange(TABLE_STEPS + 1)[:, None] / TABLE_STEPS - HALF_WIDTH + np.arange(WIDTH)
    inside = np.clip(1.0 - (distance / HALF_WIDTH) ** 2, 0.0, None)
    return (np.i0(BETA * np.sqrt(inside)) / np.i0(BETA)).astype(np.float32)


def window_transform(cycles_per_box: np.ndarray, box: int) -> np.ndarray:
    """Eq. (3), float64, for frequencies in cycles per box of `box` samples (that is, 2 `box` grid steps); |k| <= box / 2."""
    frequency = np.asarray(cycles_per_box, np.float64) / (OVERSAMPLING * box)
    b = np.sqrt(BETA**2 - (math.pi * WIDTH * frequency) ** 2)
    return WIDTH * np.sinh(b) / b / np.i0(BETA)


def half_plane_frequencies(box: int) -> tuple[np.ndarray, np.ndarray]:
    """ky (box,) and kx (box // 2 + 1,) int64 in cycles per box, in the order in which a real 2D FFT returns them."""
    return np.rint(np.fft.fftfreq(box) * box).astype(np.int64), np.arange(box // 2 + 1)
