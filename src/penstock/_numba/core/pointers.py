"""Pointers to numbers, which is what kernels get: arrays are too heavy a load for the compiler, and for a call.

A pointer is read and written like a flat array, ``p[i]``, and nothing is checked. Whoever takes one keeps its array alive.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic


def pointer_type(kind: Any) -> Any:
    """What becomes of an argument: a pointer to the numbers of an array, anything else as it is."""
    return types.CPointer(kind.dtype) if isinstance(kind, types.Array) else kind


def pointers_type(kind: Any) -> Any:
    """A named tuple with pointers in the place of arrays."""
    return types.BaseTuple.from_types([pointer_type(field) for field in kind.types], kind.instance_class)


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def pointer(typingctx: Any, array: Any) -> Any:
    """Where the numbers of a contiguous array lie."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return context.make_array(array)(context, builder, args[0]).data

    return pointer_type(array)(array), codegen


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def pointers(typingctx: Any, named: Any) -> Any:
    """A named tuple with pointers in the place of arrays."""
    result = pointers_type(named)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        fields = cgutils.unpack_tuple(builder, args[0])
        for i, kind in enumerate(named.types):
            if isinstance(kind, types.Array):
                fields[i] = context.make_array(kind)(context, builder, fields[i]).data
        return context.make_tuple(builder, result, fields)

    return result(named), codegen


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def beyond(typingctx: Any, start: Any, n: Any) -> Any:
    """The pointer to number ``n``."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.gep(args[0], [args[1]])

    return start(start, types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def nothing(typingctx: Any, like: Any) -> Any:
    """A pointer to no numbers, of the type of another."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(args[0].type, None)

    return like(like), codegen


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def given(typingctx: Any, start: Any) -> Any:
    """Whether a pointer has numbers."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return cgutils.is_not_null(builder, args[0])

    return types.boolean(start), codegen
