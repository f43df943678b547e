// Into the library and back, on the side of the bindings: see engine/border.hpp.
#pragma once

#include <new>
#include <optional>
#include <stdexcept>
#include <utility>

#include "engine/border.hpp"

namespace penstock {

// Null if it is of another build.
const Calls *library();

// Throws what was thrown there.
inline void raise(const Fault &fault) {
  switch (fault.kind) {
    case Fault::none:
      return;
    case Fault::argument:
      throw std::invalid_argument(fault.words);
    case Fault::memory:
      throw std::bad_alloc();
    case Fault::interrupted:
      throw Interrupted{};
    case Fault::other:
      throw std::runtime_error(fault.words);
  }
}

template <class R, class... A, class... Given>
R cross(Fault (*call)(std::optional<R> &, A...), Given &&...arguments) {
  std::optional<R> result;
  raise(call(result, std::forward<Given>(arguments)...));
  return *std::move(result);
}

}  // namespace penstock
