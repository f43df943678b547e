// The checks of a decoded plan table, record by record in the order in which they claim parameters, lists and each other,
// as _numba/engine/table.py does; both give the same verdict.
#pragma once

#include "engine/table.hpp"

namespace penstock {

// Throws std::invalid_argument at the first fault.
void check_table(const Table &table);

}  // namespace penstock
