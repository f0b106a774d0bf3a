"""Trilinear reading of a Fourier volume: value and gradient from the same eight loads.

A Fourier volume is float32 (n, n, r + 1, 2), [z, y, x >= 0, re|im], with the origin at (c, c, 0), c = (n - 1) / 2; coordinates are in
voxels of this (padded) grid and x >= 0: a coefficient with x < 0 is read, and compared with the data, at its Friedel mate,
V(-p) = conj V(p)                                                                                                        (1)

`interpolate` and `interpolate_with_gradient` are the scalar source for CUDA, for the CPU as plain Python, and for tests. The CPU's compiled
loops call `load_cell_value` and `load_cell` instead: the same arithmetic on vectors of the four floats that lie side by side (re and im at
x and x + 1), which Numba cannot be made to find by itself and which take a third of the time.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, register_jitable

ONE = np.float32(1.0)
ZERO = np.float32(0.0)
NEXT = np.uint64(1)


@register_jitable
def mate_sign(x):
    """-1 where the Friedel mate is to be taken, else 1."""
    return -ONE if x < ZERO else ONE


@register_jitable
def interpolate(volume, k, j, i, dx, dy, dz):
    """V in the cell with lower corner (k, j, i), unsigned, at the fractions dx, dy, dz: (re, im)."""
    re, im, _, _, _, _, _, _ = interpolate_with_gradient(volume, k, j, i, dx, dy, dz)
    return re, im


@register_jitable
def _interpolate_part(volume, k, j, i, part, dx, dy, dz):
    """Value and gradient (x, y, z) of one part (0 re, 1 im) inside one cell."""
    v000 = volume[k, j, i, part]
    v001 = volume[k, j, i + NEXT, part]
    v010 = volume[k, j + NEXT, i, part]
    v011 = volume[k, j + NEXT, i + NEXT, part]
    v100 = volume[k + NEXT, j, i, part]
    v101 = volume[k + NEXT, j, i + NEXT, part]
    v110 = volume[k + NEXT, j + NEXT, i, part]
    v111 = volume[k + NEXT, j + NEXT, i + NEXT, part]
    lower_y = (v010 - v000) + dx * ((v011 - v001) - (v010 - v000))
    upper_y = (v110 - v100) + dx * ((v111 - v101) - (v110 - v100))
    lower = v000 + dx * (v001 - v000) + dy * lower_y
    upper = v100 + dx * (v101 - v100) + dy * upper_y
    lower_x = (v001 - v000) + dy * ((v011 - v010) - (v001 - v000))
    upper_x = (v101 - v100) + dy * ((v111 - v110) - (v101 - v100))
    return lower + dz * (upper - lower), lower_x + dz * (upper_x - lower_x), lower_y + dz * (upper_y - lower_y), upper - lower


@register_jitable
def interpolate_with_gradient(volume, k, j, i, dx, dy, dz):
    """V and its gradient in one cell: (re, im, dre/dx, dim/dx, dre/dy, dim/dy, dre/dz, dim/dz)."""
    re, re_x, re_y, re_z = _interpolate_part(volume, k, j, i, 0, dx, dy, dz)
    im, im_x, im_y, im_z = _interpolate_part(volume, k, j, i, 1, dx, dy, dz)
    return re, im, re_x, im_x, re_y, im_y, re_z, im_z


def _row_loader(context, builder, signature, args):
    """What both intrinsics share: a function that loads (re, im, re', im') of row (z, y) of a cell, and splats for dx, dy, dz."""
    flat, base, row, plane = args[:4]
    pointer = cgutils.create_struct_proxy(signature.args[0])(context, builder, flat).data
    vector = ir.VectorType(ir.FloatType(), 4)

    def load(z: bool, y: bool):
        index = base
        if y:
            index = builder.add(index, row)
        if z:
            index = builder.add(index, plane)
        address = builder.bitcast(builder.gep(pointer, [index]), vector.as_pointer())
        loaded = builder.load(address)
        loaded.align = 4
        return loaded

    def splat(scalar):
        one = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), 4), [0] * 4))

    def lerp(a, b, t):
        return builder.fadd(a, builder.fmul(t, builder.fsub(b, a)))

    return load, splat, lerp


def _across_x(builder, vector, dx):
    """(re, im, re', im') -> the value at dx and the difference along x: (re, im), (dre, dim)."""
    re, im, re1, im1 = (builder.extract_element(vector, ir.Constant(ir.IntType(32), n)) for n in range(4))
    d_re, d_im = builder.fsub(re1, re), builder.fsub(im1, im)
    return (
        (
            builder.fadd(re, builder.fmul(dx, d_re)),
            builder.fadd(im, builder.fmul(dx, d_im)),
        ),
        (d_re, d_im),
    )


@intrinsic
def load_cell(typingctx, flat, base, row, plane, dx, dy, dz):
    """As interpolate_with_gradient, from the flat volume: base, row, plane are offsets in floats (uint64)."""
    signature = types.UniTuple(types.float32, 8)(
        flat, types.uint64, types.uint64, types.uint64, types.float32, types.float32, types.float32
    )

    def generate(context, builder, signature, args):
        load, splat, lerp = _row_loader(context, builder, signature, args)
        dx, dy, dz = args[4], splat(args[5]), splat(args[6])
        v00, v01, v10, v11 = load(False, False), load(False, True), load(True, False), load(True, True)
        lower, upper = lerp(v00, v01, dy), lerp(v10, v11, dy)
        along_y = lerp(builder.fsub(v01, v00), builder.fsub(v11, v10), dz)
        value, slope_x = _across_x(builder, lerp(lower, upper, dz), dx)
        slope_y, _ = _across_x(builder, along_y, dx)
        slope_z, _ = _across_x(builder, builder.fsub(upper, lower), dx)
        return context.make_tuple(builder, signature.return_type, [*value, *slope_x, *slope_y, *slope_z])

    return signature, generate


@intrinsic
def load_cell_value(typingctx, flat, base, row, plane, dx, dy, dz):
    """As interpolate, from the flat volume: base, row, plane are offsets in floats (uint64)."""
    signature = types.UniTuple(types.float32, 2)(
        flat, types.uint64, types.uint64, types.uint64, types.float32, types.float32, types.float32
    )

    def generate(context, builder, signature, args):
        load, splat, lerp = _row_loader(context, builder, signature, args)
        dx, dy, dz = args[4], splat(args[5]), splat(args[6])
        lower, upper = lerp(load(False, False), load(False, True), dy), lerp(load(True, False), load(True, True), dy)
        value, _ = _across_x(builder, lerp(lower, upper, dz), dx)
        return context.make_tuple(builder, signature.return_type, list(value))

    return signature, generate
