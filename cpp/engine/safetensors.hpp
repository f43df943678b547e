// The safetensors container: named arrays and a few strings, read and written as src/penstock/files/safetensors.py does. It
// knows nothing of what they mean.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace penstock {

// What is wrong with a file, to be completed with its name.
[[noreturn]] inline void refuse_file(const std::string &what) { throw std::invalid_argument(what); }

struct TensorEntry {
  std::string name;
  std::string code;  // F32, F64, I64 or U8
  std::vector<int64_t> shape;
  std::string_view bytes;  // within the file

  bool is(std::string_view other_code, const std::vector<int64_t> &other_shape) const {
    return code == other_code && shape == other_shape;
  }
};

using Metadata = std::vector<std::pair<std::string, std::string>>;

struct Container {
  Metadata metadata;
  std::vector<TensorEntry> tensors;  // in the order in which they lie in the file
};

// How many of the first bytes of a file check_start() looks at.
inline constexpr size_t container_start = 9;

// Throws std::invalid_argument where a file of `size` bytes that begins so cannot be a container; start has container_start
// bytes, or all where there are fewer.
void check_start(std::string_view start, uint64_t size);

// The contents of a whole file, which must outlive them. Throws std::invalid_argument.
Container read_container(std::string_view file);

// Puts the bytes of a container together, its tensors in the order in which they come.
class ContainerWriter {
 public:
  explicit ContainerWriter(const Metadata &metadata);
  void add(std::string_view name, std::string_view code, const std::vector<int64_t> &shape, std::string_view bytes);
  std::string finished() const;

 private:
  std::string header_, numbers_;
};

// Names as in sentences: the first five.
std::string some(const std::vector<std::string> &names);

// The first 80 characters of a name.
std::string brief(std::string_view name);

}  // namespace penstock
