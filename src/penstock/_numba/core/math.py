"""Elementary functions on the lane type: only +, -, *, /, fma, sqrt, select and integer shifts.

The algorithms, coefficients and errors are those of ``cpp/core/math.hpp``; of each pair of constants the first serves
float32, the second float64. NaN passes.
"""

from __future__ import annotations

from typing import Any

from penstock._numba.core.jit import jit
from penstock._numba.core.lanes import bits, constant, fma, from_bits, number, polynomial, select, splat

MANTISSA, BIAS = (23, 52), (127, 1023)
ROUND = (12582912.0, 6755399441055744.0)  # 1.5 * 2^mantissa
EXP_LO, EXP_HI = (-104.0, -746.0), (89.0, 710.0)
LN2_HI, LN2_LO = (
    (0.693145751953125, 6.93147180369123816490e-01),
    (1.42860682030941723212e-6, 1.90821492927058770002e-10),
)
EXP = (
    (0.5, 0.1666657703, 0.04166655466, 0.008363173075, 0.001392617612),
    (
        0.5, 0.1666666666666667099, 0.04166666666666666975, 0.008333333333326140884, 0.001388888888888375242,
        0.0001984126987480049198, 0.00002480158732553336382, 2.755725542574643428e-6, 2.755727366134863622e-7,
        2.510520637395701112e-8, 2.09146793765839351e-9,
    ),
)  # fmt: skip
EXP2_MOST = (126.0, 1022.0)
EXP2 = (
    (0.6931471806, 0.2402234904, 0.05550381014, 0.009666368515, 0.001338130254),
    (
        0.6931471805599453094, 0.2402265069591009822, 0.05550410866482159434, 0.009618129107606888527,
        0.001333355814641693531, 0.0001540353044173605015, 0.00001525273382983611839, 1.321544258792168965e-6,
        1.017806244584577352e-7, 7.0725859492692237e-9, 4.454960598186518394e-10,
    ),
)  # fmt: skip
LOG = (
    (0.6666668504, 0.3998878057, 0.2957994939),
    (
        0.6666666666666669686, 0.3999999999989950449, 0.2857142862597548492, 0.2222221113479507986,
        0.1818288912526172208, 0.1533172160055604127, 0.1461644968504340586,
    ),
)  # fmt: skip
FAR = (2.0**60, 2.0**500)  # whose square is a number
TANH_ONE = (9.02, 19.07)
TANH_P = (
    (1.0, 0.1338267948, 0.003497448504, 2.063567639e-5, 1.338410097e-8),
    (
        1.0, 0.1518082690554059058, 0.005975147514710308968, 0.00009361924853294693804, 6.83271863416669241e-7,
        2.441806597337575076e-9, 4.174226575650839618e-12, 3.066975941444822651e-15, 7.424473201791775372e-19,
        2.506167174675689525e-23,
    ),
)  # fmt: skip
TANH_Q = (
    (1.0, 0.4671600072, 0.02588432581, 0.0003288502537, 7.790168657e-7),
    (
        1.0, 0.4851416023887386768, 0.03435568164429128885, 0.0008282201130508199115, 8.755762434919109897e-6,
        4.465115906183018694e-8, 1.111869350256932825e-10, 1.271581561314817549e-13, 5.638689458089588394e-17,
        6.233623256439004679e-21,
    ),
)  # fmt: skip
SIN = (
    (-0.1666666466, 0.008332748271, -0.0001958789088),
    (
        -0.1666666666666666667, 0.008333333333333331492, -0.0001984126984126506495, 2.755731921933916652e-6,
        -2.505210623244757733e-8, 1.605853161898614684e-10, -7.586697117706917985e-13,
    ),
)  # fmt: skip
COS = (
    (0.04166666466, -0.001388830304, 2.454794209e-5),
    (
        0.04166666666666666539, -0.001388888888888739724, 0.00002480158729876568793, -2.755731727172979288e-7,
        2.087614626840319789e-9, -1.138263242552171801e-11,
    ),
)  # fmt: skip
HALF_PI_HI, HALF_PI_LO = (
    (1.57079637050628662109, 1.57079632679489655800),
    (-4.37113900018624283e-8, 6.12323399573676603587e-17),
)
NORMAL_CDF_MAX = (14.5, 39.0)
NORMAL_CDF = (
    (
        0.2711145441, 0.3720027031, 0.2953868923, 0.06423481235, -0.09411919156, -0.04167280893, 0.05334973743,
        0.01603638551, -0.03929211436, -0.00115963494, 0.02195401257,
    ),
    (
        0.2711145447461495345, 0.3720027430526505398, 0.2953867769559728822, 0.06423083416693737675,
        -0.09411713434930171029, -0.04155852108765846277, 0.05337606440763798939, 0.01464019915197052929,
        -0.04002508355632426843, 0.006946501383890649369, 0.02653319153076210691, -0.02193921543303345984,
        -0.00679185738187171468, 0.024234411184933466, -0.01426070538684721714, -0.009518798747243256814,
        0.02374951375782469096, -0.01563882101032751167, -0.01287841563191827453, 0.0333691629312144276,
        -0.006669757108616456073, -0.03028796948206545423, 0.01027390231260661173, 0.01296103205119919064,
    ),
)  # fmt: skip


@jit
def clamp(x: Any, lo: Any, hi: Any) -> Any:
    """x clamped to [lo, hi]; NaN passes."""
    x = select(x < lo, lo, x)
    return select(x > hi, hi, x)


@jit
def absolute(x: Any) -> Any:
    """|x|, with -0 as it is."""
    return select(x < 0.0, -x, x)


@jit
def scale_by_power(x: Any, n: Any) -> Any:
    """x * 2^n for n in twice the exponent's range, rounded once, also into the denormals."""
    half = n >> 1
    x = x * from_bits((half + constant(x, BIAS)) << constant(x, MANTISSA))
    return x * from_bits((n - half + constant(x, BIAS)) << constant(x, MANTISSA))


@jit
def exp(x: Any) -> Any:
    """e^x; 1.1 / 1.1 ulp over the whole range, 0 and infinity beyond it."""
    x = clamp(x, constant(x, EXP_LO), constant(x, EXP_HI))
    rounder = splat(x, constant(x, ROUND))
    shifted = fma(x, 1.44269504088896340736, rounder)
    n = bits(shifted) - bits(rounder)
    whole = shifted - rounder
    r = fma(whole, -constant(x, LN2_HI), x)  # ln2 in two parts keeps r exact
    r = fma(whole, -constant(x, LN2_LO), r)
    p = polynomial(r, constant(x, EXP))
    y = fma(r * r, p, r) + 1.0
    return scale_by_power(y, n)


@jit
def exp2(x: Any) -> Any:
    """2^x for x of normal results, 3.1 / 1 ulp; x is clamped to where that is so."""
    x = clamp(x, -constant(x, EXP2_MOST), constant(x, EXP2_MOST))
    rounder = splat(x, constant(x, ROUND))
    shifted = x + rounder
    f = x - (shifted - rounder)
    return scale_by_power(fma(f, polynomial(f, constant(x, EXP2)), 1.0), bits(shifted) - bits(rounder))


@jit
def log(x: Any) -> Any:
    """log(x) for positive, normal x; 1.5 / 1.5 ulp."""
    # m in [sqrt(1/2), sqrt(2)): subtract the bits of sqrt(1/2) so that the exponent field counts from there
    root = bits(splat(x, 0.70710678118654752440))
    e = (bits(x) - root) >> constant(x, MANTISSA)
    m = from_bits(bits(x) - (e << constant(x, MANTISSA)))
    f = m - 1.0
    s = f / (m + 1.0)
    t = s * s
    # log m = 2 s + s t P(t), and 2 s = f - f s, which keeps the digits of f
    n = number(e)
    tail = fma(n, constant(x, LN2_LO), s * (t * polynomial(t, constant(x, LOG)) - f))
    return fma(n, constant(x, LN2_HI), f + tail)


@jit
def expm1(x: Any) -> Any:
    """e^x - 1 for x of at most 0; 1.2 / 1.2 ulp."""
    x = clamp(x, constant(x, EXP_LO), 0.0)
    rounder = splat(x, constant(x, ROUND))
    shifted = fma(x, 1.44269504088896340736, rounder)
    n = bits(shifted) - bits(rounder)
    whole = shifted - rounder
    r = fma(whole, -constant(x, LN2_HI), x)
    r = fma(whole, -constant(x, LN2_LO), r)
    y = fma(r * r, polynomial(r, constant(x, EXP)), r)  # e^r - 1
    # 2^n y + (2^n - 1)
    return scale_by_power(y, n) + (scale_by_power(splat(x, 1.0), n) - 1.0)


@jit
def log1p(x: Any) -> Any:
    """log(1 + x) for x from 0 to 1; 1.6 / 1.5 ulp."""
    # m = 1 + x, or half of it, below sqrt(2), as in log
    large = x > 0.41421356237309504880
    f = select(large, (x - 1.0) * 0.5, x)
    n = select(large, splat(x, 1.0), 0.0)
    s = f / (f + 2.0)
    t = s * s
    tail = fma(n, constant(x, LN2_LO), s * (t * polynomial(t, constant(x, LOG)) - f))
    return fma(n, constant(x, LN2_HI), f + tail)


@jit
def tanh(x: Any) -> Any:
    """tanh(x) = x P(x^2) / Q(x^2), whose coefficients are all positive; 6 / 7.5 ulp. Beyond TANH_ONE it is 1."""
    one = constant(x, TANH_ONE)
    x = clamp(x, -one, one)
    t = x * x
    return clamp(x * polynomial(t, constant(x, TANH_P)) / polynomial(t, constant(x, TANH_Q)), -1.0, 1.0)


@jit
def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x); 2.5 / 2.5 ulp, in both tails."""
    e = exp(-absolute(x))
    return select(x < 0.0, e, 1.0) / (1.0 + e)


@jit
def normal_cdf(x: Any) -> Any:
    """The cumulative distribution of a standard normal, Phi(x), and its density; 4 / 6 ulp where they are normal numbers."""
    y = clamp(absolute(x), 0.0, constant(x, NORMAL_CDF_MAX))
    square = y * y
    rest = fma(y, y, -square)  # e^(-y^2/2) needs more digits of y^2 than one number holds
    e = exp(square * -0.5) * fma(rest, -0.5, 1.0)
    density = e * 0.39894228040143267794
    t = 1.0 / fma(y, 0.35, 1.0)
    lower = e * (t * polynomial(t - 0.55, constant(x, NORMAL_CDF)))
    return select(x > 0.0, 1.0 - lower, lower), density


@jit
def sincos_turn(quarter: Any, a: Any) -> Any:
    """sin and cos of the angle ``quarter`` quarter turns + a, for |a| <= pi / 4; absolute error 1e-7 / 2e-16."""
    t = a * a
    s = fma(a * t, polynomial(t, constant(a, SIN)), a)
    c = fma(t * t, polynomial(t, constant(a, COS)), fma(t, -0.5, 1.0))
    odd = (quarter & 1) != 0
    swapped_s, swapped_c = select(odd, c, s), select(odd, s, c)
    sine = select((quarter & 2) != 0, -swapped_s, swapped_s)
    cosine = select(((quarter + 1) & 2) != 0, -swapped_c, swapped_c)
    return sine, cosine


@jit
def sincos(x: Any) -> Any:
    """sin and cos of x; absolute error 1.3e-7 / 2e-16 up to |x| = 8, and numbers from -1 to 1 for any other finite x."""
    rounder = splat(x, constant(x, ROUND))
    shifted = fma(x, 0.63661977236758134308, rounder)
    whole = shifted - rounder
    quarter = bits(shifted) & 3  # nearest quarter turn; the bits of rounder end with two zeros
    a = fma(whole, -constant(x, HALF_PI_LO), fma(whole, -constant(x, HALF_PI_HI), x))
    return sincos_turn(quarter, clamp(a, -1.0, 1.0))
