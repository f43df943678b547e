// Plan table 2, decoded and checked: plain records whose fields are counts, codes, offsets and positions in lists, as
// src/penstock/plan_table.py explains them. Knows nothing of what an engine can compute, see layout.hpp.
#pragma once

#include <cstdint>
#include <vector>

#include "core/codes.hpp"

namespace penstock {

struct Table {
  FlowRecord flow{};
  std::vector<ColumnRecord> columns;  // of the data, then of the context
  std::vector<BaseRecord> base;
  std::vector<StepRecord> steps;
  std::vector<PartRecord> parts;
  std::vector<NetworkRecord> networks;
  std::vector<LinearRecord> linears;
  std::vector<int64_t> boundary;  // (n_steps + 1, dim)
  std::vector<RangeRecord> ranges;
  std::vector<int64_t> ints;
  std::vector<double> reals;
  int64_t length = 0;   // words of the table
  uint64_t digest = 0;  // a hash of all of them
};

// Throws std::invalid_argument, which names section, record and field of the first fault. Asks for memory in proportion to
// the length of the table, whatever it says.
Table decode_table(const int64_t *words, int64_t length);

// The names in transforms/list.hpp, in order.
const std::vector<const char *> &transform_names();

}  // namespace penstock
