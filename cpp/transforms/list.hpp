// The one list of transforms in C++: a header, a name, the numbers of theta a dimension, some fixed and some for each
// of options[0] bins, and of options. Append only: the position is the code in plan tables and files. Rooms outside the instruction sets
// read names and numbers alone.
#pragma once

#ifdef PENSTOCK_ISA
#  include "transforms/additive.hpp"
#  include "transforms/affine.hpp"
#  include "transforms/box_rational_quadratic.hpp"
#  include "transforms/circular_rational_quadratic.hpp"
#  include "transforms/rational_quadratic.hpp"
#endif

#define PENSTOCK_TRANSFORMS(X)            \
  X(affine, 2, 0, 1)                      \
  X(additive, 1, 0, 0)                    \
  X(rational_quadratic, -1, 3, 6)         \
  X(circular_rational_quadratic, 1, 3, 6) \
  X(box_rational_quadratic, 1, 3, 6)
