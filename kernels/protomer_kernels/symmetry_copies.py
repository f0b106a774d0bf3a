"""Poses of symmetry copies: a pose (R, shift) under an operator x -> g x + t.

    R' = g R,    shift' = shift + (R'^T t)_xy                                                                                   (1)

The covariance of (omega, shift), omega about the map's axes (R -> exp(omega) R), goes by the Jacobian of (1): to first order
omega' = g omega, and the shift takes (R'^T (t x omega'))_xy with it:

    S' = J S J^T,    J = [[g, 0], [B g, 1]],    B omega' = (R'^T (t x omega'))_xy                                               (2)
"""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(parallel=True, cache=True, nogil=True)
def copy_rotations(operators, rotations, out):
    """out (n, g, 4) = g R as quaternions; operators (g, 4), rotations (n, 4): float64, scalar last. The identity changes no bit."""
    for n in numba.prange(rotations.shape[0]):
        bx, by, bz, bw = rotations[n, 0], rotations[n, 1], rotations[n, 2], rotations[n, 3]
        for g in range(operators.shape[0]):
            ax, ay, az, aw = operators[g, 0], operators[g, 1], operators[g, 2], operators[g, 3]
            out[n, g, 0] = aw * bx + ax * bw + ay * bz - az * by
            out[n, g, 1] = aw * by - ax * bz + ay * bw + az * bx
            out[n, g, 2] = aw * bz + ax * by - ay * bx + az * bw
            out[n, g, 3] = aw * bw - ax * bx - ay * by - az * bz


@numba.njit(parallel=True, cache=True, nogil=True)
def copy_shifts(translations_A, rotations, shifts_A, out):
    """out (n, g, 2) = shifts by eq. (1); translations_A (g, 3), rotations (n, g, 4) of the copies, shifts_A (n, 2) of the parents."""
    for n in numba.prange(rotations.shape[0]):
        for g in range(rotations.shape[1]):
            tx, ty, tz = translations_A[g, 0], translations_A[g, 1], translations_A[g, 2]
            xx, yx, zx, xy, yy, zy = _image_axes(rotations[n, g])
            out[n, g, 0] = shifts_A[n, 0] + (tx * xx + ty * yx + tz * zx)
            out[n, g, 1] = shifts_A[n, 1] + (tx * xy + ty * yy + tz * zy)


@numba.njit(parallel=True, cache=True, nogil=True)
def copy_covariances(operators, translations_A, rotations, covariances, out):
    """out (n, g, 15) = eq. (2), lower triangles row by row; operators (g, 3, 3), translations_A (g, 3), rotations (n, g, 4) of the copies,
    covariances (n, 15)."""
    for n in numba.prange(rotations.shape[0]):
        full, jacobian, half = np.empty((5, 5)), np.zeros((5, 5)), np.empty((5, 5))
        for p in range(5):
            for q in range(p + 1):
                full[p, q] = full[q, p] = covariances[n, p * (p + 1) // 2 + q]
        for g in range(rotations.shape[1]):
            _fill_jacobian(operators[g], translations_A[g], rotations[n, g], jacobian)
            for p in range(5):
                for q in range(5):
                    total = 0.0
                    for r in range(5):
                        total += jacobian[p, r] * full[r, q]
                    half[p, q] = total
            for p in range(5):
                for q in range(p + 1):
                    total = 0.0
                    for r in range(5):
                        total += half[p, r] * jacobian[q, r]
                    out[n, g, p * (p + 1) // 2 + q] = total


@numba.njit(cache=True)
def _image_axes(rotation):
    """Columns x and y of the matrix of a quaternion (4,): where the image's axes lie in the map."""
    x, y, z, w = rotation[0], rotation[1], rotation[2], rotation[3]
    return (1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y + z * w), 2.0 * (x * z - y * w),
            2.0 * (x * y - z * w), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z + x * w))


@numba.njit(cache=True)
def _fill_jacobian(operator, translation_A, rotation, out):
    """J of eq. (2). For an image axis a: a . (t x omega') = (a x t) . omega', and omega' = g omega."""
    tx, ty, tz = translation_A[0], translation_A[1], translation_A[2]
    xx, yx, zx, xy, yy, zy = _image_axes(rotation)
    for q in range(3):
        for p in range(3):
            out[p, q] = operator[p, q]
        gx, gy, gz = operator[0, q], operator[1, q], operator[2, q]
        out[3, q] = (yx * tz - zx * ty) * gx + (zx * tx - xx * tz) * gy + (xx * ty - yx * tx) * gz
        out[4, q] = (yy * tz - zy * ty) * gx + (zy * tx - xy * tz) * gy + (xy * ty - yy * tx) * gz
    out[3, 3] = out[4, 4] = 1.0
