// Elementary functions, draws and every transform, forward, inverse and backward, for a thread of a device: the very headers of
// the core. A row is a thread, and its theta lies in shared memory, where a spline keeps its powers.
#include "core/philox.hpp"
#include "core/plan.hpp"
#include "core/rowsum.hpp"
#include "sample.hpp"
#include "transforms/list.hpp"

namespace penstock::PENSTOCK_ISA {
namespace {

// Number i of theta of a row.
template <class T>
struct InPlace {
  T *p;
  int stride;
  DEVICE T operator()(int i) const { return p[i * stride]; }
  DEVICE T kept(int i) const { return p[i * stride]; }
  DEVICE void put(int i, T v) const { p[i * stride] = v; }
};
template <class T>
struct Gradient {
  T *p;
  int stride;
  DEVICE void operator()(int i, T v) const { p[i * stride] = v; }
};

template <class T>
struct Transformed {
  const T *x, *d_y, *d_log_det;  // (rows)
  const T *theta;                // (n_theta, rows)
  const T *options;
  T *out;      // (6, rows): y, log_det, slope; x and log_det of the way back; dx
  T *d_theta;  // (n_theta, rows)
  int rows, n_theta;
};

template <class Transform, class T>
DEVICE void transform(const Transformed<T> &a) {
  const int n = penstock::cuda::threads(), t = penstock::cuda::thread();
  const int row = static_cast<int>(penstock::cuda::block()) * n + t;
  const InPlace<T> theta{reinterpret_cast<T *>(penstock::cuda::shared_memory()) + t, n};
  const auto load_theta = [&] {
    for (int i = 0; i < a.n_theta; i++) {
      theta.p[i * n] = a.theta[i * a.rows + row];
    }
  };
  T *const out = a.out + row;
  const T x = a.x[row];
  load_theta();
  Transform::template forward<T>(x, theta, a.options, out[0], out[a.rows], out[2 * a.rows]);
  load_theta();
  Transform::template inverse<T>(x, theta, a.options, out[3 * a.rows], out[4 * a.rows]);
  load_theta();
  const Gradient<T> gradient{a.d_theta + row, a.rows};
  Transform::template backward<T>(x, theta, a.options, a.d_y[row], a.d_log_det[row], out[5 * a.rows], gradient);
}

template <class T>
struct Elementary {
  const T *x;
  T *out;  // (16, rows)
  uint64_t seed;
  const uint64_t *draws;
  int rows;
};

template <class T>
DEVICE void elementary(const Elementary<T> &a) {
  const int row = static_cast<int>(penstock::cuda::block()) * penstock::cuda::threads() + penstock::cuda::thread();
  const int n = a.rows;
  const T x = a.x[row];
  T *const out = a.out + row;
  out[0] = exp<T>(x);
  out[n] = exp2<T>(x);
  out[2 * n] = log<T>(absolute<T>(x) + T(1e-3));
  out[3 * n] = expm1<T>(-absolute<T>(x));
  out[4 * n] = log1p<T>(clamp<T>(absolute<T>(x), 0, 1));
  out[5 * n] = tanh<T>(x);
  out[6 * n] = sigmoid<T>(x);
  out[7 * n] = normal_cdf<T>(x, out[8 * n]);
  sincos<T>(x, out[9 * n], out[10 * n]);
  T sums[16];
  for (int i = 0; i < 16; i++) {
    sums[i] = x * static_cast<T>(i + 1);
  }
  out[11 * n] = sum_partials(sums);
  normals<T>(a.seed, a.draws + row, a.draws + n + row, 1, 3, n, out + 12 * n);
  const int64_t dims[] = {0};
  uniforms<T>(a.seed, a.draws + row, a.draws + n + row, 1, 1, dims, T{-1}, T{2}, T{-1}, T{1}, n, out + 15 * n);
}

}  // namespace

#define TRANSFORM(name, fixed, per_bin, n_options)                               \
  KERNEL(name##_float, Transformed<float>) { transform<struct name, float>(a); } \
  KERNEL(name##_double, Transformed<double>) { transform<struct name, double>(a); }
PENSTOCK_TRANSFORMS(TRANSFORM)
#undef TRANSFORM
KERNEL(elementary_float, Elementary<float>) { elementary<float>(a); }
KERNEL(elementary_double, Elementary<double>) { elementary<double>(a); }

}  // namespace penstock::PENSTOCK_ISA
