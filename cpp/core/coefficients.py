"""Computes the coefficients of math.hpp, in many digits: Chebyshev interpolation of each function, and, for tanh, a
quotient of two polynomials whose largest relative error is as small as reweighted least squares make it.

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


def fit_quotient(f: Callable[[mp.mpf], mp.mpf], hi: mp.mpf, degree: int) -> tuple[list[mp.mpf], list[mp.mpf], mp.mpf]:
    """``f(x^2)`` on [0, hi] as P(x^2) / Q(x^2), both of ``degree`` and with the constant term 1; P, Q and the error.

    Least squares of (P - f Q) / (f Q'), Q' being the last Q, weighted anew by its errors until these are even (Lawson's
    method).
    """
    n = 150
    nodes = [(hi * (1 - mp.cos(mp.pi * (2 * k + 1) / (2 * n))) / 2) ** 2 for k in range(n)]
    values = [f(t) for t in nodes]
    weights, below = [mp.mpf(1)] * n, [1 + t for t in nodes]
    best: tuple[list[mp.mpf], list[mp.mpf], mp.mpf] = ([], [], mp.inf)
    for _ in range(40):
        matrix, right = mp.matrix(2 * degree, 2 * degree), mp.matrix(2 * degree, 1)
        for t, value, weight, under in zip(nodes, values, weights, below, strict=True):
            powers = [t**j / under for j in range(1, degree + 1)]
            row = [power / value for power in powers] + [-power for power in powers]
            for i, a in enumerate(row):
                right[i] += weight * a * (value - 1) / (value * under)
                for j, b in enumerate(row):
                    matrix[i, j] += weight * a * b
        solution = list(mp.lu_solve(matrix, right))
        p, q = [mp.mpf(1), *solution[:degree]], [mp.mpf(1), *solution[degree:]]
        below = [mp.polyval(q[::-1], t) for t in nodes]
        errors = [
            abs(mp.polyval(p[::-1], t) / (under * value) - 1)
            for t, value, under in zip(nodes, values, below, strict=True)
        ]
        best = min(best, (p, q, max(errors)), key=lambda fit: fit[2])
        total = mp.fsum(weight * error for weight, error in zip(weights, errors, strict=True))
        weights = [n * weight * error / total for weight, error in zip(weights, errors, strict=True)]
    return best


def series(f: Callable[[mp.mpf], mp.mpf], at_zero: mp.mpf) -> Callable[[mp.mpf], mp.mpf]:
    """``f`` with its limit filled in at zero."""
    return lambda t: at_zero if t == 0 else f(t)


LN2 = mp.log(2)
MILLS = mp.mpf("0.35")
FUNCTIONS = {
    # e^r = 1 + r + r^2 P(r),  |r| <= ln2 / 2
    "exp": (lambda r: mp.hyp1f1(1, 3, r) / 2, -LN2 / 2, LN2 / 2, 4, 10),
    # 2^f = 1 + f P(f),  |f| <= 1 / 2
    "exp2": (series(lambda f: mp.expm1(f * LN2) / f, LN2), -mp.mpf(1) / 2, mp.mpf(1) / 2, 4, 10),
    # log(m) = 2 s + s^3 P(s^2),  s = (m - 1) / (m + 1),  m in [sqrt(1/2), sqrt(2)]
    "log": (
        series(lambda t: (mp.log((1 + mp.sqrt(t)) / (1 - mp.sqrt(t))) / mp.sqrt(t) - 2) / t, mp.mpf(2) / 3),
        mp.mpf(0), ((mp.sqrt(2) - 1) / (mp.sqrt(2) + 1)) ** 2, 2, 6,
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

# tanh(x) = x P(x^2) / Q(x^2) up to where it rounds to 1
QUOTIENTS = {
    "tanh": (series(lambda t: mp.tanh(mp.sqrt(t)) / mp.sqrt(t), mp.mpf(1)), (mp.mpf("9.02"), 4), (mp.mpf("19.07"), 9)),
}


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
    for name, (f, short_range, long_range) in QUOTIENTS.items():
        for kind, (hi, degree), digits in (("float", short_range, 10), ("double", long_range, 19)):
            above, under, error = fit_quotient(f, hi, degree)
            print(f"{name} {kind}: relative error {mp.nstr(error, 3)}")
            for part in (above, under):
                print("   ", ", ".join(mp.nstr(c, digits) for c in part))
