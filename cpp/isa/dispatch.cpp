// Chooser 2, the instruction set: see dispatch.hpp.
#include "isa/dispatch.hpp"

#include <cstdlib>
#include <stdexcept>

namespace penstock {
namespace {

struct Choice {
  const char *name;
  const Kernels<float> *single;
  const Kernels<double> *twice;
  bool usable;
  bool by_name_only;  // never chosen unless asked for
};

std::vector<Choice> choices() {
  std::vector<Choice> all;
#if defined(PENSTOCK_X86)
  __builtin_cpu_init();
  const bool v3 = __builtin_cpu_supports("x86-64-v3") != 0, v4 = __builtin_cpu_supports("x86-64-v4") != 0;
  all.push_back({"avx512", &avx512::kernels_float, &avx512::kernels_double, v4, false});
  all.push_back({"avx2", &avx2::kernels_float, &avx2::kernels_double, v3, false});
  // the same kernels on 128-bit vectors: to hold the law that widths change no bit on any processor
  all.push_back({"fma128", &fma128::kernels_float, &fma128::kernels_double, v3, true});
#elif defined(PENSTOCK_ARM)
  all.push_back({"neon", &neon::kernels_float, &neon::kernels_double, true, false});
#endif
  return all;
}

std::string list(const std::vector<std::string> &names) {
  std::string text;
  for (const std::string &name : names) {
    text += (text.empty() ? "" : ", ") + name;
  }
  return text.empty() ? "none" : text;
}

Choice choose() {
  const char *forced = std::getenv("PENSTOCK_ISA");
  const bool force = forced != nullptr && *forced != '\0';
  for (const Choice &choice : choices()) {
    if (choice.usable && (force ? std::string(forced) == choice.name : !choice.by_name_only)) {
      return choice;
    }
  }
  if (force) {
    throw std::runtime_error("PENSTOCK_ISA=" + std::string(forced) + ": this build on this processor has no " + forced +
                             "; it has: " + list(isas()));
  }
  throw std::runtime_error("this processor has none of the instruction sets that the extension was built for");
}

const Choice &chosen() {
  static const Choice choice = choose();
  return choice;
}

}  // namespace

std::vector<std::string> isas() {
  std::vector<std::string> names;
  for (const Choice &choice : choices()) {
    if (choice.usable) {
      names.emplace_back(choice.name);
    }
  }
  return names;
}

const std::string &isa() {
  static const std::string name = chosen().name;
  return name;
}

template <>
const Kernels<float> &kernels<float>() {
  return *chosen().single;
}
template <>
const Kernels<double> &kernels<double>() {
  return *chosen().twice;
}

}  // namespace penstock
