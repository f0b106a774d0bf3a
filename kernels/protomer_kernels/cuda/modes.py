"""Linear modes in images on a CUDA device: what images leave, and insertion, of protomer_kernels/modes.py.

Power by shell is added up by one block for each image and shell, always in the same order; insertion is by 64-bit integer atomics, whose
order changes nothing. Terms are float32 products where the CPU has float64 ones.
"""

from __future__ import annotations

import numba
import numpy as np
from numba import cuda

from protomer_kernels.cells import corner_and_fractions, scaled_columns, turned_mate
from protomer_kernels.gather import ONE, ZERO
from protomer_kernels.insertion import inserted_term

THREADS = 64
NEXT = np.uint64(1)


@cuda.jit(device=True)
def _left_by_part(data, shown, mean, covariance, part, q, left):
    """Writes down what is left of the mean map, and gives E |Y - sum_j c_j A S_j|^2 of one part (re or im) of one coefficient."""
    number = shown.shape[0]
    rest = data[part, q] - mean[0] * shown[0, part, q]
    left[part, q] = rest if q > 0 else ZERO
    spread = ZERO
    for m in range(1, number):
        own = shown[m, part, q]
        rest -= mean[m] * own
        for o in range(1, number):
            spread += covariance[m - 1, o - 1] * own * shown[o, part, q]
    return rest * rest + spread


@cuda.jit
def leave_modes_kernel(data, shown, moments, members, left, power):
    """Block (n, s) takes shell s of image n."""
    mean, covariance = moments
    order, first = members
    n, s, thread = cuda.blockIdx.x, cuda.blockIdx.y, cuda.threadIdx.x
    total = ZERO
    for at in range(first[s] + thread, first[s + 1], THREADS):
        q = order[at]
        found = _left_by_part(data[n], shown[n], mean[n], covariance[n], 0, q, left[n])
        found += _left_by_part(data[n], shown[n], mean[n], covariance[n], 1, q, left[n])
        if q > 0:
            total += found
    each = cuda.shared.array(THREADS, numba.float32)
    each[thread] = total
    cuda.syncthreads()
    if thread == 0:
        total = ZERO
        for t in range(THREADS):
            total += each[t]
        power[n, s] = total


@cuda.jit(device=True)
def _add_voxel(out, k, j, i, share, term, first_moments, second_moments):
    """Adds one image's terms (re, im, weight) of eq. (2), times a share, to one voxel, in fixed point."""
    number = first_moments.shape[0]
    re, im, weight = share * term[0], share * term[1], share * term[2]
    for m in range(number):
        cuda.atomic.add(out, (k, j, i, 2 * m), np.int64(first_moments[m] * re))
        cuda.atomic.add(out, (k, j, i, 2 * m + 1), np.int64(first_moments[m] * im))
    for p in range(second_moments.shape[0]):
        cuda.atomic.add(out, (k, j, i, 2 * number + p), np.int64(second_moments[p] * weight))


@cuda.jit
def insert_modes_kernel(poses, moments, batch, plane, scale, out):
    """Block (n, c) adds coefficients c THREADS, c THREADS + 1, ... of image n, but for the origin."""
    rotations, shifts_px = poses
    first_moments, second_moments = moments
    data, amplitude = batch
    kx, ky, box = plane
    n = cuda.blockIdx.x
    q = cuda.blockIdx.y * THREADS + cuda.threadIdx.x
    if 0 < q < kx.shape[0]:
        sign, _, _, point = turned_mate(scaled_columns(rotations[n]), kx[q], ky[q])
        corner, (dx, dy, dz) = corner_and_fractions(point, np.float32((out.shape[0] - 1) // 2))
        phase = -(kx[q] * shifts_px[n, 0] + ky[q] * shifts_px[n, 1]) / np.float32(box)
        term = inserted_term((data[n, 0, q], data[n, 1, q]), amplitude[n, q], scale, phase, sign)
        k, j, i = np.uint64(corner[0]), np.uint64(corner[1]), np.uint64(corner[2])
        for upper in range(2):
            layer, above = (k + NEXT, dz) if upper else (k, ONE - dz)
            _add_voxel(out, layer, j, i, above * (ONE - dy) * (ONE - dx), term, first_moments[n], second_moments[n])
            _add_voxel(out, layer, j, i + NEXT, above * (ONE - dy) * dx, term, first_moments[n], second_moments[n])
            _add_voxel(out, layer, j + NEXT, i, above * dy * (ONE - dx), term, first_moments[n], second_moments[n])
            _add_voxel(out, layer, j + NEXT, i + NEXT, above * dy * dx, term, first_moments[n], second_moments[n])


def leave_modes(data, shown, moments, members, left, power) -> None:
    """As protomer_kernels.modes.leave_modes, on device arrays, all float32: data and left (n, 2, C), shown (n, K + 1, 2, C), moments: mean
    (n, K + 1) and covariance (n, K, K); members from cuda.noise.members_of_shells; power (n, shells)."""
    leave_modes_kernel[(len(power), power.shape[1]), THREADS](data, shown, moments, members, left, power)


def insert_modes(poses, moments, batch, plane, scale: float, out) -> None:
    """As protomer_kernels.modes.insert_modes, on device arrays: rotations (n, 3, 3), shifts_px (n, 2), moments (n, K) and
    (n, K (K + 1) / 2), batch: left (n, 2, C) and amplitude (n, C), plane: kx, ky (C,), all float32, and the box; out: int64."""
    blocks = (len(poses[0]), -(-len(plane[0]) // THREADS))
    insert_modes_kernel[blocks, THREADS](poses, moments, batch, plane, np.float32(scale), out)
