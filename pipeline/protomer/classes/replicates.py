"""How stable classes are: the same classification from other seeds, and in how many of these runs an image lies in the same class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from protomer.classes.classification import likeliest


def relabelled(posterior: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Posteriors (N, K) of another run with its classes in the order of those of `posterior` that hold the same images."""
    _, order = linear_sum_assignment(-(posterior.T @ other))
    return other[:, order]


def stability(posterior: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """(N,) the share of the other runs that put an image into the class that this one does."""
    mine = likeliest(posterior)
    return np.mean([likeliest(relabelled(posterior, other)) == mine for other in others], axis=0)
