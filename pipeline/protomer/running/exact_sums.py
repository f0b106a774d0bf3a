"""Sums of floating-point numbers over batches and ranks that have the same bits whoever adds up which.

Each term is rounded once, to a multiple of 2^-50, and kept as two 64-bit integers, x = whole 2^-10 + rest 2^-50; integer addition is
associative. Sums of terms may reach 2^52 in size, and 2^22 terms may be added: far beyond what whitened images give.
"""

from __future__ import annotations

import numpy as np

from protomer.running.ranks import Team

WHOLE_BITS, REST_BITS = 10, 40


class ExactSum:
    """A sum of float64 arrays of one shape."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._parts = np.zeros((2, *shape), np.int64)

    def add(self, term: np.ndarray, at: int | slice = slice(None)) -> None:
        """Add a term, to the part `at` along the first axis where that is given."""
        scaled = np.asarray(term, np.float64) * 2.0**WHOLE_BITS
        whole = np.trunc(scaled)
        self._parts[0][at] += whole.astype(np.int64)
        self._parts[1][at] += np.rint((scaled - whole) * 2.0**REST_BITS).astype(np.int64)

    def over(self, team: Team) -> np.ndarray:
        """The sum over all ranks, float64, on every rank, which must all call this."""
        team.add_up(self._parts)
        whole, rest = self._parts
        return np.asarray(whole * 2.0**-WHOLE_BITS + rest * 2.0 ** -(WHOLE_BITS + REST_BITS))
