"""What an image may show: one of K classes, or none of them; and how probable each is.

(1) P(k | image) = pi_k Z_k / (sum_j pi_j Z_j + pi_0),  Z_k: mean likelihood of the image over all poses in the map of class k, over that of
                                                        noise alone (Poses.log_odds; Bayes' rule)
(2) log Z_k -= log det(I + C P) / 2 where maps may be weak: C is the covariance of the best pose, P the precision of a Gaussian as wide as
    all poses. A map that says nothing about poses has Z = 1, where Laplace's approximation alone would grow without bound.
(3) Z_k <= the likelihood of the best pose, which no mean can exceed.
(4) Z_0 = 1 for noise alone; (1 + Z_u) / 2 where something unknown (unknown.py) is as likely beforehand as noise alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logsumexp

from protomer.engine.alignment import Poses
from protomer.engine.confidence import full_covariance
from protomer.engine.pose_table import PoseTable

IMPOSSIBLE = -1e9  # log odds of an image whose likelihood has no regular mode


@dataclass(frozen=True)
class Hypotheses:
    """The classes that images are compared with.

    log_prior (K,): log pi of each; log_prior_null: that of none of them, -inf where this is no hypothesis; allowed (N, K) bool: classes in
    which an image may lie (unset: in any); hard: images count in the likeliest class alone; pose_extent_px: half-width of the disc of
    shifts that is searched, for eq. (2); unset: log odds are taken as they are. structures (K,): shares of the classes in what something
    unknown would look like, for Z_u; unset: it is not asked for. unknown_counts: eq. (4) holds it likely; else what is none of the classes
    is noise alone.
    """

    log_prior: np.ndarray
    log_prior_null: float = -np.inf
    allowed: np.ndarray | None = None
    hard: bool = False
    pose_extent_px: float | None = None
    structures: np.ndarray | None = None
    unknown_counts: bool = False

    @classmethod
    def of_one(cls, null_class: bool) -> Hypotheses:
        """One structure, which all images show, or (null_class) each may lack."""
        return cls(np.zeros(1), 0.0 if null_class else -np.inf)

    def posterior(self, found: Sequence[Poses], rows: np.ndarray, unknown: np.ndarray | None = None) -> np.ndarray:
        """Eq. (1): (n, K) of the images `rows`, from their poses in each class and log Z_u (n,); what is left to 1 is none of them."""
        log_odds = np.stack([self._evidence(poses) for poses in found], axis=1)
        allowed = None if self.allowed is None else self.allowed[rows]
        null: float | np.ndarray = self.log_prior_null
        if self.unknown_counts and unknown is not None:
            null = null + np.logaddexp(0.0, unknown) - np.log(2.0)
        return class_posterior(log_odds, self.log_prior, null, allowed)

    def counted(self, posterior: np.ndarray) -> np.ndarray:
        """By how much each image counts in each class (n, K)."""
        if not self.hard:
            return posterior
        null = 1.0 - posterior.sum(axis=1)
        best = posterior.argmax(axis=1)
        is_in = posterior.max(axis=1) >= null
        return np.eye(posterior.shape[1])[best] * is_in[:, None]

    def _evidence(self, poses: Poses) -> np.ndarray:
        """log Z (n,), with eqs. (2) and (3) where maps may be weak."""
        if self.pose_extent_px is None:
            return poses.log_odds
        return evidence(poses, self.pose_extent_px)


def class_posterior(
    log_odds: np.ndarray, log_prior: np.ndarray, log_prior_null: float | np.ndarray, allowed: np.ndarray | None = None
) -> np.ndarray:
    """Eq. (1): log odds (n, K) of each class against noise alone -> (n, K). log_prior_null: log pi_0 Z_0, one or (n,); allowed (n, K)
    bool."""
    log_joint = np.maximum(log_odds, IMPOSSIBLE) + log_prior
    if allowed is not None:
        log_joint = np.where(allowed, log_joint, -np.inf)
    classes = log_joint.shape[1]
    if classes == 1 and np.all(np.isneginf(log_prior_null)):
        return np.ones(log_joint.shape)
    everything = np.concatenate([log_joint, np.broadcast_to(log_prior_null, len(log_joint))[:, None]], axis=1)
    columns = []
    for k in range(classes):
        others = logsumexp(np.delete(everything, k, axis=1), axis=1)
        columns.append(expit(log_joint[:, k] - others))
    return np.stack(columns, axis=1)


def evidence(poses: Poses | PoseTable, pose_extent_px: float) -> np.ndarray:
    """log Z (n,) by eqs. (2) and (3)."""
    turns = 2.0 * np.pi / (8.0 * np.pi**2) ** (2.0 / 3.0)  # of the Gaussian whose integral is the volume of all rotations, 8 pi^2
    precision = np.array([turns] * 3 + [2.0 / max(pose_extent_px, 1.0) ** 2] * 2)  # and pi extent^2 for shifts
    regular = np.isfinite(poses.covariance).all(axis=1)
    covariance = full_covariance(np.where(regular[:, None], poses.covariance, 0.0), 1.0)
    _, narrowing = np.linalg.slogdet(np.eye(5) + covariance * precision)
    found = np.minimum(poses.log_odds - 0.5 * narrowing, poses.log_likelihood)
    return np.where(regular, found, IMPOSSIBLE)
