// Chooses the variant of the kernels that walk: see kernels.hpp.
#include "cuda/kernels.hpp"

#include <stdexcept>
#include <type_traits>

#ifndef PENSTOCK_VARIANTS
#  error "compile with -DPENSTOCK_VARIANTS(X)=X(...) ..., as cmake/cuda.cmake does"
#endif

namespace penstock {

#define PENSTOCK_DECLARE(name, ...)              \
  namespace name {                               \
  extern const cuda::Walks<float> walks_float;   \
  extern const cuda::Walks<double> walks_double; \
  }
PENSTOCK_VARIANTS(PENSTOCK_DECLARE)
#undef PENSTOCK_DECLARE
namespace device_sums {
extern const cuda::Sums<float> sums_float;
extern const cuda::Sums<double> sums_double;
}  // namespace device_sums

namespace cuda {

template <class T>
const Walks<T> &walks(uint32_t parts) {
  const Walks<T> *found = nullptr;
  const auto try_one = [&](const Walks<T> &walks) {
    if (found == nullptr && (walks.parts & parts) == parts) {
      found = &walks;
    }
  };
#define PENSTOCK_TRY(name, ...)             \
  if constexpr (std::is_same_v<T, float>) { \
    try_one(name::walks_float);             \
  } else {                                  \
    try_one(name::walks_double);            \
  }
  PENSTOCK_VARIANTS(PENSTOCK_TRY)
#undef PENSTOCK_TRY
  if (found == nullptr) {
    throw std::invalid_argument(
        "this build for devices has no kernels for such a flow: build it with all of PENSTOCK_CUDA_VARIANTS");
  }
  return *found;
}

template <class T>
const Sums<T> &sums() {
  if constexpr (std::is_same_v<T, float>) {
    return device_sums::sums_float;
  } else {
    return device_sums::sums_double;
  }
}

template const Walks<float> &walks(uint32_t);
template const Walks<double> &walks(uint32_t);
template const Sums<float> &sums();
template const Sums<double> &sums();

}  // namespace cuda
}  // namespace penstock
