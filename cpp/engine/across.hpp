// What makes an entry of a table of Calls out of a function: its exceptions end here, see border.hpp.
#pragma once

#include <exception>
#include <functional>
#include <new>
#include <stdexcept>
#include <utility>

#include "engine/border.hpp"

namespace penstock {

inline Fault told(Fault::Kind kind, const char *words) noexcept {
  try {
    return {kind, words};
  } catch (...) {
    return {Fault::memory};
  }
}

// Of the exception that is being handled.
inline Fault fault() noexcept {
  try {
    throw;
  } catch (const Interrupted &) {
    return {Fault::interrupted};
  } catch (const std::bad_alloc &) {
    return {Fault::memory};
  } catch (const std::length_error &) {  // of a container that would be larger than any memory
    return {Fault::memory};
  } catch (const std::invalid_argument &error) {
    return told(Fault::argument, error.what());
  } catch (const std::exception &error) {
    return told(Fault::other, error.what());
  } catch (...) {
    return told(Fault::other, "a fault of the library");
  }
}

template <auto f, class Function>
struct Across;
template <auto f, class R, class... A>
struct Across<f, R(A...)> {
  static Fault call(Returned<R> &result, A... arguments) noexcept {
    try {
      if constexpr (std::is_void_v<R>) {
        std::invoke(f, std::forward<A>(arguments)...);
        result.emplace();
      } else {
        result.emplace(std::invoke(f, std::forward<A>(arguments)...));
      }
      return {};
    } catch (...) {
      return fault();
    }
  }
};

template <auto f>
constexpr Entry<f> across = &Across<f, typename Crossing<decltype(f)>::Function>::call;

}  // namespace penstock
