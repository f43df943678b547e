// The checks of groups of columns in a plan table: for check.cpp.
#pragma once

#include "engine/table.hpp"

namespace penstock {

// COLUMNS, of which each has been checked by itself: a member of a group names the member before it. Throws
// std::invalid_argument at the first fault.
void check_groups(const Table &table);

}  // namespace penstock
