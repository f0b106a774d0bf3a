"""Insertion of slices into a Fourier volume: the exact adjoint of the trilinear reading in gather.py, in 64-bit fixed point.

Into the eight voxels around each point R k (or its Friedel mate) go, with trilinear weights t and posterior weight p,

    numerator += t p A Y exp(-2 pi i k.shift / box),   weight += t p A^2                                                  (1)

with Y, A as in newton.py (Scheres 2012, eq. 6, without the prior). A slice may be curved: its points are then R (k, h(k)), the height h a
quadratic form of k (ewald.py). An accumulator is int64 (n, n, r + 1, 3): [z, y, x >= 0, re|im|weight].
Integer addition is associative, so any order of threads and any number of ranks give the same bits. Each thread owns a slab of z and
adds whatever falls into it, since CPUs have no cheap atomic addition.
"""

from __future__ import annotations

import math
from functools import singledispatch

import numba
import numpy as np
from numba.extending import register_jitable

from protomer_kernels.cells import corner_and_fractions, height, lifted_mate, scaled_columns, scaled_normal
from protomer_kernels.gather import ONE
from protomer_kernels.prefetch import prefetch
from protomer_kernels.slices import volume_radius
from protomer_kernels.trigonometry import sine_cosine_of_cycles

HEADROOM_BITS = 61
BLOCK = 256
AHEAD = 6  # coefficients between asking for memory and using it


def accumulator_shape(radius: int) -> tuple[int, int, int, int]:
    """(n, n, r + 1, 3) of an accumulator for slices up to `radius`."""
    r = volume_radius(radius)
    return 2 * r + 1, 2 * r + 1, r + 1, 3


def empty_accumulator(radius: int) -> np.ndarray:
    """An accumulator for slices up to `radius`: int64 zeros."""
    return np.zeros(accumulator_shape(radius), np.int64)


def accumulator_bytes(radius: int) -> int:
    """What empty_accumulator takes."""
    return 8 * math.prod(accumulator_shape(radius))


def fixed_point_scale(largest_term: float, number_of_slices: int) -> float:
    """A power of two by which terms are multiplied: no sum of `number_of_slices` slices can overflow.

    One slice adds at most `largest_term` to a voxel: its samples lie two voxels apart and trilinear weights reach one voxel, so that the
    weights which one slice gives to one voxel sum to at most one; beside the plane x = 0, mates can fall on the same voxel: twice that.
    """
    bound = 2.0 * max(largest_term, 1e-300) * max(number_of_slices, 1)
    return float(2.0 ** np.floor(HEADROOM_BITS - np.log2(bound)))


@register_jitable
def inserted_term(data, amplitude, gain, phase, sign):
    """Eq. (1) without t, for data (re, im) and a gain of scale times p: (re, im, weight) at the Friedel mate of this sign."""
    sine, cosine = sine_cosine_of_cycles(phase)
    weighted = gain * amplitude
    re = weighted * (data[0] * cosine - data[1] * sine)
    im = sign * weighted * (data[1] * cosine + data[0] * sine)
    return re, im, weighted * amplitude


@register_jitable
def _add_row(flat, base, ex, dx, t, re, im, w):
    """Adds t (re, im, w) to the voxels x and x + 1 of one row, with weights ex and dx."""
    lower, upper = t * ex, t * dx
    flat[base] += np.int64(lower * re)
    flat[base + np.uint64(1)] += np.int64(lower * im)
    flat[base + np.uint64(2)] += np.int64(lower * w)
    flat[base + np.uint64(3)] += np.int64(upper * re)
    flat[base + np.uint64(4)] += np.int64(upper * im)
    flat[base + np.uint64(5)] += np.int64(upper * w)


@numba.njit(cache=True)
def _prepare_block(strides, frame, shift_per_box, scale, data, amplitude, kx, ky, terms, bases):
    """Where up to BLOCK coefficients go and what they add: bases (2, BLOCK) z and offset, terms (6, BLOCK)."""
    centre, plane, row = strides
    columns, normal, form = frame
    sx, sy = shift_per_box
    for q in range(kx.shape[0]):
        sign, point = lifted_mate(columns, normal, kx[q], ky[q], height(form, kx[q], ky[q]))
        (k, j, i), (dx, dy, dz) = corner_and_fractions(point, centre)
        re, im, weight = inserted_term((data[0, q], data[1, q]), amplitude[q], scale, -(kx[q] * sx + ky[q] * sy), sign)
        terms[0, q] = re
        terms[1, q] = im
        terms[2, q] = weight
        terms[3, q] = dx
        terms[4, q] = dy
        terms[5, q] = dz
        bases[0, q] = k
        bases[1, q] = (k * plane + j * row + i) * 3


@numba.njit(cache=True)
def _scatter_block(flat, plane, row, terms, bases, count, first, last):
    """Adds prepared terms to the planes first <= z < last."""
    for q in range(count):
        if q + AHEAD < count:
            later = np.uint64(bases[1, q + AHEAD])
            prefetch(flat, later)
            prefetch(flat, later + row)
            prefetch(flat, later + plane)
            prefetch(flat, later + plane + row)
        k = bases[0, q]
        if k + 1 < first or k >= last:
            continue
        base = np.uint64(bases[1, q])
        re, im, w = np.float64(terms[0, q]), np.float64(terms[1, q]), np.float64(terms[2, q])
        dx, dy, dz = terms[3, q], terms[4, q], terms[5, q]
        if k >= first:
            _add_row(flat, base, ONE - dx, dx, np.float64((ONE - dz) * (ONE - dy)), re, im, w)
            _add_row(flat, base + row, ONE - dx, dx, np.float64((ONE - dz) * dy), re, im, w)
        if k + 1 < last:
            _add_row(flat, base + plane, ONE - dx, dx, np.float64(dz * (ONE - dy)), re, im, w)
            _add_row(flat, base + plane + row, ONE - dx, dx, np.float64(dz * dy), re, im, w)


@numba.njit(cache=True)
def _insert_one(accumulator, pose, scale, image, plane, slab, scratch):
    """Adds one slice's terms to the planes first <= z < last of the accumulator."""
    rotation, shift_per_box, form = pose
    data, amplitude = image
    kx, ky, _ = plane
    first, last = slab
    terms, bases = scratch
    frame = (scaled_columns(rotation), scaled_normal(rotation), form)
    layer, row = accumulator.shape[1] * accumulator.shape[2], accumulator.shape[2]
    strides = (np.float32((accumulator.shape[0] - 1) // 2), layer, row)
    flat = accumulator.ravel()
    for start in range(0, kx.shape[0], BLOCK):
        stop = min(start + BLOCK, kx.shape[0])
        _prepare_block(strides, frame, shift_per_box, np.float32(scale), data[:, start:stop], amplitude[start:stop], kx[start:stop],
                       ky[start:stop], terms, bases)
        _scatter_block(flat, np.uint64(3 * layer), np.uint64(3 * row), terms, bases, stop - start, first, last)


@numba.njit(parallel=True, cache=True, nogil=True)
def insert_slices(poses, batch, plane, scale, slabs, out, curvature=None):
    """Adds S slices to the accumulator `out`, eq. (1).

    poses: image (S,) the row of the batch that each slice belongs to, rotations (S, 3, 3), shifts_px (S, 2), weights (S,) float64; batch:
    data (n, 2, K) and amplitude (n, K) float32; plane: kx, ky (K,) float32 and the box; scale from fixed_point_scale; slabs is the count of
    threads to share the planes among; curvature (S, 3) float32: the height's form, xx, xy + yx, yy per (cycle per box)^2; None: flat.
    """
    image, rotations, shifts_px, weights = poses
    data, amplitude = batch
    box = plane[2]
    if curvature is None:
        forms = np.zeros((image.shape[0], 3), np.float32)
    else:
        forms = curvature
    edges = np.empty(slabs + 1, np.int64)
    for s in range(slabs + 1):
        edges[s] = out.shape[0] * s // slabs
    for s in numba.prange(slabs):
        scratch = (np.empty((6, BLOCK), np.float32), np.empty((2, BLOCK), np.int64))
        for n in range(image.shape[0]):
            form = (forms[n, 0], forms[n, 1], forms[n, 2])
            pose = (rotations[n], (np.float32(shifts_px[n, 0] / box), np.float32(shifts_px[n, 1] / box)), form)
            own = (data[image[n]], amplitude[image[n]])
            _insert_one(out, pose, scale * weights[n], own, plane, (edges[s], edges[s + 1]), scratch)


@singledispatch
def accumulator_values(accumulator: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Fixed point to numerator (n, n, r + 1) complex64 and weight (n, n, r + 1) float32.

    Samples with x = 0 were inserted at one of the two mates only: the plane x = 0 is made Hermitian here.
    """
    numerator = np.empty(accumulator.shape[:3], np.complex64)
    weight = np.empty(accumulator.shape[:3], np.float32)
    _to_float(accumulator, 1.0 / scale, numerator, weight)
    numerator[:, :, 0] += np.conj(numerator[::-1, ::-1, 0])
    weight[:, :, 0] += weight[::-1, ::-1, 0]
    return numerator, weight


@numba.njit(parallel=True, cache=True)
def _to_float(accumulator, factor, numerator, weight):
    """Fixed point to floating point."""
    for k in numba.prange(accumulator.shape[0]):
        for j in range(accumulator.shape[1]):
            for i in range(accumulator.shape[2]):
                numerator[k, j, i] = np.complex64(complex(accumulator[k, j, i, 0] * factor, accumulator[k, j, i, 1] * factor))
                weight[k, j, i] = np.float32(accumulator[k, j, i, 2] * factor)
