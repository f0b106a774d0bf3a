"""Noise spectra: the mean power per shell of what is left of the images after the model is taken away (Scheres 2012, eq. 7)."""

from __future__ import annotations

import numba
import numpy as np

from protomer_kernels.trigonometry import sine_cosine_of_cycles


@numba.njit(parallel=True, cache=True, nogil=True)
def residual_power(slices, shifts_px, batch, plane, shell, out):
    """Residuals and projection products of n images, by shell.

    slices (n, 2, K) float32; shifts_px (n, 2); batch: data (n, 2, K) and amplitude (n, K) float32; plane: kx, ky (K,) float32 and the box;
    shell (K,) int32. out (n, 3, shells) float64: sum |Y exp(-2 pi i k.shift / box) - A V|^2, sum Re(Y* A V) and sum |A V|^2.
    """
    data, amplitude = batch
    kx, ky, box = plane
    for n in numba.prange(data.shape[0]):
        sx, sy = np.float32(shifts_px[n, 0] / box), np.float32(shifts_px[n, 1] / box)
        out[n] = 0.0
        for k in range(kx.shape[0]):
            sine, cosine = sine_cosine_of_cycles(-(kx[k] * sx + ky[k] * sy))
            y_re = data[n, 0, k] * cosine - data[n, 1, k] * sine
            y_im = data[n, 1, k] * cosine + data[n, 0, k] * sine
            m_re, m_im = amplitude[n, k] * slices[n, 0, k], amplitude[n, k] * slices[n, 1, k]
            out[n, 0, shell[k]] += (y_re - m_re) ** 2 + (y_im - m_im) ** 2
            out[n, 1, shell[k]] += y_re * m_re + y_im * m_im
            out[n, 2, shell[k]] += m_re * m_re + m_im * m_im


def power_by_shell(coefficients: np.ndarray, shell: np.ndarray, shells: int) -> np.ndarray:
    """sum |X|^2 over each shell of each image: coefficients (n, K) complex64, shell (K,) -> (n, shells) float64."""
    power = coefficients.real.astype(np.float64) ** 2 + coefficients.imag.astype(np.float64) ** 2
    out = np.empty((len(coefficients), shells))
    for n, row in enumerate(power):
        out[n] = np.bincount(shell, row, minlength=shells)[:shells]
    return out
