// The names and shapes that the tensors of a flow have in its file, told from its plan table: docs/file-format.md, "Tensors".
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/table.hpp"

namespace penstock {

struct TensorName {
  std::string name;
  std::vector<int64_t> shape;
};

// Those of the buffers, in order.
std::vector<TensorName> buffer_names(const Table &table);

// Those of the parameters, in the order of the flat vector, for a table of the revision that this build knows: other compilers
// may lay steps otherwise. A block of the base has the number that it had in the spec, where blocks that act on nothing count,
// too; `blocks` are the numbers that there are, rising.
std::vector<TensorName> parameter_names(const Table &table, const std::vector<int64_t> &blocks);

// Whether buffers lie as the format says: location and scale of the columns, of the context, then the numbers of supports.
bool has_buffers_of_format(const Table &table);

}  // namespace penstock
