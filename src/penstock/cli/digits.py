"""Rows of numbers as text, many at once: the shortest digits that read back to the same number, as ``repr`` writes them.

Digits are those of Schubfach (R. Giulietti, "The Schubfach way to render doubles", 2020) on arrays: of all decimals that
round to the number, one of the shortest, and of these the nearest. A number ``c 2^q`` becomes ``d 10^k``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from penstock._typing import Array

MASK = 0xFFFFFFFF
BLOCK = 4096  # rows formatted at a time: what is in between stays in a processor's cache
LEAST, MOST = -4, 15  # powers of ten of the first digit that are written without an exponent
# Of a float: bits of the fraction, bias of the exponent of ``c``, digits that are enough.
FORMATS = {4: (23, 150, 9), 8: (52, 1075, 17)}
SCALES = np.array([10**i for i in range(20)], dtype=np.uint64)


def lines(blocks: Sequence[Array], separator: bytes = b",") -> bytes:
    """Rows as lines of text.

    Parameters
    ----------
    blocks : sequence of arrays of shape (rows, columns)
        Columns beside each other: float32, float64, or integers.
    separator : bytes of length 1
    """
    count = len(blocks[0])
    parts = [
        _some_lines([block[first : first + BLOCK] for block in blocks], separator) for first in range(0, count, BLOCK)
    ]
    return b"".join(parts)


def _some_lines(blocks: Sequence[Array], separator: bytes) -> bytes:
    pairs = [_cells(block) for block in blocks]
    for chars, shown in pairs:
        chars[:, :, -1] = ord(separator)
        shown[:, :, -1] = True
    pairs[-1][0][:, -1, -1] = ord("\n")
    count = len(blocks[0])
    chars = np.concatenate([chars.reshape(count, -1) for chars, _ in pairs], axis=1)
    shown = np.concatenate([shown.reshape(count, -1) for _, shown in pairs], axis=1)
    return bytes(chars[shown].tobytes())


def _cells(block: Array) -> tuple[Array, Array]:
    """Characters of each cell, of shape (rows, columns, width), and which of them are shown; the last one is left free."""
    flat = np.ascontiguousarray(block).reshape(-1)
    chars, shown = _integers(flat) if flat.dtype.kind in "iub" else _floats(flat)
    return chars.reshape(*block.shape, chars.shape[1]), shown.reshape(*block.shape, chars.shape[1])


def _integers(values: Array) -> tuple[Array, Array]:
    text = values.astype(np.int64).astype("S21")
    chars = np.zeros((len(values), 22), dtype=np.uint8)
    chars[:, :21] = text.view(np.uint8).reshape(-1, 21)
    return chars, chars != 0


def _floats(values: Array) -> tuple[Array, Array]:
    digits, exponent = shortest(values)
    most = FORMATS[values.dtype.itemsize][2]
    finite = np.isfinite(values)
    # With ``most`` digits, the first of which is no zero.
    length = np.searchsorted(SCALES, digits, side="right")
    digits = digits * SCALES[most - length]
    exponent = np.where(digits == 0, 0, exponent + length - 1)
    source = _characters(digits, most)
    significant = np.full(len(values), most)
    (short,) = np.nonzero(digits % 10 == 0)
    significant[short] = most - (source[short, most - 1 :: -1] != ord("0")).argmax(axis=1)
    significant[digits == 0] = 1
    # The characters of a cell: sign, number, exponent where there is one, and room for a separator.
    scientific = (exponent < LEAST) | (exponent > MOST)
    layout, width = _layouts(most)
    place = np.where(scientific, MOST + 1, exponent) - LEAST
    ends = np.array([len(values), 1 + width + 5 * bool(scientific.any()) + 1])
    chars = np.empty(ends, dtype=np.uint8)
    chars[:, 0] = ord("-")
    index = layout.take(place, axis=0)
    index += np.arange(0, source.size, source.shape[1])[:, None]
    source.reshape(-1).take(index, out=chars[:, 1 : 1 + width])
    # An integer has a zero behind the point; in front of it every digit is shown.
    shown_digits = np.where(
        scientific,
        significant + (significant > 1),
        np.where(exponent < 0, 1 - exponent + significant, np.maximum(significant, exponent + 2) + 1),
    )
    if not finite.all():
        for special, word in ((np.isnan(values), b"nan"), (np.isinf(values), b"inf")):
            chars[special, 1:4] = np.frombuffer(word, dtype=np.uint8)
            shown_digits[special] = 3
        scientific &= finite
    shown = np.empty(chars.shape, dtype=bool)
    shown[:, 0] = np.signbit(values) & ~np.isnan(values)
    np.less(np.arange(width), shown_digits[:, None], out=shown[:, 1 : 1 + width])
    if chars.shape[1] > width + 2:
        _put_exponents(exponent, scientific, chars[:, 1 + width : -1], shown[:, 1 + width : -1])
    return chars, shown


def _put_exponents(exponent: Array, scientific: Array, chars: Array, shown: Array) -> None:
    """Such as e-05 and e+123, where there is one."""
    size = np.abs(exponent)
    chars[:, 0] = ord("e")
    chars[:, 1] = np.where(exponent < 0, ord("-"), ord("+"))
    for column, scale in ((2, 100), (3, 10), (4, 1)):
        chars[:, column] = ord("0") + size // scale % 10
    shown[:] = scientific[:, None]
    shown[:, 2] &= size > 99


def _characters(digits: Array, most: int) -> Array:
    """Digits as characters, and behind them a zero and a point."""
    fours = _fours()
    count = (most - 1) // 4
    source = np.empty((len(digits), most + 2), dtype=np.uint8)
    groups = np.empty((len(digits), count), dtype=np.uint32)
    rest = digits
    for column in range(count - 1, -1, -1):
        left = rest // 10000
        groups[:, column] = fours.take((rest - left * 10000).astype(np.intp))
        rest = left
    source[:, 0] = rest + ord("0")
    source[:, 1:most] = groups.view(np.uint8)
    source[:, most] = ord("0")
    source[:, most + 1] = ord(".")
    return source


@cache
def _fours() -> Array:
    """The four characters of each number below 10 000."""
    text = b"".join(b"%04d" % number for number in range(10000))
    return np.frombuffer(text, dtype=np.uint32)


@cache
def _layouts(most: int) -> tuple[Array, int]:
    """For each power of ten of the first digit, which character of ``_characters`` stands where; last, with an exponent."""
    zero, point = most, most + 1
    rows = []
    for power in range(LEAST, MOST + 2):
        digits = list(range(most))
        if power < 0:
            rows.append([zero, point, *[zero] * (-power - 1), *digits])
        else:
            whole = 0 if power > MOST else power
            digits += [zero] * max(0, whole + 2 - most)
            rows.append([*digits[: whole + 1], point, *digits[whole + 1 :]])
    width = max(map(len, rows))
    return np.array([row + [zero] * (width - len(row)) for row in rows], dtype=np.intp), width


# --- the digits -------------------------------------------------------------------------------------------------------------


def shortest(values: Array) -> tuple[Array, Array]:
    """Digits ``d`` and exponents ``k`` of the absolute values of floats: ``|x|`` is what ``d 10^k`` rounds to.

    Parameters
    ----------
    values : float32 or float64 array of shape (n,)
        Where they are not finite the result means nothing.

    Returns
    -------
    d : uint64 array of shape (n,)
        With at most 9 digits, or 17; it may end in zeros.
    k : int64 array of shape (n,)
    """
    fraction_bits, bias, _ = FORMATS[values.dtype.itemsize]
    narrow = values.dtype.itemsize == 4
    bits = values.view(np.uint32).astype(np.uint64) if narrow else values.view(np.uint64)
    fraction = bits & ((1 << fraction_bits) - 1)
    biased = ((bits >> fraction_bits) & (0xFF if narrow else 0x7FF)).astype(np.int64)
    c = fraction | ((biased > 0).astype(np.uint64) << fraction_bits)
    q = np.maximum(biased, 1) - bias
    # At a power of two the lower neighbour is at half the distance.
    closer = (fraction == 0) & (biased > 1)
    k = (q * 1262611 - closer * 524031) >> 22  # floor(log10(2^q)), or of 3/4 of it
    h = (q + ((-k * 1741647) >> 19) + 1).astype(np.uint64)
    power = _times_narrow if narrow else _times_wide
    times = power(-k)
    four = c << 2
    # Four times the number and the ends of the interval that rounds to it, in units of 10^k, rounded to odd.
    below = times((four - 2 + closer.astype(np.uint64)) << h)
    value = times(four << h)
    above = times((four + 2) << h)
    odd = c & 1  # where ``c`` is even, the ends round to it as well
    below += odd
    above -= odd
    tens = value // 40
    under = below <= tens * 40
    over = tens * 40 + 40 <= above
    d = value >> 2
    lower = d << 2
    down, up = below <= lower, lower + 4 <= above
    nearest = np.where(down != up, up, (value > lower + 2) | ((value == lower + 2) & ((d & 1) == 1)))
    shorter = (under != over) & (d >= 10)
    d = np.where(shorter, tens + over, d + nearest)
    return np.where(c == 0, 0, d).astype(np.uint64), k + shorter


def _times_wide(power: Array) -> Any:
    """Multiply by 10^power: the top 64 bits of the 192 of each product, the lowest telling whether more follow."""
    high, low, _ = _powers()
    g1, g0 = high.take(power + OFFSET), low.take(power + OFFSET)

    def times(factor: Array) -> Array:
        b1, b0 = factor >> 32, factor & MASK
        carried = _high(g0, b1, b0)
        middle = g1 * factor + carried
        top = _high(g1, b1, b0) + (middle < carried)
        return np.asarray(top | (middle > 1))

    return times


def _high(a: Array, b1: Array, b0: Array) -> Array:
    """The upper 64 bits of ``a b``, where ``b`` comes in halves."""
    a1, a0 = a >> 32, a & MASK
    middle = a1 * b0 + ((a0 * b0) >> 32)
    other = a0 * b1 + (middle & MASK)
    return np.asarray(a1 * b1 + (middle >> 32) + (other >> 32))


def _times_narrow(power: Array) -> Any:
    """The same for factors below 2^32, for which 64 bits of the power are enough."""
    g = _powers()[2].take(power + OFFSET)
    g1, g0 = g >> 32, g & MASK

    def times(factor: Array) -> Array:
        middle = g1 * factor + ((g0 * factor) >> 32)
        return np.asarray((middle >> 32) | ((middle & MASK) > 1))

    return times


OFFSET = 292  # of the powers 10^-292 to 10^324 in the table


@cache
def _powers() -> tuple[Array, Array, Array]:
    """Powers of ten, scaled to 128 bits and rounded up, in two halves; and the same in 64 bits."""
    high, low = [], []
    for power in range(-OFFSET, 325):
        if power >= 0:
            exact, shift = 10**power, 128 - (10**power).bit_length()
            value = exact << shift if shift >= 0 else -(-exact >> -shift)
        else:
            divisor = 10**-power
            value = -(-(1 << (127 + divisor.bit_length())) // divisor)
            if value.bit_length() > 128:
                value = -(-(1 << (126 + divisor.bit_length())) // divisor)
        high.append(value >> 64)
        low.append(value & (2**64 - 1))
    narrow = [upper + (lower > 0) for upper, lower in zip(high, low, strict=True)]
    return tuple(np.array(words, dtype=np.uint64) for words in (high, low, narrow))  # type: ignore[return-value]
