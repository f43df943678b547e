// One flow of a model file: see file_member.hpp.
#include "engine/file_member.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <iterator>
#include <system_error>
#include <utility>

#include "engine/file_names.hpp"
#include "engine/record.hpp"
#include "engine/text.hpp"

namespace penstock {
namespace {

using Holds = FileTensor::Holds;
using Shape = std::vector<int64_t>;

constexpr std::string_view optional_tensors[] = {"columns", "context_columns", "lattice", "hash"};
constexpr const char *other_table = "its plan table does not belong to its spec";

// Sentences about what a tensor has to be.
void expect(std::string_view name, const TensorEntry &entry, std::string_view code, const Shape &shape) {
  if (!entry.is(code, shape)) {
    refuse_file("tensor " + brief(name) + " must be " + std::string(code) + " of shape " + tuple(shape) + ", got " +
                entry.code + " of shape " + tuple(entry.shape));
  }
}

bool is_parameter(std::string_view name) {
  return name.starts_with("layers.") || name.starts_with("embedding.") || name.starts_with("base.");
}

// Which numbers of a support are its column's own; see NUMBERS in src/penstock/support.py.
void check_support(const Table &table, size_t i, const std::vector<double> &buffers) {
  const ColumnRecord &column = table.columns[i];
  const auto dim = static_cast<size_t>(table.flow.dim);
  const auto check = [&](const char *name, double value, bool fine) {
    if (!fine) {
      refuse_file("tensor support.numbers: " + std::string(name) + " of " + (i < dim ? "column " : "context column ") +
                  std::to_string(i < dim ? i : i - dim) + " cannot be " + shortest(value));
    }
  };
  const double *own = buffers.data() + column.buffers;
  if (column.map == map_box) {
    const double lo = table.reals[static_cast<size_t>(column.lo)], hi = table.reals[static_cast<size_t>(column.hi)];
    check("m", own[0], lo <= own[0] && own[0] <= hi);
    check("s", own[1], own[1] > 0);
  } else if (column.n_buffers == 1) {
    check("s", own[0], own[0] > 0);
  }
}

// Reads the numbers of one flow.
class MemberReader {
 public:
  MemberReader(const FilePart &part, const FlowHead &head, std::vector<Holds> &holds)
      : part_(part), head_(head), holds_(holds) {}

  FileMember read() {
    check_prefixes();
    read_table();
    set_expected();
    check_names();
    check_tensors();
    read_flag();
    for (const TensorName &tensor : buffers_) {
      append_numbers(*part_.find(tensor.name), member_.buffers);
      check_buffer(tensor);
    }
    if (member_.table.flow.dtype == dtype_float32) {
      read_params<float>();
    } else {
      read_params<double>();
    }
    for (size_t i = 0; i < member_.table.columns.size(); i++) {
      check_support(member_.table, i, member_.buffers);
    }
    return std::move(member_);
  }

 private:
  void check_prefixes() const {
    std::vector<std::string> members;
    for (const NamedTensor &tensor : part_.tensors()) {
      if (tensor.name.starts_with(member_prefix)) {
        members.emplace_back(tensor.name);
      }
    }
    if (!members.empty()) {
      refuse_file("it holds several flows (" + some(members) + "), and this version reads files of one");
    }
  }

  void read_table() {
    const TensorEntry *plan = part_.find("plan");
    if (plan == nullptr) {
      refuse_file("tensors are missing: plan");
    }
    if (!head_.fault.empty()) {
      refuse_file(head_.fault);
    }
    if (plan->code != "I64" || plan->shape.size() != 1 || plan->shape[0] <= table_header_size) {
      refuse_file("tensor plan must be I64 of one axis, got " + plan->code + " of shape " + tuple(plan->shape));
    }
    append_numbers(*plan, member_.words);
    if (member_.words[0] != table_magic) {
      refuse_file("tensor plan holds no plan table");
    }
    member_.table = decode_table(member_.words.data(), static_cast<int64_t>(member_.words.size()));
    const FlowRecord &flow = member_.table.flow;
    if (head_.dtype != dtype_names[flow.dtype] || head_.context_dim != flow.context_dim ||
        !has_buffers_of_format(member_.table)) {
      refuse_file(other_table);
    }
  }

  // What the flow must have, tensor by tensor: all names and shapes where the table is of the revision of this build. Of the
  // parameters of another one those that are there, which have to be as many numbers.
  void set_expected() {
    const Table &table = member_.table;
    buffers_ = buffer_names(table);
    if (member_.words[2] == table_revision) {
      params_ = parameter_names(table, base_blocks());
      return;
    }
    for (const NamedTensor &tensor : part_.tensors()) {
      if (is_parameter(tensor.name)) {
        params_.push_back({std::string(tensor.name), part_.entry(tensor).shape});
      }
    }
  }

  // The numbers in names that begin with "base.", rising.
  std::vector<int64_t> base_blocks() const {
    constexpr std::string_view prefix = "base.";
    std::vector<int64_t> blocks;
    for (const NamedTensor &tensor : part_.tensors()) {
      int64_t number = 0;
      const std::string_view name = tensor.name;
      if (name.starts_with(prefix) &&
          std::from_chars(name.data() + prefix.size(), name.data() + name.size(), number).ec == std::errc() &&
          number < dim_most) {
        blocks.push_back(number);
      }
    }
    std::sort(blocks.begin(), blocks.end());
    return blocks;
  }

  void check_names() const {
    std::vector<std::string> found, expected{"initialised"}, missing, surplus;
    for (const NamedTensor &tensor : part_.tensors()) {
      const auto &optional = optional_tensors;
      if (tensor.name != "plan" && !tensor.name.starts_with(training_prefix) &&
          std::find(std::begin(optional), std::end(optional), tensor.name) == std::end(optional)) {
        found.emplace_back(tensor.name);
      }
    }
    for (const std::vector<TensorName> *list : {&buffers_, &params_}) {
      for (const TensorName &tensor : *list) {
        expected.push_back(tensor.name);
      }
    }
    std::sort(found.begin(), found.end());
    std::sort(expected.begin(), expected.end());
    std::set_difference(expected.begin(), expected.end(), found.begin(), found.end(), std::back_inserter(missing));
    std::set_difference(found.begin(), found.end(), expected.begin(), expected.end(), std::back_inserter(surplus));
    if (!missing.empty()) {
      refuse_file("tensors are missing: " + some(missing));
    }
    if (!surplus.empty()) {
      refuse_file("tensors that the spec does not have: " + some(surplus));
    }
  }

  // Types, shapes and order. The tensors of buffers and parameters are in their places behind the plan afterwards.
  void check_tensors() {
    const FlowRecord &flow = member_.table.flow;
    const std::string_view number_type = flow.dtype == dtype_float32 ? "F32" : "F64";
    const auto size = static_cast<int64_t>(flow.dtype == dtype_float32 ? sizeof(float) : sizeof(double));
    for (const TensorName &tensor : buffers_) {
      expect(tensor.name, *part_.find(tensor.name), "F64", tensor.shape);
    }
    int64_t n = 0;
    for (const TensorName &tensor : params_) {
      const TensorEntry &entry = *part_.find(tensor.name);
      expect(tensor.name, entry, number_type, tensor.shape);
      n += static_cast<int64_t>(entry.bytes.size()) / size;
    }
    expect("initialised", *part_.find("initialised"), "U8", {1});
    if (n != flow.n_params) {
      refuse_file("its parameters are " + std::to_string(n) + " numbers, and its plan table has " +
                  std::to_string(flow.n_params));
    }
    auto at = part_.tensors().begin();
    const auto take = [&](std::string_view name, Holds holds) {
      if (at == part_.tensors().end() || at->name != name) {
        refuse_file("its tensors are not in the order of the format");
      }
      holds_[at++->number] = holds;
    };
    take("plan", Holds::itself);
    for (const TensorName &tensor : buffers_) {
      take(tensor.name, Holds::buffers);
    }
    for (const TensorName &tensor : params_) {
      take(tensor.name, Holds::params);
    }
    for (; at != part_.tensors().end(); at++) {
      if (at->name == "initialised") {
        holds_[at->number] = Holds::initialised;
      }
    }
  }

  void read_flag() {
    const int flag = static_cast<unsigned char>(part_.find("initialised")->bytes[0]);
    if (flag > 1) {
      refuse_file("initialised must be 0 or 1, got " + std::to_string(flag));
    }
    member_.initialised = flag == 1;
  }

  // The buffers of a tensor, the last ones that were read.
  void check_buffer(const TensorName &tensor) const {
    const std::vector<double> &all = member_.buffers;
    const auto first = all.end() - tensor.shape[0];
    if (!std::all_of(first, all.end(), [](double x) { return std::isfinite(x); })) {
      refuse_file("tensor " + tensor.name + " holds NaN or infinity");
    }
    if (tensor.name.ends_with(".scale") && !std::all_of(first, all.end(), [](double x) { return x > 0; })) {
      refuse_file("tensor " + tensor.name + " must be positive");
    }
  }

  template <class T>
  void read_params() {
    std::vector<T> params;
    params.reserve(static_cast<size_t>(member_.table.flow.n_params));
    std::vector<int64_t> starts;
    for (const TensorName &tensor : params_) {
      const size_t start = params.size();
      starts.push_back(static_cast<int64_t>(start));
      append_numbers(*part_.find(tensor.name), params);
      if (!std::all_of(params.begin() + static_cast<std::ptrdiff_t>(start), params.end(),
                       [](T x) { return std::isfinite(x); })) {
        refuse_file("tensor " + brief(tensor.name) + " holds NaN or infinity");
      }
    }
    for (const LinearRecord &linear : member_.table.linears) {
      if (linear.in_degrees != no_index && !is_masked(linear, params.data() + linear.weight)) {
        const auto behind = std::upper_bound(starts.begin(), starts.end(), linear.weight);
        const TensorName &tensor = params_[static_cast<size_t>(behind - starts.begin() - 1)];
        refuse_file("tensor " + brief(tensor.name) + " holds numbers where its mask has none");
      }
    }
    member_.params = std::move(params);
  }

  // Whether weights are zero where their input has a higher degree than their output.
  template <class T>
  bool is_masked(const LinearRecord &linear, const T *weights) const {
    const int64_t *in = member_.table.ints.data() + linear.in_degrees;
    const int64_t *out = member_.table.ints.data() + linear.out_degrees;
    for (int64_t i = 0; i < linear.n_in; i++) {
      for (int64_t j = 0; j < linear.n_out; j++) {
        if (in[i] > out[j] && weights[i * linear.n_out + j] != 0) {
          return false;
        }
      }
    }
    return true;
  }

  const FilePart &part_;
  const FlowHead &head_;
  std::vector<Holds> &holds_;
  FileMember member_;
  std::vector<TensorName> buffers_, params_;  // what the flow must have, in order
};

}  // namespace

template <class T>
void append_numbers(const TensorEntry &entry, std::vector<T> &to) {
  const size_t start = to.size();
  to.resize(start + entry.bytes.size() / sizeof(T));
  entry.bytes.copy(reinterpret_cast<char *>(to.data() + start), (to.size() - start) * sizeof(T));
}
template void append_numbers(const TensorEntry &, std::vector<double> &);

FileMember read_member(const FilePart &part, const FlowHead &head, std::vector<Holds> &holds) {
  return MemberReader(part, head, holds).read();
}

std::vector<std::string> read_names(const FilePart &part, std::string_view name, int64_t count) {
  const TensorEntry *entry = part.find(name);
  if (entry == nullptr) {
    return {};
  }
  const std::string tensor = "tensor " + std::string(name);
  if (entry->code != "U8" || entry->shape.size() != 1) {
    refuse_file(tensor + " must be U8 of one axis");
  }
  const std::string_view text = entry->bytes;
  const size_t valid = valid_utf8(text);
  if (valid != text.size()) {
    refuse_file(tensor + " is no valid UTF-8: at byte " + std::to_string(valid));
  }
  std::vector<std::string> names;
  for (size_t at = 0, stop = 0; (stop = text.find('\0', at)) != std::string_view::npos; at = stop + 1) {
    names.emplace_back(text.substr(at, stop - at));
  }
  std::vector<std::string> sorted = names;
  std::sort(sorted.begin(), sorted.end());
  const bool fits = text.ends_with('\0') && static_cast<int64_t>(names.size()) == count && !sorted[0].empty() &&
                    std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end();
  if (!fits) {
    refuse_file(tensor + " must hold " + std::to_string(count) + " different names, each with a NUL behind it");
  }
  return names;
}

void read_lattice(const FilePart &part, int64_t dim, std::vector<double> &steps, std::vector<double> &origins) {
  const TensorEntry *entry = part.find("lattice");
  if (entry == nullptr) {
    return;
  }
  expect("lattice", *entry, "F64", {2, dim});
  std::vector<double> numbers;
  append_numbers(*entry, numbers);
  const auto middle = numbers.begin() + dim;
  steps.assign(numbers.begin(), middle);
  origins.assign(middle, numbers.end());
  const auto all = [&](auto fine) { return std::all_of(steps.begin(), steps.end(), fine); };
  if (!all([](double x) { return std::isfinite(x) && x >= 0; }) || all([](double x) { return x == 0; })) {
    refuse_file("tensor lattice must hold steps of at least 0");
  }
  for (size_t i = 0; i < steps.size(); i++) {
    if (!(origins[i] >= 0 && (origins[i] < steps[i] || origins[i] == 0))) {
      refuse_file("the origins in tensor lattice must be at least 0 and below the steps");
    }
  }
}

}  // namespace penstock
