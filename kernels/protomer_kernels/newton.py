"""Pose refinement on the CPU: climbs from many starts by the steps of pose_steps.py, and the covariances of the poses they reach."""

from __future__ import annotations

import numba
import numpy as np

from protomer_kernels.normal_equations import SUMS, new_scratch, normal_equations
from protomer_kernels.pose_steps import FIRST_DAMPING, add_prior, next_trial, take_if_better


@numba.njit(cache=True)
def _evaluate(volume, pose, image, plane, prior, scratch, between, sums):
    """The 21 sums with the prior."""
    normal_equations(volume, pose[0], pose[1], image, plane, scratch, sums)
    add_prior(pose, prior, between, sums)


@numba.njit(cache=True)
def _climb(volume, pose, image, plane, steps, bounds, sums):
    """Climbs from one start, in place; sums (21,) end as those of the best pose."""
    scratch = new_scratch()
    work = (np.zeros((5, 5)), np.empty(5), np.empty(3))
    trial, trial_sums = (np.empty((3, 3)), np.empty(2)), np.empty(SUMS)
    _evaluate(volume, pose, image, plane, bounds[0], scratch, work[2], sums)
    damping, left = next_trial(pose, sums, bounds, work, FIRST_DAMPING, steps, trial)
    while left >= 0:
        _evaluate(volume, trial, image, plane, bounds[0], scratch, work[2], trial_sums)
        damping, left = take_if_better(trial, trial_sums, pose, sums, damping, left)
        damping, left = next_trial(pose, sums, bounds, work, damping, left, trial)


@numba.njit(parallel=True, cache=True, nogil=True)
def climb_poses(volume, starts, batch, plane, steps, bounds, sums):
    """Refines S starts in place, each on its own image; a start stays if nothing better is found within its extent.

    volume (n, n, r + 1, 2) float32; starts: image (S,) the row of the batch that each belongs to, rotations (S, 3, 3) and shifts_px (S, 2)
    float64; batch: data (n, 2, >= K), amplitude (n, >= K) float32 and magnification (n, 2, 2) float64; plane: kx, ky (K,) float32 and the
    box; bounds: priors (S or 1, 19), each the rotation (9) and shift (2) of its centre, the precisions (5), zero where there is
    none, and the lever (3), and the extent (2,), as in pose_steps.py; sums (S, 21): log L, gradient, lower triangle of H at the end.
    """
    image, rotations, shifts_px = starts
    data, amplitude, magnification = batch
    priors, extent = bounds
    for s in numba.prange(rotations.shape[0]):
        row = priors[s % priors.shape[0]]
        own = ((row[:9].reshape(3, 3), row[9:11], row[11:16], row[16:]), extent)
        own_image = (data[image[s]], amplitude[image[s]], magnification[image[s]])
        _climb(volume, (rotations[s], shifts_px[s]), own_image, plane, steps, own, sums[s])


@numba.njit(cache=True)
def covariance_and_log_determinant(sums, out):
    """Pose covariances from S rows of sums (S, 21): out (S, 15), lower triangles of H^-1; returns log det H (S,), inf where singular."""
    log_determinant = np.empty(sums.shape[0])
    for s in range(sums.shape[0]):
        h = np.zeros((5, 5))
        for p in range(5):
            for q in range(p + 1):
                h[p, q] = h[q, p] = sums[s, 6 + p * (p + 1) // 2 + q]
            h[p, p] += 1e-9
        sign, value = np.linalg.slogdet(h)
        log_determinant[s] = value if sign > 0 else np.inf
        inverse = np.linalg.inv(h) if sign > 0 else np.full((5, 5), np.inf)
        for p in range(5):
            for q in range(p + 1):
                out[s, p * (p + 1) // 2 + q] = inverse[p, q]
    return log_determinant


NO_PRIOR = np.zeros((1, 19))
NO_PRIOR[0, [0, 4, 8]] = 1.0
NO_EXTENT = np.array([np.pi, 1e6])
UNBOUNDED = (NO_PRIOR, NO_EXTENT)
