// Decodes and checks a plan table: see table.hpp. Record by record in the order in which they claim parameters, lists and
// each other, as _numba/engine/table.py does; both give the same verdict.
#include "engine/table.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "core/plan.hpp"
#include "transforms/list.hpp"

namespace penstock {
namespace {

constexpr int64_t dim_most = int64_t{1} << 24, context_dim_most = int64_t{1} << 20;
constexpr int64_t width_most = int64_t{1} << 20;   // of a hidden layer, and of what any layer reads
constexpr int64_t output_most = int64_t{1} << 24;  // of a network
constexpr int64_t count_most = int64_t{1} << 40;   // no count or offset of a real flow comes near
constexpr int64_t record_size_most = 4096;
constexpr int64_t n_sections_known = std::size(section_names);

struct TransformSize {
  int64_t fixed, a_bin, n_options;
};
#define PENSTOCK_SIZE(name, fixed, a_bin, n_options) {fixed, a_bin, n_options},
constexpr TransformSize transform_sizes[] = {PENSTOCK_TRANSFORMS(PENSTOCK_SIZE)};
#undef PENSTOCK_SIZE

[[noreturn]] void fail(const std::string &what) { throw std::invalid_argument("plan table: " + what); }

std::string expected(int64_t value, int64_t lo, int64_t hi) {
  const std::string is = "is " + std::to_string(value);
  return lo == hi ? is + ", not " + std::to_string(lo)
                  : is + ", expected " + std::to_string(lo) + " to " + std::to_string(hi);
}

// One record, whose fields are read with a check.
template <class R>
class Record {
 public:
  using Field = int64_t R::*;
  Record(const std::vector<R> &records, int64_t number)
      : record_(records[static_cast<size_t>(number)]), number_(number) {}

  int64_t operator[](Field field) const { return record_.*field; }
  int64_t number() const { return number_; }

  [[noreturn]] void fault(Field field, const std::string &what) const {
    const int64_t at = &(record_.*field) - reinterpret_cast<const int64_t *>(&record_);
    fail(std::string(section_names[R::section]) + " " + std::to_string(number_) + ": " + R::names[at] + " " + what);
  }
  void need(bool fine, Field field, const char *what) const {
    if (!fine) {
      fault(field, what);
    }
  }
  // A field from lo to hi, both included.
  int64_t within(Field field, int64_t lo, int64_t hi) const {
    const int64_t value = record_.*field;
    if (value < lo || value > hi) {
      fault(field, expected(value, lo, hi));
    }
    return value;
  }
  int64_t is(Field field, int64_t value) const { return within(field, value, value); }
  void zero(std::initializer_list<Field> fields) const {
    for (const Field field : fields) {
      is(field, 0);
    }
  }
  // A code of a list of names.
  template <size_t n>
  int64_t code(Field field, const char *const (&)[n]) const {
    return within(field, 0, static_cast<int64_t>(n) - 1);
  }
  // Where count of size things begin.
  int64_t span(Field field, int64_t count, int64_t size, const char *what) const {
    const int64_t at = record_.*field;
    if (at < 0 || at > size || count > size - at) {
      fault(field, std::string("lies outside ") + what);
    }
    return at;
  }

 private:
  const R &record_;
  int64_t number_;
};

struct Slice {
  int64_t start, count;
};

// Whether slices fill [0, size) without overlap, in any order. Empty ones may lie anywhere.
bool covers(std::vector<Slice> slices, int64_t size) {
  std::sort(slices.begin(), slices.end(), [](const Slice &a, const Slice &b) { return a.start < b.start; });
  int64_t used = 0;
  for (const Slice &slice : slices) {
    if (slice.count == 0) {
      continue;
    }
    if (slice.start != used || slice.count > size - used) {
      return false;
    }
    used += slice.count;
  }
  return used == size;
}

// A list of INTS.
struct List {
  const int64_t *data;
  int64_t size;
  const int64_t *begin() const { return data; }
  const int64_t *end() const { return data + size; }
  int64_t operator[](int64_t i) const { return data[i]; }
  bool lies_within(int64_t lo, int64_t hi) const {
    return std::all_of(begin(), end(), [=](int64_t value) { return value >= lo && value <= hi; });
  }
  bool operator==(const List &other) const { return std::equal(begin(), end(), other.begin(), other.end()); }
};

// Marks numbers of [0, size) that were met.
class Seen {
 public:
  explicit Seen(int64_t size) : seen_(static_cast<size_t>(size)) {}
  // False at the first number of a list that is out of range or was met before.
  bool meet(List list) {
    for (const int64_t value : list) {
      if (value < 0 || value >= static_cast<int64_t>(seen_.size()) || seen_[static_cast<size_t>(value)] != 0) {
        return false;
      }
      seen_[static_cast<size_t>(value)] = 1;
      count_++;
    }
    return true;
  }
  bool all() const { return count_ == static_cast<int64_t>(seen_.size()); }

 private:
  std::vector<char> seen_;
  int64_t count_ = 0;
};

bool is_permutation(List list) {
  Seen seen(list.size);
  return seen.meet(list);
}

// The words of a section.
struct Words {
  const int64_t *data = nullptr;
  int64_t count = 0, size = 0;  // records, words a record
};

// Header and directory, and of each known section its records.
class Sections {
 public:
  Sections(const int64_t *words, int64_t length) : words_(words), length_(length) {
    check_header();
    const int64_t n = words[4];
    int64_t used = table_header_size + table_entry_size * n;
    std::vector<int64_t> tags;
    for (int64_t i = 0; i < n; i++) {
      used = enter(words + table_header_size + table_entry_size * i, used);
      tags.push_back(words[table_header_size + table_entry_size * i]);
    }
    std::sort(tags.begin(), tags.end());
    if (const auto twin = std::adjacent_find(tags.begin(), tags.end()); twin != tags.end()) {
      fail(called(*twin) + " comes twice");
    }
    if (used != length) {
      fail("sections end at " + std::to_string(used) + ", the table at " + std::to_string(length));
    }
    for (int64_t i = 0; i < n_sections_known; i++) {
      if (found_[i].data == nullptr) {
        fail(std::string(section_names[i]) + " is missing");
      }
    }
  }

  const Words &of(Section section) const { return found_[section]; }

  template <class R>
  void read(std::vector<R> &records) const {
    const Words &words = found_[R::section];
    records.resize(static_cast<size_t>(words.count));
    for (int64_t i = 0; i < words.count; i++) {
      std::memcpy(&records[static_cast<size_t>(i)], words.data + i * words.size, sizeof(R));
    }
  }

 private:
  static std::string called(int64_t tag) {
    return tag >= 1 && tag <= n_sections_known ? section_names[tag - 1] : "section " + std::to_string(tag);
  }

  void check_header() const {
    if (length_ < table_header_size || words_[0] != table_magic) {
      fail("this is none");
    }
    if (words_[1] != table_version) {
      fail("version " + std::to_string(words_[1]) + ", this build reads version " + std::to_string(table_version));
    }
    if (words_[2] < 1) {
      fail("revision is " + std::to_string(words_[2]) + ", expected at least 1");
    }
    if (words_[3] != length_) {
      fail("its header says length " + std::to_string(words_[3]) + ", it has " + std::to_string(length_));
    }
    if (words_[5] != 0 || words_[6] != 0 || words_[7] != 0) {
      fail("a reserved word of the header is not 0");
    }
    if (words_[4] < 0 || words_[4] > (length_ - table_header_size) / table_entry_size) {
      fail(std::to_string(words_[4]) + " sections do not fit into it");
    }
  }

  // One entry of the directory, whose section begins where the one before it ended; where it ends.
  int64_t enter(const int64_t *entry, int64_t used) {
    const int64_t tag = entry[0], required = entry[1], offset = entry[2], count = entry[3], size = entry[4];
    const bool known = tag >= 1 && tag <= n_sections_known;
    if (required < 0 || required > 1 || entry[5] != 0) {
      fail(called(tag) + ": required must be 0 or 1, and the reserved word 0");
    }
    const int64_t most = known && tag - 1 == section_boundary ? dim_most : record_size_most;
    if (size < 1 || size > most || count < 0 || count > length_) {
      fail(called(tag) + ": " + std::to_string(count) + " records of " + std::to_string(size) + " words");
    }
    if (offset != used || count > (length_ - used) / size) {
      fail(called(tag) + " does not follow the section before it, or ends beyond the table");
    }
    if (known) {
      enter_known(static_cast<Section>(tag - 1), required, {words_ + offset, count, size});
    } else if (required != 0) {
      fail(called(tag) + " is required and unknown to this build");
    }
    return used + count * size;
  }

  void enter_known(Section section, int64_t required, const Words &words) {
    const std::string name = section_names[section];
    const int64_t n_fields = section_fields[section];
    if (required == 0) {
      fail(name + " must be required");
    }
    const bool plain = section == section_ints || section == section_reals;
    if (words.size < n_fields || (plain && words.size != 1)) {
      fail(name + ": a record has " + std::to_string(words.size) + " words, expected " +
           std::to_string(std::max(n_fields, int64_t{1})));
    }
    for (int64_t i = 0; n_fields > 0 && i < words.count; i++) {
      for (int64_t j = n_fields; j < words.size; j++) {
        if (words.data[i * words.size + j] != 0) {
          fail(name + " " + std::to_string(i) + ": unknown fields are not 0");
        }
      }
    }
    found_[section] = words;
  }

  const int64_t *words_;
  int64_t length_;
  Words found_[n_sections_known];
};

uint64_t digest_of(const int64_t *words, int64_t length) {
  uint64_t hash = static_cast<uint64_t>(length);
  for (int64_t i = 0; i < length; i++) {  // the finaliser of SplitMix64 (Steele, Lea, Flood 2014) on each word
    uint64_t x = (hash ^ static_cast<uint64_t>(words[i])) + 0x9E3779B97F4A7C15U;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9U;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBU;
    hash = x ^ (x >> 31);
  }
  return hash;
}

// Goes through the records of a table.
class Checker {
 public:
  explicit Checker(const Table &table) : table_(table) {}

  void check() {
    check_flow();
    check_boundary();
    check_columns();
    for (int64_t k = 0; k < size_of(table_.steps); k++) {
      check_step({table_.steps, k});
    }
    for (size_t i = 0; i < externals_.size(); i++) {
      int64_t size = 0;
      for (const Slice &slice : externals_[i]) {
        size += slice.count;
      }
      if (!covers(externals_[i], size)) {
        fail("PARTS: theta of external array " + std::to_string(i) + " overlaps or leaves a gap");
      }
    }
    if (table_.flow.embedding != no_index) {
      claim(check_network(flow(), &FlowRecord::embedding, role_embedding, 0, n_context_, nullptr));
    }
    check_base();
    all_used("PARTS", size_of(table_.parts), n_parts_);
    all_used("NETWORKS", size_of(table_.networks), n_networks_);
    all_used("LINEARS", size_of(table_.linears), n_linears_);
    if (params_ != table_.flow.n_params) {
      flow().fault(&FlowRecord::n_params,
                   "is " + std::to_string(table_.flow.n_params) + ", the records claim " + std::to_string(params_));
    }
    check_ranges();
  }

 private:
  using Flow = Record<FlowRecord>;
  using Column = Record<ColumnRecord>;
  using Step = Record<StepRecord>;
  using Part = Record<PartRecord>;
  using Network = Record<NetworkRecord>;
  using Linear = Record<LinearRecord>;

  template <class R>
  static int64_t size_of(const std::vector<R> &records) {
    return static_cast<int64_t>(records.size());
  }

  static void all_used(const char *section, int64_t count, int64_t used) {
    if (count != used) {
      fail(std::string(section) + ": " + std::to_string(count) + " records, of which " + std::to_string(used) +
           " are used");
    }
  }

  Flow flow() const { return {flows_, 0}; }
  int64_t n_ints() const { return size_of(table_.ints); }
  int64_t n_reals() const { return size_of(table_.reals); }

  template <class R>
  List ints(const Record<R> &record, int64_t R::*field, int64_t count) const {
    return {table_.ints.data() + record.span(field, count, n_ints(), "INTS"), count};
  }

  // The next n parameters are those of a record.
  template <class R>
  void claim(const Record<R> &record, int64_t n) {
    record.is(&R::params, params_);
    record.is(&R::n_params, n);
    if (n > table_.flow.n_params - params_) {
      record.fault(&R::n_params, "goes beyond those of the flow");
    }
    params_ += n;
  }
  void claim(const Network &network) { claim(network, network[&NetworkRecord::n_params]); }

  void check_flow() {
    const Flow flow = this->flow();
    flow.within(&FlowRecord::dim, 1, dim_most);
    flow.within(&FlowRecord::context_dim, 0, context_dim_most);
    flow.within(&FlowRecord::n_params, 0, count_most - 1);
    flow.within(&FlowRecord::n_buffers, 0, count_most - 1);
    flow.within(&FlowRecord::dtype, dtype_float32, dtype_float64);
    flow.code(&FlowRecord::conditioner_dtype, dtype_names);
    flow.within(&FlowRecord::embedding, no_index, size_of(table_.networks) - 1);
  }

  // A permutation of the slots between any two steps.
  void check_boundary() const {
    const int64_t dim = table_.flow.dim;
    for (int64_t k = 0; k <= size_of(table_.steps); k++) {
      if (!is_permutation({table_.boundary.data() + k * dim, dim})) {
        fail("BOUNDARY " + std::to_string(k) + ": not a permutation of the slots");
      }
    }
  }

  // Sides, ends, and the buffers, each of which belongs to one column.
  void check_columns() {
    const int64_t n = table_.flow.dim + table_.flow.context_dim, n_buffers = table_.flow.n_buffers;
    if (size_of(table_.columns) != n) {
      fail("COLUMNS: " + std::to_string(table_.columns.size()) + " records, expected " + std::to_string(n));
    }
    std::vector<Slice> buffers;
    for (int64_t i = 0; i < n; i++) {
      const Column column(table_.columns, i);
      column.is(&ColumnRecord::side, i < table_.flow.dim ? side_data : side_context);
      check_ends(column);
      const int64_t features = column.code(&ColumnRecord::features, features_names);
      n_features_ += i < table_.flow.dim ? 0 : features + 1;
      column.within(&ColumnRecord::lattice, no_index, n_reals() - 1);
      column.within(&ColumnRecord::group, no_index, n - 1);
      const int64_t loc = column.within(&ColumnRecord::loc, no_index, n_buffers - 1);
      const int64_t scale = column.within(&ColumnRecord::scale, no_index, n_buffers - 1);
      column.need((loc == no_index) == (scale == no_index), &ColumnRecord::scale, "must be there with loc alone");
      const int64_t own = column.within(&ColumnRecord::n_buffers, 0, n_buffers);
      buffers.push_back({loc, loc != no_index});
      buffers.push_back({scale, scale != no_index});
      buffers.push_back({column.span(&ColumnRecord::buffers, own, n_buffers, "the buffers"), own});
    }
    if (!covers(std::move(buffers), n_buffers)) {
      fail("COLUMNS: buffers are claimed twice, or not at all");
    }
    n_context_ = n_features_;
    if (table_.flow.embedding != no_index) {
      n_context_ = Network(table_.networks, table_.flow.embedding).within(&NetworkRecord::n_out, 1, width_most);
    }
  }

  void check_ends(const Column &column) const {
    const int64_t both = end_lower | end_upper;
    const int64_t kind = column.code(&ColumnRecord::kind, column_kind_names);
    column.code(&ColumnRecord::map, column_map_names);
    const int64_t ends = column.within(&ColumnRecord::ends, 0, both);
    const int64_t closed = column.within(&ColumnRecord::closed, 0, both);
    column.need((closed & ~ends) == 0, &ColumnRecord::closed, "names an end that the column does not have");
    column.need(kind == column_line || ends == both, &ColumnRecord::ends, "must be both");
    for (const auto &[field, bit] : {std::pair{&ColumnRecord::lo, end_lower}, {&ColumnRecord::hi, end_upper}}) {
      if ((ends & bit) != 0) {
        column.within(field, 0, n_reals() - 1);
      } else {
        column.is(field, no_index);
      }
    }
  }

  // What a step reads, changes, and owns.
  void check_step(const Step &step) {
    const int64_t kind = step.code(&StepRecord::kind, step_kind_names), dim = table_.flow.dim;
    const bool last = step.number() == size_of(table_.steps) - 1;
    step.need((kind == step_columns) == last, &StepRecord::kind, "must be columns in the last step and there alone");
    step.code(&StepRecord::explicit_, direction_names);
    const int64_t n_a = step.within(&StepRecord::n_a, 0, dim), n_b = step.within(&StepRecord::n_b, 0, dim);
    const List a = ints(step, &StepRecord::a, n_a), b = ints(step, &StepRecord::b, n_b);
    if (n_a + n_b > 0) {
      Seen slots(dim);
      step.need(slots.meet(a) && slots.meet(b), &StepRecord::b, "and a must hold different slots");
    }
    step.within(&StepRecord::n_parts, 0, size_of(table_.parts));
    if (kind != step_lu_linear) {
      step.zero({&StepRecord::order, &StepRecord::signs});
    }
    if (kind == step_permutation || kind == step_columns) {
      step.zero({&StepRecord::explicit_, &StepRecord::a, &StepRecord::n_a, &StepRecord::b, &StepRecord::n_b,
                 &StepRecord::part, &StepRecord::n_parts});
      step.is(&StepRecord::network, no_index);
      return claim(step, 0);
    }
    step.need(n_b > 0, &StepRecord::n_b, "is 0");
    if (kind == step_lu_linear) {
      step.zero({&StepRecord::a, &StepRecord::n_a, &StepRecord::part, &StepRecord::n_parts});
      step.is(&StepRecord::network, no_index);
      const bool permutes = is_permutation(ints(step, &StepRecord::order, n_b));
      step.need(permutes, &StepRecord::order, "is not a permutation");
      const List signs = ints(step, &StepRecord::signs, n_b);
      const bool signed_one = std::all_of(signs.begin(), signs.end(), [](int64_t s) { return s == 1 || s == -1; });
      step.need(signed_one, &StepRecord::signs, "must be 1 or -1");
      return claim(step, n_b * (n_b + 1));
    }
    if ((n_a > 0) != (kind == step_coupling)) {
      step.fault(&StepRecord::n_a, "is " + std::to_string(n_a));
    }
    check_theta(step);
  }

  // What the parts of a step claim.
  struct Claims {
    std::vector<Slice> params;                           // of the flat vector, from the first parameter of the step
    std::vector<Slice> outputs;                          // of the network
    std::vector<std::pair<int64_t, int64_t>> networked;  // numbers of the parts that read it; the last is unused
    int64_t n_params = 0, n_outputs = 0;
  };

  // The parts and the network of a step, and its parameters.
  void check_theta(const Step &step) {
    const int64_t kind = step[&StepRecord::kind], n_b = step[&StepRecord::n_b], n_parts = step[&StepRecord::n_parts];
    step.need(n_parts > 0, &StepRecord::n_parts, "is 0");
    const int64_t first = step.is(&StepRecord::part, n_parts_);
    step.need(n_parts <= size_of(table_.parts) - first, &StepRecord::n_parts, "goes beyond PARTS");
    n_parts_ += n_parts;
    Claims claims;
    Seen members(n_b);
    for (int64_t i = first; i < n_parts_; i++) {
      check_part(step, {table_.parts, i}, members, claims);
    }
    step.need(members.all(), &StepRecord::b, "must be shared out to the parts");
    if (claims.n_outputs > 0) {
      const int64_t n_read = kind == step_autoregressive ? n_b - 1 : step[&StepRecord::n_a];
      if (claims.n_outputs > output_most) {
        step.fault(&StepRecord::network, "has " + std::to_string(claims.n_outputs) + " outputs");
      }
      step.need(covers(claims.outputs, claims.n_outputs), &StepRecord::network, "has an output that parts do not fill");
      std::vector<int64_t> degrees;
      if (kind == step_autoregressive) {
        degrees = degrees_of_theta(first, claims.n_outputs);
      }
      const Network network = check_network(step, &StepRecord::network, role_conditioner, n_read, claims.n_outputs,
                                            kind == step_autoregressive ? &degrees : nullptr);
      claims.params.push_back({network[&NetworkRecord::params], network[&NetworkRecord::n_params]});
      claims.n_params += network[&NetworkRecord::n_params];
    } else {
      step.need(kind == step_elementwise, &StepRecord::network, "is missing");
      step.is(&StepRecord::network, no_index);
    }
    for (Slice &slice : claims.params) {
      slice.start = slice.start < 0 || slice.start > count_most ? no_index : slice.start - params_;
    }
    const bool filled = claims.n_params <= count_most && covers(claims.params, claims.n_params);
    step.need(filled, &StepRecord::params, "are not those of its parts and its network");
    claim(step, claims.n_params);
  }

  // One part of a step: its transform, its members and where their theta comes from.
  void check_part(const Step &step, const Part &part, Seen &members, Claims &claims) {
    const int64_t n_theta = check_transform(part);
    const int64_t n_members = part.within(&PartRecord::n_members, 1, step[&StepRecord::n_b]);
    const List own = ints(part, &PartRecord::members, n_members), starts = ints(part, &PartRecord::theta, n_members);
    part.need(members.meet(own), &PartRecord::members, "must lie within B, each once");
    const int64_t source = part.within(&PartRecord::source, source_free, source_external), size = n_members * n_theta;
    part.need(starts.lies_within(0, count_most), &PartRecord::theta, "begins before or beyond its source");
    std::vector<Slice> slices;
    for (const int64_t start : starts) {
      slices.push_back({start, n_theta});
    }
    if (source == source_free) {
      part.need(covers(std::move(slices), size), &PartRecord::theta, "must fill its parameters");
      part.is(&PartRecord::n_params, size);
      claims.params.push_back({part[&PartRecord::params], size});
      claims.n_params += size;
    } else {
      part.zero({&PartRecord::params, &PartRecord::n_params});
    }
    if (source == source_network) {
      claims.outputs.insert(claims.outputs.end(), slices.begin(), slices.end());
      claims.n_outputs += size;
    }
    if (source == source_external) {
      const auto number = static_cast<size_t>(part.within(&PartRecord::external, 0, size_of(externals_)));
      externals_.resize(std::max(externals_.size(), number + 1));
      externals_[number].insert(externals_[number].end(), slices.begin(), slices.end());
    } else {
      part.is(&PartRecord::external, no_index);
    }
    part.need(step[&StepRecord::kind] != step_autoregressive || source == source_network, &PartRecord::source,
              "must be the network in an autoregressive step");
  }

  // Code and options of a part's transform; its numbers of theta.
  int64_t check_transform(const Part &part) const {
    const int64_t n = static_cast<int64_t>(std::size(transform_sizes));
    const TransformSize &transform = transform_sizes[part.within(&PartRecord::transform, 0, n - 1)];
    part.is(&PartRecord::n_options, transform.n_options);
    const int64_t at = part.span(&PartRecord::options, transform.n_options, n_reals(), "REALS");
    int64_t n_theta = transform.fixed;
    if (transform.a_bin > 0) {
      const double bins = table_.reals[static_cast<size_t>(at)];
      if (!(bins >= 2 && bins <= most_bins) || bins != std::floor(bins)) {
        part.fault(&PartRecord::options,
                   "begin with " + std::to_string(bins) + " bins, not 2 to " + std::to_string(most_bins));
      }
      n_theta += transform.a_bin * static_cast<int64_t>(bins);
    }
    return part.is(&PartRecord::n_theta, n_theta);
  }

  // Of each number of the output of an autoregressive step's network the position in B of what it is theta of.
  std::vector<int64_t> degrees_of_theta(int64_t first_part, int64_t n_outputs) const {
    if (n_outputs > n_ints()) {  // its degrees must be in INTS
      Part(table_.parts, first_part).fault(&PartRecord::theta, "has no degrees in INTS");
    }
    std::vector<int64_t> degrees(static_cast<size_t>(n_outputs));
    for (int64_t i = first_part; i < n_parts_; i++) {
      const Part part(table_.parts, i);
      const int64_t n_members = part[&PartRecord::n_members];
      const List own = ints(part, &PartRecord::members, n_members), starts = ints(part, &PartRecord::theta, n_members);
      for (int64_t j = 0; j < n_members; j++) {
        std::fill_n(degrees.begin() + starts[j], part[&PartRecord::n_theta], own[j]);
      }
    }
    return degrees;
  }

  // The next network, which reads the context and n_read numbers of a row. degrees: those of its output if it is masked.
  template <class R>
  Network check_network(const Record<R> &owner, int64_t R::*field, Role role, int64_t n_read, int64_t n_out,
                        const std::vector<int64_t> *degrees) {
    owner.is(field, n_networks_);
    owner.need(n_networks_ < size_of(table_.networks), field, "goes beyond NETWORKS");
    const Network network(table_.networks, n_networks_++);
    network.is(&NetworkRecord::role, role);
    network.is(&NetworkRecord::masked, degrees != nullptr);
    const int64_t n_context = network[&NetworkRecord::n_context];
    const int64_t features = role == role_embedding ? n_features_ : n_context_;
    if (n_context != 0 && n_context != features) {
      network.fault(&NetworkRecord::n_context,
                    "is " + std::to_string(n_context) + ", expected 0 or " + std::to_string(features));
    }
    network.is(&NetworkRecord::n_in, n_context + n_read);
    network.need(n_context + n_read > 0 || degrees != nullptr, &NetworkRecord::n_in, "is 0");
    network.is(&NetworkRecord::n_out, n_out);
    network.within(&NetworkRecord::n_out, 1, output_most);
    const int64_t n_linears = network.within(&NetworkRecord::n_linears, 1, size_of(table_.linears));
    const int64_t first = network.is(&NetworkRecord::linear, n_linears_);
    network.need(n_linears <= size_of(table_.linears) - first, &NetworkRecord::n_linears, "goes beyond LINEARS");
    n_linears_ += n_linears;
    check_linears(network, degrees);
    return network;
  }

  // What the linear layers of a network can read: its input, its context, and the layers before.
  struct Readable {
    int64_t n_in, n_context, first;
    bool masked;
    std::vector<int64_t> input_degrees, context_degrees;  // of a masked network
    std::vector<List> degrees;                            // of its layers so far
  };

  // Linear layers of a network: widths, sources, parameters, and in a masked one degrees.
  void check_linears(const Network &network, const std::vector<int64_t> *theta_degrees) {
    const int64_t n = network[&NetworkRecord::n_linears];
    Readable readable{network[&NetworkRecord::n_in],
                      network[&NetworkRecord::n_context],
                      network[&NetworkRecord::linear],
                      theta_degrees != nullptr,
                      {},
                      {},
                      {}};
    if (readable.masked) {
      for (int64_t i = 0; i < readable.n_in; i++) {
        readable.input_degrees.push_back(std::max(int64_t{0}, i + 1 - readable.n_context));
      }
      readable.context_degrees.resize(static_cast<size_t>(readable.n_context));
    }
    std::vector<Slice> params;
    int64_t n_params = 0;
    for (int64_t i = 0; i < n; i++) {
      const Linear linear(table_.linears, readable.first + i);
      check_linear(linear, i, i + 1 == n, network, readable);
      if (readable.masked) {
        check_degrees(linear, i, i + 1 == n ? theta_degrees : nullptr, readable);
      } else {
        linear.is(&LinearRecord::in_degrees, no_index);
        linear.is(&LinearRecord::out_degrees, no_index);
      }
      const int64_t columns = linear[&LinearRecord::n_out], weights = linear[&LinearRecord::n_in] * columns;
      params.push_back({linear.within(&LinearRecord::weight, 0, count_most), weights});
      n_params += weights;
      if (linear.within(&LinearRecord::bias, no_index, count_most) != no_index) {
        params.push_back({linear[&LinearRecord::bias], columns});
        n_params += columns;
      }
      if (n_params > count_most) {
        network.fault(&NetworkRecord::n_params, "is more than any flow has");
      }
    }
    const int64_t first = network.within(&NetworkRecord::params, 0, count_most);
    for (Slice &slice : params) {
      slice.start -= first;
    }
    network.need(covers(std::move(params), n_params), &NetworkRecord::params, "are not filled by its linear layers");
    network.is(&NetworkRecord::n_params, n_params);
  }

  // A field that names what layer number i of a network reads.
  static int64_t source_of(const Linear &linear, int64_t LinearRecord::*field, int64_t i, const Readable &readable) {
    const int64_t value = linear[field];
    if ((value < 0 || value >= i) && value != from_input && value != from_context) {
      linear.fault(field, "is " + std::to_string(value) + ", which is nothing before it");
    }
    linear.need(value != from_context || readable.n_context > 0, field, "is a context that the network does not read");
    return value;
  }

  int64_t width_of(int64_t source, const Readable &readable) const {
    return source == from_input     ? readable.n_in
           : source == from_context ? readable.n_context
                                    : table_.linears[static_cast<size_t>(readable.first + source)].n_out;
  }

  static List degrees_of(int64_t source, const Readable &readable) {
    const auto whole = [](const std::vector<int64_t> &list) { return List{list.data(), size_of(list)}; };
    return source == from_input     ? whole(readable.input_degrees)
           : source == from_context ? whole(readable.context_degrees)
                                    : readable.degrees[static_cast<size_t>(source)];
  }

  // Widths and sources of layer number i of a network.
  void check_linear(const Linear &linear, int64_t i, bool last, const Network &network,
                    const Readable &readable) const {
    linear.within(&LinearRecord::n_in, readable.n_in == 0 && i == 0 ? 0 : 1, width_most);
    const int64_t columns = linear.within(&LinearRecord::n_out, 1, last ? output_most : width_most);
    linear.is(&LinearRecord::n_in, width_of(source_of(linear, &LinearRecord::source, i, readable), readable));
    linear.code(&LinearRecord::activation_before, activation_names);
    linear.code(&LinearRecord::activation, activation_names);
    if (linear.code(&LinearRecord::skip, skip_names) != skip_none) {
      check_width(linear, &LinearRecord::skip_source, columns, i, readable);
    } else {
      linear.is(&LinearRecord::skip_source, no_index);
    }
    if (linear.within(&LinearRecord::gate, no_index, i - 1) != no_index) {
      check_width(linear, &LinearRecord::gate, columns, i, readable);
    }
    if (last) {
      linear.is(&LinearRecord::n_out, network[&NetworkRecord::n_out]);
      linear.is(&LinearRecord::activation, act_none);
    }
  }

  // What enters the output of a layer number by number is as wide.
  void check_width(const Linear &linear, int64_t LinearRecord::*field, int64_t columns, int64_t i,
                   const Readable &readable) const {
    const int64_t width = width_of(source_of(linear, field, i, readable), readable);
    if (width != columns) {
      linear.fault(field, "has width " + std::to_string(width) + ", not " + std::to_string(columns));
    }
  }

  // Degrees of layer number i of a masked network: no number reads one of a higher degree.
  void check_degrees(const Linear &linear, int64_t i, const std::vector<int64_t> *theta_degrees,
                     Readable &readable) const {
    const int64_t highest = readable.n_in - readable.n_context;
    const List inputs = ints(linear, &LinearRecord::in_degrees, linear[&LinearRecord::n_in]);
    const List outputs = ints(linear, &LinearRecord::out_degrees, linear[&LinearRecord::n_out]);
    linear.need(inputs == degrees_of(linear[&LinearRecord::source], readable), &LinearRecord::in_degrees,
                "are not those of its source");
    if (!outputs.lies_within(0, highest)) {
      linear.fault(&LinearRecord::out_degrees, "must lie within 0 to " + std::to_string(highest));
    }
    linear.need(theta_degrees == nullptr || outputs == List{theta_degrees->data(), size_of(*theta_degrees)},
                &LinearRecord::out_degrees, "are not those of theta");
    const auto enters = [&](int64_t LinearRecord::*field) {
      const List other = degrees_of(linear[field], readable);
      for (int64_t j = 0; j < outputs.size; j++) {
        linear.need(other[j] <= outputs[j], field, "has degrees above those of the outputs");
      }
    };
    if (linear[&LinearRecord::skip] != skip_none) {
      enters(&LinearRecord::skip_source);
    }
    if (linear[&LinearRecord::gate] != no_index) {
      enters(&LinearRecord::gate);
    }
    readable.degrees.push_back(outputs);
    (void)i;
  }

  // Blocks that together hold every dimension of the latent side.
  void check_base() {
    Seen dims(table_.flow.dim);
    for (int64_t i = 0; i < size_of(table_.base); i++) {
      const Record<BaseRecord> block(table_.base, i);
      const int64_t kind = block.code(&BaseRecord::kind, base_names);
      const int64_t n_dims = block.within(&BaseRecord::n_dims, 1, table_.flow.dim);
      if (!dims.meet(ints(block, &BaseRecord::dims, n_dims))) {
        fail("BASE: blocks must hold every dimension once");
      }
      const int64_t n_options = block.within(&BaseRecord::n_options, 0, n_reals());
      block.span(&BaseRecord::options, n_options, n_reals(), "REALS");
      const int64_t source = block.code(&BaseRecord::source, source_names);
      block.need(source != source_external, &BaseRecord::source, "cannot be external");
      const int64_t n_params = block.within(&BaseRecord::n_params, 0, count_most);
      if (kind == base_standard_normal) {
        block.is(&BaseRecord::source, source_fixed);
        block.is(&BaseRecord::n_options, 0);
      }
      if (source == source_free) {
        block.need(n_params > 0, &BaseRecord::n_params, "is 0");
        claim(block, n_params);
      } else {
        block.zero({&BaseRecord::params, &BaseRecord::n_params});
      }
      if (source != source_network) {
        block.is(&BaseRecord::network, no_index);
        continue;
      }
      const int64_t number = block.within(&BaseRecord::network, 0, size_of(table_.networks) - 1);
      const int64_t n_out = Network(table_.networks, number).within(&NetworkRecord::n_out, 1, output_most);
      claim(check_network(block, &BaseRecord::network, role_base, 0, n_out, nullptr));
    }
    if (!dims.all()) {
      fail("BASE: blocks must hold every dimension once");
    }
  }

  // They cover the flat vector in order.
  void check_ranges() const {
    const int64_t n_params = table_.flow.n_params;
    int64_t used = 0;
    for (int64_t i = 0; i < size_of(table_.ranges); i++) {
      const Record<RangeRecord> range(table_.ranges, i);
      range.is(&RangeRecord::offset, used);
      used += range.within(&RangeRecord::count, 0, n_params - used);
      range.within(&RangeRecord::flags, 0, range_decays | range_frozen);
    }
    if (used != n_params) {
      fail("RANGES: they end at " + std::to_string(used) + ", the parameters at " + std::to_string(n_params));
    }
  }

  const Table &table_;
  std::vector<FlowRecord> flows_{table_.flow};
  int64_t params_ = 0, n_parts_ = 0, n_networks_ = 0, n_linears_ = 0;  // claimed so far
  int64_t n_features_ = 0;                                             // of the context
  int64_t n_context_ = 0;                      // of it or of its embedding, as conditioners read it
  std::vector<std::vector<Slice>> externals_;  // what parts claim of each external array
};

}  // namespace

const std::vector<const char *> &transform_names() {
#define PENSTOCK_NAME(name, ...) #name,
  static const std::vector<const char *> names{PENSTOCK_TRANSFORMS(PENSTOCK_NAME)};
#undef PENSTOCK_NAME
  return names;
}

Table decode_table(const int64_t *words, int64_t length) {
  const Sections sections(words, length);
  Table table;
  table.length = length;
  table.digest = digest_of(words, length);
  std::vector<FlowRecord> flows;
  sections.read(flows);
  if (flows.size() != 1) {
    fail("FLOW: " + std::to_string(flows.size()) + " records, expected 1");
  }
  table.flow = flows[0];
  sections.read(table.columns);
  sections.read(table.base);
  sections.read(table.steps);
  sections.read(table.parts);
  sections.read(table.networks);
  sections.read(table.linears);
  sections.read(table.ranges);
  const auto numbers = [&sections](Section section) {
    const Words &found = sections.of(section);
    return std::vector<int64_t>(found.data, found.data + found.count * found.size);
  };
  const Words &boundary = sections.of(section_boundary);
  const auto n_steps = static_cast<int64_t>(table.steps.size());
  if (n_steps < 1) {
    fail("STEPS: no records");
  }
  if (boundary.count != n_steps + 1 || boundary.size != table.flow.dim) {
    fail("BOUNDARY: " + std::to_string(boundary.count) + " records of " + std::to_string(boundary.size) +
         " words, expected " + std::to_string(n_steps + 1) + " of " + std::to_string(table.flow.dim));
  }
  table.boundary = numbers(section_boundary);
  table.ints = numbers(section_ints);
  for (const int64_t word : numbers(section_reals)) {
    table.reals.push_back(std::bit_cast<double>(word));
  }
  Checker(table).check();
  return table;
}

}  // namespace penstock
