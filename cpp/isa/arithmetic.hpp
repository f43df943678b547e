// What an instruction set's kernels have to give on this processor, whatever they were compiled with.
#pragma once

namespace penstock {

// Computes a few known numbers with every instruction set that the processor has. Throws std::runtime_error, which names
// the set and the operation, where one differs in a bit.
void check_arithmetic();

}  // namespace penstock
