// Kernels that walk, of one variant: PENSTOCK_ISA is its name, PENSTOCK_PARTS the parts of flows that it has, all where that is not
// defined. Compiled by nvcc, or by the host's compiler for devices that are emulated.
#include "cuda/kernels.hpp"
#include "cuda/launch.hpp"
#include "cuda/walk.hpp"

namespace penstock::PENSTOCK_ISA {

static_assert(block_rows == cuda::block_rows);

// Blocks that a multiprocessor has together, if kernels are to do without spills.
template <class T>
inline constexpr int together = sizeof(T) == 4 && !has<part_lu_linear> ? 3 : 2;

PENSTOCK_KERNEL(block_rows, together<T>, evaluate, cuda::Evaluate)
PENSTOCK_KERNEL(block_rows, 2, vjp, cuda::Vjp)
PENSTOCK_KERNEL(block_rows, 2, train, cuda::Train)

template <class T>
constexpr cuda::Walks<T> table() {
  return {parts, slots_size * static_cast<int64_t>(sizeof(T)), launch_evaluate<T>, launch_vjp<T>, launch_train<T>};
}
extern const cuda::Walks<float> walks_float = table<float>();
extern const cuda::Walks<double> walks_double = table<double>();

}  // namespace penstock::PENSTOCK_ISA
