// How a layout refuses what a table may say and these kernels do not compute.
#pragma once

#include <stdexcept>
#include <string>

namespace penstock {

// Numbers of a dimension that is a circle, or a box, lie within plus and minus these.
inline constexpr double circle_bound = 3.14159265358979323846, box_bound = 1.0;

inline void refuse_unless(bool computed, const char *what, const char *name = "") {
  if (!computed) {
    throw std::invalid_argument(std::string("this engine does not compute ") + what + name);
  }
}

}  // namespace penstock
