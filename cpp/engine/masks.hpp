// The pieces of a masked linear layer, see Mask: who reads whom, by register blocks.
#pragma once

#include <cstdint>
#include <vector>

#include "core/plan.hpp"

namespace penstock {

// What a Mask points to.
struct MaskTables {
  // Degrees of inputs and outputs, both rising, below n_degrees.
  MaskTables(const std::vector<int> &inputs, const std::vector<int> &outputs, int n_degrees);
  MaskTables(const MaskTables &) = delete;
  MaskTables &operator=(const MaskTables &) = delete;

  // At least the bytes that the tables of a layer take.
  static int64_t bytes(int64_t n_in, int64_t n_out, int64_t n_degrees);

  std::vector<Piece> forward, backward;
  std::vector<int> forward_start, backward_start, input_start, output_start, first_output;
  int64_t n_weights = 0;  // that are not masked
  Mask mask{};
};

}  // namespace penstock
