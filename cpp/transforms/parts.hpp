// Parts of flows that kernels may be compiled with or without. Those of a processor have all of them. Those of a device come in
// several kinds, so that what a common flow needs fits into registers: cmake/cuda.cmake.
#pragma once

#include "transforms/list.hpp"

namespace penstock {

#define PENSTOCK_CODE(name, ...) transform_##name,
enum TransformCode : int32_t { PENSTOCK_TRANSFORMS(PENSTOCK_CODE) n_transforms };
#undef PENSTOCK_CODE

enum Part : uint32_t {  // a bit for each transform, by its code, then
  part_coupling = 1u << 16,
  part_autoregressive = 1u << 17,
  part_lu_linear = 1u << 18,
  part_free = 1u << 19,  // theta that every row shares: elementwise layers, couplings that read a shared context alone
  part_external = 1u << 20,  // theta from an array
  part_supports = 1u << 21,  // columns of the data or the context that are not the whole line
  part_bases = 1u << 22,     // densities of the latent side that are learned
  part_embedding = 1u << 23,
  part_activations = 1u << 24,  // other than the rectifier
  part_every = ~0u
};

}  // namespace penstock

#if defined(PENSTOCK_ISA)
namespace penstock::PENSTOCK_ISA {

#  if defined(PENSTOCK_PARTS)
inline constexpr uint32_t parts = PENSTOCK_PARTS;
#  else
inline constexpr uint32_t parts = part_every;
#  endif
template <uint32_t part>
inline constexpr bool has = (parts & part) == part;

}  // namespace penstock::PENSTOCK_ISA
#endif
