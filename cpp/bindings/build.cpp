// The library, if it is of this build: see engine/build.cpp.
#include "bindings/border.hpp"
#include "bindings/module.hpp"
#include "penstock_build.hpp"

namespace penstock {

const Calls *library() {
  static const Calls *const calls = penstock_private(PENSTOCK_BUILD);
  return calls;
}

void define_own(pybind11::module_ &) {}

}  // namespace penstock
