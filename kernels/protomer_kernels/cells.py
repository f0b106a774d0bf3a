"""Where the coefficients of a slice lie in a Fourier volume: the scalar source of every driver that reads or fills one."""

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable

from protomer_kernels.gather import mate_sign
from protomer_kernels.padded import PADDING

SCALE = np.float32(PADDING)


@register_jitable
def scaled_columns(rotation):
    """The first two columns of a rotation (3, 3), times the padding, float32: what takes (kx, ky) to padded voxels."""
    return (
        SCALE * np.float32(rotation[0, 0]),
        SCALE * np.float32(rotation[0, 1]),
        SCALE * np.float32(rotation[1, 0]),
        SCALE * np.float32(rotation[1, 1]),
        SCALE * np.float32(rotation[2, 0]),
        SCALE * np.float32(rotation[2, 1]),
    )


@register_jitable
def magnified_columns(rotation, magnification):
    """As scaled_columns, of a rotation (3, 3) after a magnification (2, 2): what takes the (kx, ky) of an image to padded voxels."""
    a, b, c, d = magnification[0, 0], magnification[0, 1], magnification[1, 0], magnification[1, 1]
    return (
        SCALE * np.float32(rotation[0, 0] * a + rotation[0, 1] * c),
        SCALE * np.float32(rotation[0, 0] * b + rotation[0, 1] * d),
        SCALE * np.float32(rotation[1, 0] * a + rotation[1, 1] * c),
        SCALE * np.float32(rotation[1, 0] * b + rotation[1, 1] * d),
        SCALE * np.float32(rotation[2, 0] * a + rotation[2, 1] * c),
        SCALE * np.float32(rotation[2, 0] * b + rotation[2, 1] * d),
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
def scaled_normal(rotation):
    """The third column of a rotation (3, 3), times the padding, float32: what takes a height above the image's plane to padded voxels."""
    return SCALE * np.float32(rotation[0, 2]), SCALE * np.float32(rotation[1, 2]), SCALE * np.float32(rotation[2, 2])


@register_jitable
def height(form, kx, ky):
    """The quadratic form (xx, xy + yx, yy) at (kx, ky): how far above its plane a coefficient lies on a curved slice."""
    return form[0] * (kx * kx) + form[1] * (kx * ky) + form[2] * (ky * ky)


@register_jitable
def lifted_mate(columns, normal, kx, ky, lift):
    """As turned_mate, of a point at the height `lift` above the plane, along the normal."""
    m00, m01, m10, m11, m20, m21 = columns
    sign = mate_sign(m00 * kx + m01 * ky + normal[0] * lift)
    a, b, c = sign * kx, sign * ky, sign * lift
    x, y, z = m00 * a + m01 * b + normal[0] * c, m10 * a + m11 * b + normal[1] * c, m20 * a + m21 * b + normal[2] * c
    return sign, (x, y, z)


@register_jitable
def corner_and_fractions(point, centre):
    """The lower corner [z, y, x] (int32) of the cell that holds a point, and the fractions dx, dy, dz in it (float32)."""
    x, y, z = point[0], point[1] + centre, point[2] + centre
    i, j, k = np.int32(x), np.int32(y), np.int32(z)  # truncation is floor: all three are positive
    return (k, j, i), (x - np.float32(i), y - np.float32(j), z - np.float32(k))
