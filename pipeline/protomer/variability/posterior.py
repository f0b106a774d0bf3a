"""The E-step of one image: where on the modes it lies, and how surely; and, where asked for, its grey scale.

With scalar products of a whitened image Y, its view A S_0 of the mean map and A S_k of the modes (modes.py), and a grey scale c,

(1) b_k = <Y - c A S_0, A S_k>,  G_kl = <A S_k, A S_l>
(2) z | Y ~ Normal(m, C),  C = (1 + c^2 G)^-1,  m = c C b            (Punjani and Fleet 2021, eq. 6, with z ~ Normal(0, 1): Tipping and
                                                                      Bishop 1999, J. R. Statist. Soc. B 61:611, eq. 12)
(3) log P(Y | modes) - log P(Y | mean map) = m . c b / 2 - log det(1 + c^2 G) / 2
(4) c = (<Y, A S> + mu / v) / (<A S, A S> + 1 / v), averaged over z, with S = S_0 + sum_k z_k S_k and c ~ Normal(mu, v)

(2) and (4) are found in turn. mu and v follow from the least-squares scales of all images as in engine/particle_scale.py.
"""

from __future__ import annotations

import numpy as np

from protomer.variability.work import Coordinates, Scales

SCALE_ROUNDS = 5
LEAST_SCALE, MOST_SCALE = 0.2, 5.0
LEAST_VARIANCE = 1e-4


def posterior_of(products: np.ndarray, scales: Scales | None) -> Coordinates:
    """Eqs. (2) to (4) from products (n, K + 1, K + 2) of see_modes; scales None: every scale is one."""
    number = products.shape[1] - 1
    scale = np.full(len(products), 1.0 if scales is None else scales[0])
    numerator, power = products[:, 0, -1], products[:, 0, 0]
    for n in range(1 if scales is None else SCALE_ROUNDS):
        if n and scales is not None:
            second = covariance + mean[:, :, None] * mean[:, None, :]
            numerator = products[:, 0, -1] + np.einsum("nk,nk->n", mean, products[:, 1:, -1])
            power = (products[:, 0, 0] + 2.0 * np.einsum("nk,nk->n", mean, products[:, 1:, 0])
                     + np.einsum("nkl,nkl->n", second, products[:, 1:, 1:-1]))
            scale = np.clip((numerator + scales[0] / scales[1]) / (power + 1.0 / scales[1]), LEAST_SCALE, MOST_SCALE)
        b = products[:, 1:, -1] - scale[:, None] * products[:, 1:, 0]
        precision = np.eye(number) + scale[:, None, None] ** 2 * products[:, 1:, 1:-1]
        covariance = np.linalg.inv(precision)
        mean = scale[:, None] * np.einsum("nkl,nl->nk", covariance, b)
    gain = 0.5 * scale * np.einsum("nk,nk->n", mean, b) - 0.5 * np.linalg.slogdet(precision)[1]
    return Coordinates(mean, covariance, scale, gain, np.stack([numerator, power], axis=1))


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
