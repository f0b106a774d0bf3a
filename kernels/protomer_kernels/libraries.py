"""Which library makes, transforms and filters arrays: NumPy and SciPy, or one with their names for the arrays of a device.

What NumPy's functions do to a device's array they leave to its own library (NEP 13, NEP 18), so that most of what is written for NumPy runs
there as it is. What cannot be left to it is asked of `library_of`: new arrays, which come from none, and SciPy's transforms and filters.
Loops of our own over a volume are functions of `functools.singledispatch`; for a device's arrays, others are registered with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numpy as np
import scipy.fft
import scipy.ndimage


@dataclass(frozen=True)
class Library:
    """Modules, or what has their functions: NumPy's for arrays, scipy.fft, scipy.ndimage."""

    arrays: Any = np
    fft: Any = scipy.fft
    ndimage: Any = scipy.ndimage


HOST = Library()


@singledispatch
def library_of(array: Any) -> Library:
    """The library that an array belongs to."""
    return HOST
