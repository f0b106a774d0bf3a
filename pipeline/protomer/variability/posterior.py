"""The E-step of one image: where on the modes it lies, and how surely; and, where asked for, its grey scale.

With scalar products of a whitened image Y, its view A S_0 of the mean map and A S_k of the modes (modes.py), and a grey scale c,

(1) b_k = <Y - c A S_0, A S_k>,  G_kl = <A S_k, A S_l>
(2) z | Y ~ Normal(m, C),  C = (1 + c^2 G)^-1,  m = c C b            (Punjani and Fleet 2021, eq. 6, with z ~ Normal(0, 1): Tipping and
                                                                      Bishop 1999, J. R. Statist. Soc. B 61:611, eq. 12)
(3) log P(Y | modes) - log P(Y | mean map) = m . c b / 2 - log det(1 + c^2 G) / 2
(4) c = (<Y, A S> + mu / v) / (<A S, A S> + 1 / v), averaged over z, with S = S_0 + sum_k z_k S_k and c ~ Normal(mu, v)

(5) s_k^2 = <m_k^2 + C_kk> over all images, under z ~ Normal(0, diag s^2): with h = C^-1 m and G = C^-1 - 1 of (2), C = (G + 1 / s^2)^-1

(2) and (4) are found in turn, and so are (2) and (5), once at the end: modes that were filtered are smaller than what varies, and a unit of
their coordinates is more than one standard deviation of the particles. mu and v follow from the least-squares scales of all images as in
engine/particle_scale.py.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from protomer.variability.work import Coordinates, Scales

SCALE_ROUNDS, VARIANCE_ROUNDS = 5, 30
LEAST_SCALE, MOST_SCALE = 0.2, 5.0
LEAST_VARIANCE = 1e-4


def posterior_of(products: np.ndarray, scales: Scales | None) -> Coordinates:
    """Eqs. (2) to (4) from products (n, K + 1, K + 2) of see_modes; scales None: every scale is one."""
    fit = products[:, 0, [-1, 0]]
    if scales is None:
        return at_scale(products, np.ones(len(products)), fit)
    found = at_scale(products, np.full(len(products), scales[0]), fit)
    for _ in range(SCALE_ROUNDS):
        fit = fit_of(products, found)
        scale = np.clip((fit[:, 0] + scales[0] / scales[1]) / (fit[:, 1] + 1.0 / scales[1]), LEAST_SCALE, MOST_SCALE)
        found = at_scale(products, scale, fit)
    return found


def at_scale(products: np.ndarray, scale: np.ndarray, fit: np.ndarray) -> Coordinates:
    """Eqs. (2) and (3) at scales (n,)."""
    b = products[:, 1:, -1] - scale[:, None] * products[:, 1:, 0]
    precision = np.eye(b.shape[1]) + scale[:, None, None] ** 2 * products[:, 1:, 1:-1]
    covariance = np.linalg.inv(precision)
    mean = scale[:, None] * np.einsum("nkl,nl->nk", covariance, b)
    gain = 0.5 * scale * np.einsum("nk,nk->n", mean, b) - 0.5 * np.linalg.slogdet(precision)[1]
    return Coordinates(mean, covariance, scale, gain, fit)


def at_own_variance(found: Coordinates) -> tuple[Coordinates, np.ndarray]:
    """Eq. (5): coordinates in units of the particles' own standard deviation, and s (K,), by which modes are to be multiplied."""
    number = found.mean.shape[1]
    precision = np.linalg.inv(found.covariance)
    told = np.einsum("nkl,nl->nk", precision, found.mean)
    precision -= np.eye(number)
    variance = np.ones(number)
    for _ in range(VARIANCE_ROUNDS):
        covariance = np.linalg.inv(precision + np.diag(1.0 / variance))
        mean = np.einsum("nkl,nl->nk", covariance, told)
        variance = np.maximum((mean**2 + np.einsum("nkk->nk", covariance)).mean(axis=0), LEAST_VARIANCE)
    covariance = np.linalg.inv(precision + np.diag(1.0 / variance))
    mean = np.einsum("nkl,nl->nk", covariance, told)
    gain = 0.5 * (told * mean).sum(axis=1) + 0.5 * np.linalg.slogdet(covariance)[1] - 0.5 * np.log(variance).sum()
    size = np.sqrt(variance)
    return replace(found, mean=mean / size, covariance=covariance / size[:, None] / size, gain=gain), size


def fit_of(products: np.ndarray, found: Coordinates) -> np.ndarray:
    """<Y, A S> and <A S, A S> (n, 2) of eq. (4), averaged over the coordinates."""
    second = found.covariance + found.mean[:, :, None] * found.mean[:, None, :]
    numerator = products[:, 0, -1] + np.einsum("nk,nk->n", found.mean, products[:, 1:, -1])
    power = products[:, 0, 0] + 2.0 * np.einsum("nk,nk->n", found.mean, products[:, 1:, 0])
    return np.stack([numerator, power + np.einsum("nkl,nkl->n", second, products[:, 1:, 1:-1])], axis=1)


def scales_of(fit: np.ndarray) -> Scales:
    """mu and v from numerator and power (n, 2) of all images."""
    seen = fit[:, 1] > 0
    power = np.where(seen, fit[:, 1], 0.0)
    if not seen.any():
        return 1.0, LEAST_VARIANCE
    estimate = fit[:, 0] / np.where(seen, fit[:, 1], 1.0)
    mean = float((power * estimate).sum() / power.sum())
    spread = float((power * (estimate - mean) ** 2).sum() / power.sum()) - float(seen.sum() / power.sum())
    return mean, max(spread, LEAST_VARIANCE)
