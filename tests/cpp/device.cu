// Elementary functions, draws and every transform, each in a kernel whose thread has one row: tests/test_device.py compiles
// this where there is an nvcc. Nothing runs it here.
#include "core/philox.hpp"
#include "core/plan.hpp"
#include "core/rowsum.hpp"
#include "transforms/list.hpp"

namespace penstock::PENSTOCK_ISA {

// Theta of one row in shared memory; the powers of a spline take the place of the numbers they come from.
template <class T>
struct InPlace {
  T *p;
  int stride;
  __device__ T operator()(int i) const { return p[i * stride]; }
  __device__ T kept(int i) const { return p[i * stride]; }
  __device__ void put(int i, T v) const { p[i * stride] = v; }
};
template <class T>
struct Gradient {
  T *p;
  int stride;
  __device__ void operator()(int i, T v) const { p[i * stride] = v; }
};

template <class Transform, class T>
__global__ void forward(const T *in, const T *options, T *out, T *log_det) {
  extern __shared__ char memory[];
  const InPlace<T> theta{reinterpret_cast<T *>(memory) + threadIdx.x, static_cast<int>(blockDim.x)};
  const int row = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  T slope;
  Transform::template forward<T>(in[row], theta, options, out[row], log_det[row], slope);
}

template <class Transform, class T>
__global__ void inverse(const T *in, const T *options, T *out, T *log_det) {
  extern __shared__ char memory[];
  const InPlace<T> theta{reinterpret_cast<T *>(memory) + threadIdx.x, static_cast<int>(blockDim.x)};
  const int row = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  Transform::template inverse<T>(in[row], theta, options, out[row], log_det[row]);
}

template <class Transform, class T>
__global__ void backward(const T *in, const T *options, const T *d_out, const T *d_log_det, T *d_in, T *d_theta) {
  extern __shared__ char memory[];
  const int row = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  const InPlace<T> theta{reinterpret_cast<T *>(memory) + threadIdx.x, static_cast<int>(blockDim.x)};
  const Gradient<T> gradient{d_theta + row, static_cast<int>(gridDim.x * blockDim.x)};
  Transform::template backward<T>(in[row], theta, options, d_out[row], d_log_det[row], d_in[row], gradient);
}

template <class T>
__global__ void elementary(const T *in, T *out) {
  const T x = in[threadIdx.x];
  T density, sine, cosine;
  const T y = normal_cdf<T>(x, density);
  sincos<T>(x, sine, cosine);
  T sums[16] = {};
  sums[0] = exp<T>(x) + exp2<T>(x) + log<T>(x) + tanh<T>(x) + sigmoid<T>(x) + y + density + sine + cosine;
  out[threadIdx.x] = sum_partials(sums);
}

template <class T>
__global__ void draw(uint64_t seed, const uint64_t *context_row, const uint64_t *draws, int dim, T *out) {
  const int row = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x),
            rows = static_cast<int>(gridDim.x * blockDim.x);
  normals<T>(seed, context_row + row, draws + row, 1, dim, rows, out + row);
  const int64_t dims[] = {0};
  uniforms<T>(seed, context_row + row, draws + row, 1, 1, dims, T{-1}, T{2}, T{-1}, T{1}, rows, out + row);
}

#define TRANSFORM(name, fixed, per_bin, n_options)                                                                    \
  template __global__ void forward<name, float>(const float *, const float *, float *, float *);                      \
  template __global__ void forward<name, double>(const double *, const double *, double *, double *);                 \
  template __global__ void inverse<name, float>(const float *, const float *, float *, float *);                      \
  template __global__ void inverse<name, double>(const double *, const double *, double *, double *);                 \
  template __global__ void backward<name, float>(const float *, const float *, const float *, const float *, float *, \
                                                 float *);                                                            \
  template __global__ void backward<name, double>(const double *, const double *, const double *, const double *,     \
                                                  double *, double *);
PENSTOCK_TRANSFORMS(TRANSFORM)
#undef TRANSFORM
template __global__ void elementary<float>(const float *, float *);
template __global__ void elementary<double>(const double *, double *);
template __global__ void draw<float>(uint64_t, const uint64_t *, const uint64_t *, int, float *);
template __global__ void draw<double>(uint64_t, const uint64_t *, const uint64_t *, int, double *);

}  // namespace penstock::PENSTOCK_ISA
