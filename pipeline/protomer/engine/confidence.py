"""How far stated posteriors of poses may be believed, fitted to poses whose truth is known.

A pose comes with the weight w of its mode and a covariance H^-1 (Laplace's approximation; posterior.py). Both claim too much where the
likelihood is rough within its own width, and where the map is noisy. With errors d of poses whose truth is known,

(1) P(right) = 1 / (1 + exp(-a - b x)), x = log(w / (1 - w))                  Platt 1999, Probabilistic outputs for support vector machines
(2) covariance = exp(c + d x) H^-1, such that d^T covariance^-1 d <= 5 as often as for a Gaussian, among poses that are right
                                                                               Koenker and Bassett 1978, Regression quantiles, eq. (2.1)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.optimize import minimize

PARAMETERS = 5
WITHIN_ONE_COVARIANCE = 0.58412  # P(chi^2 of 5 degrees of freedom <= 5)
LOST_RAD = np.deg2rad(10.0)
LEAST_LOG_ODDS, MOST_LOG_ODDS = -2.0, 8.0
RIDGE = 1e-4  # holds the fit near a = 0, b = 1 where nearly all poses are right


@dataclass(frozen=True)
class TriedPoses:
    """Poses found in n images whose truth is known: error (n, 5) found less true and stated covariance (n, 5, 5), rotation about map x,
    y, z in radians and shift x, y in Å; weight (n,) of the mode."""

    error: np.ndarray
    covariance: np.ndarray
    weight: np.ndarray

    @property
    def angle_rad(self) -> np.ndarray:
        """(n,) angle of the rotation's error."""
        return np.asarray(np.linalg.norm(self.error[:, :3], axis=1))

    @property
    def right(self) -> np.ndarray:
        """(n,) bool: within 10 degrees of the truth."""
        return np.asarray(self.angle_rad < LOST_RAD)

    @property
    def squared_distance(self) -> np.ndarray:
        """(n,) d^T C^-1 d of eq. (2) with the stated covariance."""
        return np.asarray(np.einsum("ni,ni->n", self.error, np.linalg.solve(self.covariance, self.error[:, :, None])[:, :, 0]))


@dataclass(frozen=True)
class Confidence:
    """Eqs. (1) and (2) with what was fitted, and how the `images` that they were fitted to fared."""

    images: int
    lost: float
    median_error_deg: float
    median_error_A: float
    odds: tuple[float, float]  # a, b
    spread: tuple[float, float]  # c, d

    @classmethod
    def fit(cls, tried: TriedPoses) -> Confidence:
        """From poses with known truth. Raises ValueError where there are none."""
        if not len(tried.weight):
            raise ValueError("no poses to fit to")
        x, right = log_odds(tried.weight), tried.right
        odds = _least(lambda p: _misjudged(p, x, right), (0.0, 1.0))
        spread = (0.0, 0.0)
        if right.any():
            logarithm = np.log(np.maximum(tried.squared_distance[right], 1e-12) / PARAMETERS)
            spread = _least(lambda p: _quantile_loss(logarithm - p[0] - p[1] * x[right]), (float(np.median(logarithm)) + 0.14, 0.0))
        angle, shift = tried.angle_rad, np.linalg.norm(tried.error[:, 3:], axis=1)
        return cls(len(x), float(1 - right.mean()), float(np.rad2deg(np.median(angle))), float(np.median(shift)), odds, spread)

    def summary(self) -> dict[str, float]:
        """For summary.json."""
        return {
            "images": self.images,
            "lost": round(self.lost, 4),
            "median_error_deg": round(self.median_error_deg, 3),
            "median_error_A": round(self.median_error_A, 3),
        }

    def posterior(self, weight: np.ndarray) -> np.ndarray:
        """Eq. (1): probability (n,) that a pose whose mode has this weight is right."""
        return np.asarray(1.0 / (1.0 + np.exp(-self.odds[0] - self.odds[1] * log_odds(weight))))

    def covariance_factor(self, weight: np.ndarray) -> np.ndarray:
        """Eq. (2): what the covariance (n,) of such a pose must be multiplied by."""
        return np.asarray(np.exp(self.spread[0] + self.spread[1] * log_odds(weight)))


def log_odds(weight: np.ndarray) -> np.ndarray:
    """x of eq. (1), held between -2 and 8: beyond, a mode's weight says nothing more."""
    w = np.clip(weight, 1e-12, 1 - 1e-12)
    return np.asarray(np.clip(np.log(w / (1 - w)), LEAST_LOG_ODDS, MOST_LOG_ODDS))


def full_covariance(triangle: np.ndarray, pixel_size_A: float) -> np.ndarray:
    """(n, 15) lower triangles in radians and pixels -> (n, 5, 5) in radians and Å."""
    lower = np.tril_indices(5)
    full = np.empty((len(triangle), 5, 5))
    full[:, lower[0], lower[1]] = full[:, lower[1], lower[0]] = triangle
    unit = np.array([1.0, 1.0, 1.0, pixel_size_A, pixel_size_A])
    return full * unit[:, None] * unit


def calibration_table(tried: TriedPoses, stated: np.ndarray, factor: np.ndarray, edges: tuple[float, ...]) -> list[tuple[float, ...]]:
    """By bins of the stated probability (n,) of being right: lower edge, images, stated and observed share right, stated and observed
    share within one covariance (times factor (n,)) of the truth. Empty bins are left out."""
    within = tried.right & (tried.squared_distance <= PARAMETERS * factor)
    rows: list[tuple[float, ...]] = []
    for low, high in pairwise(edges):
        chosen = (stated >= low) & (stated < high)
        if chosen.any():
            claim = float(stated[chosen].mean())
            shares = claim, float(tried.right[chosen].mean()), WITHIN_ONE_COVARIANCE * claim, float(within[chosen].mean())
            rows.append((low, float(chosen.sum()), *shares))
    return rows


def _misjudged(p: np.ndarray, x: np.ndarray, right: np.ndarray) -> float:
    """Mean surprise at which poses were right, and a little for departing from the stated odds."""
    logit = p[0] + p[1] * x
    return float(np.mean(np.logaddexp(0.0, np.where(right, -logit, logit))) + RIDGE * (p[0] ** 2 + (p[1] - 1.0) ** 2))


def _quantile_loss(residual: np.ndarray) -> float:
    """Least where a share WITHIN_ONE_COVARIANCE of the residuals is negative."""
    share = WITHIN_ONE_COVARIANCE
    return float(np.mean(np.where(residual > 0, share * residual, (share - 1.0) * residual)))


def _least(loss: Callable[[np.ndarray], float], start: tuple[float, float]) -> tuple[float, float]:
    """The two numbers of least loss (simplex search: the quantile loss has no gradient at its least)."""
    found = minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-8, "maxiter": 500}).x
    return float(found[0]), float(found[1])
