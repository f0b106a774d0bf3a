"""Which class of one half is which of the other: the pairing under which their maps agree best."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from protomer.maps.volumes import Halves


def matched(maps: Sequence[Halves[np.ndarray]]) -> tuple[np.ndarray, list[list[float]]]:
    """For each class of the first half the class (K,) of the second that it is, and the correlations (K, K) of first with second.

    What all classes of a half have in common says nothing and is taken out first.
    """
    first, second = (_apart(np.stack([halves[half].ravel() for halves in maps])) for half in (0, 1))
    correlation = first @ second.T
    _, order = linear_sum_assignment(-correlation)
    return order, correlation.round(4).tolist()


def _apart(maps: np.ndarray) -> np.ndarray:
    """Maps (K, voxels) less their mean, of norm 1."""
    beyond = maps.astype(np.float64) - maps.mean(axis=0, dtype=np.float64)
    return np.asarray(beyond / np.maximum(np.linalg.norm(beyond, axis=1, keepdims=True), 1e-30))
