// What each module has of its own beyond the protocol of backends.
#pragma once

// The rest of pybind11 would add its functions to a file that has no use for them.
namespace pybind11 {
class module_;
}

namespace penstock {

void define_own(pybind11::module_ &m);

}  // namespace penstock
