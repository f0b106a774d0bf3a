"""A hint to the processor that memory will be wanted soon: scattered reads and writes then overlap instead of queueing."""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic


@intrinsic
def prefetch(typingctx, flat, index):
    """Asks for the cache line of flat[index] (index uint64); changes nothing."""
    signature = types.void(flat, types.uint64)

    def generate(context, builder, signature, args):
        pointer = builder.gep(cgutils.create_struct_proxy(signature.args[0])(context, builder, args[0]).data, [args[1]])
        byte = ir.IntType(8).as_pointer()
        word = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8" if not _opaque(byte) else "llvm.prefetch.p0")
        builder.call(function, [builder.bitcast(pointer, byte), word(0), word(3), word(1)])
        return context.get_dummy_value()

    return signature, generate


def _opaque(pointer: ir.PointerType) -> bool:
    """Whether this LLVM's pointers have no pointee type, which changes the intrinsic's mangled name."""
    return getattr(pointer, "is_opaque", False)
