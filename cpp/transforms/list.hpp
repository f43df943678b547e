// The one list of transforms in C++: a header and a name each. Append only: the position is the code in plan tables and
// files. Rooms outside the instruction sets read the names alone.
#pragma once

#ifdef PENSTOCK_ISA
#  include "transforms/additive.hpp"
#  include "transforms/affine.hpp"
#endif

#define PENSTOCK_TRANSFORMS(X) \
  X(affine)                    \
  X(additive)
