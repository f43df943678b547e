// The table of a module with devices: see engine/border.hpp.
#pragma once

#include "engine/border.hpp"

namespace penstock::cuda {

const Calls &calls();

}  // namespace penstock::cuda
