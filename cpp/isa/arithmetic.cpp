// Known numbers from every instruction set: see arithmetic.hpp. What -ffast-math and its like change: the order of sums, products
// that fuse with sums, divisions and roots by estimates, NaN and infinities that are taken for absent, denormals.
#include "isa/arithmetic.hpp"

#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

#include "engine/floating_point.hpp"
#include "isa/dispatch.hpp"

namespace penstock {
namespace {

constexpr int n = 37;  // whole vectors, and a rest, at every width

// FNV-1a over the bits of numbers; every NaN counts as the same one.
template <class T>
uint64_t hash(const T *numbers, int count) {
  uint64_t value = 0xCBF29CE484222325u;
  for (int i = 0; i < count; i++) {
    unsigned char bytes[sizeof(T)] = {0xFF};
    if (!std::isnan(numbers[i])) {
      std::memcpy(bytes, numbers + i, sizeof(T));
    }
    for (const unsigned char byte : bytes) {
      value = (value ^ byte) * 0x100000001B3u;
    }
  }
  return value;
}

// Numbers of many sizes and both signs, of 24 bits.
double number(int i) { return std::ldexp((i * 2654435761u % 16777216) / 16777216.0 - 0.4, i * 7 % 23 - 11); }

// Sums whose order shows, of denormals, of an infinity, of NaN.
uint64_t sums(const Kernels<double> &kernel) {
  double x[n], small[n], results[4];
  for (int i = 0; i < n; i++) {
    x[i] = number(i);
    small[i] = std::numeric_limits<double>::denorm_min() * (i + 1);
  }
  results[0] = kernel.sum_rows(x, n);
  results[1] = kernel.sum_rows(small, n);
  x[3] = std::numeric_limits<double>::infinity();
  results[2] = kernel.sum_rows(x, n);
  x[4] = std::numeric_limits<double>::quiet_NaN();
  results[3] = kernel.sum_rows(x, n);
  return hash(results, 4);
}

// Squares and a step of Adam: products beside sums, a root and a division; one gradient is NaN, and its neighbours are not.
template <class T>
uint64_t step(const Kernels<T> &kernel) {
  AdamSettings settings{};
  settings.learning_rate = 0.003;
  settings.beta1 = 0.9;
  settings.beta2 = 0.999;
  settings.epsilon = 1e-8;
  settings.correction1 = 0.1;
  settings.correction2 = 0.001;
  T gradient[n], numbers[3 * n];
  for (int i = 0; i < n; i++) {
    gradient[i] = static_cast<T>(number(i + 50));
    numbers[i] = static_cast<T>(number(i + 100));
    numbers[n + i] = static_cast<T>(number(i + 150));
    numbers[2 * n + i] = static_cast<T>(std::fabs(number(i + 200)));
  }
  const double squares = kernel.sum_squares(gradient, n, 0.7);
  gradient[5] = std::numeric_limits<T>::quiet_NaN();
  kernel.adam(settings, false, n, gradient, 0.37, numbers, numbers + n, numbers + 2 * n);
  return hash(numbers, 3 * n) ^ hash(&squares, 1);
}

void expect(const InstructionSet &set, const char *what, uint64_t got, uint64_t wanted) {
  if (got != wanted) {
    throw std::runtime_error(
        "this build of penstock computes wrong numbers (" + set.name + ", " + what +
        "): a compiler's flag changed the arithmetic; build it without CFLAGS, CXXFLAGS and LDFLAGS");
  }
}

}  // namespace

void check_arithmetic() {
  const DefaultFloatingPoint environment;
  for (const InstructionSet &set : instruction_sets()) {
    expect(set, "sums", sums(*set.double_kernels), 0xC439E9B87F90328Du);
    expect(set, "a step in float32", step(*set.float_kernels), 0xAAA4AEA7AB01719Cu);
    expect(set, "a step in float64", step(*set.double_kernels), 0x63DDA208BACA8373u);
  }
}

}  // namespace penstock
