"""Log likelihood of one image at one pose, its gradient and its Gauss-Newton matrix, from one pass over the coefficients.

With whitened data Y = sqrt(m) X / sigma and amplitude A = sqrt(m) s C / sigma (m the multiplicity of a half-plane coefficient), the
centred image Y exp(-2 pi i k.shift / box) is compared with A V(R M k), M the magnification of the image (2, 2):

    log L = sum_k Re(Y* M) - |M|^2 / 2  + const,   M = A V                                                              (1)

    d(A V) = A grad V . (omega x R M k)          for R' = exp(omega) R, omega about the map's axes                      (2)
    d(A V) / d shift = 2 pi i k / box A V        (dM/dshift = +2 pi i k M)                                              (3)

No fast arithmetic: what a compiler may reorder has other bits when it is compiled another time. Work arrays are flat, with offsets that the
compiler knows, so that it sees that stores do not meet loads and makes vectors of the loops as they stand.
"""

from __future__ import annotations

import numba
import numpy as np
from numba.extending import register_jitable

from protomer_kernels.cells import corner_and_fractions, magnified_columns, turned_mate
from protomer_kernels.gather import load_cell
from protomer_kernels.lanes import LANES, lane_products
from protomer_kernels.prefetch import prefetch
from protomer_kernels.trigonometry import sine_cosine_of_cycles

TWO_PI = np.float32(2.0 * np.pi)
HALF = np.float32(0.5)
ZERO = np.float32(0.0)
BLOCK = 256
AHEAD = 8  # coefficients between asking for memory and using it
# columns of the cells of a block: coordinates of the mate taken, its sign, fractions in the cell, V and its gradient
K_X, K_Y, SIGN, FRACTION_X, FRACTION_Y, FRACTION_Z, VALUE = (n * BLOCK for n in range(7))
CELL_COLUMNS = 14
# rows of a block, re then im: residual, d model for the 5 parameters, model, data - model / 2
RESIDUAL, MODEL, MIDWAY, ROWS = 0, 6, 7, 8
ROW = 2 * BLOCK
SUMS = 21  # log L, 5 of the gradient, 15 of the lower triangle of the matrix
PAIRS = ((MODEL, MIDWAY), *((p, RESIDUAL) for p in range(1, 6)), *((p, q) for p in range(1, 6) for q in range(1, p + 1)))
_add_products = lane_products(PAIRS, ROW)


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
def _locate_block(strides, columns, kx, ky, cells, bases):
    """Friedel mates taken, fractions in the cell, and where the cell lies (in floats), of up to BLOCK coefficients."""
    centre, plane, row = strides
    for q in range(kx.shape[0]):
        sign, a, b, point = turned_mate(columns, kx[q], ky[q])
        (k, j, i), (cells[FRACTION_X + q], cells[FRACTION_Y + q], cells[FRACTION_Z + q]) = corner_and_fractions(point, centre)
        bases[q] = np.int64(k) * plane + np.int64(j) * row + np.int64(i) * 2
        cells[K_X + q] = a
        cells[K_Y + q] = b
        cells[SIGN + q] = sign


@numba.njit(cache=True)
def _gather_block(flat, row, plane, count, cells, bases):
    """V and its gradient at the located points."""
    for q in range(count):
        later = np.uint64(bases[min(q + AHEAD, count - 1)])
        prefetch(flat, later)
        prefetch(flat, later + row)
        prefetch(flat, later + plane)
        prefetch(flat, later + plane + row)
        cell = load_cell(flat, np.uint64(bases[q]), row, plane, cells[FRACTION_X + q], cells[FRACTION_Y + q], cells[FRACTION_Z + q])
        (
            cells[VALUE + q],
            cells[VALUE + BLOCK + q],
            cells[VALUE + 2 * BLOCK + q],
            cells[VALUE + 3 * BLOCK + q],
            cells[VALUE + 4 * BLOCK + q],
            cells[VALUE + 5 * BLOCK + q],
            cells[VALUE + 6 * BLOCK + q],
            cells[VALUE + 7 * BLOCK + q],
        ) = cell


@numba.njit(cache=True)
def _fill_rows(columns, shift_per_box, turn, data, amplitude, cells, rows):
    """Residual, derivatives and model of one block; zeros up to a multiple of LANES."""
    m00, m01, m10, m11, m20, m21 = columns
    sx, sy = shift_per_box
    re, im = data
    count = amplitude.shape[0]
    for q in range(count):
        a = cells[K_X + q]
        b = cells[K_Y + q]
        sine, cosine = sine_cosine_of_cycles(-(a * sx + b * sy))
        im_q = cells[SIGN + q] * im[q]
        y_re = re[q] * cosine - im_q * sine
        y_im = im_q * cosine + re[q] * sine
        part = residual_and_jacobian(
            (m00 * a + m01 * b, m10 * a + m11 * b, m20 * a + m21 * b),
            (cells[VALUE + q], cells[VALUE + BLOCK + q]),
            (
                cells[VALUE + 2 * BLOCK + q],
                cells[VALUE + 3 * BLOCK + q],
                cells[VALUE + 4 * BLOCK + q],
                cells[VALUE + 5 * BLOCK + q],
                cells[VALUE + 6 * BLOCK + q],
                cells[VALUE + 7 * BLOCK + q],
            ),
            (y_re, y_im),
            amplitude[q],
            (turn * a, turn * b),
        )
        rows[RESIDUAL * ROW + q], rows[RESIDUAL * ROW + BLOCK + q] = part[0], part[1]
        rows[MODEL * ROW + q], rows[MODEL * ROW + BLOCK + q] = part[2], part[3]
        rows[1 * ROW + q], rows[1 * ROW + BLOCK + q] = part[4], part[5]
        rows[2 * ROW + q], rows[2 * ROW + BLOCK + q] = part[6], part[7]
        rows[3 * ROW + q], rows[3 * ROW + BLOCK + q] = part[8], part[9]
        rows[4 * ROW + q], rows[4 * ROW + BLOCK + q] = part[10], part[11]
        rows[5 * ROW + q], rows[5 * ROW + BLOCK + q] = part[12], part[13]
        rows[MIDWAY * ROW + q], rows[MIDWAY * ROW + BLOCK + q] = y_re - HALF * part[2], y_im - HALF * part[3]
    if count < BLOCK:
        for row in range(ROWS):
            rows[row * ROW + count : row * ROW + BLOCK] = ZERO
            rows[row * ROW + BLOCK + count : (row + 1) * ROW] = ZERO


@numba.njit(cache=True)
def new_scratch():
    """Work arrays of one thread: cells, bases and rows of a block."""
    return np.empty(CELL_COLUMNS * BLOCK, np.float32), np.empty(BLOCK, np.int64), np.empty(ROWS * ROW, np.float32)


@numba.njit(cache=True)
def normal_equations(volume, rotation, shift_px, image, plane, scratch, sums):
    """The 21 sums of eqs (1) to (3) over all coefficients given: sums (21,) float64.

    volume (n, n, r + 1, 2) float32; rotation (3, 3) float64; shift_px (2,); image: data (2, >= K), amplitude (>= K,) float32 and
    magnification (2, 2) float64; plane: kx, ky (K,) float32 and the box; scratch from new_scratch. No point R M k may lie farther out than
    the radius that the volume is for (slices.volume_radius). Rows are whole and contiguous: Numba compiles a function for each layout,
    and their bits may differ.
    """
    data, amplitude, magnification = image
    kx, ky, box = plane
    columns = magnified_columns(rotation, magnification)
    shift_per_box = (np.float32(shift_px[0] / box), np.float32(shift_px[1] / box))
    turn = TWO_PI / np.float32(box)
    cells, bases, rows = scratch
    flat = volume.ravel()
    row, layer = 2 * volume.shape[2], 2 * volume.shape[1] * volume.shape[2]
    strides = (np.float32((volume.shape[0] - 1) // 2), layer, row)
    sums[:] = 0.0
    for start in range(0, kx.shape[0], BLOCK):
        stop = min(start + BLOCK, kx.shape[0])
        _locate_block(strides, columns, kx[start:stop], ky[start:stop], cells, bases)
        _gather_block(flat, np.uint64(row), np.uint64(layer), stop - start, cells, bases)
        _fill_rows(columns, shift_per_box, turn, (data[0, start:stop], data[1, start:stop]), amplitude[start:stop], cells, rows)
        padded = (stop - start + LANES - 1) // LANES * LANES
        _add_products(rows, padded, sums)
        _add_products(rows[BLOCK:], padded, sums)
