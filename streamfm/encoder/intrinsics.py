"""What the kernels need of the machine and numba lacks: loads from an address, prefetching, bits as a float."""

# mypy: disable-error-code="untyped-decorator"
from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


def _loader(bits: int, result: Any) -> Any:
    """A function for kernels: the little-endian unsigned integer of so many bits at an address."""

    @intrinsic
    def load(_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer = builder.inttoptr(arguments[0], ir.IntType(bits).as_pointer())
            value = builder.load(pointer)
            value.align = 1
            return value

        return result(types.uint64), generate

    return load


def _prefetch(_context: Any, address: Any) -> Any:
    """Ask for the cache line at an address: the misses of a large vocabulary then overlap."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte_pointer = ir.IntType(8).as_pointer()
        int32 = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte_pointer, int32, int32, int32])
        function = builder.module.declare_intrinsic("llvm.prefetch", [byte_pointer], kind)
        pointer = builder.inttoptr(arguments[0], byte_pointer)
        builder.call(function, [pointer, int32(0), int32(3), int32(1)])
        return context.get_dummy_value()

    return types.void(types.uint64), generate


def _float64_of(_context: Any, bits: Any) -> Any:
    """The float64 that has these 64 bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(types.uint64), generate


# As Any: the stubs describe what is compiled, not what the kernels call.
load_8 = _loader(8, types.uint8)
load_32 = _loader(32, types.uint32)
load_64 = _loader(64, types.uint64)
prefetch: Any = intrinsic(_prefetch)
float64_of: Any = intrinsic(_float64_of)
