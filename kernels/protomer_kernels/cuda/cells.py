"""Where the coefficients of a slice lie in a Fourier volume."""

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable

from protomer_kernels.gather import mate_sign
from protomer_kernels.padded import PADDING

SCALE = np.float32(PADDING)


@register_jitable
def scaled_columns(rotation):
    """The first two columns of a rotation (3, 3) float32, times the padding: what takes (kx, ky) to padded voxels."""
    return (
        SCALE * rotation[0, 0],
        SCALE * rotation[0, 1],
        SCALE * rotation[1, 0],
        SCALE * rotation[1, 1],
        SCALE * rotation[2, 0],
        SCALE * rotation[2, 1],
    )


@register_jitable
def turned_mate(columns, kx, ky):
    """The Friedel mate of (kx, ky) that lies at x >= 0: its sign, its kx and ky, and its point (x, y, z) in padded voxels."""
    m00, m01, m10, m11, m20, m21 = columns
    sign = mate_sign(m00 * kx + m01 * ky)
    a = sign * kx
    b = sign * ky
    return sign, a, b, (m00 * a + m01 * b, m10 * a + m11 * b, m20 * a + m21 * b)


@register_jitable
def corner_and_fractions(point, centre):
    """The lower corner [z, y, x] (uint64) of the cell that holds a point, and the fractions dx, dy, dz in it."""
    x, y, z = point[0], point[1] + centre, point[2] + centre
    i, j, k = np.int32(x), np.int32(y), np.int32(z)  # truncation is floor: all three are positive
    return (np.uint64(k), np.uint64(j), np.uint64(i)), (x - np.float32(i), y - np.float32(j), z - np.float32(k))
