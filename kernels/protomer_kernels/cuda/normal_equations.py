"""Log likelihoods, gradients and Gauss-Newton matrices on a CUDA device: eqs (1) to (3) of protomer_kernels/normal_equations.py.

One block of THREADS threads takes one pose. A thread sums its coefficients q, q + THREADS, ... in registers; then each of the 21 sums is
added up over the threads in shared memory, always in the same order, so that a device gives the same bits every time.
"""

from __future__ import annotations

import numba
import numpy as np
from numba import cuda
from numba.extending import register_jitable

from protomer_kernels.cells import corner_and_fractions, magnified_columns, turned_mate
from protomer_kernels.gather import ZERO, interpolate_with_gradient
from protomer_kernels.normal_equations import HALF, SUMS, TWO_PI, residual_and_jacobian
from protomer_kernels.trigonometry import sine_cosine_of_cycles

THREADS = 128
WARP = 32  # at least SUMS
WARPS = THREADS // WARP
PADDED = THREADS + 1  # lets the sums of one thread, and one thread's share of all sums, lie in different banks of shared memory


@register_jitable
def _terms(volume, columns, shift_per_box, turn, wave, data, amplitude):
    """residual_and_jacobian of one coefficient wave = (kx, ky), with data (re, im), as they are stored."""
    sign, a, b, point = turned_mate(columns, wave[0], wave[1])
    (k, j, i), (dx, dy, dz) = corner_and_fractions(point, np.float32((volume.shape[0] - 1) // 2))
    cell = interpolate_with_gradient(volume, np.uint64(k), np.uint64(j), np.uint64(i), dx, dy, dz)
    sine, cosine = sine_cosine_of_cycles(-(a * shift_per_box[0] + b * shift_per_box[1]))
    im = sign * data[1]
    centred = (data[0] * cosine - im * sine, im * cosine + data[0] * sine)
    return residual_and_jacobian(point, (cell[0], cell[1]), cell[2:], centred, amplitude, (turn * a, turn * b))


@register_jitable
def _add_terms(part, total):
    """Adds what one coefficient gives to the 21 sums: log L, 5 of the gradient, 15 of the lower triangle of the matrix."""
    residual_re, residual_im, model_re, model_im = part[:4]
    total[0] += model_re * (residual_re + HALF * model_re) + model_im * (residual_im + HALF * model_im)
    n = 6
    for p in range(5):
        re, im = part[4 + 2 * p], part[5 + 2 * p]
        total[1 + p] += re * residual_re + im * residual_im
        for q in range(p + 1):
            total[n] += re * part[4 + 2 * q] + im * part[5 + 2 * q]
            n += 1


@cuda.jit(device=True)
def sums_of_block(volume, pose, image, plane, out):
    """The 21 sums of one pose by all threads of a block: out (21,) float32 in shared memory, which all threads may read afterwards.

    pose: rotation (3, 3) and shift_px (2,); image: data (2, >= K), amplitude (>= K,) and magnification (2, 2); all float32.
    """
    rotation, shift_px = pose
    data, amplitude, magnification = image
    kx, ky, box = plane
    thread = cuda.threadIdx.x
    columns = magnified_columns(rotation, magnification)
    size = np.float32(box)
    shift_per_box = (shift_px[0] / size, shift_px[1] / size)
    total = cuda.local.array(SUMS, numba.float32)
    for m in range(SUMS):
        total[m] = ZERO
    for q in range(thread, kx.shape[0], THREADS):
        own = (data[0, q], data[1, q])
        _add_terms(_terms(volume, columns, shift_per_box, TWO_PI / size, (kx[q], ky[q]), own, amplitude[q]), total)
    each = cuda.shared.array((SUMS, PADDED), numba.float32)
    parts = cuda.shared.array((WARPS, SUMS), numba.float32)
    for m in range(SUMS):
        each[m, thread] = total[m]
    cuda.syncthreads()
    warp, m = thread // WARP, thread % WARP
    if m < SUMS:
        part = ZERO
        for lane in range(WARP):
            part += each[m, warp * WARP + lane]
        parts[warp, m] = part
    cuda.syncthreads()
    if thread < SUMS:
        part = ZERO
        for w in range(WARPS):
            part += parts[w, thread]
        out[thread] = part
    cuda.syncthreads()


@cuda.jit
def normal_equations_kernel(volume, starts, batch, plane, out):
    """Block s sums over all coefficients of start s."""
    image, rotations, shifts_px = starts
    data, amplitude, magnification = batch
    s = cuda.blockIdx.x
    n = image[s]
    sums = cuda.shared.array(SUMS, numba.float32)
    sums_of_block(volume, (rotations[s], shifts_px[s]), (data[n], amplitude[n], magnification[n]), plane, sums)
    if cuda.threadIdx.x < SUMS:
        out[s, cuda.threadIdx.x] = sums[cuda.threadIdx.x]


def normal_equations(volume, starts, batch, plane, out) -> None:
    """The 21 sums of S starts, on device arrays: out (S, 21) float32.

    volume (n, n, r + 1, 2) float32; starts: image (S,) int64, the row of the batch that each belongs to, rotations (S, 3, 3) and
    shifts_px (S, 2) float32; batch: data (n, 2, >= K), amplitude (n, >= K) and magnification (n, 2, 2) float32; plane: kx, ky
    (K,) float32 and the box.
    """
    normal_equations_kernel[len(starts[0]), THREADS](volume, starts, batch, plane, out)
