"""How well images bear a change of their contrast transfer: sums from which its likelihood follows exactly, and the fits.

With D an image's coefficients and U what the map shows there without a CTF, both whitened, a the envelope times the grey scale,

(1) M(theta, chi) = (P cos theta - Q sin theta) exp(i chi) U,  P = -a sin gamma, Q = a cos gamma
(2) log L = sum Re(D* M) - |M|^2 / 2
(3) dM / dtheta = -(P sin theta + Q cos theta) exp(i chi) U,  dM / dchi = i M
(4) information = sum |dM|^2

theta changes gamma: defocus, even aberrations; chi: odd ones. So of each coefficient, or of all coefficients that share theta, the products

    Re D*U P,  Re D*U Q,  |U|^2 P^2,  |U|^2 P Q,  |U|^2 Q^2

suffice for any theta, and sum D (P U)* for any chi, however large: Zivanov, Nakane & Scheres (2020), IUCrJ 7, 253. The two kinds do not
depend on each other, since i M is at right angles to a real multiple of M.
"""

from __future__ import annotations

import numba
import numpy as np

SUMS = 5
MOST_STEPS, LEAST_GAIN = 30, 1e-9
CLIMB = 12  # Gauss-Newton steps of one number


@numba.njit(parallel=True, cache=True, nogil=True)
def ring_driver(data, slices, transfer, quadrature, ring, out):
    """The five products of n images added up by ring: data, slices (n, 2, K), transfer P and quadrature Q (n, K) float32; ring (K,) int64;
    out (n, rings, 5) float64."""
    for n in numba.prange(data.shape[0]):
        for k in range(ring.shape[0]):
            cross = np.float64(data[n, 0, k]) * slices[n, 0, k] + np.float64(data[n, 1, k]) * slices[n, 1, k]
            power = np.float64(slices[n, 0, k]) ** 2 + np.float64(slices[n, 1, k]) ** 2
            p, q = np.float64(transfer[n, k]), np.float64(quadrature[n, k])
            row = out[n, ring[k]]
            row[0] += cross * p
            row[1] += cross * q
            row[2] += power * p * p
            row[3] += power * p * q
            row[4] += power * q * q


@numba.njit(parallel=True, cache=True, nogil=True)
def pixel_driver(data, slices, transfer, quadrature, out):
    """The same added up over images, and Im D (P U)* behind them: out (K, 6) float64, to which is added."""
    for k in numba.prange(out.shape[0]):
        for n in range(data.shape[0]):
            re, im = np.float64(slices[n, 0, k]), np.float64(slices[n, 1, k])
            cross = data[n, 0, k] * re + data[n, 1, k] * im
            p, q = np.float64(transfer[n, k]), np.float64(quadrature[n, k])
            power = re * re + im * im
            out[k, 0] += cross * p
            out[k, 1] += cross * q
            out[k, 2] += power * p * p
            out[k, 3] += power * p * q
            out[k, 4] += power * q * q
            out[k, 5] += (data[n, 1, k] * re - data[n, 0, k] * im) * p


def even_likelihood(sums: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Eq. (2) of each coefficient or ring for sums (..., >= 5) and theta (...), chi being 0."""
    c, s = np.cos(theta), np.sin(theta)
    power = sums[..., 2] * c * c - 2.0 * sums[..., 3] * c * s + sums[..., 4] * s * s
    return np.asarray(sums[..., 0] * c - sums[..., 1] * s - 0.5 * power)


def even_slope(sums: np.ndarray, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """d log L / d theta, and the information of eq. (4), of each coefficient or ring."""
    c, s = np.cos(theta), np.sin(theta)
    cross = (sums[..., 2] - sums[..., 4]) * c * s + sums[..., 3] * (c * c - s * s)
    information = sums[..., 2] * s * s + 2.0 * sums[..., 3] * c * s + sums[..., 4] * c * c
    return -sums[..., 0] * s - sums[..., 1] * c + cross, information


def odd_likelihood(sums: np.ndarray, chi: np.ndarray) -> np.ndarray:
    """What of eq. (2) depends on chi: Re(z exp(-i chi)), z the sum of D (P U)*."""
    return np.asarray(sums[..., 0] * np.cos(chi) + sums[..., 5] * np.sin(chi))


def odd_slope(sums: np.ndarray, chi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """d log L / d chi, and the information, of each coefficient."""
    return sums[..., 5] * np.cos(chi) - sums[..., 0] * np.sin(chi), sums[..., 2]


def fit_one_number(sums: np.ndarray, per_unit: np.ndarray, reach: float, mean: np.ndarray,
                   precision: float) -> tuple[np.ndarray, np.ndarray]:
    """For each image the number x within +-reach of greatest likelihood, theta = x per_unit, and its information.

    sums (n, rings, 5); per_unit (n, rings); mean (n,) and precision of a Gaussian prior. All maxima are looked at: values closer
    to each other than half a radian at the outermost ring, then Gauss-Newton steps from the best.
    """
    steepest = max(float(np.abs(per_unit).max()), 1e-30)
    tried = np.linspace(-reach, reach, 2 * int(np.ceil(reach * steepest / 0.5)) + 1)
    score = np.stack([even_likelihood(sums, x * per_unit).sum(axis=1) - 0.5 * precision * (x - mean) ** 2 for x in tried])
    start = tried[score.argmax(axis=0)]
    spacing = tried[1] - tried[0] if len(tried) > 1 else reach
    x, information = start.copy(), np.zeros(len(start))
    for _ in range(CLIMB):
        slope, each = even_slope(sums, x[:, None] * per_unit)
        gradient = (slope * per_unit).sum(axis=1) - precision * (x - mean)
        information = (each * per_unit**2).sum(axis=1) + precision
        step = np.divide(gradient, information, out=np.zeros_like(x), where=information > 0)
        x = np.clip(x + step, np.maximum(start - spacing, -reach), np.minimum(start + spacing, reach))
    return x, information


def fit_terms(sums: np.ndarray, terms: np.ndarray, is_odd: bool) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (p,) of greatest likelihood of terms (p, K), whose sum is chi (is_odd) or theta, and their covariance (p, p).

    Gauss-Newton; a step that makes the likelihood less is halved. sums (K, 6) of pixel_driver. A term without information stays 0.
    """
    likelihood, slope_of = (odd_likelihood, odd_slope) if is_odd else (even_likelihood, even_slope)
    size = np.sqrt(np.mean(terms**2, axis=1))
    unit = terms / np.where(size > 0, size, 1.0)[:, None]
    found, best = np.zeros(len(terms)), float(likelihood(sums, np.zeros(len(sums))).sum())
    curvature = np.eye(len(terms))
    for _ in range(MOST_STEPS):
        slope, information = slope_of(sums, found @ unit)
        curvature = (unit * information) @ unit.T
        step = np.linalg.pinv(curvature, rcond=1e-12, hermitian=True) @ (unit @ slope)
        reached = float(likelihood(sums, (found + step) @ unit).sum())
        while reached < best and np.abs(step).max() > 1e-12:
            step *= 0.5
            reached = float(likelihood(sums, (found + step) @ unit).sum())
        gain, best = reached - best, max(reached, best)
        found = found + step if gain >= 0 else found
        if gain < LEAST_GAIN * max(abs(best), 1.0):
            break
    covariance = np.linalg.pinv(curvature, rcond=1e-12, hermitian=True)
    scale = np.where(size > 0, size, 1.0)
    return found / scale, covariance / np.outer(scale, scale)
