// PENSTOCK_KERNEL(threads, together, f, Job) makes launch_f<T>(grid, stream, job), which runs f(job) in every thread of a grid whose
// blocks have so many threads; registers are dealt so that so many blocks are together on a multiprocessor.
// PENSTOCK_PLAIN_KERNEL(threads, f, Job): where f and Job are no templates.
// With PENSTOCK_CUDA_PTX the kernels of an emulated device are those that nvcc makes, in C++: tests/cuda/ptx_on_host.py --own-names.
#pragma once

#include "cuda/kernels.hpp"

#if defined(__CUDACC__)
#  include <stdexcept>
#  include <string>

namespace penstock::cuda {

// Lets a kernel have the shared memory that it asks for, and launches it.
template <class Job>
void launch_kernel(void (*kernel)(Job), int threads, const Grid &grid, const Stream &on, const Job &job) {
  const auto check = [](cudaError_t error) {
    if (error != cudaSuccess) {
      throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
    }
  };
  constexpr int64_t without_asking = 48 << 10;
  if (grid.shared_bytes > without_asking) {
    check(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(grid.shared_bytes)));
  }
  kernel<<<static_cast<unsigned>(grid.blocks), static_cast<unsigned>(threads), static_cast<size_t>(grid.shared_bytes),
           reinterpret_cast<cudaStream_t>(on.handle())>>>(job);
  check(cudaGetLastError());
}

}  // namespace penstock::cuda

#  define PENSTOCK_KERNEL(threads, together, f, Job)                                                      \
    template <class T>                                                                                    \
    __global__ void __launch_bounds__(threads, together) kernel_##f(const __grid_constant__ Job<T> job) { \
      f(job);                                                                                             \
    }                                                                                                     \
    template <class T>                                                                                    \
    void launch_##f(const cuda::Grid &grid, const cuda::Stream &on, const Job<T> &job) {                  \
      cuda::launch_kernel<Job<T>>(kernel_##f<T>, threads, grid, on, job);                                 \
    }
#  define PENSTOCK_PLAIN_KERNEL(threads, f, Job)                                                       \
    __global__ void __launch_bounds__(threads) kernel_##f(const __grid_constant__ Job job) { f(job); } \
    inline void launch_##f(const cuda::Grid &grid, const cuda::Stream &on, const Job &job) {           \
      cuda::launch_kernel<Job>(kernel_##f, threads, grid, on, job);                                    \
    }

#elif defined(PENSTOCK_CUDA_PTX)

#  include "cuda/simt.hpp"

namespace penstock::cuda {

// A kernel has the name that is declared here, and takes a pointer to its parameters.
template <class Job>
void launch_kernel(void (*declared)(Job), int threads, const Grid &grid, const Stream &on, const Job &job) {
  const auto kernel = reinterpret_cast<void (*)(const void *)>(reinterpret_cast<void (*)()>(declared));
  launch(on, [=] { simt::launch({grid.blocks, threads, grid.shared_bytes}, kernel, &job); });
}

}  // namespace penstock::cuda

#  define PENSTOCK_KERNEL(threads, together, f, Job)                                     \
    template <class T>                                                                   \
    void kernel_##f(Job<T> job);                                                         \
    template <class T>                                                                   \
    void launch_##f(const cuda::Grid &grid, const cuda::Stream &on, const Job<T> &job) { \
      cuda::launch_kernel<Job<T>>(kernel_##f<T>, threads, grid, on, job);                \
    }
#  define PENSTOCK_PLAIN_KERNEL(threads, f, Job)                                             \
    void kernel_##f(Job job);                                                                \
    inline void launch_##f(const cuda::Grid &grid, const cuda::Stream &on, const Job &job) { \
      cuda::launch_kernel<Job>(kernel_##f, threads, grid, on, job);                          \
    }

#else

#  include "cuda/simt.hpp"

namespace penstock::cuda {

template <class Job, void (*body)(const Job &)>
void launch_kernel(int threads, const Grid &grid, const Stream &on, const Job &job) {
  launch(on, [=] {
    simt::launch(
        {grid.blocks, threads, grid.shared_bytes},
        [](const void *arguments) { body(*static_cast<const Job *>(arguments)); }, &job);
  });
}

}  // namespace penstock::cuda

#  define PENSTOCK_KERNEL(threads, together, f, Job)                                     \
    template <class T>                                                                   \
    void launch_##f(const cuda::Grid &grid, const cuda::Stream &on, const Job<T> &job) { \
      cuda::launch_kernel<Job<T>, f<T>>(threads, grid, on, job);                         \
    }
#  define PENSTOCK_PLAIN_KERNEL(threads, f, Job)                                             \
    inline void launch_##f(const cuda::Grid &grid, const cuda::Stream &on, const Job &job) { \
      cuda::launch_kernel<Job, f>(threads, grid, on, job);                                   \
    }

#endif
