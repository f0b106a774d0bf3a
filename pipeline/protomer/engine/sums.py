"""What an E-step adds up of images at their poses: slices of the maps, and residuals by shell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from protomer.computing.arithmetic import CPU, Arithmetic
from protomer.engine.alignment import LEAST_WEIGHT, Poses, Reference
from protomer.imaging.images import Whitened
from protomer_kernels.half_plane import HalfPlane


def insert_poses(
    batch: Whitened,
    poses: Poses,
    plane: HalfPlane,
    operators: np.ndarray,
    scale: float,
    out: Any,
    arithmetic: Arithmetic = CPU,
    translations_px: np.ndarray | None = None,
) -> None:
    """Insert every image at its modes by posterior weight, under every operator x -> g x + t (operator_sets.py, eq. 1; unset: t = 0)."""
    image, mode = np.nonzero(poses.weight > LEAST_WEIGHT)
    length = batch.amplitude.shape[1]
    rotations = batch.magnified(poses.rotation[image, mode], image)
    moves_px = np.zeros((len(operators), 3)) if translations_px is None else translations_px
    curvature = None if batch.curvature is None else batch.curvature[image]
    for operator, move_px in zip(operators, moves_px, strict=True):
        turned = np.ascontiguousarray(operator @ rotations)
        at = (image, turned, poses.shift_px[image, mode] + (move_px @ turned)[:, :2], poses.weight[image, mode])
        arithmetic.insert(at, batch.arrays, plane.arrays(length), scale, out, curvature)


def residual_sums(batch: Whitened, poses: Poses, reference: Reference, shells: int) -> np.ndarray:
    """Sums by image and shell of what residual_power gives at the heaviest mode: (n, 3, shells)."""
    plane, length = reference.plane, batch.amplitude.shape[1]
    rotations = batch.magnified(poses.rotation[:, 0], np.arange(len(batch.data)))
    waves, shift = plane.arrays(length), np.ascontiguousarray(poses.shift_px[:, 0])
    views = reference.arithmetic.slices(reference.volume_ft, rotations, waves)
    return reference.arithmetic.residual_power(views, shift, batch.arrays, waves, plane.shell[:length], shells)


def by_group(each: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Sums (n, ...) of images added up by optics group (n,): (groups, ...)."""
    return np.stack([each[group == g].sum(axis=0) for g in range(groups)])


def by_batch(each: np.ndarray, optics: np.ndarray, sizes: Sequence[int], groups: int) -> np.ndarray:
    """Sums (n, ...) of the images of batches that follow one another, of so many images each, added up by batch and by optics group (n,):
    (b, groups, ...)."""
    row = np.repeat(np.arange(len(sizes)), sizes) * groups + optics
    return by_group(each, row, len(sizes) * groups).reshape(len(sizes), groups, *each.shape[1:])
