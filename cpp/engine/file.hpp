// The reader and writer of model files: docs/file-format.md, format 2. Everything is checked that the file and its plan table
// can tell without the spec, in the words of the Python package (src/penstock/files/); that spec and table agree is for that
// package to check.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "engine/table.hpp"

namespace penstock {

// No model, a damaged one, or one that this library does not read. The text is UTF-8.
struct FileError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A flow as its file has it.
struct FileMember {
  std::vector<int64_t> words;  // of the plan table
  Table table;                 // decoded
  std::vector<double> buffers;
  std::variant<std::vector<float>, std::vector<double>> params;  // by table.flow.dtype
  bool initialised = false;
};

// A tensor of the file, as its header names it, and where its numbers are.
struct FileTensor {
  enum class Holds { itself, buffers, params, initialised, hash };
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  Holds holds = Holds::itself;
  size_t member = 0;  // whose buffers, parameters or flag: those behind the last ones
  std::string bytes;  // of what never changes, else empty
};

// What a file of one flow, or of an ensemble, holds. Numbers of members may be changed: the same count, all finite. Whoever
// changes parameters resets `history`, and sets `initialised` where a flow was trained.
struct Model {
  std::vector<FileMember> members;
  bool ensemble = false;                              // so by the file, also where it has one member
  std::vector<double> weights;                        // of the members; 1 of a single flow
  std::vector<std::string> columns, context_columns;  // empty without
  std::vector<double> steps, origins;                 // of the lattice of each column, empty without
  std::string spec;                                   // JSON
  std::optional<std::string> history, provenance;     // JSON
  std::vector<FileTensor> tensors;                    // all but those of a training, in the order of the file
};

// Reads a model; `source` names it in sentences: "data", or the path as quoted() of text.hpp gives it. Throws FileError, or
// std::bad_alloc.
Model read_model(const void *data, size_t size, const std::string &source);

// The bytes of the file of a model, with its hash. `version` is that of the library that writes.
std::string write_model(const Model &model, std::string_view version);

}  // namespace penstock
