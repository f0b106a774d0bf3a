"""The identity of an image: 64 bits that follow from what is in its stack and where, so that all copies of an image share them."""

from __future__ import annotations

import hashlib

import numpy as np

from protomer.randomness import combine
from protomer.tables.particles import Stack


def image_uids(stacks: tuple[Stack, ...], stack: np.ndarray, stack_index: np.ndarray) -> np.ndarray:
    """uint64 (n,) for rows that point to image `stack_index` (n,) of stack number `stack` (n,).

    The content digest of the stack counts, not its name: a moved stack keeps the identity of its images. Where a stack was never read
    (its digest is empty) its path stands in.
    """
    names = [(s.digest or s.path).encode("utf-8", "surrogateescape") for s in stacks]
    keys = np.array([int.from_bytes(hashlib.sha256(name).digest()[:8], "little") for name in names], np.uint64)
    if len(stack) == 0:
        return np.zeros(0, np.uint64)
    return combine(keys[stack], np.asarray(stack_index, np.uint64))


def still_original(stacks: tuple[Stack, ...], stack: np.ndarray, stack_index: np.ndarray, uid: np.ndarray) -> np.ndarray:
    """bool (n,): whether a row still points to the image that it was imported with (subtraction, for one, makes new stacks)."""
    return np.asarray(image_uids(stacks, stack, stack_index) == uid)


def common_identity(uid: np.ndarray, source: np.ndarray) -> np.ndarray:
    """uint64 (n,): rows that a table says come from one source (n,) have the identity of the first of them, as symmetry copies do, also
    where each has an image of its own by now (after subtraction)."""
    _, first, inverse = np.unique(source, return_index=True, return_inverse=True)
    return np.asarray(uid[first][inverse.reshape(-1)])
