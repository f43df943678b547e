// Statuses and sentences: see status.hpp.
#include "c_api/status.hpp"

#include <cstdint>
#include <new>
#include <string_view>

#include "engine/file.hpp"
#include "engine/file_io.hpp"

namespace penstock::c {
namespace {

constexpr size_t size_of_sentence = 1024;
thread_local char sentence[size_of_sentence];  // zeros: a thread needs no code to begin or end with it

// Bytes of the character of UTF-8 that a text begins with; 0 where it begins with none.
size_t character(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const auto follows = [&](size_t i, unsigned lo, unsigned hi) {
    return i < text.size() && byte(i) >= lo && byte(i) <= hi;
  };
  const unsigned first = byte(0);
  if (first < 0x80) {
    return 1;
  }
  if (first >= 0xC2 && first <= 0xDF) {
    return follows(1, 0x80, 0xBF) ? 2 : 0;
  }
  if (first >= 0xE0 && first <= 0xEF) {  // neither longer than needed, nor half of a surrogate pair
    const unsigned lo = first == 0xE0 ? 0xA0 : 0x80, hi = first == 0xED ? 0x9F : 0xBF;
    return follows(1, lo, hi) && follows(2, 0x80, 0xBF) ? 3 : 0;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    const unsigned lo = first == 0xF0 ? 0x90 : 0x80, hi = first == 0xF4 ? 0x8F : 0xBF;
    return follows(1, lo, hi) && follows(2, 0x80, 0xBF) && follows(3, 0x80, 0xBF) ? 4 : 0;
  }
  return 0;
}

// As much of a text as there is room for, in whole characters; a byte that belongs to none becomes a question mark.
void tell(std::string_view text) noexcept {
  size_t at = 0;
  while (!text.empty() && text[0] != '\0') {
    const size_t n = character(text), size = n > 0 ? n : 1;
    if (at + size >= size_of_sentence) {
      break;
    }
    for (size_t i = 0; i < size; i++) {
      sentence[at++] = n > 0 ? text[i] : '?';
    }
    text.remove_prefix(size);
  }
  sentence[at] = '\0';
}

penstock_status told(penstock_status status, const char *text) noexcept {
  tell(text);
  return status;
}

}  // namespace

const char *last_sentence() noexcept { return sentence; }

penstock_status told() noexcept {
  try {
    throw;
  } catch (const Failure &failure) {
    return told(failure.status, failure.what());
  } catch (const FileSystemError &error) {
    return told(PENSTOCK_ERROR_FILE, error.what());
  } catch (const FileError &error) {
    return told(PENSTOCK_ERROR_FORMAT, error.what());
  } catch (const std::invalid_argument &error) {
    return told(PENSTOCK_ERROR_ARGUMENT, error.what());
  } catch (const std::bad_alloc &) {
    return told(PENSTOCK_ERROR_MEMORY, "out of memory");
  } catch (const std::length_error &) {  // of a container that would be larger than any memory
    return told(PENSTOCK_ERROR_MEMORY, "out of memory");
  } catch (const std::exception &error) {
    return told(PENSTOCK_ERROR_INTERNAL, error.what());
  } catch (...) {
    return told(PENSTOCK_ERROR_INTERNAL, "a fault of the library");
  }
}

}  // namespace penstock::c

const char *penstock_status_string(penstock_status status) {
  switch (status) {
    case PENSTOCK_OK:
      return "success";
    case PENSTOCK_ERROR_ARGUMENT:
      return "invalid argument";
    case PENSTOCK_ERROR_MEMORY:
      return "out of memory";
    case PENSTOCK_ERROR_FILE:
      return "file cannot be read or written";
    case PENSTOCK_ERROR_FORMAT:
      return "not a model, or damaged";
    case PENSTOCK_ERROR_UNSUPPORTED:
      return "not supported";
    case PENSTOCK_ERROR_NOT_FINITE:
      return "not finite";
    case PENSTOCK_ERROR_BUSY:
      return "busy";
    case PENSTOCK_ERROR_INTERNAL:
      return "internal error";
  }
  return "unknown status";
}

const char *penstock_last_error(void) { return penstock::c::last_sentence(); }
