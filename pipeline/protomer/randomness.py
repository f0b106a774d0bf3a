"""Random numbers that depend on what they are for, never on the order or the rank in which they are drawn.

Each number is a hash of (seed, purpose, key): SplitMix64's output function (Steele, Lea and Flood 2014, OOPSLA, with the constants of
Stafford's variant 13) applied twice. The same key gives the same bits on every rank and in every batch.
"""

from __future__ import annotations

import hashlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLY_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLY_2 = np.uint64(0x94D049BB133111EB)
_UNIT_53 = 2.0**-53


def combine(*parts: np.ndarray | int) -> np.ndarray:
    """One uint64 key (n,) from several integer arrays (n,) or integers, such as image_uid and copy; the order of the parts matters."""
    arrays = np.broadcast_arrays(*[np.atleast_1d(np.asarray(part)).astype(np.uint64) for part in parts])
    key = np.zeros(arrays[0].shape, np.uint64)
    for array in arrays:
        key = _mix((key + _GOLDEN) ^ _mix(array))
    return key


def uniform(seed: int, keys: np.ndarray, purpose: str) -> np.ndarray:
    """Uniform numbers in [0, 1) with 53 random bits, float64 of the shape of keys (uint64)."""
    return (_hash(seed, keys, purpose) >> np.uint64(11)).astype(np.float64) * _UNIT_53


def normal(seed: int, keys: np.ndarray, purpose: str) -> np.ndarray:
    """Standard normal numbers, float64 of the shape of keys (uint64): the inverse distribution function at a uniform number.

    SciPy computes it number by number; NumPy's vectorised log has other last bits on other memory layouts.
    """
    from scipy.special import ndtri
    middle_of_step = uniform(seed, keys, purpose) + 0.5 * _UNIT_53  # never 0, so never infinite
    return np.asarray(ndtri(middle_of_step), np.float64)


def generator(seed: int, key: int, purpose: str) -> np.random.Generator:
    """NumPy's generator on a Philox stream of its own for (seed, purpose, key): for draws of unknown number, such as whole images."""
    return np.random.Generator(np.random.Philox(key=np.array([_stream(seed, purpose), key % 2**64], np.uint64)))


def _stream(seed: int, purpose: str) -> int:
    """64 bits that stand for the seed and the purpose."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{purpose}".encode()).digest()[:8], "little")


def _hash(seed: int, keys: np.ndarray, purpose: str) -> np.ndarray:
    keys = np.asarray(keys)
    if keys.dtype.kind not in "iu":
        raise TypeError(f"keys are integers; found {keys.dtype}")
    return _mix(_mix(keys.astype(np.uint64).reshape(-1)) + np.uint64(_stream(seed, purpose))).reshape(keys.shape)


def _mix(value: np.ndarray) -> np.ndarray:
    """SplitMix64's output function on uint64 arrays of at least one axis (scalars would warn of their intended overflow)."""
    value = value + _GOLDEN
    value = (value ^ (value >> np.uint64(30))) * _MULTIPLY_1
    value = (value ^ (value >> np.uint64(27))) * _MULTIPLY_2
    return value ^ (value >> np.uint64(31))
