// Holds what core/math.hpp says of its elementary functions: their largest errors over the whole range, NaN and
// infinities, and that every width of vectors, and a plain number, gives the same bits.
// test_math [samples] measures with more samples and prints the largest errors.
#include <algorithm>
#include <cmath>
#include <limits>

#include "check.hpp"
#include "engine/order.hpp"
#include "math_lanes.hpp"

namespace {

using Wide = long double;
constexpr Wide pi = 3.14159265358979323846264338327950288L;

// What math.hpp states: in ulp, for float and double; the last is an absolute error.
struct Stated {
  double exp, exp2, log, expm1, log1p, tanh, sigmoid, normal_cdf, density, sincos;
};
constexpr Stated stated_float{1.1, 3.1, 1.0, 1.2, 1.6, 6, 2.5, 7, 4, 1.3e-7},
    stated_double{1.0, 1.0, 1.0, 1.2, 1.5, 7.5, 2.5, 7.5, 4, 2e-16};

int64_t samples = 1 << 16;
bool report = false;

template <class T>
struct Widths {
  MathTable<T> all[6];
};
Widths<float> widths(float) {
  using namespace penstock;
  return {
      {w16::lanes_float, w32::lanes_float, w64::lanes_float, w16::scalar_float, w32::scalar_float, w64::scalar_float}};
}
Widths<double> widths(double) {
  using namespace penstock;
  return {{w16::lanes_double, w32::lanes_double, w64::lanes_double, w16::scalar_double, w32::scalar_double,
           w64::scalar_double}};
}

// The spacing of T at a number.
template <class T>
Wide spacing(Wide x) {
  using L = std::numeric_limits<T>;
  int exponent;
  std::frexp(std::max(std::fabs(x), static_cast<Wide>(L::min())), &exponent);
  return std::ldexp(Wide{1}, exponent - L::digits);
}

template <class T>
Wide ulps(T got, Wide wanted) {
  if (std::isinf(got)) {  // right if the true value rounds to it; an overflow one spacing early counts as one
    const Wide top = std::numeric_limits<T>::max();
    return std::signbit(got) == std::signbit(wanted) ? std::max(Wide{0}, (top - std::fabs(wanted)) / spacing<T>(top))
                                                     : 1e30L;
  }
  return std::fabs(static_cast<Wide>(got) - wanted) / spacing<T>(wanted);
}

// Inputs: numbers evenly in [lo, hi], and of every size that occurs there.
template <class T>
std::vector<T> inputs(double lo, double hi) {
  Random random{42};
  std::vector<T> x;
  for (int64_t i = 0; i < samples; i++) {
    x.push_back(static_cast<T>(random.uniform(lo, hi)));
    const double e = random.uniform(std::numeric_limits<T>::min_exponent, 10);
    const double magnitude = std::exp2(std::min(e, std::log2(std::max(std::fabs(lo), std::fabs(hi)))));
    x.push_back(static_cast<T>(lo < 0 && random() % 2 == 0 ? std::max(-magnitude, lo) : std::min(magnitude, hi)));
  }
  return x;
}

// The widths agree to the bit; what the first one gave.
template <class T>
std::vector<T> agreed(ArrayFunction<T> MathTable<T>::*function, const std::vector<T> &x, std::vector<T> &second) {
  std::vector<T> first;
  uint64_t wanted = 0;
  const Widths<T> tables = widths(T{});
  for (const MathTable<T> &table : tables.all) {
    std::vector<T> out(x.size()), other(x.size());
    (table.*function)(x.data(), out.data(), other.data(), static_cast<int64_t>(x.size()));
    const uint64_t both = hash(out) ^ hash(other) * 3;
    if (first.empty()) {
      first = out;
      second = other;
      wanted = both;
    }
    CHECK(both == wanted);
  }
  return first;
}

template <class T>
void within(const char *name, Wide worst, double bound, double at) {
  if (report) {
    std::printf("%-12s %zu bytes: %.3Lf (stated %.3g) at %.17g\n", name, sizeof(T), worst, bound, at);
    return;
  }
  if (!(worst <= static_cast<Wide>(bound))) {
    std::fprintf(stderr, "%s of %zu bytes: %.3Lf, stated %.3g, at %.17g\n", name, sizeof(T), worst, bound, at);
    std::exit(1);
  }
}

template <class T, class Reference>
void compare(const char *name, const std::vector<T> &x, const std::vector<T> &got, Reference reference, double bound,
             bool normal_only = false) {
  Wide worst = 0;
  double at = 0;
  for (size_t i = 0; i < x.size(); i++) {
    const Wide wanted = reference(static_cast<Wide>(x[i]));
    if (normal_only && std::fabs(wanted) < std::numeric_limits<T>::min()) {
      CHECK(std::fabs(got[i]) <= 2 * std::numeric_limits<T>::min());
      continue;
    }
    if (const Wide error = ulps(got[i], wanted); !(error <= worst)) {
      worst = error;
      at = static_cast<double>(x[i]);
    }
  }
  within<T>(name, worst, bound, at);
}

// Phi and its density with the digits that squares and quotients of long doubles drop.
Wide density(Wide x) {
  const Wide square = x * x, rest = std::fma(x, x, -square);
  return std::exp(-square / 2) * (1 - rest / 2) / std::sqrt(2 * pi);
}
Wide normal(Wide x) {
  const Wide root = 1.41421356237309504880168872420969807857L;
  const Wide root_rest = std::fma(-root, root, Wide{2}) / (2 * root);  // sqrt(2) = root + root_rest
  const Wide z = -x / root;
  const Wide dz = (-std::fma(z, root, x) - z * root_rest) / root;
  return (std::erfc(z) - 2 / std::sqrt(pi) * std::exp(-z * z) * dz) / 2;
}

template <class T>
void limits(ArrayFunction<T> MathTable<T>::*function, Wide at_minus_infinity, Wide at_infinity,
            bool of_second = false) {
  const T infinity = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN();
  std::vector<T> x(16, T{1}), second;
  x[0] = -infinity;
  x[1] = infinity;
  x[2] = nan;
  x[3] = -nan;
  x[4] = -std::numeric_limits<T>::max();
  x[5] = std::numeric_limits<T>::max();
  const std::vector<T> first = agreed<T>(function, x, second);
  const std::vector<T> &y = of_second ? second : first;
  CHECK(y[0] == at_minus_infinity && y[4] == at_minus_infinity);
  CHECK(y[1] == at_infinity && y[5] == at_infinity);
  CHECK(std::isnan(y[2]) && std::isnan(y[3]));
  for (size_t i = 6; i < 16; i++) {
    CHECK(std::isfinite(y[i]));  // a lane is none of its neighbour's business
  }
}

// Where the parts of a counter lie, up to their largest: draws and context rows below 2^32 have always lain there.
template <class T>
void words_of_counters() {
  constexpr int64_t n = 64;
  Random random{11};
  std::vector<uint64_t> draws(n), contexts(n);
  for (int64_t i = 0; i < n; i++) {
    draws[i] = random() >> (i % 2 == 0 ? 8 : 32);
    contexts[i] = random() >> (i % 3 == 0 ? 24 : 32);
  }
  draws[0] = (uint64_t{1} << 56) - 1;
  contexts[0] = (uint64_t{1} << 40) - 1;
  for (const uint32_t block : {0u, 7u, 0xFFFFFFu}) {
    for (const uint32_t stream : {0u, 3u, 255u}) {
      for (const MathTable<T> &table : widths(T{}).all) {
        std::vector<uint32_t> out(4 * n);
        table.words(0xFEDCBA9876543210u, contexts.data(), draws.data(), block, stream, n, out.data());
        for (int64_t i = 0; i < n; i++) {
          const uint32_t counter[4] = {static_cast<uint32_t>(draws[i]), static_cast<uint32_t>(contexts[i]),
                                       block | static_cast<uint32_t>(contexts[i] >> 32) << 24,
                                       stream | static_cast<uint32_t>(draws[i] >> 32) << 8};
          uint32_t wanted[4];
          penstock::philox(0xFEDCBA9876543210u, counter, wanted);
          for (int w = 0; w < 4; w++) {
            CHECK(out[w * n + i] == wanted[w]);
          }
        }
      }
    }
  }
}

template <class T>
void test() {
  using M = MathTable<T>;
  constexpr bool single = sizeof(T) == 4;
  constexpr Stated stated = single ? stated_float : stated_double;
  std::vector<T> second;

  std::vector<T> x = inputs<T>(single ? -106 : -748, single ? 90 : 712);
  compare<T>("exp", x, agreed<T>(&M::exp, x, second), [](Wide v) { return std::exp(v); }, stated.exp);
  limits<T>(&M::exp, 0, std::numeric_limits<Wide>::infinity());

  const T most = std::numeric_limits<T>::max_exponent - 2;
  x = inputs<T>(-most, most);
  compare<T>("exp2", x, agreed<T>(&M::exp2, x, second), [](Wide v) { return std::exp2(v); }, stated.exp2);
  limits<T>(&M::exp2, std::exp2(-static_cast<Wide>(most)), std::exp2(static_cast<Wide>(most)));

  x.clear();
  Random random{7};
  for (int64_t i = 0; i < samples; i++) {
    const double e =
        random.uniform(std::numeric_limits<T>::min_exponent - 1, std::numeric_limits<T>::max_exponent - 0.01);
    x.push_back(std::max(static_cast<T>(std::exp2(e)), std::numeric_limits<T>::min()));
    x.push_back(static_cast<T>(random.uniform(0.4, 2.5)));
    x.push_back(static_cast<T>(1 + std::ldexp(random.uniform(-1, 1), -static_cast<int>(random() % 24))));
    x.push_back(std::max(static_cast<T>(random.uniform(0, 1)), std::numeric_limits<T>::min()));
  }
  compare<T>("log", x, agreed<T>(&M::log, x, second), [](Wide v) { return std::log(v); }, stated.log);

  x = inputs<T>(single ? -106 : -748, 0);
  for (int64_t i = 0; i < samples; i++) {
    x.push_back(static_cast<T>(random.uniform(-3, 0)));
  }
  compare<T>("expm1", x, agreed<T>(&M::expm1, x, second), [](Wide v) { return std::expm1(v); }, stated.expm1);
  limits<T>(&M::expm1, -1, 0);

  x = inputs<T>(0, 1);
  for (T &v : x) {
    v = std::fabs(v);
  }
  compare<T>("log1p", x, agreed<T>(&M::log1p, x, second), [](Wide v) { return std::log1p(v); }, stated.log1p);

  x = inputs<T>(-20, 20);
  for (int64_t i = 0; i < samples; i++) {
    x.push_back(static_cast<T>(random.uniform(-1, 1)));
  }
  compare<T>("tanh", x, agreed<T>(&M::tanh, x, second), [](Wide v) { return std::tanh(v); }, stated.tanh);
  limits<T>(&M::tanh, -1, 1);

  x = inputs<T>(single ? -105 : -747, single ? 105 : 747);
  for (int64_t i = 0; i < samples; i++) {
    x.push_back(static_cast<T>(random.uniform(-8, 8)));
  }
  compare<T>(
      "sigmoid", x, agreed<T>(&M::sigmoid, x, second), [](Wide v) { return 1 / (1 + std::exp(-v)); }, stated.sigmoid);
  limits<T>(&M::sigmoid, 0, 1);

  x = inputs<T>(single ? -15 : -40, single ? 15 : 40);
  for (int64_t i = 0; i < samples; i++) {
    x.push_back(static_cast<T>(random.uniform(-4, 4)));
  }
  compare<T>("normal_cdf", x, agreed<T>(&M::normal_cdf, x, second), normal, stated.normal_cdf, true);
  compare<T>("density", x, second, density, stated.density, true);
  limits<T>(&M::normal_cdf, 0, 1);
  limits<T>(&M::normal_cdf, 0, 0, true);

  // words, all quarters of the turn and their borders
  x.clear();
  std::vector<uint32_t> words;
  for (int64_t i = 0; i < samples; i++) {
    words.push_back(i % 2 == 0 ? static_cast<uint32_t>(random())
                               : static_cast<uint32_t>(random() % 8 << 29) + static_cast<uint32_t>(random() % 33) - 16);
  }
  for (const uint32_t word : words) {
    T number;
    if constexpr (single) {
      std::memcpy(&number, &word, 4);
    } else {
      const uint64_t wide = word;
      std::memcpy(&number, &wide, 8);
    }
    x.push_back(number);
  }
  const std::vector<T> sine = agreed<T>(&M::sincos_turn, x, second);
  Wide worst = 0;
  double at = 0;
  for (size_t i = 0; i < words.size(); i++) {
    const Wide angle = 2 * pi * words[i] / 4294967296.0L;
    const Wide error = std::max(std::fabs(sine[i] - std::sin(angle)), std::fabs(second[i] - std::cos(angle)));
    if (!(error <= worst)) {
      worst = error;
      at = words[i];
    }
  }
  const double unit = single ? 1e-7 : 1e-16;
  within<T>("turn/unit", worst / unit, stated.sincos / unit, at);

  // angles, and the places where the nearest quarter turn changes
  x = inputs<T>(-8, 8);
  for (int64_t i = 0; i < samples; i++) {
    x.push_back(static_cast<T>(random.uniform(-3.2, 3.2)));
    x.push_back(static_cast<T>(static_cast<double>(random() % 9) * 0.78539816339744831 - 3.1415926535897932));
    x.back() = std::nextafter(x.back(), static_cast<T>(random() % 2 == 0 ? -9 : 9));
  }
  const std::vector<T> sines = agreed<T>(&M::sincos, x, second);
  worst = 0;
  for (size_t i = 0; i < x.size(); i++) {
    const Wide angle = static_cast<Wide>(x[i]);
    const Wide error = std::max(std::fabs(sines[i] - std::sin(angle)), std::fabs(second[i] - std::cos(angle)));
    if (!(error <= worst)) {
      worst = error;
      at = static_cast<double>(x[i]);
    }
  }
  within<T>("sincos/unit", worst / unit, stated.sincos / unit, at);
  x.clear();
  for (int64_t i = 0; i < samples; i++) {
    const double e = random.uniform(0, std::numeric_limits<T>::max_exponent - 0.01);
    x.push_back(static_cast<T>(i % 2 == 0 ? std::exp2(e) : -std::exp2(e)));
  }
  const std::vector<T> far = agreed<T>(&M::sincos, x, second);
  for (size_t i = 0; i < x.size(); i++) {
    CHECK(std::fabs(far[i]) <= 1 && std::fabs(second[i]) <= 1);
  }

  // draws do not depend on the width either, and look like draws
  constexpr int64_t n = 4096;
  std::vector<T> zero(n), none(n), draws(6 * n);
  uint64_t wanted = 0;
  const Widths<T> tables = widths(T{});
  for (int i = 0; i < 6; i++) {
    tables.all[i].normals(zero.data(), draws.data(), none.data(), n);
    CHECK(i == 0 || hash(draws) == wanted);
    wanted = hash(draws);
  }
  std::vector<T> even(6 * n);
  for (int i = 0; i < 6; i++) {
    std::fill(even.begin(), even.end(), T{2});
    tables.all[i].uniforms(zero.data(), even.data(), none.data(), n);
    CHECK(i == 0 || hash(even) == wanted);
    wanted = hash(even);
  }
  double mean = 0, power = 0;
  for (size_t i = 0; i < even.size(); i++) {
    const double u = static_cast<double>(even[i]);
    const bool drawn = i / n != 0 && i / n != 4;
    CHECK(drawn ? u > -1 && u < 1 : u == 2);
    mean += drawn ? u : 0;
    power += drawn ? u * u : 0;
  }
  CHECK(std::fabs(mean / (4 * n)) < 0.02 && std::fabs(power / (4 * n) - 1.0 / 3) < 0.01);
  words_of_counters<T>();

  double sum = 0, square = 0;
  for (const T z : draws) {
    sum += static_cast<double>(z);
    square += static_cast<double>(z) * static_cast<double>(z);
  }
  CHECK(std::fabs(sum / (6 * n)) < 0.03 && std::fabs(square / (6 * n) - 1) < 0.05);
}

}  // namespace

int main(int argc, char **argv) {
  if (argc > 1) {
    samples = std::max(16LL, std::atoll(argv[1]) / 16 * 16);
    report = true;
  }
  test<float>();
  test<double>();
  return 0;
}
