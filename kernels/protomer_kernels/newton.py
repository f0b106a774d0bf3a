"""Pose refinement: damped Gauss-Newton (Levenberg 1944, Marquardt 1963) in the five pose parameters of one image.

With whitened data Y = sqrt(m) X / sigma and amplitude A = sqrt(m) s C / sigma (m the multiplicity of a half-plane coefficient), the
centred image Y exp(-2 pi i k.shift / box) is compared with A V(R k):

    log L = sum_k Re(Y* M) - |M|^2 / 2  + const,   M = A V                                                              (1)

    d(A V) = A grad V . (omega x R k)            for R' = exp(omega) R, omega about the map's axes                      (2)
    d(A V) / d shift = 2 pi i k / box A V        (CONVENTIONS: dM/dshift = +2 pi i k M)                                 (3)

Value, gradient (5) and Gauss-Newton matrix (15) come from one pass. Priors are Gaussian in omega and shift about a centre (4).
"""

from __future__ import annotations

import numba
import numpy as np
from numba.extending import register_jitable

from protomer_kernels.gather import load_cell, mate_sign
from protomer_kernels.lanes import LANES, lane_dot
from protomer_kernels.prefetch import prefetch
from protomer_kernels.rotations import rotate_by, rotation_vector_between
from protomer_kernels.slices import PADDING
from protomer_kernels.trigonometry import sine_cosine_of_cycles

TWO_PI = np.float32(2.0 * np.pi)
HALF = np.float32(0.5)
ZERO = np.float32(0.0)
BLOCK = 256
# No fast arithmetic anywhere: what a compiler may reorder has other bits when it is compiled another time. Sums run in LANES fixed
# lanes instead, which vectorise as they stand.
AHEAD = 8  # coefficients between asking for memory and using it
LONGEST_STEP_RAD = 0.15


@register_jitable
def residual_and_jacobian(point, value, gradient, data, amplitude, k_per_box):
    """Eqs (1) to (3) at one coefficient: centred data minus model, the model, and d model for omega x, y, z; all as (re, im) pairs.

    point: (x, y, z) in the units of gradient; gradient: d re/dx, d im/dx, d re/dy, ...; k_per_box: 2 pi k / box.
    """
    x, y, z = point
    re_x, im_x, re_y, im_y, re_z, im_z = gradient
    m_re = amplitude * value[0]
    m_im = amplitude * value[1]
    return (
        data[0] - m_re,
        data[1] - m_im,
        m_re,
        m_im,
        amplitude * (re_z * y - re_y * z),
        amplitude * (im_z * y - im_y * z),
        amplitude * (re_x * z - re_z * x),
        amplitude * (im_x * z - im_z * x),
        amplitude * (re_y * x - re_x * y),
        amplitude * (im_y * x - im_x * y),
        -k_per_box[0] * m_im,
        k_per_box[0] * m_re,
        -k_per_box[1] * m_im,
        k_per_box[1] * m_re,
    )


@numba.njit(cache=True)
def _gather_block(volume, rotation, kx, ky, cells, bases):
    """The Friedel mates taken, and value and gradient there, of up to BLOCK coefficients.

    cells (14, BLOCK): sign kx, sign ky, V and its gradient (8), sign, and the fractions in the cell (3); bases (BLOCK,): offsets in floats.
    """
    centre = np.float32((volume.shape[0] - 1) // 2)
    plane, row = volume.shape[1] * volume.shape[2], volume.shape[2]
    flat = volume.ravel()
    m00, m01, m10, m11, m20, m21 = rotation
    count = kx.shape[0]
    for q in range(count):
        sign = mate_sign(m00 * kx[q] + m01 * ky[q])
        a = sign * kx[q]
        b = sign * ky[q]
        x = m00 * a + m01 * b
        y = m10 * a + m11 * b + centre
        z = m20 * a + m21 * b + centre
        i, j, k = np.int32(x), np.int32(y), np.int32(z)  # truncation is floor: all three are positive
        bases[q] = (k * plane + j * row + i) * 2
        cells[0, q], cells[1, q], cells[10, q] = a, b, sign
        cells[11, q], cells[12, q], cells[13, q] = x - np.float32(i), y - np.float32(j), z - np.float32(k)
    plane, row = np.uint64(2 * plane), np.uint64(2 * row)
    for q in range(count):
        if q + AHEAD < count:
            later = np.uint64(bases[q + AHEAD])
            prefetch(flat, later)
            prefetch(flat, later + row)
            prefetch(flat, later + plane)
            prefetch(flat, later + plane + row)
        (cells[2, q], cells[3, q], cells[4, q], cells[5, q], cells[6, q], cells[7, q], cells[8, q], cells[9, q]) = load_cell(
            flat, np.uint64(bases[q]), row, plane, cells[11, q], cells[12, q], cells[13, q]
        )


@numba.njit(cache=True)
def _sum_block(rotation, shift_per_box, box, re, im, amplitude, cells, rows, sums):
    """Adds the 21 sums of one block to sums (21,) float64: log L, 5 of the gradient, 15 of the lower triangle of the matrix.

    rows (8, 2 BLOCK) is scratch: residual, d model for the 5 parameters, model, data - model / 2; re in the first half, im in the second.
    """
    m00, m01, m10, m11, m20, m21 = rotation
    turn = TWO_PI / np.float32(box)
    sx, sy = shift_per_box
    count = amplitude.shape[0]
    padded = (count + LANES - 1) // LANES * LANES
    for q in range(count):
        p = q + padded
        a = cells[0, q]
        b = cells[1, q]
        sine, cosine = sine_cosine_of_cycles(-(a * sx + b * sy))
        im_q = cells[10, q] * im[q]
        y_re = re[q] * cosine - im_q * sine
        y_im = im_q * cosine + re[q] * sine
        jacobian = residual_and_jacobian(
            (m00 * a + m01 * b, m10 * a + m11 * b, m20 * a + m21 * b), (cells[2, q], cells[3, q]),
            (cells[4, q], cells[5, q], cells[6, q], cells[7, q], cells[8, q], cells[9, q]),
            (y_re, y_im), amplitude[q], (turn * a, turn * b))
        rows[0, q], rows[0, p], rows[6, q], rows[6, p], rows[1, q], rows[1, p], rows[2, q] = jacobian[:7]
        rows[2, p], rows[3, q], rows[3, p], rows[4, q], rows[4, p], rows[5, q], rows[5, p] = jacobian[7:]
        rows[7, q] = y_re - HALF * rows[6, q]
        rows[7, p] = y_im - HALF * rows[6, p]
    for row in range(8):
        rows[row, count:padded] = ZERO
        rows[row, padded + count:2 * padded] = ZERO
    sums[0] += lane_dot(rows[6], rows[7], 2 * padded)
    at = 6
    for p in range(1, 6):
        sums[p] += lane_dot(rows[p], rows[0], 2 * padded)
        for q in range(1, p + 1):
            sums[at] += lane_dot(rows[p], rows[q], 2 * padded)
            at += 1


@numba.njit(cache=True)
def new_scratch():
    """Work arrays of one thread: cells (14, BLOCK), bases (BLOCK,), rows (8, 2 BLOCK)."""
    return np.empty((14, BLOCK), np.float32), np.empty(BLOCK, np.int64), np.empty((8, 2 * BLOCK), np.float32)


@numba.njit(cache=True)
def normal_equations(volume, rotation, shift_px, data, amplitude, kx, ky, box, scratch, sums):
    """The 21 sums of eqs (1) to (3) over all coefficients given: sums (21,) float64.

    volume (n, n, r + 1, 2) float32; rotation (3, 3) float64; shift_px (2,); data (2, K) float32; amplitude, kx, ky (K,) float32;
    scratch from new_scratch.
    """
    p = np.float32(PADDING)
    scaled = (
        np.float32(rotation[0, 0]) * p,
        np.float32(rotation[0, 1]) * p,
        np.float32(rotation[1, 0]) * p,
        np.float32(rotation[1, 1]) * p,
        np.float32(rotation[2, 0]) * p,
        np.float32(rotation[2, 1]) * p,
    )
    shift_per_box = (np.float32(shift_px[0] / box), np.float32(shift_px[1] / box))
    cells, bases, rows = scratch
    sums[:] = 0.0
    for start in range(0, kx.shape[0], BLOCK):
        stop = min(start + BLOCK, kx.shape[0])
        _gather_block(volume, scaled, kx[start:stop], ky[start:stop], cells, bases)
        _sum_block(scaled, shift_per_box, box, data[0, start:stop], data[1, start:stop], amplitude[start:stop], cells, rows, sums)


@numba.njit(cache=True)
def _add_prior(rotation, shift_px, prior, sums):
    """Adds the Gaussian prior of eq. (4) to the 21 sums. prior (16,): centre rotation (9), centre shift (2), precisions (5)."""
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
def _climb(volume, rotation, shift_px, data, amplitude, kx, ky, box, steps, prior, extent, sums):
    """Climbs from one start, in place; sums (21,) end as those of the best pose. Stops under `gain` log units of gain."""
    scratch = new_scratch()
    trial_sums = np.empty(21)
    trial = np.empty((3, 3))
    step = np.empty(5)
    factor = np.zeros((5, 5))
    bounded = extent[0] < np.pi or extent[1] < 1e6
    normal_equations(volume, rotation, shift_px, data, amplitude, kx, ky, box, scratch, sums)
    _add_prior(rotation, shift_px, prior, sums)
    damping = 1e-2
    for _ in range(steps):
        if not _solve_damped(sums, damping, factor, step):
            damping = damping * 8.0 + 0.05
            continue
        rotate_by(step[:3], rotation, trial)
        trial_shift = shift_px + step[3:]
        accepted = not bounded or _within_extent(trial, trial_shift, prior, extent)
        if accepted:
            normal_equations(volume, trial, trial_shift, data, amplitude, kx, ky, box, scratch, trial_sums)
            _add_prior(trial, trial_shift, prior, trial_sums)
            accepted = trial_sums[0] > sums[0]
        if accepted:
            gain = trial_sums[0] - sums[0]
            rotation[:] = trial
            shift_px[:] = trial_shift
            sums[:] = trial_sums
            damping = max(damping * 0.2, 1e-4)
            if gain < 0.02:
                break
        else:
            damping = damping * 8.0 + 0.05
            if damping > 20.0:
                break


@numba.njit(parallel=True, cache=True)
def climb_poses(volume, image, rotations, shifts_px, data, amplitude, kx, ky, box, steps, priors, extent, sums):
    """Refines S starts in place, each on its own image; a start stays if nothing better is found within its extent.

    volume (n, n, r + 1, 2) float32; image (S,) the row of data and amplitude that each start belongs to; rotations (S, 3, 3) and
    shifts_px (S, 2) float64; data (n, 2, >= K), amplitude (n, >= K), kx, ky (K,) float32, whole and
    contiguous rows: Numba compiles a function for each memory layout, and their bits differ; priors (S or 1, 16) as in _add_prior, of zero
    precision where there is none; extent (2,): radians, pixels; sums (S, 21): log L, gradient, lower triangle of H at the end.
    """
    for s in numba.prange(rotations.shape[0]):
        prior = priors[s % priors.shape[0]]
        _climb(volume, rotations[s], shifts_px[s], data[image[s]], amplitude[image[s]], kx, ky, box, steps, prior, extent, sums[s])


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
