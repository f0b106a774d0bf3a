"""Insertion of slices on a CUDA device: eq. (1) of protomer_kernels/insertion.py, one thread for each coefficient.

Terms are added with 64-bit integer atomics, so that no schedule changes the sums. A device has cheap atomics where the CPU has slabs, and
float32 products where the CPU has float64 ones: a term has the float32 error that its data have anyway (tested).
"""

from __future__ import annotations

import numpy as np
from numba import cuda
from numba.extending import register_jitable

from protomer_kernels.cuda.cells import corner_and_fractions, scaled_columns, turned_mate
from protomer_kernels.gather import ONE
from protomer_kernels.trigonometry import sine_cosine_of_cycles

THREADS = 256
NEXT = np.uint64(1)


@register_jitable
def _term(data, amplitude, gain, phase, sign):
    """What one coefficient adds, (re, im, weight): gain A Y exp(2 pi i phase) at the mate taken, and gain A^2."""
    sine, cosine = sine_cosine_of_cycles(phase)
    weighted = gain * amplitude
    re = weighted * (data[0] * cosine - data[1] * sine)
    im = sign * weighted * (data[1] * cosine + data[0] * sine)
    return re, im, weighted * amplitude


@cuda.jit(device=True)
def _add_voxel(out, k, j, i, weight, term):
    """Adds weight times term (re, im, weight) to one voxel, in fixed point."""
    cuda.atomic.add(out, (k, j, i, 0), np.int64(weight * term[0]))
    cuda.atomic.add(out, (k, j, i, 1), np.int64(weight * term[1]))
    cuda.atomic.add(out, (k, j, i, 2), np.int64(weight * term[2]))


@cuda.jit(device=True)
def _add_row(out, k, j, i, weight, dx, term):
    """Adds to the voxels x and x + 1 of one row of a cell."""
    _add_voxel(out, k, j, i, weight * (ONE - dx), term)
    _add_voxel(out, k, j, i + NEXT, weight * dx, term)


@cuda.jit
def insertion_kernel(poses, batch, plane, scale, out):
    """Block (s, c) adds coefficients c THREADS, c THREADS + 1, ... of slice s."""
    image, rotations, shifts_px, weights = poses
    data, amplitude = batch
    kx, ky, box = plane
    s = cuda.blockIdx.x
    q = cuda.blockIdx.y * THREADS + cuda.threadIdx.x
    if q < kx.shape[0]:
        n = image[s]
        sign, _, _, point = turned_mate(scaled_columns(rotations[s]), kx[q], ky[q])
        phase = -(kx[q] * shifts_px[s, 0] + ky[q] * shifts_px[s, 1]) / np.float32(box)
        term = _term((data[n, 0, q], data[n, 1, q]), amplitude[n, q], scale * weights[s], phase, sign)
        corner, fractions = corner_and_fractions(point, np.float32((out.shape[0] - 1) // 2))
        k, j, i = corner
        dx, dy, dz = fractions
        _add_row(out, k, j, i, (ONE - dz) * (ONE - dy), dx, term)
        _add_row(out, k, j + NEXT, i, (ONE - dz) * dy, dx, term)
        _add_row(out, k + NEXT, j, i, dz * (ONE - dy), dx, term)
        _add_row(out, k + NEXT, j + NEXT, i, dz * dy, dx, term)


def insert_slices(poses, batch, plane, scale: float, out) -> None:
    """As protomer_kernels.insertion.insert_slices, on device arrays.

    poses: image (S,) int64, rotations (S, 3, 3), shifts_px (S, 2), weights (S,) float32; batch: data (n, 2, K) and amplitude (n, K)
    float32; plane: kx, ky (K,) float32 and the box; scale from fixed_point_scale; out: an accumulator.
    """
    insertion_kernel[(len(poses[0]), -(-len(plane[0]) // THREADS)), THREADS](poses, batch, plane, np.float32(scale), out)
