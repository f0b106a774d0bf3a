"""Pose refinement on a CUDA device: climbs by the steps of protomer_kernels/pose_steps.py, in one launch.

One block takes one start. All its threads sum over the coefficients; the first one then accepts or rejects the pose and solves the 5 x 5
system, while the others wait.

All is float32, the solve too: a Cholesky solve loses only what parameters are correlated, however they are scaled, and poses agree with the
CPU's within 1e-4 degrees (tested). Log L is known to about 3e-7 of itself, 0.003 at 10,000, so that a climb ends where the CPU's does as
long as that is below SETTLED_GAIN; above some 70,000 it may end a step earlier or later, which then gains less than that error. Rotations
stay orthonormal within 3e-6 over tens of steps; unit quaternions, as which the host keeps poses, forget that.
"""

from __future__ import annotations

import numba
import numpy as np
from numba import cuda

from protomer_kernels.cuda.normal_equations import THREADS, sums_of_block
from protomer_kernels.normal_equations import SUMS
from protomer_kernels.pose_steps import FIRST_DAMPING, add_prior, next_trial, take_if_better

DAMPING = np.float32(FIRST_DAMPING)


@cuda.jit
def climb_kernel(volume, starts, batch, plane, steps, bounds, sums):
    """Block s climbs from start s."""
    image, rotations, shifts_px = starts
    data, amplitude, magnification = batch
    priors, extent = bounds
    s, thread = cuda.blockIdx.x, cuda.threadIdx.x
    n = image[s]
    centre = cuda.shared.array((3, 3), numba.float32)  # the simulator tells shared arrays apart by their lines
    trial_rotation = cuda.shared.array((3, 3), numba.float32)
    trial_shift = cuda.shared.array(2, numba.float32)
    trial_sums = cuda.shared.array(SUMS, numba.float32)
    factor = cuda.shared.array((5, 5), numba.float32)
    step = cuda.shared.array(5, numba.float32)
    between = cuda.shared.array(3, numba.float32)
    left_for_all = cuda.shared.array(1, numba.int32)
    row = priors[s % priors.shape[0]]
    prior, work = (centre, row[9:11], row[11:16], row[16:]), (factor, step, between)
    pose, trial = (rotations[s], shifts_px[s]), (trial_rotation, trial_shift)
    if thread < 9:
        centre[thread // 3, thread % 3] = row[thread]
        trial_rotation[thread // 3, thread % 3] = rotations[s, thread // 3, thread % 3]
    if thread < 2:
        trial_shift[thread] = shifts_px[s, thread]
    cuda.syncthreads()
    damping, left = DAMPING, steps
    for attempt in range(steps + 1):
        sums_of_block(volume, trial, (data[n], amplitude[n], magnification[n]), plane, trial_sums)
        if thread == 0:
            add_prior(trial, prior, between, trial_sums)
            if attempt == 0:
                for m in range(SUMS):
                    sums[s, m] = trial_sums[m]
            else:
                damping, left = take_if_better(trial, trial_sums, pose, sums[s], damping, left)
            damping, left = next_trial(pose, sums[s], (prior, extent), work, damping, left, trial)
            left_for_all[0] = left
        cuda.syncthreads()
        if left_for_all[0] < 0:
            break


def climb_poses(volume, starts, batch, plane, steps: int, bounds, sums) -> None:
    """As protomer_kernels.newton.climb_poses, on device arrays, in float32.

    volume (n, n, r + 1, 2); starts: image (S,) int64, rotations (S, 3, 3) and shifts_px (S, 2), refined in place; batch: data
    (n, 2, >= K), amplitude (n, >= K) and magnification (n, 2, 2); plane: kx, ky (K,) and the box; bounds: priors (S or 1, 19) and extent
    (2,) as in pose_steps.py; sums (S, 21): log L, gradient and lower triangle of H at the end.
    """
    climb_kernel[len(starts[0]), THREADS](volume, starts, batch, plane, steps, bounds, sums)
