// Transforms as a thread of a device has them: a plain number a row, and the powers of a spline in theta's own place. The
// bits are those of any other width, and of powers in an array; built without -fwrapv, for the sanitizers to see overflows.
#include "check.hpp"
#include "core/philox.hpp"
#include "core/plan.hpp"
#include "transforms/list.hpp"

using namespace penstock::PENSTOCK_ISA;

namespace {

// Number i of theta of some rows, one or as many as a vector has lanes.
template <class V>
struct Read {
  const Element<V> *p;
  int stride;
  V operator()(int i) const { return load<V>(p + i * stride); }
};
template <class V>
struct InPlace {
  Element<V> *p;
  int stride;
  V operator()(int i) const { return load<V>(p + i * stride); }
  V kept(int i) const { return load<V>(p + i * stride); }
  void put(int i, V v) const { store(p + i * stride, v); }
};
template <class V>
struct Write {
  Element<V> *p;
  int stride;
  void operator()(int i, V v) const { store(p + i * stride, v); }
};

constexpr int rows = 64, most_theta = 256;

// Everything that a transform gives for `rows` rows, with theta (n_theta, rows).
template <class Transform, class V, template <class> class Theta>
std::vector<Element<V>> all(const std::vector<Element<V>> &x, const std::vector<Element<V>> &numbers,
                            const Element<V> *options) {
  using T = Element<V>;
  std::vector<T> out(7 * rows + most_theta * rows);
  for (int r = 0; r < rows; r += lanes<V>) {
    const V in = load<V>(x.data() + r), d_out = load<V>(x.data() + (r + rows / 2) % rows);
    V y{}, log_det{}, slope{}, back{}, log_det_back{}, d_in{};
    std::vector<T> theta = numbers;
    Transform::template forward<V>(in, Theta<V>{theta.data() + r, rows}, options, y, log_det, slope);
    theta = numbers;
    Transform::template inverse<V>(in, Theta<V>{theta.data() + r, rows}, options, back, log_det_back);
    theta = numbers;
    Transform::template backward<V>(in, Theta<V>{theta.data() + r, rows}, options, d_out, d_out * d_out, d_in,
                                    Write<V>{out.data() + 7 * rows + r, rows});
    T *to = out.data() + r;
    for (const V &v : {y, log_det, slope, back, log_det_back, d_in}) {
      store(to, v);
      to += rows;
    }
  }
  return out;
}

template <class Transform, class T>
void compare(int n_theta, const T *options) {
  Random random{static_cast<uint64_t>(n_theta)};
  std::vector<T> x(rows), numbers(static_cast<size_t>(n_theta) * rows);
  for (T &v : x) {
    v = static_cast<T>(random.uniform(-4, 4));
  }
  for (T &v : numbers) {
    v = static_cast<T>(random.uniform(-3, 3));
  }
  const uint64_t wanted = hash(all<Transform, Native<T>, Read>(x, numbers, options));
  CHECK(hash(all<Transform, T, Read>(x, numbers, options)) == wanted);
  CHECK(hash(all<Transform, T, InPlace>(x, numbers, options)) == wanted);
  CHECK(hash(all<Transform, Native<T>, InPlace>(x, numbers, options)) == wanted);
}

template <class T>
void test() {
  const T bound[penstock::max_options] = {T{3}};
  const auto one = [&]<class Transform>(Transform, int fixed, int per_bin) {
    if (per_bin == 0) {
      return compare<Transform, T>(fixed, bound);
    }
    for (const int bins : {2, 3, 8, penstock::most_bins}) {
      const T options[penstock::max_options] = {static_cast<T>(bins), T{3}, T(0.001), T(0.001), T(0.001), T(0.5)};
      compare<Transform, T>(fixed + per_bin * bins, options);
    }
  };
#define TRANSFORM(name, fixed, per_bin, n_options) one(name{}, fixed, per_bin);
  PENSTOCK_TRANSFORMS(TRANSFORM)
#undef TRANSFORM
}

// One row of draws, as plain numbers.
template <class T>
void draws() {
  for (uint64_t draw = 0; draw < 2000; draw++) {
    const uint64_t context_row = draw << 20;
    T z[9];
    normals<T>(7, &context_row, &draw, 1, 9, 1, z);
    for (const T v : z) {
      CHECK(v > -7 && v < 7);
    }
  }
}

}  // namespace

int main() {
  test<float>();
  test<double>();
  draws<float>();
  draws<double>();
  return 0;
}
