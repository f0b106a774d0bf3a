"""The steps of a climb: damped Gauss-Newton (Levenberg 1944, Marquardt 1963) in the five pose parameters of one image.

The scalar source of the drivers in newton.py (float64) and cuda/newton.py (float32): all that lies between two evaluations of the 21 sums
of normal_equations.py, in the precision of `sums`. A Gaussian prior in omega and shift about a centre adds, for parameter p at distance
d_p,

    log L -= precision_p d_p^2 / 2,   gradient_p -= precision_p d_p,   H_pp += precision_p                              (1)

Shifts are held by the prior where a fulcrum is seen, at c = `lever` from the origin that poses turn about: there, at the pose R, t beside
the centre R0, t0, and with its derivative in omega,

    d = t - t0 - ((R - R0)^T c)_xy,    J omega = -(R^T (c x omega))_xy,    and (1) goes with J^T into omega             (2)

A pose is rotation (3, 3) and shift_px (2,). A prior is its centre's rotation (3, 3) and shift (2,), the precisions (5,) and the lever (3,).
The extent (2,) is how far a pose may lie from that centre, in radians, and in pixels at the fulcrum. Work is factor (5, 5), step (5,) and
between (3,).
"""

from __future__ import annotations

import math

from numba.extending import register_jitable

from protomer_kernels.rotations import rotate_by, rotation_vector_between

LONGEST_STEP_RAD = 0.15
SETTLED_GAIN = 0.02  # log units
FIRST_DAMPING, LEAST_DAMPING, MOST_DAMPING = 1e-2, 1e-4, 20.0
SMALLER, LARGER, LARGER_BY = 0.2, 8.0, 0.05  # damping after a step that gained, and after one that did not


@register_jitable
def add_prior(pose, prior, between, sums):
    """Adds the Gaussian prior of eqs. (1) and (2) to the 21 sums."""
    rotation, precisions, lever = pose[0], prior[2], prior[3]
    rotation_vector_between(prior[0], rotation, between)
    half = sums.dtype.type(0.5)
    for p in range(3):
        sums[0] -= half * precisions[p] * between[p] * between[p]
        sums[1 + p] -= precisions[p] * between[p]
        sums[6 + p * (p + 3) // 2] += precisions[p]
    for p in range(2):
        away, precision = shift_at_fulcrum(pose, prior, p), precisions[3 + p]
        between[0] = rotation[2, p] * lever[1] - rotation[1, p] * lever[2]
        between[1] = rotation[0, p] * lever[2] - rotation[2, p] * lever[0]
        between[2] = rotation[1, p] * lever[0] - rotation[0, p] * lever[1]
        row = 6 + (3 + p) * (4 + p) // 2
        sums[0] -= half * precision * away * away
        sums[4 + p] -= precision * away
        sums[row + 3 + p] += precision
        for a in range(3):
            sums[1 + a] -= precision * away * between[a]
            sums[row + a] += precision * between[a]
            for b in range(a + 1):
                sums[6 + a * (a + 1) // 2 + b] += precision * between[a] * between[b]


@register_jitable
def shift_at_fulcrum(pose, prior, p):
    """Component p of d of eq. (2)."""
    rotation, centre, lever = pose[0], prior[0], prior[3]
    away = pose[1][p] - prior[1][p]
    for i in range(3):
        away -= (rotation[i, p] - centre[i, p]) * lever[i]
    return away


@register_jitable
def solve_damped(sums, damping, factor, step):
    """Cholesky solve of (H + damping diag H) step = gradient for the 5 parameters; False where H is not positive definite."""
    real = sums.dtype.type
    for p in range(5):
        for q in range(p + 1):
            v = sums[6 + p * (p + 1) // 2 + q]
            if p == q:
                v = v * (real(1.0) + damping) + real(1e-12)
            for r in range(q):
                v -= factor[p, r] * factor[q, r]
            if p == q:
                if v <= real(0.0):
                    return False
                factor[p, p] = math.sqrt(v)
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
    length = math.sqrt(step[0] * step[0] + step[1] * step[1] + step[2] * step[2])
    if length > real(LONGEST_STEP_RAD):
        shorter = real(LONGEST_STEP_RAD) / length
        for p in range(5):
            step[p] *= shorter
    return True


@register_jitable
def within_extent(pose, prior, extent, between):
    """Whether a pose lies within the extent of the prior's centre."""
    rotation_vector_between(prior[0], pose[0], between)
    x, y = shift_at_fulcrum(pose, prior, 0), shift_at_fulcrum(pose, prior, 1)
    turned = between[0] * between[0] + between[1] * between[1] + between[2] * between[2]
    return turned <= extent[0] * extent[0] and x * x + y * y <= extent[1] * extent[1]


@register_jitable
def next_trial(pose, sums, bounds, work, damping, left, trial):
    """Fills `trial` with the pose after the next step that stays within the extent.

    pose, sums: the best pose so far and its sums; bounds: prior and extent; left: how many steps may still be tried. Returns the damping
    and the steps left after this one: -1 where there is no trial, and the climb ends.
    """
    real = sums.dtype.type
    prior, extent = bounds
    factor, step, between = work
    is_bounded = extent[0] < real(math.pi) or extent[1] < real(1e6)
    while left > 0:
        left -= 1
        if solve_damped(sums, damping, factor, step):
            rotate_by(step, pose[0], trial[0])
            trial[1][0], trial[1][1] = pose[1][0] + step[3], pose[1][1] + step[4]
            if not is_bounded or within_extent(trial, prior, extent, between):
                return damping, left
            damping = damping * real(LARGER) + real(LARGER_BY)
            if damping > real(MOST_DAMPING):
                return damping, -1
        else:
            damping = damping * real(LARGER) + real(LARGER_BY)
    return damping, -1


@register_jitable
def take_if_better(trial, trial_sums, pose, sums, damping, left):
    """Copies a trial and its sums over the best so far if its log L is higher.

    Returns the damping and the steps left, 0 where the gain was less than SETTLED_GAIN or the damping has become hopeless.
    """
    real = sums.dtype.type
    gain = trial_sums[0] - sums[0]
    if not trial_sums[0] > sums[0]:
        damping = damping * real(LARGER) + real(LARGER_BY)
        return damping, 0 if damping > real(MOST_DAMPING) else left
    for i in range(3):
        for j in range(3):
            pose[0][i, j] = trial[0][i, j]
    pose[1][0], pose[1][1] = trial[1][0], trial[1][1]
    for m in range(sums.shape[0]):
        sums[m] = trial_sums[m]
    damping = damping * real(SMALLER)
    if damping < real(LEAST_DAMPING):  # not max(): Numba's for CUDA does not compile everywhere
        damping = real(LEAST_DAMPING)
    return damping, 0 if gain < real(SETTLED_GAIN) else left
