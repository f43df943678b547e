"""The lane type: a vector of rows on which every kernel is written, and the few operations it needs.

Inside jitted code a ``Lanes`` behaves like a number: ``+ - * /`` and comparisons, with lanes or with a scalar, which is
first rounded to the type of the lanes. Without it the compiler would have to prove, loop by loop, that arrays do not
overlap. Numbers lie behind pointers; ``at`` is the position of the first lane, and positions are not checked.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

BYTES = 64  # of a vector; narrower machines take it in pieces


class Lanes(types.Type):  # type: ignore[misc, name-defined, unused-ignore]
    """Vector of ``count`` numbers, integers or truth values."""

    def __init__(self, dtype: Any, count: int) -> None:
        self.dtype = dtype
        self.count = count
        super().__init__(name=f"Lanes({dtype}, {count})")

    @property
    def key(self) -> Any:
        """What tells two lane types apart."""
        return self.dtype, self.count


def lanes_type(dtype: Any) -> Lanes:
    """The lanes of an element type."""
    return Lanes(dtype, BYTES * 8 // dtype.bitwidth)


def _vector(dtype: Any, count: int) -> Any:
    kinds = {types.float32: ir.FloatType(), types.float64: ir.DoubleType(), types.boolean: ir.IntType(1)}
    return ir.VectorType(kinds[dtype] if dtype in kinds else ir.IntType(dtype.bitwidth), count)


@register_model(Lanes)
class LanesModel(models.PrimitiveModel):  # type: ignore[misc, name-defined, unused-ignore]
    """A vector of the compiler's."""

    def __init__(self, manager: Any, fe_type: Any) -> None:
        super().__init__(manager, fe_type, _vector(fe_type.dtype, fe_type.count))


def _splat(builder: Any, scalar: Any, count: int) -> Any:
    vector = ir.VectorType(scalar.type, count)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(ir.IntType(32), count), [0] * count))


def _as_lanes(context: Any, builder: Any, value: Any, given: Any, wanted: Any) -> Any:
    if isinstance(given, Lanes):
        return value
    return _splat(builder, context.cast(builder, value, given, wanted.dtype), wanted.count)


def _common(*given: Any) -> Any:
    """The lane type of an operation, or None if it is not one of ours."""
    lanes = [g for g in given if isinstance(g, Lanes)]
    fits = lanes and all(g == lanes[0] or isinstance(g, types.Number | types.Boolean) for g in given)
    return lanes[0] if fits else None


def _binary(op: Any, emit: Any, result: Any) -> None:
    class Typing(AbstractTemplate):  # type: ignore[misc]
        def generic(self, args: Any, kws: Any) -> Any:
            common = _common(*args) if len(args) == 2 else None
            return None if common is None else signature(result(common), *args)

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        common = _common(*sig.args)
        a, b = (_as_lanes(context, builder, v, t, common) for v, t in zip(args, sig.args, strict=True))
        return emit(builder, isinstance(common.dtype, types.Float), a, b)

    infer_global(op)(Typing)
    for first, second in ((Lanes, Lanes), (Lanes, types.Number), (types.Number, Lanes)):
        lower_builtin(op, first, second)(lower)


def _same(lanes: Lanes) -> Lanes:
    return lanes


def _mask(lanes: Lanes) -> Lanes:
    return Lanes(types.boolean, lanes.count)


_binary(operator.add, lambda b, real, x, y: b.fadd(x, y) if real else b.add(x, y), _same)
_binary(operator.sub, lambda b, real, x, y: b.fsub(x, y) if real else b.sub(x, y), _same)
_binary(operator.mul, lambda b, real, x, y: b.fmul(x, y) if real else b.mul(x, y), _same)
_binary(operator.truediv, lambda b, real, x, y: b.fdiv(x, y), _same)
_binary(operator.and_, lambda b, real, x, y: b.and_(x, y), _same)
_binary(operator.lshift, lambda b, real, x, y: b.shl(x, y), _same)
_binary(operator.rshift, lambda b, real, x, y: b.ashr(x, y), _same)
for _op, _symbol in ((operator.lt, "<"), (operator.le, "<="), (operator.gt, ">"), (operator.ge, ">=")):
    _binary(
        _op,
        lambda b, real, x, y, s=_symbol: b.fcmp_ordered(s, x, y) if real else b.icmp_signed(s, x, y),
        _mask,
    )
_binary(operator.ne, lambda b, real, x, y: b.fcmp_unordered("!=", x, y) if real else b.icmp_signed("!=", x, y), _mask)


@infer_global(operator.neg)
class _Negative(AbstractTemplate):  # type: ignore[misc]
    def generic(self, args: Any, kws: Any) -> Any:
        return signature(args[0], args[0]) if isinstance(args[0], Lanes) else None


@lower_builtin(operator.neg, Lanes)
def _negative(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.fneg(args[0]) if isinstance(sig.args[0].dtype, types.Float) else builder.neg(args[0])


def _load(builder: Any, pointer: Any, vector: Any, align: int) -> Any:
    value = builder.load(builder.bitcast(pointer, vector.as_pointer()))
    value.align = align
    return value


def _store(builder: Any, value: Any, pointer: Any, align: int) -> None:
    builder.store(value, builder.bitcast(pointer, value.type.as_pointer())).align = align


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def lanes(typingctx: Any, pointer: Any) -> Any:
    """How many numbers behind a pointer make a vector."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return context.get_constant(types.int64, lanes_type(pointer.dtype).count)

    return types.int64(pointer), codegen


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def load(typingctx: Any, array: Any, at: Any) -> Any:
    """The vector at a position."""
    result = lanes_type(array.dtype)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = builder.gep(args[0], [args[1]])
        return _load(builder, pointer, _vector(result.dtype, result.count), array.dtype.bitwidth // 8)

    return result(array, types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def store(typingctx: Any, array: Any, at: Any, value: Any) -> Any:
    """Write a vector at a position."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        common = lanes_type(array.dtype)
        vector = _as_lanes(context, builder, args[2], value, common)
        _store(builder, vector, builder.gep(args[0], [args[1]]), array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.int64, value), codegen


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def broadcast(typingctx: Any, array: Any, at: Any) -> Any:
    """The number at a position in every lane."""
    result = lanes_type(array.dtype)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _splat(builder, builder.load(builder.gep(args[0], [args[1]])), result.count)

    return result(array, types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def splat(typingctx: Any, like: Any, number: Any) -> Any:
    """A number in every lane of the type of ``like``, lanes or a pointer."""
    result = like if isinstance(like, Lanes) else lanes_type(like.dtype)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _as_lanes(context, builder, args[1], number, result)

    return result(like, number), codegen


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def constant(typingctx: Any, like: Any, pair: Any) -> Any:
    """Of a pair of constants the one for float32 lanes or the one for float64 lanes."""
    which = 0 if like.dtype == types.float32 else 1

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.extract_value(args[1], which)

    return pair[which](like, pair), codegen


def _integers(like: Any) -> Lanes:
    return Lanes(types.int32 if like.dtype == types.float32 else types.int64, like.count)


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def bits(typingctx: Any, value: Any) -> Any:
    """The bits of numbers as integers of the same width."""
    result = _integers(value)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(args[0], _vector(result.dtype, result.count))

    return result(value), codegen


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def from_bits(typingctx: Any, value: Any) -> Any:
    """The numbers whose bits these are."""
    result = Lanes(types.float32 if value.dtype == types.int32 else types.float64, value.count)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(args[0], _vector(result.dtype, result.count))

    return result(value), codegen


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def number(typingctx: Any, value: Any) -> Any:
    """Integers of the lanes' width to numbers."""
    result = Lanes(types.float32 if value.dtype == types.int32 else types.float64, value.count)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.sitofp(args[0], _vector(result.dtype, result.count))

    return result(value), codegen


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def bits_of_words(typingctx: Any, like: Any, array: Any, at: Any) -> Any:
    """32-bit words as integers of the width of the lanes of ``like``, a pointer; upper halves are zero."""
    result = _integers(lanes_type(like.dtype))

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = builder.gep(args[1], [args[2]])
        value = _load(builder, pointer, ir.VectorType(ir.IntType(32), result.count), 4)
        return value if result.dtype == types.int32 else builder.zext(value, _vector(result.dtype, result.count))

    return result(like, array, types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def sign_extended(typingctx: Any, value: Any) -> Any:
    """The low 32 bits of each integer as a signed number."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        narrow = builder.trunc(args[0], _vector(types.int32, value.count)) if value.dtype == types.int64 else args[0]
        return narrow if value.dtype == types.int32 else builder.sext(narrow, _vector(value.dtype, value.count))

    return value(value), codegen


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def select(typingctx: Any, mask: Any, yes: Any, no: Any) -> Any:
    """``yes`` where the mask is set, ``no`` elsewhere."""
    result = _common(yes, no)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        a, b = (_as_lanes(context, builder, v, t, result) for v, t in zip(args[1:], sig.args[1:], strict=True))
        return builder.select(args[0], a, b)

    return result(mask, yes, no), codegen


def _call(builder: Any, name: str, *args: Any) -> Any:
    vector = args[0].type
    element = "f32" if isinstance(vector.element, ir.FloatType) else "f64"
    kind = ir.FunctionType(vector, [vector] * len(args))
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{vector.count}{element}")
    return builder.call(function, args)


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    # one rounding where the machine has it, two where it would have to be emulated
    return _call(builder, "fmuladd", a, b, c)


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """``a b + c`` with one rounding on a machine that has it."""
    result = _common(a, b, c)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _fma(builder, *(_as_lanes(context, builder, v, t, result) for v, t in zip(args, sig.args, strict=True)))

    return result(a, b, c), codegen


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def polynomial(typingctx: Any, x: Any, c: Any) -> Any:
    """``c[0] + c[1] x + ...`` by Horner's rule, for a tuple of constants."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        terms = [_as_lanes(context, builder, builder.extract_value(args[1], i), c.dtype, x) for i in range(c.count)]
        p = terms.pop()
        while terms:
            p = _fma(builder, p, args[0], terms.pop())
        return p

    return x(x, c), codegen


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def sqrt(typingctx: Any, value: Any) -> Any:
    """Square roots."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _call(builder, "sqrt", args[0])

    return value(value), codegen


def _wide(builder: Any, value: Any, kind: Any) -> Any:
    return value if kind.dtype == types.float64 else builder.fpext(value, _vector(types.float64, kind.count))


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def widened(typingctx: Any, array: Any, at: Any) -> Any:
    """As many numbers at a position as make a vector of float64, as such."""
    result = lanes_type(types.float64)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = builder.gep(args[0], [args[1]])
        value = _load(builder, pointer, _vector(array.dtype, result.count), array.dtype.bitwidth // 8)
        return _wide(builder, value, Lanes(array.dtype, result.count))

    return result(array, types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def narrow(typingctx: Any, array: Any, at: Any, value: Any) -> Any:
    """Write a vector of float64 as numbers of another type."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        number = args[2]
        if array.dtype != types.float64:
            number = builder.fptrunc(number, _vector(array.dtype, value.count))
        _store(builder, number, builder.gep(args[0], [args[1]]), array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.int64, value), codegen


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def accumulate(typingctx: Any, total: Any, at: Any, value: Any) -> Any:
    """Add lanes to float64 accumulators in memory."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = builder.gep(args[0], [args[1]])
        old = _load(builder, pointer, _vector(types.float64, value.count), 8)
        _store(builder, builder.fadd(old, _wide(builder, args[2], value)), pointer, 8)
        return context.get_dummy_value()

    return types.void(total, types.int64, value), codegen


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def accumulate_product(typingctx: Any, total: Any, at: Any, a: Any, b: Any) -> Any:
    """The same with one rounding of a float64 product: ``total += a b``."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = builder.gep(args[0], [args[1]])
        old = _load(builder, pointer, _vector(types.float64, a.count), 8)
        _store(builder, _fma(builder, _wide(builder, args[2], a), _wide(builder, args[3], b), old), pointer, 8)
        return context.get_dummy_value()

    return types.void(total, types.int64, a, b), codegen
