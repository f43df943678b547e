// Which build of the library this is: a digest of sources, compiler and flags. A file of its own, since it changes with every
// other.
#include <cstring>

#include "engine/border.hpp"
#include "penstock_build.hpp"

extern "C" const penstock::Calls *penstock_private(const char *build) {
  return std::strcmp(build, PENSTOCK_BUILD) == 0 ? &penstock::calls() : nullptr;
}
