// What a kernel has of the device: its place in the grid, a barrier, copies that do not wait, shared memory. Everything else
// of a kernel is plain C++, so that the same source runs on the host (simt.hpp).
#pragma once

#include <cstdint>

#if !defined(__CUDACC__)
#  include "cuda/simt.hpp"
#endif

namespace penstock::cuda {

#if defined(__CUDACC__)

#  define PENSTOCK_BLOCK static __device__ __forceinline__

// Number within the block, and how many the block has.
PENSTOCK_BLOCK int thread() { return static_cast<int>(threadIdx.x); }
PENSTOCK_BLOCK int threads() { return static_cast<int>(blockDim.x); }
PENSTOCK_BLOCK int64_t block() { return blockIdx.x; }
PENSTOCK_BLOCK int64_t blocks() { return gridDim.x; }

// A barrier of the block.
PENSTOCK_BLOCK void sync() { __syncthreads(); }

// Begins a copy of 4, 8 or 16 bytes, at addresses that are multiples of as many.
template <int bytes>
PENSTOCK_BLOCK void copy_async(void *to_shared, const void *from_global) {
  static_assert(bytes == 4 || bytes == 8 || bytes == 16);
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(to_shared));
  const auto from = __cvta_generic_to_global(from_global);
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(from), "n"(bytes) : "memory");
}
// Closes the group of copies that this thread began.
PENSTOCK_BLOCK void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most the n latest groups of this thread are in flight. Other threads see the rest behind a barrier.
template <int n>
PENSTOCK_BLOCK void wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory");
}

// The memory that the launch gives each block, aligned to 128.
PENSTOCK_BLOCK char *shared_memory() {
  extern __shared__ __align__(128) char penstock_shared_memory[];
  return penstock_shared_memory;
}

#  undef PENSTOCK_BLOCK

#else

inline int thread() { return simt::current->thread; }
inline int threads() { return simt::current->threads; }
inline int64_t block() { return simt::current->block; }
inline int64_t blocks() { return simt::current->blocks; }

inline void sync() { simt::sync(); }

template <int bytes>
inline void copy_async(void *to_shared, const void *from_global) {
  static_assert(bytes == 4 || bytes == 8 || bytes == 16);
  simt::copy_async(to_shared, from_global, bytes);
}
inline void commit() { simt::commit(); }
template <int n>
inline void wait() {
  simt::wait(n);
}

inline char *shared_memory() { return simt::current->shared; }

#endif

}  // namespace penstock::cuda
