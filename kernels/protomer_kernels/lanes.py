"""Sums of products in a fixed number of lanes: as quick as reordered arithmetic, with the same bits wherever and whenever compiled."""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

LANES = 16
WORD = ir.IntType(32)
VECTOR = ir.VectorType(ir.FloatType(), LANES)


def _sum_of_lanes(builder, vector):
    """The lanes added up by halves: l to l + 8, then l to l + 4, ..."""
    width = LANES
    while width > 1:
        width //= 2
        first, second = (ir.Constant(ir.VectorType(WORD, width), [start + lane for lane in range(width)]) for start in (0, width))
        nothing = ir.Constant(vector.type, ir.Undefined)
        vector = builder.fadd(builder.shuffle_vector(vector, nothing, first), builder.shuffle_vector(vector, nothing, second))
    return builder.extract_element(vector, ir.Constant(WORD, 0))


def lane_products(pairs: tuple[tuple[int, int], ...], stride: int):
    """An intrinsic (rows, length, sums): sums[n] += sum over `length` elements of row pairs[n][0] times row pairs[n][1].

    rows: flat float32, row r at r * stride; length: a multiple of LANES; sums: float64. Lane l adds up the elements l, l + LANES, ... in
    order, each product rounded before it is added; then the lanes are added up by halves.
    """
    used = sorted({row for pair in pairs for row in pair})

    @intrinsic
    def products(typingctx, rows, length, sums):
        signature = types.void(rows, types.int64, sums)

        def generate(context, builder, signature, args):
            data, out = (cgutils.create_struct_proxy(kind)(context, builder, array).data
                         for kind, array in ((signature.args[0], args[0]), (signature.args[2], args[2])))
            totals = [cgutils.alloca_once_value(builder, ir.Constant(VECTOR, [0.0] * LANES)) for _ in pairs]
            index_type = args[1].type
            with cgutils.for_range(builder, builder.sdiv(args[1], ir.Constant(index_type, LANES))) as loop:
                start = builder.mul(loop.index, ir.Constant(index_type, LANES))
                values = {}
                for row in used:
                    pointer = builder.gep(data, [builder.add(start, ir.Constant(index_type, row * stride))])
                    values[row] = builder.load(builder.bitcast(pointer, VECTOR.as_pointer()))
                    values[row].align = 4
                for total, (first, second) in zip(totals, pairs, strict=True):
                    builder.store(builder.fadd(builder.load(total), builder.fmul(values[first], values[second])), total)
            for n, total in enumerate(totals):
                pointer = builder.gep(out, [ir.Constant(index_type, n)])
                part = builder.fpext(_sum_of_lanes(builder, builder.load(total)), ir.DoubleType())
                builder.store(builder.fadd(builder.load(pointer), part), pointer)
            return context.get_dummy_value()

        return signature, generate

    return products
