"""Views of a map as the microscope shows them: slices under CTF and shift, and the images that these are.

(1) X(k) = A(k) V(R M k) exp(2 pi i k.shift / box), A the CTF times the image's grey scale: eq. (1) of the image model with t = -shift.
"""

from __future__ import annotations

import numba
import numpy as np
import scipy.fft

from protomer_kernels.half_plane import HalfPlane
from protomer_kernels.trigonometry import sine_cosine_of_cycles


@numba.njit(parallel=True, cache=True, nogil=True)
def seen_coefficients(slices, shifts_px, amplitude, plane, out):
    """Eq. (1) for n images: slices (n, 2, K) float32 (slices.py); shifts_px (n, 2) float64; amplitude (n, K) float32; plane: kx, ky (K,)
    float32 and the box; out (n, K, 2) float32, re and im of each coefficient beside one another."""
    kx, ky, box = plane
    for n in numba.prange(slices.shape[0]):
        sx, sy = np.float32(shifts_px[n, 0] / box), np.float32(shifts_px[n, 1] / box)
        for k in range(kx.shape[0]):
            sine, cosine = sine_cosine_of_cycles(kx[k] * sx + ky[k] * sy)
            re, im, factor = slices[n, 0, k], slices[n, 1, k], amplitude[n, k]
            out[n, k, 0] = factor * (re * cosine - im * sine)
            out[n, k, 1] = factor * (re * sine + im * cosine)


def images_of(coefficients: np.ndarray, plane: HalfPlane, workers: int = 1) -> np.ndarray:
    """Images (n, box, box) float32 from the first coefficients (n, <= K) complex64 of a half plane (its eq. 1), the others being zero."""
    number, length = coefficients.shape
    box, (kx, ky) = plane.box, plane.coordinates[:length].T
    spectrum = np.zeros((number, box, box // 2 + 1), np.complex64)
    spectrum[:, ky % box, kx] = coefficients
    column = np.flatnonzero((kx == 0) & (ky > 0))  # the one column that holds both a coefficient and its Friedel mate
    spectrum[:, -ky[column] % box, 0] = coefficients[:, column].conj()
    images = scipy.fft.irfft2(spectrum, s=(box, box), workers=workers, overwrite_x=True)
    return np.asarray(scipy.fft.fftshift(images, axes=(1, 2)) * np.float32(box), np.float32)
