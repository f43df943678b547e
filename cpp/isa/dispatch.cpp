// Chooser 2, the instruction set: see dispatch.hpp.
#include "isa/dispatch.hpp"

#include <cstdlib>
#include <stdexcept>

#if defined(PENSTOCK_X86)
#  include <cpuid.h>
#endif

namespace penstock {
namespace {

#if defined(PENSTOCK_X86)
// The levels of x86-64 feature by feature: not every compiler knows their names, nor those of all features.
[[maybe_unused]] bool has_v3() {
  unsigned a, b, c = 0, d, extended = 0;
  constexpr unsigned movbe = 1u << 22, f16c = 1u << 29, lzcnt = 1u << 5;
  __get_cpuid(1, &a, &b, &c, &d);
  __get_cpuid(0x80000001, &a, &b, &extended, &d);
  // what the operating system has to save is among what the compiler's function tests
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
         __builtin_cpu_supports("bmi2") && (c & movbe) != 0 && (c & f16c) != 0 && (extended & lzcnt) != 0;
}
[[maybe_unused]] bool has_v4() {
  return has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

std::string list(const std::vector<std::string> &names) {
  std::string text;
  for (const std::string &name : names) {
    text += (text.empty() ? "" : ", ") + name;
  }
  return text.empty() ? "none" : text;
}

InstructionSet choose() {
  const char *forced = std::getenv("PENSTOCK_ISA");
  const bool force = forced != nullptr && *forced != '\0';
  for (const InstructionSet &set : instruction_sets()) {
    if (force ? set.name == forced : !set.by_name_only) {
      return set;
    }
  }
  if (force) {
    throw std::runtime_error("PENSTOCK_ISA=" + std::string(forced) + ": this build on this processor has no " + forced +
                             "; it has: " + list(isas()));
  }
  throw std::runtime_error("this processor has none of the instruction sets that the extension was built for");
}

const InstructionSet &chosen() {
  static const InstructionSet choice = choose();
  return choice;
}

}  // namespace

std::vector<InstructionSet> instruction_sets() {
  std::vector<InstructionSet> sets;
#if defined(PENSTOCK_X86)
  __builtin_cpu_init();
#endif
#if defined(PENSTOCK_HAS_avx512)
  if (has_v4()) {
    sets.push_back({"avx512", &avx512::kernels_float, &avx512::kernels_double, false});
  }
#endif
#if defined(PENSTOCK_HAS_avx2)
  if (has_v3()) {
    sets.push_back({"avx2", &avx2::kernels_float, &avx2::kernels_double, false});
  }
#endif
#if defined(PENSTOCK_HAS_fma128)
  if (has_v3()) {
    sets.push_back({"fma128", &fma128::kernels_float, &fma128::kernels_double, true});
  }
#endif
#if defined(PENSTOCK_HAS_neon)
  sets.push_back({"neon", &neon::kernels_float, &neon::kernels_double, false});
#endif
  return sets;
}

std::vector<std::string> isas() {
  std::vector<std::string> names;
  for (const InstructionSet &set : instruction_sets()) {
    names.push_back(set.name);
  }
  return names;
}

const std::string &isa() { return chosen().name; }

template <>
const Kernels<float> &kernels<float>() {
  return *chosen().float_kernels;
}
template <>
const Kernels<double> &kernels<double>() {
  return *chosen().double_kernels;
}

}  // namespace penstock
