// Threads of the library, its version, and what it runs on.
#include "c_api/library.hpp"

#include <string>

#include "c_api/status.hpp"
#include "engine/pool.hpp"
#include "isa/arithmetic.hpp"
#include "isa/dispatch.hpp"
#include "penstock/penstock.h"

namespace penstock::c {
namespace {

void check_threads(int n, int least) {
  constexpr int most = 256;
  if (n < least || n > most) {
    wrong("n", "be at least " + std::to_string(least) + " and at most " + std::to_string(most) + ", got " +
                   std::to_string(n));
  }
}

void alone(bool was_alone) {
  if (!was_alone) {
    fail(PENSTOCK_ERROR_BUSY, "another call is using the threads of the library");
  }
}

}  // namespace

const char *instruction_set() {
  try {
    static const bool checked = (check_arithmetic(), true);
    static_cast<void>(checked);
    return isa().c_str();
  } catch (const std::runtime_error &error) {
    fail(PENSTOCK_ERROR_UNSUPPORTED, error.what());
  }
}

}  // namespace penstock::c

using namespace penstock::c;

penstock_status penstock_set_num_threads(int n) {
  return guard([&] {
    check_threads(n, 1);
    penstock::set_num_threads(n);
  });
}

penstock_status penstock_set_local_num_threads(int n) {
  return guard([&] {
    check_threads(n, 0);
    penstock::set_local_num_threads(n);
  });
}

int penstock_num_threads(void) { return penstock::num_threads(); }

penstock_status penstock_trim(void) {
  return guard([] { alone(penstock::trim()); });
}

penstock_status penstock_shutdown(void) {
  return guard([] { alone(penstock::shutdown()); });
}

#define PENSTOCK_WORDS(n) #n
#define PENSTOCK_DOTTED(major, minor, patch) PENSTOCK_WORDS(major) "." PENSTOCK_WORDS(minor) "." PENSTOCK_WORDS(patch)

const char *penstock_version(void) {
  return PENSTOCK_DOTTED(PENSTOCK_VERSION_MAJOR, PENSTOCK_VERSION_MINOR, PENSTOCK_VERSION_PATCH);
}

int penstock_abi(void) { return PENSTOCK_ABI; }

const char *penstock_isa(void) {
  const char *name = nullptr;
  guard([&] { name = instruction_set(); });
  return name;
}
