"""Linear modes of a map in images at known poses: what images show of them, what they leave, insertion, and the solution of each voxel.

With Y a whitened image, A its amplitude (newton.py), S_0 a slice of the mean map and S_k slices of K modes at the image's pose:

(1) Y = A (c_0 S_0 + sum_k c_k S_k) + noise of variance one           (Punjani and Fleet 2021, J. Struct. Biol. 213:107702, eq. 1)

and an accumulator int64 (n, n, r + 1, 2 K + K (K + 1) / 2), [z, y, x >= 0], collects with trilinear weights t, at R k or its Friedel mate,

(2) re, im of b_k += t <c_k> A (Y - c_0 A S_0) exp(-2 pi i k.shift / box),     H_kl += t <c_k c_l> A^2,  l <= k, row by row

in fixed point, so that neither threads nor ranks change a bit (insertion.py). The modes of greatest likelihood are, voxel by voxel,

(3) V = (H + diag(ridge))^-1 b                                                                        (their eq. 8, with a prior)

The origin of an image, its mean grey, says nothing of modes and is left out everywhere.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from protomer_kernels.cells import corner_and_fractions, scaled_columns, turned_mate
from protomer_kernels.gather import ONE
from protomer_kernels.insertion import inserted_term
from protomer_kernels.padded import PADDING
from protomer_kernels.slices import volume_radius
from protomer_kernels.trigonometry import sine_cosine_of_cycles


def pairs(number: int) -> int:
    """Entries on and below the diagonal of a symmetric matrix."""
    return number * (number + 1) // 2


def mode_accumulator_shape(radius: int, number: int) -> tuple[int, int, int, int]:
    """Of an accumulator of `number` modes for slices up to `radius`."""
    r = volume_radius(radius)
    return 2 * r + 1, 2 * r + 1, r + 1, 2 * number + pairs(number)


def empty_mode_accumulator(radius: int, number: int) -> np.ndarray:
    """An accumulator of `number` modes for slices up to `radius`, zeros."""
    return np.zeros(mode_accumulator_shape(radius, number), np.int64)


def mode_accumulator_bytes(radius: int, number: int) -> int:
    """What empty_mode_accumulator takes."""
    return 8 * math.prod(mode_accumulator_shape(radius, number))


@numba.njit(cache=True)
def _read(flat, base, steps, fractions, out):
    """Trilinear reading of out.shape[0] floats that lie side by side in each voxel; base: of the lower corner; steps: voxel, row, plane."""
    voxel, row, plane = steps
    dx, dy, dz = fractions
    b00, b01, b10, b11 = base, base + row, base + plane, base + plane + row
    w00, w01, w10, w11 = (ONE - dz) * (ONE - dy), (ONE - dz) * dy, dz * (ONE - dy), dz * dy
    for j in range(out.shape[0]):
        at = np.uint64(j)
        near = w00 * flat[b00 + at] + w01 * flat[b01 + at] + w10 * flat[b10 + at] + w11 * flat[b11 + at]
        at += voxel
        far = w00 * flat[b00 + at] + w01 * flat[b01 + at] + w10 * flat[b10 + at] + w11 * flat[b11 + at]
        out[j] = near + dx * (far - near)


@numba.njit(parallel=True, cache=True, nogil=True)
def see_modes(volumes, poses, batch, plane, shown, products):
    """What n images show of a mean map and K modes: slices under their amplitudes, and the scalar products of eq. (1).

    volumes: Fourier volumes side by side (n, n, r + 1, K + 1, 2) float32, the mean first; poses: rotations (n, 3, 3), shifts_px (n, 2);
    batch: data Y (n, 2, C) and amplitude A (n, C) float32; plane: kx, ky (C,) float32 and the box. shown (n, K + 1, 2, C) float32: A S_j at
    the image's shift; products (n, K + 1, K + 2) float64: <A S_j, A S_l>, and <Y, A S_j> in the last column. The origin counts as zero.
    """
    rotations, shifts_px = poses
    data, amplitude = batch
    kx, ky, box = plane
    number = volumes.shape[3]
    voxel = 2 * number
    steps = (np.uint64(voxel), np.uint64(voxel * volumes.shape[2]), np.uint64(voxel * volumes.shape[1] * volumes.shape[2]))
    centre = np.float32((volumes.shape[0] - 1) // 2)
    flat = volumes.ravel()
    for n in numba.prange(rotations.shape[0]):
        columns = scaled_columns(rotations[n])
        sx, sy = np.float32(shifts_px[n, 0] / box), np.float32(shifts_px[n, 1] / box)
        read, sums = np.empty(voxel, np.float32), np.zeros((number, number + 1))
        shown[n, :, :, 0] = np.float32(0.0)
        for q in range(1, kx.shape[0]):
            sign, _, _, point = turned_mate(columns, kx[q], ky[q])
            (k, j, i), fractions = corner_and_fractions(point, centre)
            _read(flat, np.uint64(k) * steps[2] + np.uint64(j) * steps[1] + np.uint64(i) * steps[0], steps, fractions, read)
            sine, cosine = sine_cosine_of_cycles(kx[q] * sx + ky[q] * sy)
            gain = amplitude[n, q]
            for m in range(number):
                re, im = read[2 * m], sign * read[2 * m + 1]
                read[2 * m] = gain * (re * cosine - im * sine)
                read[2 * m + 1] = gain * (im * cosine + re * sine)
                shown[n, m, 0, q] = read[2 * m]
                shown[n, m, 1, q] = read[2 * m + 1]
            for m in range(number):
                re, im = np.float64(read[2 * m]), np.float64(read[2 * m + 1])
                for o in range(m + 1):
                    sums[m, o] += re * read[2 * o] + im * read[2 * o + 1]
                sums[m, number] += re * data[n, 0, q] + im * data[n, 1, q]
        for m in range(number):
            for o in range(m):
                sums[o, m] = sums[m, o]
        products[n] = sums


@numba.njit(parallel=True, cache=True, nogil=True)
def leave_modes(data, shown, moments, shell, left, power):
    """What images leave: data (n, 2, C) and shown (n, K + 1, 2, C) of see_modes; moments: mean (n, K + 1) of the coefficients c of eq. (1)
    and covariance (n, K, K) of those of modes; shell (C,) int32.

    left (n, 2, C) float32: Y - c_0 A S_0, the origin zero; power (n, shells) float64: E |Y - sum_j c_j A S_j|^2 by shell.
    """
    mean, covariance = moments
    number = shown.shape[1]
    for n in numba.prange(data.shape[0]):
        power[n] = 0.0
        left[n, :, 0] = np.float32(0.0)
        for q in range(1, data.shape[2]):
            total = 0.0
            for part in range(2):
                rest = np.float64(data[n, part, q]) - mean[n, 0] * shown[n, 0, part, q]
                left[n, part, q] = np.float32(rest)
                for m in range(1, number):
                    rest -= mean[n, m] * shown[n, m, part, q]
                total += rest * rest
                for m in range(1, number):
                    for o in range(1, number):
                        total += covariance[n, m - 1, o - 1] * shown[n, m, part, q] * shown[n, o, part, q]
            power[n, shell[q]] += total


@numba.njit(cache=True)
def _add_voxel(flat, base, weight, terms):
    """Adds terms times a weight to one voxel."""
    for m in range(terms.shape[0]):
        flat[base + np.uint64(m)] += np.int64(weight * terms[m])


@numba.njit(cache=True)
def _insert_image(flat, strides, pose, moments, image, plane, slab, terms):
    """Adds one image's terms of eq. (2) to the planes first <= z < last."""
    rotation, sx, sy, scale = pose
    first_moments, second_moments = moments
    data, amplitude = image
    kx, ky, _ = plane
    centre, layer, row, values = strides
    number = first_moments.shape[0]
    columns = scaled_columns(rotation)
    for q in range(1, kx.shape[0]):
        sign, _, _, point = turned_mate(columns, kx[q], ky[q])
        (k, j, i), (dx, dy, dz) = corner_and_fractions(point, centre)
        if k + 1 < slab[0] or k >= slab[1]:
            continue
        re, im, weight = inserted_term((data[0, q], data[1, q]), amplitude[q], scale, -(kx[q] * sx + ky[q] * sy), sign)
        for m in range(number):
            terms[2 * m] = first_moments[m] * re
            terms[2 * m + 1] = first_moments[m] * im
        for p in range(second_moments.shape[0]):
            terms[2 * number + p] = second_moments[p] * weight
        base = np.uint64((k * layer + j * row + i) * values)
        for z in range(2):
            if k + z < slab[0] or k + z >= slab[1]:
                continue
            for y in range(2):
                across = np.float64((dz if z else ONE - dz) * (dy if y else ONE - dy))
                at = base + np.uint64((z * layer + y * row) * values)
                _add_voxel(flat, at, across * (ONE - dx), terms)
                _add_voxel(flat, at + np.uint64(values), across * dx, terms)


@numba.njit(parallel=True, cache=True, nogil=True)
def insert_modes(poses, moments, batch, plane, scale, slabs, out):
    """Adds n images to the accumulator `out`, eq. (2).

    poses: rotations (n, 3, 3), shifts_px (n, 2); moments: <c_k> (n, K) and <c_k c_l> (n, K (K + 1) / 2), l <= k row by row, float64; batch:
    what images leave of the mean (n, 2, C) and amplitude (n, C) float32; plane: kx, ky (C,) and the box; scale: of the fixed point, a power
    of two; slabs: threads to share the planes among.
    """
    rotations, shifts_px = poses
    first_moments, second_moments = moments
    data, amplitude = batch
    box = plane[2]
    edges = np.empty(slabs + 1, np.int64)
    for s in range(slabs + 1):
        edges[s] = out.shape[0] * s // slabs
    strides = (np.float32((out.shape[0] - 1) // 2), out.shape[1] * out.shape[2], out.shape[2], out.shape[3])
    flat = out.ravel()
    for s in numba.prange(slabs):
        terms = np.empty(out.shape[3])
        for n in range(rotations.shape[0]):
            pose = (rotations[n], np.float32(shifts_px[n, 0] / box), np.float32(shifts_px[n, 1] / box), np.float32(scale))
            _insert_image(flat, strides, pose, (first_moments[n], second_moments[n]), (data[n], amplitude[n]), plane,
                          (edges[s], edges[s + 1]), terms)


@numba.njit(cache=True)
def _voxel(accumulator, k, j, i, factor, out):
    """The sums of one voxel in floating point, for `out` as _is_imaginary gives it; those at x = 0 were added at one of two mates only, and
    are put together here."""
    n = accumulator.shape[0]
    for m in range(out.shape[0]):
        total = np.float64(accumulator[k, j, i, m])
        if i == 0:
            mate = np.float64(accumulator[n - 1 - k, n - 1 - j, 0, m])
            total += -mate if out[m] < 0 else mate
        out[m] = total * factor


@numba.njit(cache=True)
def _is_imaginary(number, values):
    """(values,) -1 where an entry of an accumulator is an imaginary part, else 1."""
    out = np.ones(values)
    for m in range(number):
        out[2 * m + 1] = -1.0
    return out


@numba.njit(cache=True)
def mode_weights(accumulator, number, factor, shells):
    """Mean of the diagonal of H over each shell of unpadded width: (K, shells) float64. factor: one over the scale of the fixed point."""
    centre, values = (accumulator.shape[0] - 1) // 2, accumulator.shape[3]
    total, count, sign = np.zeros((number, shells)), np.zeros(shells), _is_imaginary(number, values)
    sums = np.empty(values)
    for k in range(accumulator.shape[0]):
        for j in range(accumulator.shape[1]):
            for i in range(accumulator.shape[2]):
                shell = int(np.rint(np.sqrt((k - centre) ** 2 + (j - centre) ** 2 + i**2) / PADDING))
                if shell < shells:
                    sums[:] = sign
                    _voxel(accumulator, k, j, i, factor, sums)
                    count[shell] += 1.0
                    for m in range(number):
                        total[m, shell] += sums[2 * number + (m + 1) * (m + 2) // 2 - 1]
    return total / np.maximum(count, 1.0)


@numba.njit(cache=True)
def _solve_symmetric(matrix, right):
    """Solves matrix x = right in place for right (K, 2), by Cholesky's decomposition; zeros where the matrix is not positive."""
    number = matrix.shape[0]
    for m in range(number):
        for o in range(m + 1):
            rest = matrix[m, o]
            for p in range(o):
                rest -= matrix[m, p] * matrix[o, p]
            if o < m:
                matrix[m, o] = rest / matrix[o, o]
            elif rest > 0.0:
                matrix[m, m] = np.sqrt(rest)
            else:
                right[:] = 0.0
                return
    for part in range(2):
        for m in range(number):
            for p in range(m):
                right[m, part] -= matrix[m, p] * right[p, part]
            right[m, part] /= matrix[m, m]
        for m in range(number - 1, -1, -1):
            for p in range(m + 1, number):
                right[m, part] -= matrix[p, m] * right[p, part]
            right[m, part] /= matrix[m, m]


@numba.njit(parallel=True, cache=True)
def solve_modes(accumulator, factor, ridge, out):
    """Eq. (3): out (K, n, n, r + 1) complex64; ridge (K, shells) float64, in the units of H; zero in the shells beyond."""
    number, shells = ridge.shape
    centre, values = (accumulator.shape[0] - 1) // 2, accumulator.shape[3]
    for k in numba.prange(accumulator.shape[0]):
        sums, sign = np.empty(values), _is_imaginary(number, values)
        matrix, right = np.empty((number, number)), np.empty((number, 2))
        for j in range(accumulator.shape[1]):
            for i in range(accumulator.shape[2]):
                shell = int(np.rint(np.sqrt((k - centre) ** 2 + (j - centre) ** 2 + i**2) / PADDING))
                right[:] = 0.0
                if shell < shells:
                    sums[:] = sign
                    _voxel(accumulator, k, j, i, factor, sums)
                    entry = 2 * number
                    for m in range(number):
                        right[m, 0], right[m, 1] = sums[2 * m], sums[2 * m + 1]
                        for o in range(m + 1):
                            matrix[m, o] = sums[entry]
                            entry += 1
                        matrix[m, m] += ridge[m, shell]
                    _solve_symmetric(matrix, right)
                for m in range(number):
                    out[m, k, j, i] = np.complex64(complex(right[m, 0], right[m, 1]))
