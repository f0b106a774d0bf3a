"""Rotations: quaternions (scalar last), matrices, the exponential map and quasi-uniform grids on SO(3)."""

from __future__ import annotations

import math

import numba
import numpy as np
from numba.extending import register_jitable

from protomer_kernels.trigonometry import sine_cosine

PSI = 1.533751168755204288118041  # the positive root of psi^4 = psi + 4 (Alexa 2022, section 3)


def super_fibonacci_grid(number: int) -> np.ndarray:
    """(number, 4) float64 quaternions, scalar last, nearly uniform on SO(3) (Alexa 2022, Super-Fibonacci spirals, algorithm 1)."""
    s = np.arange(number) + 0.5
    inner, outer = np.sqrt(s / number), np.sqrt(1.0 - s / number)
    alpha, beta = 2.0 * np.pi * s / np.sqrt(2.0), 2.0 * np.pi * s / PSI
    return np.stack([inner * np.sin(alpha), inner * np.cos(alpha), outer * np.sin(beta), outer * np.cos(beta)], axis=1)


def matrices_from_quaternions(quaternions: np.ndarray) -> np.ndarray:
    """(..., 4) unit quaternions, scalar last -> (..., 3, 3) float64."""
    x, y, z, w = np.moveaxis(np.asarray(quaternions, np.float64), -1, 0)
    rows = [[1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


@numba.njit(cache=True)
def quaternions_from_matrices(matrices):
    """(n, 3, 3) -> (n, 4) float64, scalar last, scalar >= 0 (Shepperd 1978: the largest of four squares is taken)."""
    out = np.empty((matrices.shape[0], 4))
    for n in range(matrices.shape[0]):
        m = matrices[n]
        trace = m[0, 0] + m[1, 1] + m[2, 2]
        squares = np.array([1 + 2 * m[0, 0] - trace, 1 + 2 * m[1, 1] - trace, 1 + 2 * m[2, 2] - trace, 1 + trace])
        largest = np.argmax(squares)
        q = np.empty(4)
        if largest == 3:
            q[:] = m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], squares[3]
        elif largest == 0:
            q[:] = squares[0], m[0, 1] + m[1, 0], m[0, 2] + m[2, 0], m[2, 1] - m[1, 2]
        elif largest == 1:
            q[:] = m[0, 1] + m[1, 0], squares[1], m[1, 2] + m[2, 1], m[0, 2] - m[2, 0]
        else:
            q[:] = m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], squares[2], m[1, 0] - m[0, 1]
        q /= np.sqrt((q * q).sum())
        out[n] = q if q[3] >= 0 else -q
    return out


@register_jitable
def rotate_by(omega, rotation, out):
    """out = exp([omega]x) rotation, by Rodrigues' formula; omega (>= 3,) radians about the map's axes, matrices (3, 3).

    All in the precision of `rotation`: float64 on the CPU, float32 on a CUDA device.
    """
    real = rotation.dtype.type
    x, y, z = omega[0], omega[1], omega[2]
    square = x * x + y * y + z * z
    if square < real(1e-16):
        a, b = real(1.0), real(0.5)
    else:
        angle = math.sqrt(square)
        sine, cosine = sine_cosine(angle)
        a, b = sine / angle, (real(1.0) - cosine) / square
    for j in range(3):
        u, v, w = rotation[0, j], rotation[1, j], rotation[2, j]
        cx, cy, cz = y * w - z * v, z * u - x * w, x * v - y * u  # omega x column
        out[0, j] = u + a * cx + b * (y * cz - z * cy)
        out[1, j] = v + a * cy + b * (z * cx - x * cz)
        out[2, j] = w + a * cz + b * (x * cy - y * cx)


@numba.njit(cache=True)
def turned_by(omega, rotations):
    """exp([omega]x) R for rotations (n, 3, 3) float64 and one omega (3,): (n, 3, 3)."""
    out = np.empty_like(rotations)
    for n in range(rotations.shape[0]):
        rotate_by(omega, rotations[n], out[n])
    return out


@register_jitable
def rotation_vector_between(first, second, out):
    """out (3,) = the rotation vector of second first^T, radians: second = exp([out]x) first; in the precision of `second`."""
    real = second.dtype.type
    trace = real(0.0)
    for i in range(3):
        for j in range(3):
            trace += second[i, j] * first[i, j]
    x = y = z = real(0.0)
    for j in range(3):
        x += second[2, j] * first[1, j] - second[1, j] * first[2, j]
        y += second[0, j] * first[2, j] - second[2, j] * first[0, j]
        z += second[1, j] * first[0, j] - second[0, j] * first[1, j]
    sine = real(0.5) * math.sqrt(x * x + y * y + z * z)
    angle = math.atan2(sine, real(0.5) * (trace - real(1.0)))
    factor = real(0.5) if sine < real(1e-12) else real(0.5) * angle / sine
    out[0], out[1], out[2] = factor * x, factor * y, factor * z


@numba.njit(cache=True)
def rotation_errors(true, found, operators):
    """Rotation vectors (n, 3) float64, radians, about the map's axes, from the nearest group mate of each true rotation to the found one.

    true, found (n, 3, 3) and operators (g, 3, 3) float64: found = exp([out]x) g true, with the g of the shortest out.
    """
    out = np.empty((true.shape[0], 3))
    trial = np.empty(3)
    for n in range(true.shape[0]):
        shortest = np.inf
        for g in range(operators.shape[0]):
            rotation_vector_between(np.dot(operators[g], true[n]), found[n], trial)
            square = (trial * trial).sum()
            if square < shortest:
                shortest = square
                out[n] = trial
    return out


def asymmetric_unit_rows(quaternions: np.ndarray, operators: np.ndarray) -> np.ndarray:
    """Rows of a grid (n, 4) that lie in one asymmetric unit of a group (g, 3, 3): those nearer to the identity than all their mates g R."""
    rotations = matrices_from_quaternions(quaternions)
    trace = np.einsum("gij,nji->ng", operators, rotations)
    own = np.trace(rotations, axis1=1, axis2=2)
    return np.flatnonzero(own >= trace.max(axis=1) - 1e-9)


def shift_grid(extent_px: float, step_px: float) -> np.ndarray:
    """(S, 2) float32 shifts x, y in pixels on a square lattice within a disc; the first is zero."""
    steps = int(extent_px / step_px + 1e-6)
    axis = np.arange(-steps, steps + 1) * step_px
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    square = (grid**2).sum(1)
    grid = grid[square <= (extent_px + 1e-6) ** 2]
    return grid[np.argsort((grid**2).sum(1), kind="stable")].astype(np.float32)
