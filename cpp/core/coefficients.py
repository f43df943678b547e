"""Computes the polynomial coefficients of math.hpp: Chebyshev interpolation of each function, in 60 digits.

    python coefficients.py        (needs mpmath)

Prints, for float and double, coefficients from the constant term up and the largest relative error of the fit.
"""

from __future__ import annotations

from collections.abc import Callable

import mpmath as mp

mp.mp.dps = 60


def fit(f: Callable[[mp.mpf], mp.mpf], lo: mp.mpf, hi: mp.mpf, degree: int) -> tuple[list[mp.mpf], mp.mpf]:
    """Interpolate ``f`` on Chebyshev nodes of [lo, hi]; monomial coefficients and the largest relative error."""
    n = degree + 1
    nodes = [(lo + hi) / 2 + (hi - lo) / 2 * mp.cos(mp.pi * (2 * k + 1) / (2 * n)) for k in range(n)]
    matrix = mp.matrix(n, n)
    for i, x in enumerate(nodes):
        for j in range(n):
            matrix[i, j] = x**j
    coefficients = list(mp.lu_solve(matrix, mp.matrix([f(x) for x in nodes])))
    grid = [lo + (hi - lo) * k / 400 for k in range(401)]
    error = max(abs(mp.polyval(coefficients[::-1], x) / f(x) - 1) for x in grid)
    return coefficients, error


def series(f: Callable[[mp.mpf], mp.mpf], at_zero: mp.mpf) -> Callable[[mp.mpf], mp.mpf]:
    """``f`` with its limit filled in at zero."""
    return lambda t: at_zero if t == 0 else f(t)


LN2 = mp.log(2)
MILLS = mp.mpf("0.35")
FUNCTIONS = {
    # e^r = 1 + r + r^2 P(r),  |r| <= ln2 / 2
    "exp": (lambda r: mp.hyp1f1(1, 3, r) / 2, -LN2 / 2, LN2 / 2, 4, 10),
    # log(m) = 2 s + s^3 P(s^2),  s = (m - 1) / (m + 1),  m in [sqrt(1/2), sqrt(2)]
    "log": (
        series(lambda t: (mp.log((1 + mp.sqrt(t)) / (1 - mp.sqrt(t))) / mp.sqrt(t) - 2) / t, mp.mpf(2) / 3),
        mp.mpf(0), ((mp.sqrt(2) - 1) / (mp.sqrt(2) + 1)) ** 2, 2, 6,
    ),
    # tanh(x) = x + x^3 P(x^2),  |x| <= 0.55
    "tanh": (
        series(lambda t: (mp.tanh(mp.sqrt(t)) / mp.sqrt(t) - 1) / t, -mp.mpf(1) / 3),
        mp.mpf(0), mp.mpf("0.3025"), 4, 10,
    ),
    # sin(x) = x + x^3 P(x^2),  cos(x) = 1 - x^2 / 2 + x^4 P(x^2),  |x| <= pi / 4
    "sin": (
        series(lambda t: (mp.sin(mp.sqrt(t)) / mp.sqrt(t) - 1) / t, -mp.mpf(1) / 6),
        mp.mpf(0), (mp.pi / 4) ** 2, 2, 6,
    ),
    "cos": (
        series(lambda t: (mp.cos(mp.sqrt(t)) - 1 + t / 2) / t**2, mp.mpf(1) / 24),
        mp.mpf(0), (mp.pi / 4) ** 2, 2, 5,
    ),
    # Phi(-y) = e^(-y^2 / 2) t P(t - 0.55),  t = 1 / (1 + 0.35 y),  0 <= y <= 39
    "normal_cdf": (lambda w: mills_over_t(w + mp.mpf("0.55")), mp.mpf("-0.48183"), mp.mpf("0.45"), 10, 23),
}  # fmt: skip


def mills_over_t(t: mp.mpf) -> mp.mpf:
    """``e^(y^2 / 2) Phi(-y) / t`` at the ``y`` of ``t``; by the continued fraction of Mills' ratio where y is large."""
    y = (1 / t - 1) / MILLS
    if y < 20:
        return mp.exp(y**2 / 2) * mp.ncdf(-y) / t
    fraction = y
    for k in range(200, 0, -1):
        fraction = y + k / fraction
    return 1 / fraction / mp.sqrt(2 * mp.pi) / t


if __name__ == "__main__":
    for name, (f, lo, hi, short, long) in FUNCTIONS.items():
        for kind, degree, digits in (("float", short, 10), ("double", long, 19)):
            coefficients, error = fit(f, lo, hi, degree)
            print(f"{name} {kind}: relative error {mp.nstr(error, 3)}")
            print("   ", ", ".join(mp.nstr(c, digits) for c in coefficients))
