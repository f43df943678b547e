"""Each instruction of PTX that the translator knows, on corner cases, against arithmetic in fractions; and what it refuses."""

from __future__ import annotations

import ctypes
import dataclasses
import itertools
import math
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import emulated
import exact
import numpy as np
import pytest

HERE = Path(__file__).parent
pytestmark = [pytest.mark.slow, pytest.mark.skipif(emulated.COMPILER is None, reason="no C++ compiler")]

HEAD = ".version 8.0\n.target sm_90\n.address_size 64\n"

FLOATS = {
    "f32": [
        0x00000000, 0x80000000, 0x3F800000, 0xBF800000, 0x7F800000, 0xFF800000, 0x7FC00000, 0x00000001, 0x80000001,
        0x007FFFFF, 0x00800000, 0x7F7FFFFF, 0xFF7FFFFF, 0x3F800001, 0x3F7FFFFF, 0x40490FDB, 0x3F000000, 0x3FC00000,
        0xC0200000, 0x4B000001, 0xCB7FFFFF, 0x4EFFFFFF, 0x4F000000, 0xCF000000, 0x4F800000, 0x5F000000, 0xDF000000,
        0x5F7FFFFF, 0x3EAAAAAB, 0xBDCCCCCD, 0x437F8000, 0xC3008000, 0x0DA24260, 0x1E3CE508,
    ],
    "f64": [
        0x0000000000000000, 0x8000000000000000, 0x3FF0000000000000, 0xBFF0000000000000, 0x7FF0000000000000,
        0xFFF0000000000000, 0x7FF8000000000000, 0x0000000000000001, 0x8000000000000001, 0x000FFFFFFFFFFFFF,
        0x0010000000000000, 0x7FEFFFFFFFFFFFFF, 0xFFEFFFFFFFFFFFFF, 0x3FF0000000000001, 0x3FEFFFFFFFFFFFFF,
        0x400921FB54442D18, 0x3FE0000000000000, 0x3FF8000000000000, 0xC004000000000000, 0x4330000000000001,
        0x41DFFFFFFFC00000, 0x41DFFFFFFFE00000, 0xC1E0000000100000, 0x41EFFFFFFFE00000, 0x43E0000000000000,
        0xC3E0000000000000, 0x43EFFFFFFFFFFFFF, 0x36A0000000000000, 0x3690000000000001, 0x47EFFFFFE0000000,
        0x47EFFFFFF0000000, 0xC7EFFFFFEFFFFFFF, 0x3FD5555555555555, 0xBFB999999999999A, 0x380FFFFFC0000001,
    ],
}  # fmt: skip
INTEGERS = {
    8: [0, 1, 0x7F, 0x80, 0xFF, 0x55],
    16: [0, 1, 2, 7, 0x7FFF, 0x8000, 0x8001, 0xFFFF, 0x1234, 0xABCD, 0x00FF, 0xFF00, 15, 16, 17],
    32: [
        0, 1, 2, 3, 5, 7, 31, 32, 33, 0x7FFFFFFF, 0x80000000, 0x80000001, 0xFFFFFFFF, 0xFFFFFFFE, 0x12345678, 0xDEADBEEF,
        0x00FF00FF, 0x7FFFFF, 0x800000, 0x01000001, 0x7F80, 0xFFFFFF7F, 0x1010,
    ],
    64: [
        0, 1, 2, 3, 31, 63, 64, 65, (1 << 63) - 1, 1 << 63, (1 << 63) + 1, (1 << 64) - 1, (1 << 64) - 2, 0x123456789ABCDEF0,
        0xDEADBEEFCAFEBABE, 0x80000000, 0xFFFFFFFF, 0x100000000, 0xFFFFFFFF80000000, 0x20000000000001, 0x20000000000003,
        0x7FFFFF8000000000, 0x7FFFFFC000000001,
    ],
}  # fmt: skip


def width(type_: str) -> int:
    return int(type_[1:])


def register_type(type_: str) -> str:
    """Floats are in registers of their own; integers of 8 bits in those of 16."""
    return type_ if type_[0] == "f" else f"b{max(width(type_), 16)}"


def value_of(bits: int, type_: str) -> Any:
    """The number that bits are of a type."""
    if type_[0] == "f":
        return exact.float_of(bits, type_)
    size = width(type_)
    bits &= (1 << size) - 1
    return bits - (1 << size) if type_[0] == "s" and bits >> (size - 1) else bits


def bits_of(value: Any, type_: str) -> int:
    if type_[0] == "f":
        return exact.bits_of(value, type_)
    return int(value) & ((1 << width(type_)) - 1)


@dataclasses.dataclass(frozen=True)
class Case:
    """An instruction on operands {a}, {b}, {c} of some types, with result {d}; numbers and what it makes of them."""

    text: str
    result: str
    operands: tuple[str, ...]
    reference: Callable[..., Any]
    numbers: tuple[tuple[int, ...], ...] | None = None  # other operands than all corner cases

    def inputs(self) -> list[tuple[int, ...]]:
        values = [FLOATS[t] if t[0] == "f" else INTEGERS[width(t)] for t in self.operands]
        if self.numbers is not None:
            values = [list(given) if given else value for given, value in zip(self.numbers, values, strict=True)]
        everything = list(itertools.product(*values))
        rng = np.random.default_rng(len(self.text))
        extra = []
        for _ in range(100):
            row = [int(rng.integers(0, 1 << 64, dtype=np.uint64)) & ((1 << width(t)) - 1) for t in self.operands]
            fixed = [given and given[int(rng.integers(len(given)))] for given in self.numbers or [()] * len(row)]
            extra.append(tuple(r if f == () else int(f) for r, f in zip(row, fixed, strict=True)))
        if len(everything) > 3000:
            everything = [everything[i] for i in rng.choice(len(everything), 3000, replace=False)]
        return everything + extra


def of_integers() -> Iterator[Case]:
    for type_ in ("u16", "s16", "u32", "s32", "u64", "s64"):
        t, t2, t3, n = type_, (type_,) * 2, (type_,) * 3, width(type_)
        yield Case(f"add.{t} {{d}}, {{a}}, {{b}};", t, t2, lambda a, b: a + b)
        yield Case(f"sub.{t} {{d}}, {{a}}, {{b}};", t, t2, lambda a, b: a - b)
        yield Case(f"mul.lo.{t} {{d}}, {{a}}, {{b}};", t, t2, lambda a, b: a * b)
        yield Case(f"mul.hi.{t} {{d}}, {{a}}, {{b}};", t, t2, lambda a, b, n=n: a * b >> n)
        yield Case(f"mad.lo.{t} {{d}}, {{a}}, {{b}}, {{c}};", t, t3, lambda a, b, c: a * b + c)
        yield Case(f"mad.hi.{t} {{d}}, {{a}}, {{b}}, {{c}};", t, t3, lambda a, b, c, n=n: (a * b >> n) + c)
        yield Case(f"min.{t} {{d}}, {{a}}, {{b}};", t, t2, min)
        yield Case(f"max.{t} {{d}}, {{a}}, {{b}};", t, t2, max)
        yield Case(f"sad.{t} {{d}}, {{a}}, {{b}}, {{c}};", t, t3, lambda a, b, c: abs(a - b) + c)
        by = tuple(x for x in INTEGERS[n] if x)

        def quotient(a: int, b: int) -> int:
            return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)

        yield Case(f"div.{t} {{d}}, {{a}}, {{b}};", t, t2, quotient, ((), by))
        yield Case(f"rem.{t} {{d}}, {{a}}, {{b}};", t, t2, lambda a, b, q=quotient: a - b * q(a, b), ((), by))
        if n < 64:
            wide = t[0] + str(2 * n)
            yield Case(f"mul.wide.{t} {{d}}, {{a}}, {{b}};", wide, t2, lambda a, b: a * b)
            yield Case(f"mad.wide.{t} {{d}}, {{a}}, {{b}}, {{c}};", wide, (*t2, wide), lambda a, b, c: a * b + c)
        if t[0] == "s":
            yield Case(f"abs.{t} {{d}}, {{a}};", t, (t,), abs)
            yield Case(f"neg.{t} {{d}}, {{a}};", t, (t,), lambda a: -a)
        yield Case(f"shr.{t} {{d}}, {{a}}, {{b}};", t, (t, "u32"), lambda a, b: a >> min(b, 200))
        yield Case(f"shl.b{n} {{d}}, {{a}}, {{b}};", t, (t, "u32"), lambda a, b: a << min(b, 200))
        yield Case(f"shr.{t} {{d}}, {{a}}, 5;", t, (t,), lambda a: a >> 5)
        yield Case(f"shl.b{n} {{d}}, {{a}}, 5;", t, (t,), lambda a: a << 5)
        yield Case(f"mul.lo.{t} {{d}}, {{a}}, -3;" if t[0] == "s" else f"mul.lo.{t} {{d}}, {{a}}, 0x7003;", t, (t,),
                   (lambda a: -3 * a) if t[0] == "s" else lambda a: 0x7003 * a)  # fmt: skip
    yield Case(
        "add.sat.s32 {d}, {a}, {b};", "s32", ("s32",) * 2, lambda a, b: min(max(a + b, -(1 << 31)), (1 << 31) - 1)
    )
    yield Case(
        "sub.sat.s32 {d}, {a}, {b};", "s32", ("s32",) * 2, lambda a, b: min(max(a - b, -(1 << 31)), (1 << 31) - 1)
    )

    def low24(x: int, signed: bool) -> int:
        x &= 0xFFFFFF
        return x - (1 << 24) if signed and x >> 23 else x

    for t in ("u32", "s32"):
        signed = t == "s32"
        for part, shift in (("lo", 0), ("hi", 16)):

            def product(a: int, b: int, signed: bool = signed, shift: int = shift) -> int:
                return low24(a, signed) * low24(b, signed) >> shift

            yield Case(f"mul24.{part}.{t} {{d}}, {{a}}, {{b}};", t, (t, t), product)
            yield Case(
                f"mad24.{part}.{t} {{d}}, {{a}}, {{b}}, {{c}};", t, (t,) * 3, lambda a, b, c, f=product: f(a, b) + c
            )


def of_carries() -> Iterator[Case]:
    for n in (32, 64):
        t, half = f"u{n}", (1 << n) - 1
        # the upper half of sums of two words, made of the same operands
        yield Case(f"{{{{ .reg .b{n} x; add.cc.{t} x, {{a}}, {{b}}; addc.{t} {{d}}, {{a}}, {{c}}; }}}}", t, (t,) * 3,
                   lambda a, b, c, h=half, n=n: a + c + (a + b >> n))  # fmt: skip
        yield Case(f"{{{{ .reg .b{n} x; sub.cc.{t} x, {{a}}, {{b}}; subc.{t} {{d}}, {{a}}, {{c}}; }}}}", t, (t,) * 3,
                   lambda a, b, c: a - c - (a < b))  # fmt: skip
        yield Case(f"{{{{ .reg .b{n} x, y; add.cc.{t} x, {{a}}, {{b}}; addc.cc.{t} y, {{a}}, {{c}}; addc.{t} {{d}}, y, 0; }}}}",
                   t, (t,) * 3,
                   lambda a, b, c, h=half, n=n: ((a + c + (a + b >> n)) & h) + (a + c + (a + b >> n) >> n))  # fmt: skip
        yield Case(f"{{{{ .reg .b{n} x, y; sub.cc.{t} x, {{a}}, {{b}}; subc.cc.{t} y, {{b}}, {{c}}; subc.{t} {{d}}, y, 0; }}}}",
                   t, (t,) * 3, lambda a, b, c, h=half: ((b - c - (a < b)) & h) - (b - c - (a < b) < 0))  # fmt: skip
        yield Case(f"{{{{ .reg .b{n} x; mad.lo.cc.{t} x, {{a}}, {{b}}, {{c}}; madc.hi.{t} {{d}}, {{a}}, {{b}}, 0; }}}}",
                   t, (t,) * 3, lambda a, b, c, n=n: a * b + c >> n)  # fmt: skip
        yield Case(f"{{{{ .reg .b{n} x, y; mad.lo.cc.{t} x, {{a}}, {{b}}, {{c}}; madc.hi.cc.{t} y, {{a}}, {{b}}, {{c}}; "
                   f"addc.{t} {{d}}, 0, 0; }}}}", t, (t,) * 3,
                   lambda a, b, c, n=n, h=half: (a * b >> n) + c + ((a * b & h) + c >> n) >> n)  # fmt: skip


def byte_of(a: int, b: int, selector: int) -> int:
    byte = (b << 32 | a) >> 8 * (selector & 7) & 0xFF
    return (0xFF if byte & 0x80 else 0) if selector & 8 else byte


def permuted(a: int, b: int, selectors: tuple[int, ...]) -> int:
    """Selectors from the highest byte down."""
    return sum(byte_of(a, b, s) << 8 * (3 - i) for i, s in enumerate(selectors))


MODES = {
    "f4e": ((3, 2, 1, 0), (4, 3, 2, 1), (5, 4, 3, 2), (6, 5, 4, 3)),
    "b4e": ((5, 6, 7, 0), (6, 7, 0, 1), (7, 0, 1, 2), (0, 1, 2, 3)),
    "rc8": ((0, 0, 0, 0), (1, 1, 1, 1), (2, 2, 2, 2), (3, 3, 3, 3)),
    "ecl": ((3, 2, 1, 0), (3, 2, 1, 1), (3, 2, 2, 2), (3, 3, 3, 3)),
    "ecr": ((0, 0, 0, 0), (1, 1, 1, 0), (2, 2, 1, 0), (3, 2, 1, 0)),
    "rc16": ((1, 0, 1, 0), (3, 2, 3, 2), (1, 0, 1, 0), (3, 2, 3, 2)),
}


def of_bits() -> Iterator[Case]:
    for n in (16, 32, 64):
        t, t2 = f"u{n}", (f"u{n}",) * 2
        yield Case(f"and.b{n} {{d}}, {{a}}, {{b}};", t, t2, lambda a, b: a & b)
        yield Case(f"or.b{n} {{d}}, {{a}}, {{b}};", t, t2, lambda a, b: a | b)
        yield Case(f"xor.b{n} {{d}}, {{a}}, {{b}};", t, t2, lambda a, b: a ^ b)
        yield Case(f"not.b{n} {{d}}, {{a}};", t, (t,), lambda a: ~a)
        yield Case(f"cnot.b{n} {{d}}, {{a}};", t, (t,), lambda a: a == 0)
        yield Case(f"shr.b{n} {{d}}, {{a}}, {{b}};", t, (t, "u32"), lambda a, b: a >> min(b, 200))
    for n in (32, 64):
        t, places = f"u{n}", (0, 1, 5, 31, 32, 33, 63, 64, 200, 255, 256, 257, 0xFFFFFFFF)
        yield Case(f"popc.b{n} {{d}}, {{a}};", "u32", (t,), lambda a: a.bit_count())
        yield Case(f"clz.b{n} {{d}}, {{a}};", "u32", (t,), lambda a, n=n: n - a.bit_length())
        yield Case(f"brev.b{n} {{d}}, {{a}};", t, (t,), lambda a, n=n: int(f"{a:0{n}b}"[::-1], 2))
        for kind in "us":

            def highest(a: int, shift: bool, n: int = n) -> int:
                a = ~a if a < 0 else a
                return -1 if a == 0 else n - a.bit_length() if shift else a.bit_length() - 1

            yield Case(f"bfind.{kind}{n} {{d}}, {{a}};", "u32", (f"{kind}{n}",), lambda a, f=highest: f(a, False))
            yield Case(
                f"bfind.shiftamt.{kind}{n} {{d}}, {{a}};", "u32", (f"{kind}{n}",), lambda a, f=highest: f(a, True)
            )

            def field(a: int, position: int, length: int, kind: str = kind, n: int = n) -> int:
                position, length, a = position & 255, length & 255, a & ((1 << n) - 1)
                sign = 0 if kind == "u" or length == 0 else a >> min(position + length - 1, n - 1) & 1
                bits = [a >> (position + i) & 1 if i < length and position + i <= n - 1 else sign for i in range(n)]
                return sum(bit << i for i, bit in enumerate(bits))

            yield Case(
                f"bfe.{kind}{n} {{d}}, {{a}}, {{b}}, {{c}};",
                t,
                (f"{kind}{n}", "u32", "u32"),
                field,
                ((), places, places),
            )

        def put(a: int, b: int, position: int, length: int = 7, n: int = n) -> int:
            position, length = position & 255, length & 255
            for i in range(length):
                if position + i <= n - 1:
                    b = b & ~(1 << position + i) | (a >> i & 1) << position + i
            return b

        yield Case(f"bfi.b{n} {{d}}, {{a}}, {{b}}, {{c}}, 7;", t, (t, t, "u32"), put, ((), (), places))
        yield Case(f"bfi.b{n} {{d}}, {{a}}, 0x5A5A5A5A, 9, {{b}};", t, (t, "u32"),
                   lambda a, length, f=put: f(a, 0x5A5A5A5A, 9, length), ((), places))  # fmt: skip
    for way, mode in itertools.product("lr", ("wrap", "clamp")):

        def funnel(a: int, b: int, c: int, way: str = way, mode: str = mode) -> int:
            by = c & 31 if mode == "wrap" else min(c, 32)
            return (b << 32 | a) >> by if way == "r" else (b << 32 | a) << by >> 32

        yield Case(f"shf.{way}.{mode}.b32 {{d}}, {{a}}, {{b}}, {{c}};", "u32", ("u32",) * 3, funnel)
    for table in (0x00, 0x96, 0xE8, 0xCA, 0x1B, 0xFF):

        def logic(a: int, b: int, c: int, table: int = table) -> int:
            return sum((table >> ((a >> i & 1) * 4 + (b >> i & 1) * 2 + (c >> i & 1)) & 1) << i for i in range(32))

        yield Case(f"lop3.b32 {{d}}, {{a}}, {{b}}, {{c}}, {table:#x};", "u32", ("u32",) * 3, logic)
    yield Case("prmt.b32 {d}, {a}, {b}, {c};", "u32", ("u32",) * 3,
               lambda a, b, c: permuted(a, b, tuple(c >> 4 * i & 15 for i in (3, 2, 1, 0))))  # fmt: skip
    for mode, table_of in MODES.items():
        yield Case(f"prmt.b32.{mode} {{d}}, {{a}}, {{b}}, {{c}};", "u32", ("u32",) * 3,
                   lambda a, b, c, table=table_of: permuted(a, b, table[c & 3]))  # fmt: skip
    # words in one, and apart
    yield Case("mov.b64 {d}, {{{a}, {b}}};", "u64", ("u32", "u32"), lambda a, b: b << 32 | a)
    yield Case("mov.b64 {d}, {{{a}, {b}}};", "f64", ("u32", "f32"),
               lambda a, b: exact.float_of(exact.bits_of(b, "f32") << 32 | a, "f64"))  # fmt: skip
    yield Case("mov.b32 {d}, {{{a}, {b}}};", "u32", ("u16", "u16"), lambda a, b: b << 16 | a)
    yield Case("{{ .reg .b16 p, q, r, s; mov.b64 {{p, q, r, s}}, {a}; mov.b64 {d}, {{s, r, p, q}}; }}", "u64", ("u64",),
               lambda a: a >> 48 | (a >> 32 & 0xFFFF) << 16 | (a & 0xFFFF) << 32 | (a >> 16 & 0xFFFF) << 48)  # fmt: skip
    yield Case("{{ .reg .b32 p; mov.b64 {{_, p}}, {a}; mov.u32 {d}, p; }}", "u32", ("f64",),
               lambda a: exact.bits_of(a, "f64") >> 32)  # fmt: skip
    yield Case("mov.b32 {d}, {a};", "u32", ("f32",), lambda a: exact.bits_of(a, "f32"))
    yield Case("mov.b64 {d}, {a};", "f64", ("u64",), lambda a: exact.float_of(a, "f64"))
    for d, text in (("u32", "0xFFFFFFFFU"), ("s32", "-2147483648"), ("u64", "0xFFFFFFFFFFFFFFFF"), ("s64", "-1"),
                    ("u16", "65535"), ("u32", "0b1011"), ("u32", "0777"),
                    ("s64", "-9223372036854775808"), ("u64", "4294967296")):  # fmt: skip
        number = int(text.rstrip("U"), 8 if text == "0777" else 0)
        yield Case(f"mov.{d} {{d}}, {text}; // {{a}}", d, ("u32",), lambda a, number=number: number, ((0,),))
    for d in ("f32", "f64"):
        for bits in FLOATS[d]:
            text = f"0f{bits:08X}" if d == "f32" else f"0d{bits:016X}"
            yield Case(
                f"mov.{d} {{d}}, {text}; // {{a}}",
                d,
                ("u32",),
                lambda a, bits=bits, d=d: exact.float_of(bits, d),
                ((0,),),
            )
    yield Case("mov.b32 {d}, 0f40490FDB; // {a}", "u32", ("u32",), lambda a: 0x40490FDB, ((0,),))


COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: a == b, "ne": lambda a, b: a != b and a == a and b == b, "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b, "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b,
    "lo": lambda a, b: a < b, "ls": lambda a, b: a <= b, "hi": lambda a, b: a > b, "hs": lambda a, b: a >= b,
    "num": lambda a, b: a == a and b == b, "nan": lambda a, b: a != a or b != b,
}  # fmt: skip
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    COMPARE[_name + "u"] = lambda a, b, f=COMPARE[_name]: f(a, b) or a != a or b != b
COMBINE = {"and": lambda p, q: p and q, "or": lambda p, q: p or q, "xor": lambda p, q: p != q}


def of_comparisons() -> Iterator[Case]:
    for t in ("u16", "s16", "b16", "u32", "s32", "b32", "u64", "s64", "b64", "f32", "f64"):
        if t[0] == "f":
            names = [name for name in COMPARE if name not in ("lo", "ls", "hi", "hs")]
        else:
            names = (
                ["eq", "ne"]
                + (["lt", "le", "gt", "ge"] if t[0] != "b" else [])
                + (["lo", "ls", "hi", "hs"] if t[0] == "u" else [])
            )
        for name in names:
            f = COMPARE[name]
            yield Case(f"{{{{ .reg .pred p; setp.{name}.{t} p, {{a}}, {{b}}; selp.u32 {{d}}, 3, 4, p; }}}}", "u32", (t, t),
                       lambda a, b, f=f: 3 if f(a, b) else 4)  # fmt: skip
        f = COMPARE[names[1]]
        for word, g in COMBINE.items():
            yield Case(
                f"{{{{ .reg .pred p, q, r; setp.ne.b32 r, {{c}}, 0; setp.{names[1]}.{word}.{t} p|q, {{a}}, {{b}}, !r; "
                "selp.u32 {d}, 1, 0, p; @q add.u32 {d}, {d}, 2; }}", "u32", (t, t, "b32"),
                lambda a, b, c, f=f, g=g: bool(g(f(a, b), c == 0)) + 2 * bool(g(not f(a, b), c == 0)), ((), (), (0, 9)),
            )  # fmt: skip
            yield Case(f"{{{{ .reg .pred r; setp.ne.b32 r, {{c}}, 0; set.{names[1]}.{word}.u32.{t} {{d}}, {{a}}, {{b}}, r; }}}}",
                       "u32", (t, t, "b32"),
                       lambda a, b, c, f=f, g=g: -1 if g(f(a, b), c != 0) else 0, ((), (), (0, 9)))  # fmt: skip
        yield Case(
            f"set.{names[0]}.s32.{t} {{d}}, {{a}}, {{b}};",
            "s32",
            (t, t),
            lambda a, b, f=COMPARE[names[0]]: -1 if f(a, b) else 0,
        )
        yield Case(
            f"set.{names[0]}.f32.{t} {{d}}, {{a}}, {{b}};",
            "f32",
            (t, t),
            lambda a, b, f=COMPARE[names[0]]: float(f(a, b)),
        )
    for t in ("b16", "u16", "s32", "b32", "u64", "s64", "b64", "f32", "f64"):
        yield Case(f"{{{{ .reg .pred p; setp.lt.u32 p, {{c}}, 6; selp.{t} {{d}}, {{a}}, {{b}}, p; }}}}", t, (t, t, "u32"),
                   lambda a, b, c: a if c < 6 else b)  # fmt: skip
        yield Case(f"slct.{t}.s32 {{d}}, {{a}}, {{b}}, {{c}};", t, (t, t, "s32"), lambda a, b, c: a if c >= 0 else b)
        yield Case(f"slct.{t}.f32 {{d}}, {{a}}, {{b}}, {{c}};", t, (t, t, "f32"), lambda a, b, c: a if c >= 0 else b)
    # predicates among themselves, and the predicate of an instruction
    two = "setp.ne.u32 p, {a}, 0; setp.ne.u32 q, {b}, 0;"
    for text, g in (("and.pred r, p, q;", lambda p, q: p and q), ("or.pred r, p, !q;", lambda p, q: p or not q),
                    ("xor.pred r, p, q;", lambda p, q: p != q), ("not.pred r, p;", lambda p, q: not p),
                    ("mov.pred r, q;", lambda p, q: q)):  # fmt: skip
        yield Case(f"{{{{ .reg .pred p, q, r; {two} {text} mov.u32 {{d}}, 5; "
                   f"@r mov.u32 {{d}}, 6; @!r add.u32 {{d}}, {{d}}, 7; }}}}", "u32", ("u32", "u32"),
                   lambda a, b, g=g: 6 if g(a != 0, b != 0) else 12, ((0, 1), (0, 2)))  # fmt: skip


def of_floats() -> Iterator[Case]:
    for t in ("f32", "f64"):
        t2, t3 = (t,) * 2, (t,) * 3
        yield Case(f"add.rn.{t} {{d}}, {{a}}, {{b}};", t, t2, lambda a, b, t=t: exact.add(a, b, t))
        yield Case(f"sub.rn.{t} {{d}}, {{a}}, {{b}};", t, t2, lambda a, b, t=t: exact.add(a, -b, t))
        yield Case(f"mul.rn.{t} {{d}}, {{a}}, {{b}};", t, t2, lambda a, b, t=t: exact.multiply(a, b, t))
        yield Case(f"div.rn.{t} {{d}}, {{a}}, {{b}};", t, t2, lambda a, b, t=t: exact.divide(a, b, t))
        yield Case(f"fma.rn.{t} {{d}}, {{a}}, {{b}}, {{c}};", t, t3, lambda a, b, c, t=t: exact.fused(a, b, c, t))
        yield Case(f"mad.rn.{t} {{d}}, {{a}}, {{b}}, {{c}};", t, t3, lambda a, b, c, t=t: exact.fused(a, b, c, t))
        yield Case(f"rcp.rn.{t} {{d}}, {{a}};", t, (t,), lambda a, t=t: exact.divide(1.0, a, t))
        yield Case(f"sqrt.rn.{t} {{d}}, {{a}};", t, (t,), lambda a, t=t: exact.root(a, t))
        yield Case(f"neg.{t} {{d}}, {{a}};", t, (t,), lambda a: -a)
        yield Case(f"abs.{t} {{d}}, {{a}};", t, (t,), abs)
        yield Case(f"min.{t} {{d}}, {{a}}, {{b}};", t, t2, exact.least)
        yield Case(f"max.{t} {{d}}, {{a}}, {{b}};", t, t2, exact.most)
        yield Case(f"copysign.{t} {{d}}, {{a}}, {{b}};", t, t2, lambda a, b: math.copysign(b, a))
        smallest = {"f32": 2.0**-126, "f64": 2.0**-1022}[t]
        for test, f in (
            ("finite", math.isfinite), ("infinite", math.isinf), ("number", lambda a: a == a), ("notanumber", math.isnan),
            ("normal", lambda a, least=smallest: math.isfinite(a) and abs(a) >= least),
            ("subnormal", lambda a, least=smallest: 0 < abs(a) < least),
        ):  # fmt: skip
            yield Case(f"{{{{ .reg .pred p; testp.{test}.{t} p, {{a}}; selp.u32 {{d}}, 1, 0, p; }}}}", "u32", (t,), f)
        yield Case(f"cvt.sat.{t}.{t} {{d}}, {{a}};", t, (t,), exact.saturated)
        for r in "nzmp":
            yield Case(f"cvt.r{r}i.{t}.{t} {{d}}, {{a}};", t, (t,), lambda a, r=r: exact.to_whole(a, r))
    for text, f in (("add.rn.sat.f32 {d}, {a}, {b};", exact.add), ("mul.rn.sat.f32 {d}, {a}, {b};", exact.multiply)):
        yield Case(text, "f32", ("f32",) * 2, lambda a, b, f=f: exact.saturated(f(a, b, "f32")))
    yield Case(
        "fma.rn.sat.f32 {d}, {a}, {b}, {c};",
        "f32",
        ("f32",) * 3,
        lambda a, b, c: exact.saturated(exact.fused(a, b, c, "f32")),
    )
    for word, f in (("min", exact.least), ("max", exact.most)):
        yield Case(f"{word}.NaN.f32 {{d}}, {{a}}, {{b}};", "f32", ("f32",) * 2,
                   lambda a, b, f=f: math.nan if a != a or b != b else f(a, b))  # fmt: skip
    yield Case(
        "add.rn.f32 {d}, {a}, 0f3F800001;",
        "f32",
        ("f32",),
        lambda a: exact.add(a, exact.float_of(0x3F800001, "f32"), "f32"),
    )
    x, y = (exact.float_of(bits, "f64") for bits in (0xBFF0000000000001, 0x3FF0000000000001))
    yield Case("fma.rn.f64 {d}, {a}, 0dBFF0000000000001, 0d3FF0000000000001;", "f64", ("f64",),
               lambda a: exact.fused(a, x, y, "f64"))  # fmt: skip


def of_conversions() -> Iterator[Case]:
    kinds = [kind + size for size in ("8", "16", "32", "64") for kind in "us"]
    for source, to in itertools.product(kinds, kinds):
        if width(source) == 8 and width(to) == 8:
            continue
        n = width(to)
        low, high = (-(1 << n - 1), (1 << n - 1) - 1) if to[0] == "s" else (0, (1 << n) - 1)
        yield Case(f"cvt.{to}.{source} {{d}}, {{a}};", to, (source,), lambda a: a)
        fits = (source[0] == to[0] and width(source) <= n) or (source[0] == "u" and width(source) < n)
        if not fits:  # else nothing saturates, which the assembler calls an error
            yield Case(
                f"cvt.sat.{to}.{source} {{d}}, {{a}};",
                to,
                (source,),
                lambda a, low=low, high=high: min(max(a, low), high),
            )
    for t, kind, r in itertools.product(("f32", "f64"), kinds, "nzmp"):
        yield Case(f"cvt.r{r}.{t}.{kind} {{d}}, {{a}};", t, (kind,),
                   lambda a, t=t, r=r: exact.rounded(exact.Fraction(a), t, r))  # fmt: skip
        yield Case(f"cvt.r{r}i.{kind}.{t} {{d}}, {{a}};", kind, (t,),
                   lambda a, t=t, kind=kind, r=r: exact.to_integer(a, t, kind, r))  # fmt: skip
    yield Case("cvt.f64.f32 {d}, {a};", "f64", ("f32",), lambda a: a)
    for r in "nzmp":
        yield Case(f"cvt.r{r}.f32.f64 {{d}}, {{a}};", "f32", ("f64",), lambda a, r=r: exact.narrowed(a, r))
    yield Case("cvt.rn.sat.f32.f64 {d}, {a};", "f32", ("f64",), lambda a: exact.saturated(exact.narrowed(a, "n")))
    # what a register holds beyond a narrow result is its sign, or zero
    yield Case("{{ .reg .b32 x; cvt.s8.s32 x, {a}; mov.b32 {d}, x; }}", "u32", ("s32",), lambda a: value_of(a, "s8"))
    yield Case("{{ .reg .b32 x; cvt.u8.u32 x, {a}; mov.b32 {d}, x; }}", "u32", ("u32",), lambda a: a & 255)
    yield Case(
        "{{ .reg .b32 x; cvt.sat.s16.s32 x, {a}; mov.b32 {d}, x; }}",
        "u32",
        ("s32",),
        lambda a: min(max(a, -32768), 32767),
    )
    yield Case("{{ .reg .b32 x; cvt.rzi.s8.f32 x, {a}; mov.b32 {d}, x; }}", "u32", ("f32",),
               lambda a: exact.to_integer(a, "f32", "s8", "z"))  # fmt: skip
    yield Case("cvt.s64.s8 {d}, {a};", "s64", ("u32",), lambda a: value_of(a, "s8"))
    yield Case("cvt.rn.f64.s16 {d}, {a};", "f64", ("u32",), lambda a: float(value_of(a, "s16")))


CASES = {
    f.__name__[3:]: list(f()) for f in (of_integers, of_carries, of_bits, of_comparisons, of_floats, of_conversions)
}


def kernel(name: str, case: Case) -> str:
    """A kernel that does it for the number of its thread."""
    letters = "abc"[: len(case.operands)]
    types = dict(zip(letters, case.operands, strict=True), d=case.result)
    lines = [f".visible .entry {name}(" + ", ".join(f".param .u64 p{x}" for x in (*letters, "d")) + ") {"]
    lines += [f".reg .{register_type(t)} %{x};" for x, t in types.items()]
    lines += [".reg .b32 %t, %n, %i;", ".reg .b64 %w, %o;", "mov.u32 %t, %tid.x;", "mov.u32 %n, %ntid.x;"]
    lines += ["mov.u32 %i, %ctaid.x;", "mad.lo.s32 %t, %n, %i, %t;"]
    for x, t in types.items():
        moves = ("ld.global", f"%{x}, [%w]") if x != "d" else ("st.global", "[%w], %d")
        of = [f"ld.param.u64 %w, [p{x}];", f"mul.wide.u32 %o, %t, {width(t) // 8};", "add.s64 %w, %w, %o;"]
        if x == "d":
            lines.append("  " + case.text.format(**{y: f"%{y}" for y in types}))
        lines += [*of, f"{moves[0]}.{t} {moves[1]};"]
    return "\n".join([*lines, "ret;", "}", ""])


def dtype(type_: str) -> str:
    return f"<{type_[0] if type_[0] == 'f' else 'u'}{width(type_) // 8}"


@pytest.mark.parametrize("group", CASES)
def test_instructions_do_what_the_manual_says(group: str, tmp_path: Path) -> None:
    cases = CASES[group]
    ptx = tmp_path / "cases.ptx"
    ptx.write_text(HEAD + "\n".join(kernel(f"case_{i}", case) for i, case in enumerate(cases)))
    if shutil.which("ptxas"):
        subprocess.run(["ptxas", "-arch=sm_90", ptx, "-o", tmp_path / "cases.cubin"], check=True)
    library = emulated.Library(tmp_path, emulated.as_cpp(ptx))
    wrong = []
    for i, case in enumerate(cases):
        inputs = case.inputs()
        n = -(-len(inputs) // 64) * 64
        inputs += [inputs[0]] * (n - len(inputs))
        arrays = [
            np.array([row[k] for row in inputs], dtype=f"<u{width(t) // 8}").view(dtype(t))
            for k, t in enumerate(case.operands)
        ]
        out = np.full(n, 7, dtype(case.result))
        library.launch(f"ptx_case_{i}", *arrays, out, blocks=n // 64, threads=64)
        with np.errstate(all="ignore"):
            results = [
                case.reference(*(value_of(x, t) for x, t in zip(row, case.operands, strict=True))) for row in inputs
            ]
        wanted = np.array([bits_of(x, case.result) for x in results], f"<u{width(case.result) // 8}").view(out.dtype)
        if not emulated.same_bits(out, wanted):
            at = next(k for k in range(n) if emulated.differences(out[k : k + 1], wanted[k : k + 1]))
            given = [hex(x) for x in inputs[at]]
            wrong.append(
                f"{case.text} of {given}: {out[at]!r}, not {wanted[at]!r}; {emulated.differences(out, wanted)} of {n}"
            )
    assert wrong == []


# -- what no instruction shows alone -------------------------------------------------------------


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> emulated.Library:
    folder = tmp_path_factory.mktemp("by_hand")
    ptx = folder / "by_hand.ptx"
    ptx.write_text((HERE / "by_hand.ptx").read_text())
    if shutil.which("ptxas"):
        subprocess.run(["ptxas", "-arch=sm_90", ptx, "-o", folder / "by_hand.cubin"], check=True)
    return emulated.Library(folder, emulated.as_cpp(ptx))


def test_jumps_to_a_label_of_a_table_and_blocks_with_names_of_their_own(by_hand: emulated.Library) -> None:
    out = np.zeros(6, "i4")
    by_hand.launch("ptx_jumps", np.array([0, 1, 2, 3, 4, -1], "i4"), out, threads=6)
    assert out.tolist() == [40, 77, 40, 5, 5, 5]


def test_memory_of_every_space_and_width(by_hand: emulated.Library) -> None:
    more = (np.frombuffer(struct.pack("<QIId", 0x1122334455667788, 5, 6, 2.5), "u8")).copy()
    fields = (ctypes.c_uint64 * 3)(*more.tolist())
    given = np.frombuffer(struct.pack("<BBhi", 1, 0x80, -5, -6), "u1").copy()
    out = np.zeros(112, "u1")
    # of_all[20], kept[2] of the function, and own[16], then what the launch gives
    assert by_hand.number("ptx_memory_shared_bytes") == 128
    assert by_hand.number("ptx_memory_parameter_bytes") == 40
    by_hand.launch("ptx_memory", given, fields, out, shared=128 + 16)
    words = out.view("u4").tolist()
    assert words[:5] == [0xFFFFFF80, 0x80, 0xFFFFFFFB, 0xFFFB, 0xFF80]
    assert out.view("i8")[3] == -6
    assert words[8:10] == [0x0180FBFF, 0xFF]  # local memory begins as garbage
    assert words[10:12] == [5, 6]
    assert out.view("f8")[6] == 2.5
    assert out.view("u8")[7] == 0x1122334455667788
    assert words[16:18] == [2222, 2222]
    assert words[20:24] == [1111, 3333, 1, 0]
    assert out[96] == 0x78
    assert out.view("u2")[49] == 0x5678
    assert words[25] == 0x40490FDB
    assert out.view("f4")[26] == np.float32(2) * np.array(0x40490FDB, "u4").view("f4")


def test_calls_by_name_and_by_address_and_initial_values(by_hand: emulated.Library) -> None:
    out = np.zeros((5, 12), "u4")
    by_hand.launch("ptx_calls", out, threads=5, shared=128)
    primes = [2, 3, 5, 7, 11]
    thrice = [p if p == 5 else 3 * p for p in primes]
    assert out[:, 0].tolist() == primes
    assert out[:, 1:4].tolist() == [[0xFFFFFFFF, 0xFFFFFFFD, 0x7FFFFFFF]] * 5
    first = [thrice[i] if i < 3 else 9 for i in range(5)]
    assert out[:, 4].tolist() == first
    assert out[:, 5].tolist() == [5 if i == 2 else 2 * first[i] for i in range(5)]
    assert out[:, 6].view("f4").tolist() == [2.0] * 5
    assert out[:, 8:10].copy().view("f8").ravel().tolist() == [1.5] * 5
    assert out[:, 10:].tolist() == [[5, 1]] * 5


FAULTS = [
    "an address that is not aligned",
    "an address that is not aligned",
    "an integer divided by zero",
    "trap",
    "1 of 2 threads wait at a barrier",
    "which are no multiples of 8",
    "did not wait for: 1 of 1",
    "a branch to none of its targets",
]


@pytest.mark.parametrize("which", range(len(FAULTS)))
def test_what_a_device_forbids_ends_the_process(by_hand: emulated.Library, which: int) -> None:
    launch = f"library.launch('ptx_faults', {which}, np.zeros(8, 'u8'), threads=2, shared=128 + 16)"
    code = f"import emulated, numpy as np; library = emulated.Library.of({str(by_hand.path)!r}); {launch}"
    done = subprocess.run([sys.executable, "-c", code], cwd=HERE, text=True, capture_output=True)
    assert done.returncode == -signal.SIGABRT, done.stderr
    assert FAULTS[which] in done.stderr


# -- what is refused -----------------------------------------------------------------------------

REFUSED = {
    # a device may compute these with other bits
    "add.f32 %f1, %f2, %f3": "without .rn it may be contracted",
    "sub.f64 %d1, %d2, %d3": "without .rn it may be contracted",
    "mul.f32 %f1, %f2, %f3": "without .rn it may be contracted",
    "mad.f32 %f1, %f2, %f3, %f1": "without .rn it may be contracted",
    "add.rn.ftz.f32 %f1, %f2, %f3": "flushes denormals",
    "fma.rn.ftz.f32 %f1, %f2, %f3, %f1": "flushes denormals",
    "setp.lt.ftz.f32 %p1, %f2, %f3": "flushes denormals",
    "cvt.ftz.f64.f32 %d1, %f2": "flushes denormals",
    "add.rz.f32 %f1, %f2, %f3": "rounds otherwise",
    "fma.rm.f64 %d1, %d2, %d3, %d1": "rounds otherwise",
    "div.full.f32 %f1, %f2, %f3": "does not round to nearest",
    "div.approx.f32 %f1, %f2, %f3": "an approximation",
    "rcp.approx.ftz.f64 %d1, %d2": "an approximation",
    "rsqrt.approx.f32 %f1, %f2": "an approximation",
    "sqrt.approx.f32 %f1, %f2": "an approximation",
    "ex2.approx.ftz.f32 %f1, %f2": "an approximation",
    "lg2.approx.f32 %f1, %f2": "an approximation",
    "sin.approx.f32 %f1, %f2": "an approximation",
    "tanh.approx.f32 %f1, %f2": "an approximation",
    # these are not known
    "shfl.sync.bfly.b32 %r1, %r2, 1, 31, -1": "the instruction shfl is not known",
    "atom.global.add.u32 %r1, [%w1], 1": "the instruction atom is not known",
    "red.global.add.f32 [%w1], %f1": "the instruction red is not known",
    "bar.sync 1": "no barrier of the whole block",
    "bar.sync 0, 64": "1",
    "barrier.arrive 0, 64": "no barrier of the whole block",
    "cvt.rn.f16.f32 %h1, %f1": "not known for .f16",
    "cvt.f32.f64 %f1, %d1": "no rounding",
    "cvt.rn.bf16x2.f32 %r1, %f1, %f2": "not known for",
    "fma.rn.relu.f32 %f1, %f2, %f3, %f1": "not known with .relu",
    "mov.u32 %r1, %clock": "%clock is not known",
    "call (%r1), somewhere, (%r2)": "is no parameter",
    "call somewhere": "somewhere is not defined here",
    "bra nowhere": "no label nowhere",
    "add.s32 %r1, %r2": "operands",
    "add.s32 %r1, %r2, %w1, %r3": "operands",
    "ld.global.f32 %f1, [%r1]": "an address of u32",
    "mov.u64 %r1, 5": "narrower",
    "add.u64 %w1, %r1, %w1": "narrower",
    "ld.shared.u32 %r1, [missing]": "not known",
    "cp.async.cg.shared.global [%r1], [%w1], 8": "no copy",
    "cp.async.bulk.commit_group": "not known with .bulk",
    "tex.2d.v4.f32.f32 {%f1, %f2, %f3, %f1}, [t, {%f1, %f2}]": "the instruction tex is not known",
}


@pytest.mark.parametrize("text", REFUSED)
def test_the_translator_refuses(text: str, tmp_path: Path) -> None:
    registers = ".reg .f32 %f<9>; .reg .f64 %d<9>; .reg .b32 %r<9>; .reg .b64 %w<9>; .reg .b16 %h<9>; .reg .pred %p<9>;"
    ptx, cpp = tmp_path / "refused.ptx", tmp_path / "refused.cpp"
    for guard in ("", "@%p2 "):
        ptx.write_text(
            f"{HEAD}.visible .entry k(.param .u64 a)\n{{\n{registers}\nmov.u32 %r1, 5;\n{guard}{text};\nret;\n}}\n"
        )
        done = emulated.translated(ptx, "--output", str(cpp))
        assert done.returncode == 1
        assert f"line 8: {guard}{text};" in done.stderr
        assert REFUSED[text] in done.stderr
        assert done.stdout == ""
        assert not cpp.exists()
    ptx.write_text(f"{HEAD}.visible .entry k(.param .u64 a)\n{{\n{registers}\nmov.u32 %r1, 5;\nret;\n}}\n")
    assert emulated.translated(ptx).returncode == 0


@pytest.mark.parametrize(
    "text",
    [
        ".global .texref t;",
        ".extern .global .u32 elsewhere;",
        ".global .u32 x = {missing};",
        ".global .b128 x;",
        ".global .f32 x = 1;",
    ],
)
def test_the_translator_refuses_a_variable(text: str, tmp_path: Path) -> None:
    ptx = tmp_path / "refused.ptx"
    ptx.write_text(f"{HEAD}{text}\n.visible .entry k()\n{{\nret;\n}}\n")
    done = emulated.translated(ptx)
    assert done.returncode == 1
    assert "line 4: ." in done.stderr


def test_kernels_keep_their_names_if_asked_to(tmp_path: Path) -> None:
    ptx, cpp = tmp_path / "named.ptx", tmp_path / "named.cpp"
    kernel = ".visible .entry _ZN1a6kernelIfEEv3JobIT_E(.param .u64 p)\n{\nret;\n}\n"
    ptx.write_text(f"{HEAD}.extern .shared .align 128 .b8 given[];\n{kernel}")
    assert emulated.translated(ptx, "--own-names", "--output", str(cpp)).returncode == 0
    assert 'extern "C" void _ZN1a6kernelIfEEv3JobIT_E(' in cpp.read_text()
    assert "ptx__ZN1a6" not in cpp.read_text()
    ptx.write_text(f"{HEAD}.shared .align 4 .b8 own[12];\n{kernel}")
    done = emulated.translated(ptx, "--own-names")
    assert done.returncode == 1
    assert "128 bytes of a block's memory that no launch asks for" in done.stderr
