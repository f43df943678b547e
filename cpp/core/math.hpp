// Elementary functions on the lane type: only +, -, *, /, fma, sqrt, select and integer shifts, so that every
// instruction set gives the same bits. Each states its largest error in ulp (float / double), held by
// tests/cpp/test_math.cpp; coefficients come from coefficients.py. No errno, no traps, NaN passes.
#pragma once

#include "core/lanes.hpp"

namespace penstock::PENSTOCK_ISA {

// x clamped to [lo, hi]; NaN passes.
template <class V>
PENSTOCK_INLINE V clamp(V x, Element<V> lo, Element<V> hi) {
  x = select(splat<V>(lo) > x, splat<V>(lo), x);  // in this order they are one instruction each
  return select(splat<V>(hi) < x, splat<V>(hi), x);
}

template <class V>
PENSTOCK_INLINE V absolute(V x) {
  return from_bits<V>(bits<V>(x) & ~bits<V>(splat<V>(Element<V>{-0.0F})));
}

// Coefficients, from the constant term up. Functions return them by value, since device code has no static arrays.
template <class T, int N>
struct Coefficients {
  T c[N];
};

// c[0] + c[1] x + ... by Horner's rule.
template <class V, int N>
PENSTOCK_INLINE V polynomial(V x, const Coefficients<Element<V>, N> &of) {
  V p = splat<V>(of.c[N - 1]);
  PENSTOCK_UNROLL(32)
  for (int i = N - 2; i >= 0; i--) {
    p = fma<V>(p, x, splat<V>(of.c[i]));
  }
  return p;
}

template <class T>
struct Constants;

template <>
struct Constants<float> {
  static constexpr float exp_lo = -104.0F, exp_hi = 89.0F, round = 12582912.0F;  // round: 1.5 * 2^23
  static constexpr float ln2_hi = 0.693145751953125F, ln2_lo = 1.42860682030941723212e-6F;
  PENSTOCK_INLINE static constexpr Coefficients<float, 5> exp() {
    return {{0.5F, 0.1666657703F, 0.04166655466F, 0.008363173075F, 0.001392617612F}};
  }
  PENSTOCK_INLINE static constexpr Coefficients<float, 5> exp2() {
    return {{0.6931471806F, 0.2402234904F, 0.05550381014F, 0.009666368515F, 0.001338130254F}};
  }
  PENSTOCK_INLINE static constexpr Coefficients<float, 3> log() {
    return {{0.6666668504F, 0.3998878057F, 0.2957994939F}};
  }
  static constexpr float tanh_one = 9.02F;
  PENSTOCK_INLINE static constexpr Coefficients<float, 5> tanh_p() {
    return {{1.0F, 0.1338267948F, 0.003497448504F, 2.063567639e-5F, 1.338410097e-8F}};
  }
  PENSTOCK_INLINE static constexpr Coefficients<float, 5> tanh_q() {
    return {{1.0F, 0.4671600072F, 0.02588432581F, 0.0003288502537F, 7.790168657e-7F}};
  }
  PENSTOCK_INLINE static constexpr Coefficients<float, 3> sin() {
    return {{-0.1666666466F, 0.008332748271F, -0.0001958789088F}};
  }
  PENSTOCK_INLINE static constexpr Coefficients<float, 3> cos() {
    return {{0.04166666466F, -0.001388830304F, 2.454794209e-5F}};
  }
  static constexpr float normal_cdf_max = 14.5F;
  PENSTOCK_INLINE static constexpr Coefficients<float, 11> normal_cdf() {
    return {{0.2711145441F, 0.3720027031F, 0.2953868923F, 0.06423481235F, -0.09411919156F, -0.04167280893F,
             0.05334973743F, 0.01603638551F, -0.03929211436F, -0.00115963494F, 0.02195401257F}};
  }
};

template <>
struct Constants<double> {
  static constexpr double exp_lo = -746.0, exp_hi = 710.0, round = 6755399441055744.0;  // round: 1.5 * 2^52
  static constexpr double ln2_hi = 6.93147180369123816490e-01, ln2_lo = 1.90821492927058770002e-10;
  PENSTOCK_INLINE static constexpr Coefficients<double, 11> exp() {
    return {{0.5, 0.1666666666666667099, 0.04166666666666666975, 0.008333333333326140884, 0.001388888888888375242,
             0.0001984126987480049198, 0.00002480158732553336382, 2.755725542574643428e-6, 2.755727366134863622e-7,
             2.510520637395701112e-8, 2.09146793765839351e-9}};
  }
  PENSTOCK_INLINE static constexpr Coefficients<double, 11> exp2() {
    return {{0.6931471805599453094, 0.2402265069591009822, 0.05550410866482159434, 0.009618129107606888527,
             0.001333355814641693531, 0.0001540353044173605015, 0.00001525273382983611839, 1.321544258792168965e-6,
             1.017806244584577352e-7, 7.0725859492692237e-9, 4.454960598186518394e-10}};
  }
  PENSTOCK_INLINE static constexpr Coefficients<double, 7> log() {
    return {{0.6666666666666669686, 0.3999999999989950449, 0.2857142862597548492, 0.2222221113479507986,
             0.1818288912526172208, 0.1533172160055604127, 0.1461644968504340586}};
  }
  static constexpr double tanh_one = 19.07;
  PENSTOCK_INLINE static constexpr Coefficients<double, 10> tanh_p() {
    return {{1.0, 0.1518082690554059058, 0.005975147514710308968, 0.00009361924853294693804, 6.83271863416669241e-7,
             2.441806597337575076e-9, 4.174226575650839618e-12, 3.066975941444822651e-15, 7.424473201791775372e-19,
             2.506167174675689525e-23}};
  }
  PENSTOCK_INLINE static constexpr Coefficients<double, 10> tanh_q() {
    return {{1.0, 0.4851416023887386768, 0.03435568164429128885, 0.0008282201130508199115, 8.755762434919109897e-6,
             4.465115906183018694e-8, 1.111869350256932825e-10, 1.271581561314817549e-13, 5.638689458089588394e-17,
             6.233623256439004679e-21}};
  }
  PENSTOCK_INLINE static constexpr Coefficients<double, 7> sin() {
    return {{-0.1666666666666666667, 0.008333333333333331492, -0.0001984126984126506495, 2.755731921933916652e-6,
             -2.505210623244757733e-8, 1.605853161898614684e-10, -7.586697117706917985e-13}};
  }
  PENSTOCK_INLINE static constexpr Coefficients<double, 6> cos() {
    return {{0.04166666666666666539, -0.001388888888888739724, 0.00002480158729876568793, -2.755731727172979288e-7,
             2.087614626840319789e-9, -1.138263242552171801e-11}};
  }
  static constexpr double normal_cdf_max = 39.0;
  PENSTOCK_INLINE static constexpr Coefficients<double, 24> normal_cdf() {
    return {{0.2711145447461495345,    0.3720027430526505398,   0.2953867769559728822,   0.06423083416693737675,
             -0.09411713434930171029,  -0.04155852108765846277, 0.05337606440763798939,  0.01464019915197052929,
             -0.04002508355632426843,  0.006946501383890649369, 0.02653319153076210691,  -0.02193921543303345984,
             -0.00679185738187171468,  0.024234411184933466,    -0.01426070538684721714, -0.009518798747243256814,
             0.02374951375782469096,   -0.01563882101032751167, -0.01287841563191827453, 0.0333691629312144276,
             -0.006669757108616456073, -0.03028796948206545423, 0.01027390231260661173,  0.01296103205119919064}};
  }
};

// x * 2^n for n in twice the exponent's range, rounded once, also into the denormals; shifted is n + Constants::round.
template <class V>
PENSTOCK_INLINE V scale_by_power(V x, V shifted) {
  using I = IntegerOf<Element<V>>;
  const V round = splat<V>(Constants<Element<V>>::round);
  if constexpr (scales_natively<V>) {
    return scale_by_power_native(x, shifted - round);
  }
  const Bits<V> n = bits<V>(shifted) - bits<V>(round), half = n >> 1;
  x = x * from_bits<V>((half + I::bias) << I::mantissa);
  return x * from_bits<V>((n - half + I::bias) << I::mantissa);
}

// e^x; 1.1 / 1.0 ulp over the whole range, 0 and infinity beyond it.
template <class V>
PENSTOCK_INLINE V exp(V x) {
  using C = Constants<Element<V>>;
  using T = Element<V>;
  x = clamp(x, C::exp_lo, C::exp_hi);
  const V shifted = fma<V>(x, splat<V>(static_cast<T>(1.44269504088896340736)), splat<V>(C::round));
  const V whole = shifted - splat<V>(C::round);
  V r = fma<V>(whole, splat<V>(-C::ln2_hi), x);  // ln2 in two parts keeps r exact
  r = fma<V>(whole, splat<V>(-C::ln2_lo), r);
  const V p = polynomial(r, C::exp());
  const V y = fma<V>(r * r, p, r) + splat<V>(1);
  return scale_by_power<V>(y, shifted);
}

// 2^x for x of normal results, 3.1 / 1 ulp; x is clamped to where that is so.
template <class V>
PENSTOCK_INLINE V exp2(V x) {
  using T = Element<V>;
  using C = Constants<T>;
  constexpr T most = IntegerOf<T>::bias - 1;
  x = clamp(x, -most, most);
  const V shifted = x + splat<V>(C::round), whole = shifted - splat<V>(C::round), f = x - whole;
  return scale_by_power<V>(fma<V>(f, polynomial(f, C::exp2()), splat<V>(1)), shifted);
}

// log(x) for positive, normal x; 1.0 / 1.0 ulp.
template <class V>
PENSTOCK_INLINE V log(V x) {
  using T = Element<V>;
  using C = Constants<T>;
  using I = IntegerOf<T>;
  // m in [sqrt(1/2), sqrt(2)): subtract the bits of sqrt(1/2) so that the exponent field counts from there
  const Bits<V> root = bits<V>(splat<V>(static_cast<T>(0.70710678118654752440)));
  const Bits<V> e = (bits<V>(x) - root) >> I::mantissa;
  const V m = from_bits<V>(bits<V>(x) - (e << I::mantissa));
  const V f = m - splat<V>(1);
  const V s = f / (m + splat<V>(1));
  const V t = s * s;
  // log m = 2 s + s t P(t), and 2 s = f - f s, which keeps the digits of f
  const V n = number<V>(e);
  const V tail = fma<V>(n, splat<V>(C::ln2_lo), s * (t * polynomial(t, C::log()) - f));
  return fma<V>(n, splat<V>(C::ln2_hi), f + tail);
}

// e^x - 1 for x of at most 0; 1.2 / 1.2 ulp.
template <class V>
PENSTOCK_INLINE V expm1(V x) {
  using C = Constants<Element<V>>;
  using T = Element<V>;
  x = clamp(x, C::exp_lo, 0);
  const V shifted = fma<V>(x, splat<V>(static_cast<T>(1.44269504088896340736)), splat<V>(C::round));
  const V whole = shifted - splat<V>(C::round);
  V r = fma<V>(whole, splat<V>(-C::ln2_hi), x);
  r = fma<V>(whole, splat<V>(-C::ln2_lo), r);
  const V y = fma<V>(r * r, polynomial(r, C::exp()), r);  // e^r - 1
  // 2^n y + (2^n - 1)
  return scale_by_power<V>(y, shifted) + (scale_by_power<V>(splat<V>(1), shifted) - splat<V>(1));
}

// log(1 + x) for x from 0 to 1; 1.6 / 1.5 ulp.
template <class V>
PENSTOCK_INLINE V log1p(V x) {
  using T = Element<V>;
  using C = Constants<T>;
  // m = 1 + x, or half of it, below sqrt(2), as in log
  const auto large = x > splat<V>(static_cast<T>(0.41421356237309504880));
  const V f = select(large, (x - splat<V>(1)) * splat<V>(static_cast<T>(0.5)), x);
  const V n = select(large, splat<V>(1), V{});
  const V s = f / (f + splat<V>(2));
  const V t = s * s;
  const V tail = fma<V>(n, splat<V>(C::ln2_lo), s * (t * polynomial(t, C::log()) - f));
  return fma<V>(n, splat<V>(C::ln2_hi), f + tail);
}

// tanh(x) = x P(x^2) / Q(x^2), whose coefficients are all positive; 6 / 7.5 ulp. Beyond tanh_one it is 1.
template <class V>
PENSTOCK_INLINE V tanh(V x) {
  using C = Constants<Element<V>>;
  x = clamp(x, -C::tanh_one, C::tanh_one);
  const V t = x * x;
  return clamp(x * polynomial(t, C::tanh_p()) / polynomial(t, C::tanh_q()), -1, 1);
}

// 1 / (1 + e^-x); 2.5 / 2.5 ulp, in both tails.
template <class V>
PENSTOCK_INLINE V sigmoid(V x) {
  const V e = exp<V>(-absolute(x));
  return select(x < V{}, e, splat<V>(1)) / (splat<V>(1) + e);
}

// The cumulative distribution of a standard normal, Phi(x), 7 / 7.5 ulp, and its density, 4 / 4 ulp, where they
// are normal numbers.
template <class V>
PENSTOCK_INLINE V normal_cdf(V x, V &density) {
  using T = Element<V>;
  using C = Constants<T>;
  const V y = clamp(absolute(x), static_cast<T>(0), C::normal_cdf_max);
  const V square = y * y;
  const V rest = fma<V>(y, y, -square);  // e^(-y^2/2) needs more digits of y^2 than one number holds
  const V e =
      exp<V>(square * splat<V>(static_cast<T>(-0.5))) * fma<V>(rest, splat<V>(static_cast<T>(-0.5)), splat<V>(1));
  density = e * splat<V>(static_cast<T>(0.39894228040143267794));
  const V t = splat<V>(1) / fma<V>(y, splat<V>(static_cast<T>(0.35)), splat<V>(1));
  const V lower = e * (t * polynomial(t - splat<V>(static_cast<T>(0.55)), C::normal_cdf()));
  return select(x > V{}, splat<V>(1) - lower, lower);
}

// The low 32 bits of each lane as a signed number.
template <class V>
PENSTOCK_INLINE Bits<V> sign_extended(Bits<V> word) {
  if constexpr (sizeof(Element<V>) == 4) {
    return word;
  } else {
    return (word << 32) >> 32;
  }
}

// sin and cos of an angle of at most an eighth of a turn, and some quarters of a turn.
template <class V>
PENSTOCK_INLINE void sincos_after(Bits<V> quarter, V a, V &sine, V &cosine) {
  using T = Element<V>;
  using C = Constants<T>;
  const V t = a * a;
  const V s = fma<V>(a * t, polynomial(t, C::sin()), a);
  const V c = fma<V>(t * t, polynomial(t, C::cos()), fma<V>(t, splat<V>(static_cast<T>(-0.5)), splat<V>(1)));
  const V swapped_s = select((quarter & 1) != 0, c, s), swapped_c = select((quarter & 1) != 0, s, c);
  sine = select((quarter & 2) != 0, -swapped_s, swapped_s);
  cosine = select(((quarter + 1) & 2) != 0, -swapped_c, swapped_c);
}

// sin and cos of 2 pi w / 2^32 for a 32-bit word w held in lanes of integers; absolute error 1.3e-7 / 2e-16.
template <class V>
PENSTOCK_INLINE void sincos_turn(Bits<V> word, V &sine, V &cosine) {
  using T = Element<V>;
  const Bits<V> quarter = (wrapping_sum<V>(word, Bits<V>{} + (1 << 29)) >> 30) & 3;  // nearest quarter turn
  // the rest of the angle as a signed 32-bit number
  const Bits<V> rest = sign_extended<V>(wrapping_difference<V>(word, quarter << 30));
  sincos_after<V>(quarter, number<V>(rest) * splat<V>(static_cast<T>(6.28318530717958647692 / 4294967296.0)), sine,
                  cosine);
}

// sin and cos of x; absolute error 1.3e-7 / 2e-16 up to |x| = 8, and numbers from -1 to 1 for any other finite x.
template <class V>
PENSTOCK_INLINE void sincos(V x, V &sine, V &cosine) {
  using T = Element<V>;
  using C = Constants<T>;
  const V shifted = fma<V>(x, splat<V>(static_cast<T>(0.63661977236758134308)), splat<V>(C::round));
  const V whole = shifted - splat<V>(C::round);
  const Bits<V> quarter = bits<V>(shifted) & 3;  // nearest quarter turn; the bits of round end with two zeros
  constexpr T high = static_cast<T>(1.57079632679489661923);
  constexpr T low = sizeof(T) == 4 ? static_cast<T>(-4.37113900018624283e-8) : static_cast<T>(6.12323399573676604e-17);
  const V a = fma<V>(whole, splat<V>(-low), fma<V>(whole, splat<V>(-high), x));
  sincos_after<V>(quarter, clamp(a, -1, 1), sine, cosine);
}

}  // namespace penstock::PENSTOCK_ISA
