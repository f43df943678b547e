"""Arithmetic as IEEE 754 and the manual of PTX have it, in fractions: what the translated instructions are held to."""

from __future__ import annotations

import math
import struct
from fractions import Fraction

DIGITS = {"f32": 24, "f64": 53}
LEAST = {"f32": -149, "f64": -1074}  # the exponent of the smallest number
MOST = {"f32": 127, "f64": 1023}


def bits_of(value: float, type_: str) -> int:
    """The bits of a float."""
    if type_ == "f32":
        return int(struct.unpack("<I", struct.pack("<f", value))[0])
    return int(struct.unpack("<Q", struct.pack("<d", value))[0])


def float_of(bits: int, type_: str) -> float:
    """The float of some bits."""
    if type_ == "f32":
        return float(struct.unpack("<f", struct.pack("<I", bits))[0])
    return float(struct.unpack("<d", struct.pack("<Q", bits))[0])


def negative(x: float) -> bool:
    return math.copysign(1, x) < 0


def whole(x: Fraction, rounding: str) -> int:
    """An integer: to the nearest, of two the even one (n), towards zero (z), down (m) or up (p)."""
    if rounding == "n":
        return round(x)
    if rounding == "z":
        return math.trunc(x)
    return math.floor(x) if rounding == "m" else math.ceil(x)


def rounded(x: Fraction, type_: str, rounding: str = "n", minus_zero: bool = False) -> float:
    """A fraction as a float."""
    if x == 0:
        return -0.0 if minus_zero else 0.0
    size = abs(x)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    if Fraction(2) ** exponent > size:
        exponent -= 1
    unit = Fraction(2) ** max(exponent - DIGITS[type_] + 1, LEAST[type_])
    y = whole(x / unit, rounding) * unit
    sign = -1.0 if x < 0 else 1.0
    largest = (2 - Fraction(2) ** (1 - DIGITS[type_])) * Fraction(2) ** MOST[type_]
    if abs(y) > largest:
        to_infinity = rounding == "n" or (rounding == "p" and x > 0) or (rounding == "m" and x < 0)
        return math.copysign(math.inf if to_infinity else float(largest), sign)
    return math.copysign(float(y), sign)


def finite(*numbers: float) -> bool:
    return all(math.isfinite(x) for x in numbers)


def add(a: float, b: float, type_: str) -> float:
    if not finite(a, b):
        return a + b
    total = Fraction(a) + Fraction(b)
    return rounded(total, type_, minus_zero=negative(a) and negative(b))


def multiply(a: float, b: float, type_: str) -> float:
    if not finite(a, b):
        return math.nan if a == 0 or b == 0 else a * b
    return rounded(Fraction(a) * Fraction(b), type_, minus_zero=negative(a) != negative(b))


def fused(a: float, b: float, c: float, type_: str) -> float:
    if not finite(a, b):
        return multiply(a, b, type_) + c
    if not finite(c):
        return c
    total = Fraction(a) * Fraction(b) + Fraction(c)
    minus = (negative(a) != negative(b)) and negative(c)
    return rounded(total, type_, minus_zero=minus)


def divide(a: float, b: float, type_: str) -> float:
    sign = -1.0 if negative(a) != negative(b) else 1.0
    if math.isnan(a) or math.isnan(b) or (math.isinf(a) and math.isinf(b)) or (a == 0 and b == 0):
        return math.nan
    if math.isinf(a) or b == 0:
        return sign * math.inf
    if math.isinf(b):
        return sign * 0.0
    return rounded(Fraction(a) / Fraction(b), type_, minus_zero=sign < 0)


def root(a: float, type_: str) -> float:
    if math.isnan(a) or a < 0:
        return math.nan
    if a == 0 or math.isinf(a):
        return a
    # enough digits that what they leave out decides nothing but a tie, which no root has
    x = Fraction(a)
    scale = 300 - (x.numerator.bit_length() - x.denominator.bit_length()) // 2 * 2
    square = x * Fraction(2) ** scale if scale >= 0 else x / Fraction(2) ** -scale
    digits = math.isqrt(math.floor(square))
    exact = Fraction(digits * digits) == square
    return rounded((Fraction(digits) + (0 if exact else Fraction(1, 2))) / Fraction(2) ** (scale // 2), type_)


def least(a: float, b: float) -> float:
    if math.isnan(a) or math.isnan(b):
        return b if math.isnan(a) else a
    if a == b:
        return a if negative(a) else b
    return min(a, b)


def most(a: float, b: float) -> float:
    if math.isnan(a) or math.isnan(b):
        return b if math.isnan(a) else a
    if a == b:
        return b if negative(a) else a
    return max(a, b)


def saturated(x: float) -> float:
    return 0.0 if math.isnan(x) or x <= 0 else min(x, 1.0)


def to_whole(x: float, rounding: str) -> float:
    """A float without digits behind the point."""
    return x if not finite(x) else math.copysign(float(whole(Fraction(x), rounding)), x)


def to_integer(x: float, source: str, to: str, rounding: str) -> int:
    """The nearest integer of a type; NaN is 0, or the highest bit where one of them has 64."""
    size = int(to[1:])
    if math.isnan(x):
        return 1 << (size - 1) if source == "f64" or size == 64 else 0
    low, high = (-(1 << (size - 1)), (1 << (size - 1)) - 1) if to[0] == "s" else (0, (1 << size) - 1)
    if math.isinf(x):
        return high if x > 0 else low
    return min(max(whole(Fraction(x), rounding), low), high)


def narrowed(x: float, rounding: str) -> float:
    """A double as a float."""
    if not finite(x):
        return x
    return rounded(Fraction(x), "f32", rounding, minus_zero=negative(x))
