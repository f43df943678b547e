// What conditioners/linear.hpp has, for a device: products of whole layers by all threads of a block, and records of what the
// gradients of parameters are sums of, which kernels of their own add up (cuda/sums.hpp).
//
// A thread comes with pointers to its own row and leaves with its own row done, but in between it computes some outputs of
// several neighbouring rows: a warp has a strip of outputs of all rows of the block, a lane `lane_rows` rows of it, so that a
// weight is read once for many rows and a row once for many outputs. Sums go with k ascending, as everywhere. Weights come in
// pieces of `depth` inputs through two slots of shared memory, one filled while the other is read.
#pragma once

#include "conditioners/microkernel.hpp"
#include "core/rowsum.hpp"
#include "cuda/block.hpp"
#include "cuda/kernels.hpp"
#include "transforms/parts.hpp"

namespace penstock::PENSTOCK_ISA {

inline constexpr int warp = 32, warps = block_rows / warp, lane_rows = block_rows / warp;
inline constexpr int depth = 32;                          // inputs of a piece of weights
inline constexpr int turn = 4;                            // inputs in one turn of the loop
inline constexpr int most_strip = 16, most_outputs = 64;  // outputs of a warp at a time, and of a piece of weights
// Numbers of the two slots, with which the block's shared memory begins.
inline constexpr int slots_size = 2 * depth * most_outputs;

static_assert(warps * most_strip == cuda::block_outputs_at_once);
static_assert(warps * most_strip <= most_outputs && block_rows % warp == 0);

// One product. What the sums begin with and what becomes of them is decided as it runs, so that kernels have its loops once.
template <class T>
struct Product {
  const T *w;  // element (k, n) lies at w + k * w_k + n * w_n
  int w_k, w_n;
  const T *in;
  T *out;
  const T *bias;  // Start::bias
  const T *mask;  // Finish::relu_gradient: activations, laid out as out
  int k, n;
  Start start;
  Finish finish;
};

// Neighbouring rows of one feature, read at once.
template <class T>
struct alignas(sizeof(T) * lane_rows) RowsOfLane {
  T r[lane_rows];
};

// Weights of inputs [k0, k0 + depth) and outputs [n0, n0 + width), as far as there are any, into a slot, [k][width].
template <class T, int width>
PENSTOCK_INLINE void fetch(const Product<T> &p, int k0, int n0, T *slot) {
  PENSTOCK_ROLLED
  for (int i = cuda::thread(); i < depth * width; i += block_rows) {
    // along what lies side by side in memory
    const int k = p.w_n == 1 ? i / width : i % depth, n = p.w_n == 1 ? i % width : i / depth;
    if (k0 + k < p.k && n0 + n < p.n) {
      cuda::copy_async<sizeof(T)>(slot + k * width + n,
                                  p.w + static_cast<int64_t>((k0 + k) * p.w_k) + (n0 + n) * p.w_n);
    }
  }
  cuda::commit();
}

// Outputs [n0, n0 + warps * strip) of a product. In and out may be the same where these are all.
template <class T, int strip>
PENSTOCK_INLINE void strips(const Product<T> &p, int n0) {
  constexpr int width = warps * strip;
  T *const slots = reinterpret_cast<T *>(cuda::shared_memory());
  const int me = cuda::thread(), lane = me % warp, first = n0 + me / warp * strip;
  const T *const in = p.in - me + lane * lane_rows;  // of the first row of this lane
  T *const out = p.out - me + lane * lane_rows;
  T sum[strip][lane_rows];
  PENSTOCK_UNROLL(16)
  for (int n = 0; n < strip; n++) {
    const bool there = first + n < p.n;
    const T begin = p.start == Start::bias && there ? p.bias[first + n] : T{0};
    PENSTOCK_UNROLL(4)
    for (int r = 0; r < lane_rows; r++) {
      sum[n][r] = begin;
    }
    if (p.start == Start::load && there) {
      const RowsOfLane<T> rows = *reinterpret_cast<const RowsOfLane<T> *>(out + (first + n) * tile_stride);
      PENSTOCK_UNROLL(4)
      for (int r = 0; r < lane_rows; r++) {
        sum[n][r] = rows.r[r];
      }
    }
  }
  fetch<T, width>(p, 0, n0, slots);
  PENSTOCK_ROLLED
  for (int k0 = 0; k0 < p.k; k0 += depth) {
    T *const slot = slots + k0 / depth % 2 * (depth * most_outputs);
    if (k0 + depth < p.k) {
      fetch<T, width>(p, k0 + depth, n0, slots + (k0 / depth + 1) % 2 * (depth * most_outputs));
      cuda::wait<1>();
    } else {
      cuda::wait<0>();
    }
    cuda::sync();
    const T *w = slot + me / warp * strip;
    const T *x = in + static_cast<int64_t>(k0) * tile_stride;
    const int count = p.k - k0 < depth ? p.k - k0 : depth;
    const auto add = [&](int k) __attribute__((always_inline)) {
      const RowsOfLane<T> rows = *reinterpret_cast<const RowsOfLane<T> *>(x + k * tile_stride);
      PENSTOCK_UNROLL(16)
      for (int n = 0; n < strip; n++) {
        const T weight = w[k * width + n];
        PENSTOCK_UNROLL(4)
        for (int r = 0; r < lane_rows; r++) {
          sum[n][r] = fma<T>(weight, rows.r[r], sum[n][r]);
        }
      }
    };
    // By hand: a compiler that knows that there are `depth` at most writes them all out, with a test after each.
    int k = 0;
    PENSTOCK_ROLLED
    for (; k < count % turn; k++) {
      add(k);
    }
    PENSTOCK_ROLLED
    for (; k < count; k += turn) {
      PENSTOCK_UNROLL(8)
      for (int i = 0; i < turn; i++) {
        add(k + i);
      }
    }
    cuda::sync();
  }
  PENSTOCK_UNROLL(16)
  for (int n = 0; n < strip; n++) {
    if (first + n < p.n) {
      const int at = (first + n) * tile_stride;
      RowsOfLane<T> y;
      PENSTOCK_UNROLL(4)
      for (int r = 0; r < lane_rows; r++) {
        y.r[r] = sum[n][r];
      }
      if (p.finish == Finish::relu) {
        PENSTOCK_UNROLL(4)
        for (int r = 0; r < lane_rows; r++) {
          y.r[r] = y.r[r] < T{0} ? T{0} : y.r[r];
        }
      } else if (p.finish == Finish::relu_gradient) {
        const RowsOfLane<T> h = *reinterpret_cast<const RowsOfLane<T> *>(p.mask - me + lane * lane_rows + at);
        PENSTOCK_UNROLL(4)
        for (int r = 0; r < lane_rows; r++) {
          y.r[r] = h.r[r] <= T{0} ? T{0} : y.r[r];
        }
      }
      *reinterpret_cast<RowsOfLane<T> *>(out + at) = y;
    }
  }
}

// Before inputs of other rows are read there is the barrier behind the first piece of weights; what a product adds to comes from
// another one, which ended with a barrier.
template <class T>
PENSTOCK_INLINE void all_strips(const Product<T> &p) {
  constexpr int widest = sizeof(T) == 4 ? most_strip : most_strip / 2;
  if (p.n <= warps * 4) {
    strips<T, 4>(p, 0);
  } else if (p.n <= warps * 8) {
    strips<T, 8>(p, 0);
  } else {
    for (int n0 = 0; n0 < p.n; n0 += warps * widest) {
      strips<T, widest>(p, n0);
    }
  }
  cuda::sync();  // every row has its outputs
}
template <class T>
PENSTOCK_APART void all_strips_apart(const Product<T> p) {
  all_strips(p);
}

// All threads of the block come here together, each with pointers to its own row. The loops are long: where a kernel has much else,
// it has them once, in a function.
template <class T>
PENSTOCK_INLINE void block_product(const Product<T> &p) {
  if constexpr (has<part_lu_linear>) {
    all_strips_apart<T>(p);
  } else {
    all_strips(p);
  }
}

template <class V>
PENSTOCK_INLINE void forward_product(const Linear &linear, const PackedView<V> &packed, const V *start, int skip,
                                     bool rectified, int, const V *in, V *out) {
  const V *const w = packed.params + linear.weight + static_cast<int64_t>(skip) * linear.n_out;
  block_product<V>({w, linear.n_out, 1, in + skip * tile_stride, out,
                    start != nullptr ? start : packed.params + linear.bias, nullptr, linear.n_in - skip, linear.n_out,
                    Start::bias, rectified ? Finish::relu : Finish::none});
}

template <class V>
PENSTOCK_INLINE void input_gradient(const Linear &linear, const PackedView<V> &packed, int, const V *d,
                                    const V *rectified, bool adds, V *out, int64_t from) {
  block_product<V>({packed.params + linear.weight + from * linear.n_out, 1, linear.n_out, d, out + from * tile_stride,
                    nullptr, rectified, linear.n_out, linear.n_in - static_cast<int>(from),
                    adds ? Start::load : Start::zero, rectified != nullptr ? Finish::relu_gradient : Finish::none});
}

// What gradients of parameters are sums of, kept for each row: number `feature` on of TileGradient::params, which is the row's
// place in an array of record_stride rows a feature.
template <class T>
PENSTOCK_INLINE void record(const TileGradient<T> &gradient, int64_t feature, int64_t n, const T *from) {
  for (int64_t i = 0; i < n; i++) {
    gradient.params[(feature + i) * gradient.record_stride] = from[i * tile_stride];
  }
}

// The inputs of the layer are recorded at grad_bias, the gradient of its outputs at grad_weight.
template <class V>
PENSTOCK_FUNCTION void linear_gradient(const Linear &linear, int, const TileGradient<V> &gradient, const V *in,
                                       const V *d) {
  record(gradient, linear.grad_bias, linear.n_in, in);
  record(gradient, linear.grad_weight, linear.n_out, d);
}

template <class T>
PENSTOCK_FUNCTION void free_gradient(const TileGradient<T> &gradient, int64_t grad, int64_t n, const T *rows, int) {
  record(gradient, grad, n, rows);
}

// Of the LU layer, at grad: dv, x, dc, v and the gradient of the diagonal, n numbers each.
template <class V, class Area>
PENSTOCK_FUNCTION void lu_gradient(const Step &step, const PackedView<V> &packed, int, const TileGradient<V> &gradient,
                                   int, V sign, const Area &area, const V *dc, const V *dv) {
  const int64_t n = step.n_b;
  record(gradient, step.grad, n, dv);
  record(gradient, step.grad + n, n, static_cast<const V *>(area.x));
  record(gradient, step.grad + 2 * n, n, dc);
  record(gradient, step.grad + 3 * n, n, static_cast<const V *>(area.v));
  for (int64_t i = 0; i < n; i++) {
    const V u = static_cast<V>(step.signs[i]) * exp<V>(packed.params[step.params + i * (n + 1)]);
    const V product = dv[i * tile_stride] * area.x[i * tile_stride];
    const V diagonal = fma<V>(u, product, sign * gradient.log_det[0]);
    gradient.params[(step.grad + 4 * n + i) * gradient.record_stride] = diagonal;
  }
}

}  // namespace penstock::PENSTOCK_ISA
