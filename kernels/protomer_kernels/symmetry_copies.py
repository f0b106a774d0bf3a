"""Poses of symmetry copies: a pose (R, shift) under an operator x -> g x + rise z.

    R' = g R,    shift' = shift + rise (R'^T z)_xy                                                                              (1)

The covariance of (omega, shift), omega about the map's axes (R -> exp(omega) R), goes by the Jacobian of (1), to first order
omega' = g omega and shift'_omega' = shift + rise (R'^T (z - omega' x z))_xy:

    S' = J S J^T,    J = [[g, 0], [B g, 1]],    B omega' = -rise (R'^T (omega' x z))_xy                                         (2)
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
def copy_shifts(rises_A, rotations, shifts_A, out):
    """out (n, g, 2) = the shifts of eq. (1); rises_A (g,), rotations (n, g, 4) of the copies, shifts_A (n, 2) of the parents, float64."""
    for n in numba.prange(rotations.shape[0]):
        for g in range(rotations.shape[1]):
            x, y, z, w = rotations[n, g, 0], rotations[n, g, 1], rotations[n, g, 2], rotations[n, g, 3]
            out[n, g, 0] = shifts_A[n, 0] + rises_A[g] * 2.0 * (x * z - y * w)
            out[n, g, 1] = shifts_A[n, 1] + rises_A[g] * 2.0 * (y * z + x * w)


@numba.njit(parallel=True, cache=True, nogil=True)
def copy_covariances(operators, rises_A, rotations, covariances, out):
    """out (n, g, 15) = eq. (2), lower triangles row by row; operators (g, 3, 3), rotations (n, g, 4) of the copies, covariances (n, 15)."""
    for n in numba.prange(rotations.shape[0]):
        full, jacobian, half = np.empty((5, 5)), np.zeros((5, 5)), np.empty((5, 5))
        for p in range(5):
            for q in range(p + 1):
                full[p, q] = full[q, p] = covariances[n, p * (p + 1) // 2 + q]
        for g in range(rotations.shape[1]):
            _fill_jacobian(operators[g], rises_A[g], rotations[n, g], jacobian)
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
def _fill_jacobian(operator, rise_A, rotation, out):
    """J of eq. (2): omega x z = (omega_y, -omega_x, 0), and rows x and y of R'^T are columns of R'."""
    x, y, z, w = rotation[0], rotation[1], rotation[2], rotation[3]
    xx, xy = 1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - z * w)  # R' at (x, image x) and (x, image y)
    yx, yy = 2.0 * (x * y + z * w), 1.0 - 2.0 * (x * x + z * z)
    for q in range(3):
        for p in range(3):
            out[p, q] = operator[p, q]
        out[3, q] = -rise_A * (xx * operator[1, q] - yx * operator[0, q])
        out[4, q] = -rise_A * (xy * operator[1, q] - yy * operator[0, q])
    out[3, 3] = out[4, 4] = 1.0
