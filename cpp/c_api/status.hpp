// What becomes of a call: every exception ends here, as a status and a sentence of the calling thread.
#pragma once

#include <stdexcept>
#include <string>

#include "penstock/penstock.h"

namespace penstock::c {

// Ends a call with a status and a sentence.
struct Failure : std::runtime_error {
  Failure(penstock_status of, const std::string &sentence) : std::runtime_error(sentence), status(of) {}
  penstock_status status;
};

[[noreturn]] inline void fail(penstock_status status, const std::string &sentence) { throw Failure(status, sentence); }

// "name must ...", of an argument.
[[noreturn]] inline void wrong(const std::string &name, const std::string &expected) {
  fail(PENSTOCK_ERROR_ARGUMENT, name + " must " + expected);
}

template <class P>
void needed(const char *name, const P *pointer) {
  if (pointer == nullptr) {
    wrong(name, "not be NULL");
  }
}

// Inside a handler: the status of the exception that is being handled, whose sentence becomes that of the thread.
penstock_status told() noexcept;

// The sentence of the thread.
const char *last_sentence() noexcept;

// body(), as a call of C ends.
template <class Body>
penstock_status guard(Body &&body) noexcept {
  try {
    body();
    return PENSTOCK_OK;
  } catch (...) {
    return told();
  }
}

}  // namespace penstock::c
