// One flow of a model file: see file_member.hpp.
#include "engine/file_member.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <tuple>
#include <utility>

#include "engine/text.hpp"

namespace penstock {
namespace {

using Holds = FileTensor::Holds;
using Shape = std::vector<int64_t>;

constexpr std::string_view optional_tensors[] = {"columns", "context_columns", "lattice", "hash"};
constexpr const char *other_table = "its plan table does not belong to its spec";
constexpr const char *other_order = "its tensors are not in the order of the format";

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

// Takes the part of a name up to the next point off its front.
std::string_view next_word(std::string_view &name) {
  const size_t point = std::min(name.find('.'), name.size());
  const std::string_view word = name.substr(0, point);
  name.remove_prefix(std::min(point + 1, name.size()));
  return word;
}

int64_t next_number(std::string_view &name) {
  const std::string_view word = next_word(name);
  int64_t number = 0;
  std::from_chars(word.data(), word.data() + word.size(), number);
  return number;
}

// Where the parameters of a name stand among all: those of the layers, of the embedding, of the base; in a network weights and
// biases, linear layer by linear layer. Parameters of other names stand as the table says.
std::tuple<int, int64_t, int64_t, bool> place_of(std::string_view name) {
  const std::string_view whole = next_word(name);
  const int group = whole == "layers" ? 0 : whole == "embedding" ? 1 : 2;
  const int64_t number = group == 1 ? 0 : next_number(name);
  if (group != 1 && next_word(name) != "conditioner") {
    return {group, number, 0, false};
  }
  const int64_t linear = next_number(name);
  return {group, number, linear, name == "bias"};
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
    sort_out();
    check_shapes();
    check_order();
    read_flag();
    for (const NamedTensor &tensor : buffers_) {
      append_numbers(part_.entry(tensor), member_.buffers);
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
    for (const NamedTensor &tensor : part_.tensors) {
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
    if (head_.dtype != dtype_names[flow.dtype] || head_.context_dim != flow.context_dim || !has_buffers_of_format()) {
      refuse_file(other_table);
    }
  }

  // Whether buffers lie as the format says: location and scale of the columns, of the context, then numbers of supports.
  bool has_buffers_of_format() const {
    const Table &table = member_.table;
    const int64_t dim = table.flow.dim, context_dim = table.flow.context_dim;
    int64_t own = 2 * (dim + context_dim);
    bool fine = true;
    for (size_t i = 0; i < table.columns.size(); i++) {
      const ColumnRecord &column = table.columns[i];
      const auto number = static_cast<int64_t>(i);
      const int64_t loc = number < dim ? number : dim + number;
      fine = fine && column.loc == loc && column.scale == loc + (number < dim ? dim : context_dim) &&
             (column.n_buffers == 0 || column.buffers == own);
      own += column.n_buffers;
    }
    return fine;
  }

  // Finds buffers and parameters, and refuses what belongs to no flow.
  void sort_out() {
    const FlowRecord &flow = member_.table.flow;
    const auto expect_buffers = [&](const char *name, int64_t count) {
      if (count > 0) {
        expected_.push_back({name, count});
      }
    };
    expect_buffers("standardize.loc", flow.dim);
    expect_buffers("standardize.scale", flow.dim);
    expect_buffers("context.loc", flow.context_dim);
    expect_buffers("context.scale", flow.context_dim);
    expect_buffers("support.numbers", flow.n_buffers - 2 * (flow.dim + flow.context_dim));
    const auto is_expected = [&](std::string_view name) {
      return std::any_of(expected_.begin(), expected_.end(), [&](const Buffer &buffer) { return buffer.name == name; });
    };
    std::vector<std::string> surplus, missing;
    for (const NamedTensor &tensor : part_.tensors) {
      const std::string_view name = tensor.name;
      if (is_parameter(name)) {
        params_.push_back(tensor);
        holds_[tensor.number] = Holds::params;
      } else if (is_expected(name)) {
        buffers_.push_back(tensor);
        holds_[tensor.number] = Holds::buffers;
      } else if (name == "initialised") {
        holds_[tensor.number] = Holds::initialised;
      } else if (name != "plan" && !name.starts_with(training_prefix) &&
                 std::find(std::begin(optional_tensors), std::end(optional_tensors), name) ==
                     std::end(optional_tensors)) {
        surplus.emplace_back(name);
      }
    }
    for (const Buffer &buffer : expected_) {
      if (part_.find(buffer.name) == nullptr) {
        missing.emplace_back(buffer.name);
      }
    }
    if (part_.find("initialised") == nullptr) {
      missing.emplace_back("initialised");
    }
    std::sort(missing.begin(), missing.end());
    std::sort(surplus.begin(), surplus.end());
    if (!missing.empty()) {
      refuse_file("tensors are missing: " + some(missing));
    }
    if (!surplus.empty()) {
      refuse_file("tensors that the spec does not have: " + some(surplus));
    }
  }

  void check_shapes() {
    for (const Buffer &buffer : expected_) {
      expect(buffer.name, *part_.find(buffer.name), "F64", {buffer.count});
    }
    const FlowRecord &flow = member_.table.flow;
    const std::string_view code = flow.dtype == dtype_float32 ? "F32" : "F64";
    const size_t size = flow.dtype == dtype_float32 ? sizeof(float) : sizeof(double);
    int64_t n = 0;
    for (const NamedTensor &tensor : params_) {
      const TensorEntry &entry = part_.entry(tensor);
      expect(tensor.name, entry, code, entry.shape);
      starts_.push_back(n);
      n += static_cast<int64_t>(entry.bytes.size() / size);
    }
    if (n != flow.n_params) {
      refuse_file("its parameters are " + std::to_string(n) + " numbers, and its plan table has " +
                  std::to_string(flow.n_params));
    }
    for (const LinearRecord &linear : member_.table.linears) {
      expect_parameters(linear.weight, {linear.n_in, linear.n_out}, code);
      if (linear.bias != no_index) {
        expect_parameters(linear.bias, {linear.n_out}, code);
      }
    }
    for (const PartRecord &own : member_.table.parts) {
      if (own.source == source_free) {
        expect_parameters(own.params, {own.n_members, own.n_theta}, code);
      }
    }
    expect("initialised", *part_.find("initialised"), "U8", {1});
  }

  // The parameters from `start` on are a tensor of that shape. Empty ones may begin at the same place.
  void expect_parameters(int64_t start, const Shape &shape, std::string_view code) const {
    const auto range = std::equal_range(starts_.begin(), starts_.end(), start);
    const auto entry = [&](auto at) -> const NamedTensor & {
      return params_[static_cast<size_t>(at - starts_.begin())];
    };
    for (auto at = range.first; at != range.second; at++) {
      if (part_.entry(entry(at)).is(code, shape)) {
        return;
      }
    }
    if (range.first == range.second) {
      refuse_file(other_order);
    }
    expect(entry(range.first).name, part_.entry(entry(range.first)), code, shape);
  }

  void check_order() const {
    std::vector<std::string_view> head{"plan"};
    for (const Buffer &buffer : expected_) {
      head.push_back(buffer.name);
    }
    for (const NamedTensor &tensor : params_) {
      head.push_back(tensor.name);
    }
    const auto same = [](const NamedTensor &tensor, std::string_view name) { return tensor.name == name; };
    const bool leads = head.size() <= part_.tensors.size() &&
                       std::equal(part_.tensors.begin(),
                                  part_.tensors.begin() + static_cast<std::ptrdiff_t>(head.size()), head.begin(), same);
    const bool rises = std::is_sorted(params_.begin(), params_.end(), [](const NamedTensor &a, const NamedTensor &b) {
      return place_of(a.name) < place_of(b.name);
    });
    if (!leads || !rises) {
      refuse_file(other_order);
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
  void check_buffer(const NamedTensor &tensor) const {
    const std::vector<double> &all = member_.buffers;
    const auto first = all.end() - part_.entry(tensor).shape[0];
    if (!std::all_of(first, all.end(), [](double x) { return std::isfinite(x); })) {
      refuse_file("tensor " + std::string(tensor.name) + " holds NaN or infinity");
    }
    if (tensor.name.ends_with(".scale") && !std::all_of(first, all.end(), [](double x) { return x > 0; })) {
      refuse_file("tensor " + std::string(tensor.name) + " must be positive");
    }
  }

  template <class T>
  void read_params() {
    std::vector<T> params;
    params.reserve(static_cast<size_t>(member_.table.flow.n_params));
    for (const NamedTensor &tensor : params_) {
      const size_t start = params.size();
      append_numbers(part_.entry(tensor), params);
      if (!std::all_of(params.begin() + static_cast<std::ptrdiff_t>(start), params.end(),
                       [](T x) { return std::isfinite(x); })) {
        refuse_file("tensor " + brief(tensor.name) + " holds NaN or infinity");
      }
    }
    for (const LinearRecord &linear : member_.table.linears) {
      if (linear.in_degrees != no_index) {
        check_mask(linear, params.data() + linear.weight);
      }
    }
    member_.params = std::move(params);
  }

  template <class T>
  void check_mask(const LinearRecord &linear, const T *weights) const {
    const int64_t *in = member_.table.ints.data() + linear.in_degrees;
    const int64_t *out = member_.table.ints.data() + linear.out_degrees;
    for (int64_t i = 0; i < linear.n_in; i++) {
      for (int64_t j = 0; j < linear.n_out; j++) {
        if (in[i] > out[j] && weights[i * linear.n_out + j] != 0) {
          const auto behind = std::upper_bound(starts_.begin(), starts_.end(), linear.weight);
          const NamedTensor &tensor = params_[static_cast<size_t>(behind - starts_.begin() - 1)];
          refuse_file("tensor " + brief(tensor.name) + " holds numbers where its mask has none");
        }
      }
    }
  }

  struct Buffer {
    std::string_view name;
    int64_t count;
  };
  const FilePart &part_;
  const FlowHead &head_;
  std::vector<Holds> &holds_;
  FileMember member_;
  std::vector<Buffer> expected_;               // tensors of buffers, in order
  std::vector<NamedTensor> buffers_, params_;  // those that were found, in the order of the file
  std::vector<int64_t> starts_;                // of params_, in the flat vector
};

}  // namespace

const TensorEntry *FilePart::find(std::string_view name) const {
  const auto found =
      std::find_if(tensors.begin(), tensors.end(), [&](const NamedTensor &tensor) { return tensor.name == name; });
  return found == tensors.end() ? nullptr : &entry(*found);
}

template <class T>
void append_numbers(const TensorEntry &entry, std::vector<T> &to) {
  const size_t start = to.size();
  to.resize(start + entry.bytes.size() / sizeof(T));
  if (to.size() > start) {
    std::memcpy(to.data() + start, entry.bytes.data(), (to.size() - start) * sizeof(T));
  }
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
