// The reader and writer of model files: see file.hpp.
#include "engine/file.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>
#include <memory>
#include <system_error>
#include <utility>

#include "engine/blake2b.hpp"
#include "engine/file_member.hpp"
#include "engine/file_texts.hpp"
#include "engine/safetensors.hpp"
#include "engine/text.hpp"

namespace penstock {
namespace {

using Holds = FileTensor::Holds;

static_assert(std::endian::native == std::endian::little);

constexpr size_t hash_size = 32;
constexpr std::string_view shared_tensors[] = {"columns", "context_columns", "lattice"};  // of all members
constexpr std::string_view known_metadata[] = {"spec", "history", "provenance"};

template <size_t n>
bool is_one_of(const std::string_view (&names)[n], std::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

// In what two members differ that belong to one mixture, in words.
std::string differences(const Table &a, const Table &b) {
  std::string out;
  const auto tell = [&](const std::string &words) { out += (out.empty() ? "" : "; ") + words; };
  const auto numbers = [&](const char *name, const std::string &mine, const std::string &its) {
    if (mine != its) {
      tell(std::string(name) + " " + mine + " and " + its);
    }
  };
  numbers("dim", std::to_string(a.flow.dim), std::to_string(b.flow.dim));
  numbers("context_dim", std::to_string(a.flow.context_dim), std::to_string(b.flow.context_dim));
  numbers("dtype", dtype_names[a.flow.dtype], dtype_names[b.flow.dtype]);
  if (!out.empty()) {
    return out;
  }
  const auto end = [](const Table &table, int64_t at) {
    return at == no_index ? 0 : table.reals[static_cast<size_t>(at)];
  };
  const auto differ = [&](int64_t first, int64_t last) {
    for (auto i = static_cast<size_t>(first); i < static_cast<size_t>(last); i++) {
      const ColumnRecord &mine = a.columns[i], &its = b.columns[i];
      if (mine.kind != its.kind || mine.map != its.map || mine.ends != its.ends || mine.closed != its.closed ||
          mine.group != its.group || end(a, mine.lo) != end(b, its.lo) || end(a, mine.hi) != end(b, its.hi)) {
        return true;
      }
    }
    return false;
  };
  if (differ(0, a.flow.dim)) {
    tell("support of different kinds");
  }
  if (differ(a.flow.dim, a.flow.dim + a.flow.context_dim)) {
    tell("context_support of different kinds");
  }
  return out;
}

// Reads one file.
class ModelReader {
 public:
  explicit ModelReader(std::string_view file)
      : file_(file), container_(read_container(file)), holds_(container_.tensors.size(), Holds::itself) {}

  Model read() {
    const std::string *spec = text("spec");
    if (spec == nullptr) {
      refuse_file("not a penstock file: no spec in its metadata");
    }
    const SpecReader reader(*spec, file_.size());
    check_hash();
    check_metadata();
    const SpecHead &head = reader.head();
    model_.spec = *spec;
    model_.ensemble = head.ensemble;
    members_of_.resize(container_.tensors.size());
    if (const std::string *history = text("history")) {
      model_.history = *history;
    }
    if (const std::string *provenance = text("provenance")) {
      model_.provenance = *provenance;
    }
    if (head.ensemble) {
      read_members(head);
    } else {
      FilePart part(container_);
      for (size_t i = 0; i < container_.tensors.size(); i++) {
        part.add({container_.tensors[i].name, i});
      }
      read_one(part, head.flows[0], model_.history ? std::string_view(*model_.history) : std::string_view());
      model_.weights = {1.0};
    }
    keep_tensors();
    return std::move(model_);
  }

 private:
  const std::string *text(std::string_view name) const {
    const auto found = std::find_if(container_.metadata.begin(), container_.metadata.end(),
                                    [&](const auto &entry) { return entry.first == name; });
    return found == container_.metadata.end() ? nullptr : &found->second;
  }

  void check_hash() {
    const std::vector<TensorEntry> &tensors = container_.tensors;
    if (tensors.empty() || tensors.back().name != "hash" || !tensors.back().is("U8", {hash_size})) {
      refuse_file("its last tensor is not the hash of its contents");
    }
    const std::array<char, hash_size> hash = blake2b_256(file_.data(), file_.size() - hash_size);
    if (std::memcmp(hash.data(), tensors.back().bytes.data(), hash_size) != 0) {
      refuse_file("the hash of its contents does not match them: the file is damaged");
    }
    holds_.back() = Holds::hash;
  }

  void check_metadata() const {
    std::vector<std::string> surplus;
    for (const auto &[name, value] : container_.metadata) {
      if (!is_one_of(known_metadata, name)) {
        surplus.push_back(name);
      }
    }
    std::sort(surplus.begin(), surplus.end());
    if (!surplus.empty()) {
      refuse_file("metadata that this version does not know: " + some(surplus));
    }
  }

  // A flow, or a member, with what belongs to its columns.
  void read_one(const FilePart &part, const FlowHead &head, std::string_view history) {
    FileMember member = read_member(part, head, holds_);
    const FlowRecord &flow = member.table.flow;
    model_.columns = read_names(part, "columns", flow.dim);
    model_.context_columns = read_names(part, "context_columns", flow.context_dim);
    if (!history.empty()) {
      check_history(history);
    }
    if (model_.provenance) {
      check_provenance(*model_.provenance);
    }
    read_lattice(part, flow.dim, model_.steps, model_.origins);
    model_.members.push_back(std::move(member));
  }

  void read_members(const SpecHead &head) {
    const size_t n = head.flows.size();
    const std::vector<FilePart> parts = parted(n);
    std::vector<std::string_view> histories(n);
    if (model_.history) {
      histories = member_histories(*model_.history, n);
    }
    for (size_t k = 0; k < n; k++) {
      try {
        read_one(parts[k], head.flows[k], histories[k]);
      } catch (const std::invalid_argument &error) {
        refuse_file("member " + std::to_string(k) + ": " + error.what());
      }
      const std::string told = differences(model_.members[0].table, model_.members[k].table);
      if (!told.empty()) {
        refuse_file("members 0 and " + std::to_string(k) + " do not belong together: they have " + told);
      }
    }
    read_weights(n);
  }

  // The tensors of each member, in the order of the file, with those that all share behind them.
  std::vector<FilePart> parted(size_t n) {
    std::vector<FilePart> parts(n, FilePart(container_));
    std::vector<NamedTensor> shared;
    size_t reached = 0;
    for (size_t i = 0; i < container_.tensors.size(); i++) {
      const std::string_view name = container_.tensors[i].name;
      if (is_one_of(shared_tensors, name)) {
        shared.push_back({name, i});
        continue;
      }
      if (name == "weights" || name == "hash") {
        continue;
      }
      size_t number = n;
      std::string_view own = name;
      if (name.starts_with(member_prefix)) {
        own.remove_prefix(member_prefix.size());
        const size_t point = std::min(own.find('.'), own.size());
        const std::string_view word = own.substr(0, point);
        const char *stop = std::to_address(word.end());
        const auto found = std::from_chars(std::to_address(word.begin()), stop, number);
        const bool plain = found.ec == std::errc() && found.ptr == stop && (word[0] != '0' || point == 1);
        number = plain && point < own.size() ? number : n;
        own.remove_prefix(std::min(point + 1, own.size()));
      }
      if (number >= n) {
        refuse_file("tensors that its " + std::to_string(n) + " members do not have: " + brief(name));
      }
      if (number < reached) {
        refuse_file("its members are not in the order of the format");
      }
      if (is_one_of(shared_tensors, own)) {
        refuse_file("tensor " + brief(name) + " belongs to all members and stands once, without a prefix");
      }
      reached = number;
      parts[number].add({own, i});
      members_of_[i] = number;
    }
    for (FilePart &part : parts) {
      for (const NamedTensor &tensor : shared) {
        part.add(tensor);
      }
    }
    return parts;
  }

  void read_weights(size_t n) {
    const auto found = std::find_if(container_.tensors.begin(), container_.tensors.end(),
                                    [](const TensorEntry &entry) { return entry.name == "weights"; });
    if (found == container_.tensors.end()) {
      refuse_file("tensors are missing: weights");
    }
    const std::vector<int64_t> shape{static_cast<int64_t>(n)};
    if (!found->is("F64", shape)) {
      refuse_file("tensor weights must be F64 of shape " + tuple(shape) + ", got " + found->code + " of shape " +
                  tuple(found->shape));
    }
    append_numbers(*found, model_.weights);
    double sum = 0;
    bool fine = true;
    for (const double weight : model_.weights) {
      fine = fine && std::isfinite(weight) && weight >= 0;
      sum += weight;
    }
    if (!fine || !(std::abs(sum - 1) < 1e-9)) {
      refuse_file("tensor weights must hold numbers of at least 0 whose sum is 1");
    }
  }

  // What the writer needs: all tensors but those of a training, with the numbers that never change.
  void keep_tensors() {
    for (size_t i = 0; i < container_.tensors.size(); i++) {
      TensorEntry &entry = container_.tensors[i];
      std::string_view own = entry.name;
      if (model_.ensemble && own.starts_with(member_prefix)) {
        own.remove_prefix(own.find('.', member_prefix.size()) + 1);
      }
      if (own.starts_with(training_prefix)) {
        continue;
      }
      FileTensor tensor;
      tensor.bytes = holds_[i] == Holds::itself ? entry.bytes : std::string_view();
      tensor.name = std::move(entry.name);
      tensor.dtype = std::move(entry.code);
      tensor.shape = std::move(entry.shape);
      tensor.holds = holds_[i];
      tensor.member = members_of_[i];
      model_.tensors.push_back(std::move(tensor));
    }
  }

  std::string_view file_;
  Container container_;
  std::vector<Holds> holds_;        // of the tensors of the container
  std::vector<size_t> members_of_;  // whose they are
  Model model_;
};

// What is not written yet of the numbers of a member.
struct Cursor {
  size_t buffers = 0, params = 0;
};

// The bytes of the next numbers, as many as a shape says.
template <class T>
std::string_view next_numbers(const std::vector<T> &numbers, const std::vector<int64_t> &shape, size_t &at) {
  size_t n = 1;
  for (const int64_t size : shape) {
    n *= static_cast<size_t>(size);
  }
  const std::string_view bytes{reinterpret_cast<const char *>(numbers.data() + at), n * sizeof(T)};
  at += n;
  return bytes;
}

}  // namespace

Model read_model(const void *data, size_t size, const std::string &source) {
  try {
    return ModelReader({static_cast<const char *>(data), size}).read();
  } catch (const std::invalid_argument &error) {
    throw FileError("cannot load " + source + ": " + error.what());
  }
}

std::string write_model(const Model &model, std::string_view version) {
  Metadata metadata{{"spec", stamped_spec(model.spec, version)}};
  if (model.history) {
    metadata.emplace_back("history", *model.history);
  }
  metadata.emplace_back("provenance", stamped_provenance(model.provenance, version));
  ContainerWriter writer(metadata);
  std::vector<Cursor> cursors(model.members.size());
  const std::string no_hash(hash_size, '\0');
  for (const FileTensor &tensor : model.tensors) {
    const FileMember &member = model.members[tensor.member];
    Cursor &cursor = cursors[tensor.member];
    std::string_view bytes = tensor.bytes;
    const char flag = member.initialised ? 1 : 0;
    if (tensor.holds == Holds::buffers) {
      bytes = next_numbers(member.buffers, tensor.shape, cursor.buffers);
    } else if (tensor.holds == Holds::params) {
      const auto next = [&](const auto &params) { return next_numbers(params, tensor.shape, cursor.params); };
      bytes = std::visit(next, member.params);
    } else if (tensor.holds == Holds::initialised) {
      bytes = {&flag, 1};
    } else if (tensor.holds == Holds::hash) {
      bytes = no_hash;
    }
    writer.add(tensor.name, tensor.dtype, tensor.shape, bytes);
  }
  std::string file = writer.finished();
  const std::array<char, hash_size> hash = blake2b_256(file.data(), file.size() - hash_size);
  std::copy(hash.begin(), hash.end(), file.end() - hash_size);
  return file;
}

}  // namespace penstock
