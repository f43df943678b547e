// Chooser 2: the instruction set, once a process.
#pragma once

#include <string>
#include <vector>

#include "isa/kernels.hpp"

namespace penstock {

struct InstructionSet {
  std::string name;
  const Kernels<float> *float_kernels;
  const Kernels<double> *double_kernels;
  bool
      by_name_only;  // never chosen unless asked for: fma128 is avx2 on shorter vectors, to test that widths change no bit
};

// Those that this build holds and this processor has, best first; their names.
std::vector<InstructionSet> instruction_sets();
std::vector<std::string> isas();

// The one in use. The first call chooses: PENSTOCK_ISA if set, else the best. Throws std::runtime_error if PENSTOCK_ISA
// names one that is not there, or if the processor has none.
const std::string &isa();

template <class T>
const Kernels<T> &kernels();

}  // namespace penstock
