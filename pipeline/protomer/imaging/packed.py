"""Fourier crops of a batch as they are kept: those of different images once, in half precision where that is asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Packed:
    """stored: (d, K) complex64, or (d, 2 K) float16, real and imaginary parts by turns, of d different images; shown (n,): which of them
    each row of the batch shows, None: each its own. store and number tell these crops from all others, for as long as the program runs."""

    stored: np.ndarray
    shown: np.ndarray | None
    store: int
    number: int

    def unpacked(self) -> np.ndarray:
        """(n, K) complex64."""
        crops = as_complex(self.stored)
        return crops if self.shown is None else crops[self.shown]


def as_pairs_of_halves(crops: np.ndarray) -> np.ndarray:
    """(n, K) complex64 as (n, 2 K) float16."""
    return np.ascontiguousarray(crops).view(np.float32).astype(np.float16)


def as_complex(stored: np.ndarray) -> np.ndarray:
    """(n, K) complex64 of what is stored; NumPy's or CuPy's."""
    return stored if stored.dtype == np.complex64 else stored.astype(np.float32).view(np.complex64)
