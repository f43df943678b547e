// Kernels that every variant has in common. Compiled by nvcc, or by the host's compiler for devices that are emulated.
#include "cuda/kernels.hpp"
#include "cuda/launch.hpp"
#include "cuda/sums.hpp"

namespace penstock::PENSTOCK_ISA {

PENSTOCK_KERNEL(cuda::linear_threads, 4, linear_sums, cuda::LinearSums)
PENSTOCK_KERNEL(cuda::common_threads, 8, free_sums, cuda::FreeSums)
PENSTOCK_KERNEL(cuda::common_threads, 8, combine_slices, cuda::Combine)
PENSTOCK_KERNEL(cuda::common_threads, 8, squares, cuda::Squares)
PENSTOCK_KERNEL(cuda::common_threads, 8, adam_step, cuda::Adam)
PENSTOCK_KERNEL(cuda::common_threads, 8, pack_all, cuda::Pack)
PENSTOCK_PLAIN_KERNEL(cuda::common_threads, order_rows, cuda::OrderRows)
PENSTOCK_PLAIN_KERNEL(cuda::common_threads, sum_losses, cuda::Losses)
PENSTOCK_PLAIN_KERNEL(1, decide, cuda::Decide)

template <class T>
constexpr cuda::Sums<T> table() {
  return {launch_linear_sums<T>, launch_free_sums<T>, launch_combine_slices<T>, launch_order_rows, launch_sum_losses,
          launch_squares<T>,     launch_decide,       launch_adam_step<T>,      launch_pack_all<T>};
}
extern const cuda::Sums<float> sums_float = table<float>();
extern const cuda::Sums<double> sums_double = table<double>();

}  // namespace penstock::PENSTOCK_ISA
