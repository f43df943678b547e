// The microkernel against a plain loop, to the bit: every number of outputs and vectors, packing, and the transpose.
#include <algorithm>
#include <cmath>

#include "check.hpp"
#include "conditioners/microkernel.hpp"

namespace penstock::PENSTOCK_ISA {
namespace {

template <class T>
std::vector<T> numbers(int64_t n, uint64_t seed) {
  Random random{seed};
  std::vector<T> x(static_cast<size_t>(n));
  for (T &v : x) {
    v = static_cast<T>(random.uniform(-1, 1));
  }
  return x;
}

// out (n, lanes) from w(n, k) and in (k, lanes) in both ways, over the same start.
template <class T, bool panels, Start start, Finish finish, class Weight>
void compare(int n, int k, int vectors, const T *w, int64_t w_stride, Weight weight, const std::vector<T> &in) {
  constexpr int L = lanes_native<T>;
  constexpr int64_t stride = tile_stride;
  const std::vector<T> bias = numbers<T>(n, 5), before = numbers<T>(n * stride, 6), mask = numbers<T>(n * stride, 7);
  Guarded<T> out(n * stride);
  std::copy(before.begin(), before.end(), out.data());
  product<Native<T>, panels, start, finish>(
      n, vectors, {w, w_stride, in.data(), stride, out.data(), stride, bias.data(), mask.data(), k});
  out.check();
  for (int i = 0; i < n; i++) {
    for (int64_t lane = 0; lane < stride; lane++) {
      const int64_t at = i * stride + lane;
      T wanted = before[static_cast<size_t>(at)];
      if (lane < vectors * L) {
        wanted = start == Start::bias ? bias[static_cast<size_t>(i)] : start == Start::zero ? T{0} : wanted;
        for (int j = 0; j < k; j++) {
          wanted = std::fma(weight(i, j), in[static_cast<size_t>(j * stride + lane)], wanted);
        }
        if (finish == Finish::relu && wanted < 0) {
          wanted = 0;
        }
        if (finish == Finish::relu_gradient && mask[static_cast<size_t>(at)] <= 0) {
          wanted = 0;
        }
      }
      CHECK(out.data()[at] == wanted);
    }
  }
}

template <class T>
void products() {
  constexpr int L = lanes_native<T>;
  for (int n = 1; n <= 19; n++) {
    for (const int k : {1, 2, 7, 13}) {
      const std::vector<T> w = numbers<T>(int64_t{n} * k, 1), in = numbers<T>(int64_t{k} * tile_stride, 2);
      // W is (k, n) forwards, packed in two parts, as segments are, and (n, k) backwards, as it lies
      Guarded<T> packed(int64_t{n} * k);
      pack_panels(w.data(), k, n, 0, k / 2, packed.data());
      pack_panels(w.data(), k, n, k / 2, k, packed.data());
      packed.check();
      const auto forward = [&](int i, int j) { return w[static_cast<size_t>(j * n + i)]; };
      const auto backward = [&](int i, int j) { return w[static_cast<size_t>(i * k + j)]; };
      for (const int vectors : {1, 2, 3, 4, 5, 7}) {
        if (vectors * L > tile_rows) {
          continue;
        }
        compare<T, true, Start::bias, Finish::none>(n, k, vectors, packed.data(), 0, forward, in);
        compare<T, true, Start::bias, Finish::relu>(n, k, vectors, packed.data(), 0, forward, in);
        compare<T, false, Start::zero, Finish::none>(n, k, vectors, w.data(), k, backward, in);
        compare<T, false, Start::load, Finish::none>(n, k, vectors, w.data(), k, backward, in);
        compare<T, false, Start::zero, Finish::relu_gradient>(n, k, vectors, w.data(), k, backward, in);
      }
    }
  }
  // gradients of weights: w is a tile of inputs, k runs over its rows
  for (int n = 1; n <= 13; n++) {
    const std::vector<T> tile = numbers<T>(int64_t{n} * tile_stride, 3), in = numbers<T>(tile_rows * tile_stride, 4);
    const auto weight = [&](int i, int j) { return tile[static_cast<size_t>(i * tile_stride + j)]; };
    for (const int rows : {1, 5, 63, 64}) {
      for (const int vectors : {1, 2, 3, 4}) {
        if (vectors * L > tile_rows) {
          continue;
        }
        compare<T, false, Start::zero, Finish::none>(n, rows, vectors, tile.data(), tile_stride, weight, in);
        compare<T, false, Start::load, Finish::none>(n, rows, vectors, tile.data(), tile_stride, weight, in);
      }
    }
  }
}

template <class T>
void transposes() {
  constexpr int L = lanes_native<T>;
  for (int n = 1; n <= 37; n++) {
    const int whole = (n + L - 1) / L * L;
    const std::vector<T> in = numbers<T>(int64_t{whole} * tile_stride, 8);
    for (const int rows : {1, 17, 63, 64}) {
      const int whole_rows = (rows + L - 1) / L * L;
      Guarded<T> out(int64_t{whole_rows} * whole);
      transpose_tile<Native<T>>(in.data(), n, rows, out.data(), whole);
      out.check();
      for (int r = 0; r < rows; r++) {
        for (int c = 0; c < n; c++) {
          CHECK(out.data()[r * whole + c] == in[static_cast<size_t>(c * tile_stride + r)]);
        }
      }
    }
  }
}

}  // namespace
}  // namespace penstock::PENSTOCK_ISA

int main() {
  using namespace penstock::PENSTOCK_ISA;
  products<float>();
  products<double>();
  transposes<float>();
  transposes<double>();
  return 0;
}
