// One flow of a model file: its plan table, buffers and parameters, and what belongs to its columns, found and checked.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/file.hpp"
#include "engine/file_texts.hpp"
#include "engine/safetensors.hpp"

namespace penstock {

// A tensor by the name that it has in a file of one flow, and its number among those of the file.
struct NamedTensor {
  std::string_view name;
  size_t number;
};

// The tensors of a flow, in the order of the file, those that all members share behind its own.
class FilePart {
 public:
  explicit FilePart(const Container &container) : container_(container) {}
  void add(const NamedTensor &tensor) {
    tensors_.push_back(tensor);
    by_name_.emplace(tensor.name, &entry(tensor));
  }
  const std::vector<NamedTensor> &tensors() const { return tensors_; }
  const TensorEntry &entry(const NamedTensor &tensor) const { return container_.tensors[tensor.number]; }
  // Null where there is none.
  const TensorEntry *find(std::string_view name) const {
    const auto found = by_name_.find(name);
    return found == by_name_.end() ? nullptr : found->second;
  }

 private:
  const Container &container_;
  std::vector<NamedTensor> tensors_;
  std::unordered_map<std::string_view, const TensorEntry *> by_name_;
};

inline constexpr std::string_view training_prefix = "training.", member_prefix = "member.";

// Puts the numbers of a tensor into `to`, behind those that are there.
template <class T>
void append_numbers(const TensorEntry &entry, std::vector<T> &to);

// All of these throw std::invalid_argument. holds gets what each tensor of the file is.
FileMember read_member(const FilePart &part, const FlowHead &head, std::vector<FileTensor::Holds> &holds);
std::vector<std::string> read_names(const FilePart &part, std::string_view name, int64_t count);
void read_lattice(const FilePart &part, int64_t dim, std::vector<double> &steps, std::vector<double> &origins);

}  // namespace penstock
