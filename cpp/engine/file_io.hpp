// Files as a whole: read at once, and replaced at once and for good.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

#include "engine/file.hpp"

namespace penstock {

// A file that cannot be opened, read or written.
struct FileSystemError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The model in a file. Throws FileSystemError, FileError, or std::bad_alloc.
Model load_model(const std::string &path);

// Puts bytes at a path: others see the old file or the new one, never a part, also after a crash. It replaces a model, and
// nothing else (FileError). Throws FileSystemError, FileError, or std::bad_alloc.
void save_bytes(const std::string &path, std::string_view bytes);

}  // namespace penstock
