"""Noise spectra: the mean power per shell of what is left of the images after the model is taken away (Scheres 2012, eq. 7)."""

from __future__ import annotations

import numba
import numpy as np
from numba.extending import register_jitable

from protomer_kernels.trigonometry import sine_cosine_of_cycles


@register_jitable
def residual_products(data, amplitude, view, phase):
    """|Y exp(2 pi i phase) - A V|^2, Re(Y* A V) and |A V|^2 of one coefficient: data and view (V) as (re, im), all float32."""
    sine, cosine = sine_cosine_of_cycles(phase)
    y_re = data[0] * cosine - data[1] * sine
    y_im = data[1] * cosine + data[0] * sine
    m_re, m_im = amplitude * view[0], amplitude * view[1]
    d_re, d_im = y_re - m_re, y_im - m_im
    return d_re * d_re + d_im * d_im, y_re * m_re + y_im * m_im, m_re * m_re + m_im * m_im


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
            own, view = (data[n, 0, k], data[n, 1, k]), (slices[n, 0, k], slices[n, 1, k])
            left, shared, model = residual_products(own, amplitude[n, k], view, -(kx[k] * sx + ky[k] * sy))
            out[n, 0, shell[k]] += left
            out[n, 1, shell[k]] += shared
            out[n, 2, shell[k]] += model


def power_by_shell(coefficients: np.ndarray, shell: np.ndarray, shells: int) -> np.ndarray:
    """sum |X|^2 over each shell of each image: coefficients (n, K) complex64, shell (K,) -> (n, shells) float64."""
    power = coefficients.real.astype(np.float64) ** 2 + coefficients.imag.astype(np.float64) ** 2
    out = np.empty((len(coefficients), shells))
    for n, row in enumerate(power):
        out[n] = np.bincount(shell, row, minlength=shells)[:shells]
    return out
