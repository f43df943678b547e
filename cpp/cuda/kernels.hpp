// Kernels as the host knows them: functions that launch one, on a stream. kernels.cu, compiled once for each variant, fills the
// tables of the walks; sums.cu those of what is common to all.
#pragma once

#include <cstdint>

#include "cuda/device.hpp"
#include "cuda/job.hpp"
#include "transforms/parts.hpp"

namespace penstock::cuda {

inline constexpr int block_rows = 128;  // rows and threads of a block that walks
inline constexpr int block_outputs_at_once =
    64;  // of a product, which a block holds before it stores one; half of float64

struct Grid {
  int64_t blocks, shared_bytes;
};

// Walks with some parts of flows.
template <class T>
struct Walks {
  uint32_t parts;
  int64_t slots_bytes;  // of the shared memory of a block, before what may be its room
  void (*evaluate)(const Grid &, const Stream &, const Evaluate<T> &);
  void (*vjp)(const Grid &, const Stream &, const Vjp<T> &);
  void (*train)(const Grid &, const Stream &, const Train<T> &);
};

// The first one that has all of these parts. Throws std::invalid_argument where this build has none.
template <class T>
const Walks<T> &walks(uint32_t parts);

template <class T>
struct Sums {
  void (*linear)(const Grid &, const Stream &, const LinearSums<T> &);
  void (*free)(const Grid &, const Stream &, const FreeSums<T> &);
  void (*combine)(const Grid &, const Stream &, const Combine<T> &);
  void (*order)(const Grid &, const Stream &, const OrderRows &);
  void (*losses)(const Grid &, const Stream &, const Losses &);
  void (*squares)(const Grid &, const Stream &, const Squares<T> &);
  void (*decide)(const Grid &, const Stream &, const Decide &);
  void (*adam)(const Grid &, const Stream &, const Adam<T> &);
  void (*pack)(const Grid &, const Stream &, const Pack<T> &);
};
template <class T>
const Sums<T> &sums();

// Threads of a block of each of those.
inline constexpr int linear_threads = 128, linear_inputs = 32, linear_outputs = 64, common_threads = 64;

}  // namespace penstock::cuda
