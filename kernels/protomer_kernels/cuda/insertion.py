"""Insertion of slices on a CUDA device: eq. (1) of protomer_kernels/insertion.py, one thread for each coefficient.

Terms are added with 64-bit integer atomics, so that no schedule changes the sums. A device has cheap atomics where the CPU has slabs, and
float32 products where the CPU has float64 ones: a term has the float32 error that its data have anyway (tested).
"""

from __future__ import annotations

import numpy as np
from numba import cuda

from protomer_kernels.cells import corner_and_fractions, height, lifted_mate, scaled_columns, scaled_normal
from protomer_kernels.gather import ONE
from protomer_kernels.insertion import inserted_term

THREADS = 256
NEXT = np.uint64(1)


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
    image, rotations, shifts_px, weights, forms = poses
    data, amplitude = batch
    kx, ky, box = plane
    s = cuda.blockIdx.x
    q = cuda.blockIdx.y * THREADS + cuda.threadIdx.x
    if q < kx.shape[0]:
        n = image[s]
        lift = height((forms[s, 0], forms[s, 1], forms[s, 2]), kx[q], ky[q])
        sign, point = lifted_mate(scaled_columns(rotations[s]), scaled_normal(rotations[s]), kx[q], ky[q], lift)
        phase = -(kx[q] * shifts_px[s, 0] + ky[q] * shifts_px[s, 1]) / np.float32(box)
        term = inserted_term((data[n, 0, q], data[n, 1, q]), amplitude[n, q], scale * weights[s], phase, sign)
        corner, (dx, dy, dz) = corner_and_fractions(point, np.float32((out.shape[0] - 1) // 2))
        k, j, i = np.uint64(corner[0]), np.uint64(corner[1]), np.uint64(corner[2])
        _add_row(out, k, j, i, (ONE - dz) * (ONE - dy), dx, term)
        _add_row(out, k, j + NEXT, i, (ONE - dz) * dy, dx, term)
        _add_row(out, k + NEXT, j, i, dz * (ONE - dy), dx, term)
        _add_row(out, k + NEXT, j + NEXT, i, dz * dy, dx, term)


def insert_slices(poses, batch, plane, scale: float, out, curvature=None) -> None:
    """As protomer_kernels.insertion.insert_slices, on device arrays.

    poses: image (S,) int64, rotations (S, 3, 3), shifts_px (S, 2), weights (S,) float32; batch: data (n, 2, K) and amplitude (n, K)
    float32; plane: kx, ky (K,) float32 and the box; scale from fixed_point_scale; out: an accumulator; curvature (S, 3)
    float32, None: flat.
    """
    forms = cuda.to_device(np.zeros((len(poses[0]), 3), np.float32)) if curvature is None else curvature
    insertion_kernel[(len(poses[0]), -(-len(plane[0]) // THREADS)), THREADS]((*poses, forms), batch, plane, np.float32(scale), out)
