"""Pose refinement: damped Gauss-Newton (Levenberg 1944, Marquardt 1963) in the five pose parameters of one image.

The sums come from normal_equations.py. A Gaussian prior in omega and shift about a centre adds, for parameter p at distance d_p,

    log L -= precision_p d_p^2 / 2,   gradient_p -= precision_p d_p,   H_pp += precision_p                              (1)
"""

from __future__ import annotations

import numba
import numpy as np

from protomer_kernels.normal_equations import SUMS, new_scratch, normal_equations
from protomer_kernels.rotations import rotate_by, rotation_vector_between

LONGEST_STEP_RAD = 0.15
SETTLED_GAIN = 0.02  # log units
FIRST_DAMPING, LEAST_DAMPING, MOST_DAMPING = 1e-2, 1e-4, 20.0


@numba.njit(cache=True)
def _add_prior(rotation, shift_px, prior, sums):
    """Adds the Gaussian prior of eq. (1) to the 21 sums. prior (16,): centre rotation (9), centre shift (2), precisions (5)."""
    between = np.empty(3)
    rotation_vector_between(prior[:9].reshape(3, 3), rotation, between)
    for p in range(5):
        away = between[p] if p < 3 else shift_px[p - 3] - prior[9 + p - 3]
        precision = prior[11 + p]
        sums[0] -= 0.5 * precision * away * away
        sums[1 + p] -= precision * away
        sums[6 + p * (p + 3) // 2] += precision


@numba.njit(cache=True)
def _solve_damped(sums, damping, factor, step):
    """Cholesky solve of (H + damping diag H) step = gradient for the 5 parameters; False where H is not positive definite."""
    for p in range(5):
        for q in range(p + 1):
            v = sums[6 + p * (p + 1) // 2 + q]
            if p == q:
                v = v * (1.0 + damping) + 1e-12
            for r in range(q):
                v -= factor[p, r] * factor[q, r]
            if p == q:
                if v <= 0.0:
                    return False
                factor[p, p] = np.sqrt(v)
            else:
                factor[p, q] = v / factor[q, q]
    for p in range(5):
        v = sums[1 + p]
        for r in range(p):
            v -= factor[p, r] * step[r]
        step[p] = v / factor[p, p]
    for p in range(4, -1, -1):
        v = step[p]
        for r in range(p + 1, 5):
            v -= factor[r, p] * step[r]
        step[p] = v / factor[p, p]
    length = np.sqrt(step[0] ** 2 + step[1] ** 2 + step[2] ** 2)
    if length > LONGEST_STEP_RAD:
        step *= LONGEST_STEP_RAD / length
    return True


@numba.njit(cache=True)
def _within_extent(rotation, shift_px, prior, extent):
    """Whether a pose lies within extent (rotation in radians, shift in pixels) of the prior's centre."""
    between = np.empty(3)
    rotation_vector_between(prior[:9].reshape(3, 3), rotation, between)
    away = shift_px - prior[9:11]
    return (between**2).sum() <= extent[0] ** 2 and (away**2).sum() <= extent[1] ** 2


@numba.njit(cache=True)
def _evaluate(volume, rotation, shift_px, image, plane, prior, scratch, sums):
    """The 21 sums with the prior."""
    normal_equations(volume, rotation, shift_px, image, plane, scratch, sums)
    _add_prior(rotation, shift_px, prior, sums)


@numba.njit(cache=True)
def _climb(volume, rotation, shift_px, image, plane, steps, bounds, sums):
    """Climbs from one start, in place; sums (21,) end as those of the best pose. Stops where a step gains less than SETTLED_GAIN."""
    prior, extent = bounds
    scratch = new_scratch()
    trial_sums = np.empty(SUMS)
    trial = np.empty((3, 3))
    step = np.empty(5)
    factor = np.zeros((5, 5))
    bounded = extent[0] < np.pi or extent[1] < 1e6
    _evaluate(volume, rotation, shift_px, image, plane, prior, scratch, sums)
    damping = FIRST_DAMPING
    for _ in range(steps):
        if not _solve_damped(sums, damping, factor, step):
            damping = damping * 8.0 + 0.05
            continue
        rotate_by(step[:3], rotation, trial)
        trial_shift = shift_px + step[3:]
        accepted = not bounded or _within_extent(trial, trial_shift, prior, extent)
        if accepted:
            _evaluate(volume, trial, trial_shift, image, plane, prior, scratch, trial_sums)
            accepted = trial_sums[0] > sums[0]
        if accepted:
            gain = trial_sums[0] - sums[0]
            rotation[:] = trial
            shift_px[:] = trial_shift
            sums[:] = trial_sums
            damping = max(damping * 0.2, LEAST_DAMPING)
            if gain < SETTLED_GAIN:
                break
        else:
            damping = damping * 8.0 + 0.05
            if damping > MOST_DAMPING:
                break


@numba.njit(parallel=True, cache=True, nogil=True)
def climb_poses(volume, starts, batch, plane, steps, bounds, sums):
    """Refines S starts in place, each on its own image; a start stays if nothing better is found within its extent.

    volume (n, n, r + 1, 2) float32; starts: image (S,) the row of the batch that each belongs to, rotations (S, 3, 3) and shifts_px (S, 2)
    float64; batch: data (n, 2, >= K), amplitude (n, >= K) float32 and magnification (n, 2, 2) float64; plane: kx, ky (K,) float32 and the
    box; bounds: priors (S or 1, 16) as in _add_prior, of zero precision where there is none, and the extent (2,), radians and pixels; sums
    (S, 21): log L, gradient, lower triangle of H at the end.
    """
    image, rotations, shifts_px = starts
    data, amplitude, magnification = batch
    priors, extent = bounds
    for s in numba.prange(rotations.shape[0]):
        own = (priors[s % priors.shape[0]], extent)
        own_image = (data[image[s]], amplitude[image[s]], magnification[image[s]])
        _climb(volume, rotations[s], shifts_px[s], own_image, plane, steps, own, sums[s])


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


NO_PRIOR = np.zeros((1, 16))
NO_PRIOR[0, [0, 4, 8]] = 1.0
NO_EXTENT = np.array([np.pi, 1e6])
UNBOUNDED = (NO_PRIOR, NO_EXTENT)
