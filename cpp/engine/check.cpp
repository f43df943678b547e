// Checks the records of a plan table: see check.hpp.
#include "engine/check.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <string>
#include <tuple>
#include <utility>

#include "core/plan.hpp"
#include "engine/check_groups.hpp"
#include "engine/check_networks.hpp"
#include "engine/record.hpp"
#include "transforms/list.hpp"

namespace penstock {
namespace {

struct TransformSize {
  int64_t fixed, a_bin, n_options;
};
#define PENSTOCK_SIZE(name, fixed, a_bin, n_options) {fixed, a_bin, n_options},
constexpr TransformSize transform_sizes[] = {PENSTOCK_TRANSFORMS(PENSTOCK_SIZE)};
#undef PENSTOCK_SIZE
static_assert(std::all_of(std::begin(transform_sizes), std::end(transform_sizes),
                          [](const TransformSize &size) { return size.n_options <= max_options; }));

// Goes through the records of a table.
class Checker {
 public:
  explicit Checker(const Table &table) : table_(table), networks_(table) {}

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
      claim(networks_.check(flow(), &FlowRecord::embedding, role_embedding, 0, n_context_, nullptr));
    }
    check_base();
    all_used("PARTS", size_of(table_.parts), n_parts_);
    all_used("NETWORKS", size_of(table_.networks), networks_.n_networks());
    all_used("LINEARS", size_of(table_.linears), networks_.n_linears());
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
  using Network = NetworkChecker::Network;

  static void all_used(const char *section, int64_t count, int64_t used) {
    if (count != used) {
      fail(std::string(section) + ": " + std::to_string(count) + " records, of which " + std::to_string(used) +
           " are used");
    }
  }

  Flow flow() const { return {flows_, 0}; }
  int64_t n_reals() const { return size_of(table_.reals); }

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
    int64_t n_features = 0;  // of the context
    for (int64_t i = 0; i < n; i++) {
      const Column column(table_.columns, i);
      column.is(&ColumnRecord::side, i < table_.flow.dim ? side_data : side_context);
      check_ends(column);
      const int64_t features = column.code(&ColumnRecord::features, features_names);
      n_features += i < table_.flow.dim ? 0 : features + 1;
      column.within(&ColumnRecord::lattice, no_index, n_reals() - 1);
      column.within(&ColumnRecord::group, no_index, n - 1);
      const int64_t loc = column.within(&ColumnRecord::loc, no_index, n_buffers - 1);
      const int64_t scale = column.within(&ColumnRecord::scale, no_index, n_buffers - 1);
      column.need((loc == no_index) == (scale == no_index), &ColumnRecord::scale, "must be there with loc alone");
      const int64_t own = column.within(&ColumnRecord::n_buffers, 0, n_buffers);
      check_map(column);
      buffers.push_back({loc, loc != no_index});
      buffers.push_back({scale, scale != no_index});
      buffers.push_back({column.span(&ColumnRecord::buffers, own, n_buffers, "the buffers"), own});
    }
    check_groups(table_);
    if (!covers(std::move(buffers), n_buffers)) {
      fail("COLUMNS: buffers are claimed twice, or not at all");
    }
    const int64_t *slots = table_.boundary.data() + size_of(table_.steps) * table_.flow.dim;
    features_.resize(static_cast<size_t>(table_.flow.dim));
    for (int64_t i = 0; i < table_.flow.dim; i++) {
      features_[static_cast<size_t>(slots[i])] =
          table_.columns[static_cast<size_t>(i)].features == features_cos_sin ? 2 : 1;
    }
    n_context_ = n_features;
    if (table_.flow.embedding != no_index) {
      n_context_ = Network(table_.networks, table_.flow.embedding).within(&NetworkRecord::n_out, 1, width_most);
    }
    networks_.set_context(n_features, n_context_);
  }

  // A half-line has one end and a scale, an interval both ends and no buffer; a circle is wrapped and read by its cosine and
  // sine, and a box has two numbers of its own.
  void check_map(const Column &column) const {
    const int64_t map = column[&ColumnRecord::map], ends = column[&ColumnRecord::ends], both = end_lower | end_upper;
    const int64_t kind = column[&ColumnRecord::kind];
    if (map == map_positive || map == map_logit) {
      column.is(&ColumnRecord::kind, column_line);
      column.need(map == map_logit ? ends == both : ends == end_lower || ends == end_upper, &ColumnRecord::ends,
                  "are not those of its map");
      column.is(&ColumnRecord::n_buffers, map == map_positive ? 1 : 0);
    }
    column.need((map == map_wrap) == (kind == column_circle) && (map == map_box) == (kind == column_box),
                &ColumnRecord::map, "is not of its kind");
    column.is(&ColumnRecord::features, kind == column_circle ? features_cos_sin : features_identity);
    if (kind != column_line) {
      column.is(&ColumnRecord::n_buffers, kind == column_box ? 2 : 0);
    }
    if (kind == column_circle) {
      column.is(&ColumnRecord::closed, 0);
    }
    double found[2] = {-1, 1};
    for (const auto &[field, i, bit] :
         {std::tuple{&ColumnRecord::lo, 0, end_lower}, {&ColumnRecord::hi, 1, end_upper}}) {
      if ((ends & bit) != 0) {
        found[i] = table_.reals[static_cast<size_t>(column[field])];
        column.need(std::isfinite(found[i]), field, "is not finite");
      }
    }
    column.need(ends != both || (found[0] < found[1] && std::isfinite(found[1] - found[0])), &ColumnRecord::hi,
                "is not above lo");
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
    const List a = list_of(table_.ints, step, &StepRecord::a, n_a), b = list_of(table_.ints, step, &StepRecord::b, n_b);
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
      const bool permutes = is_permutation(list_of(table_.ints, step, &StepRecord::order, n_b));
      step.need(permutes, &StepRecord::order, "is not a permutation");
      const List signs = list_of(table_.ints, step, &StepRecord::signs, n_b);
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
    std::vector<Slice> params;   // of the flat vector, from the first parameter of the step
    std::vector<Slice> outputs;  // of the network
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
      const bool masked = kind == step_autoregressive;
      if (claims.n_outputs > output_most) {
        step.fault(&StepRecord::network, "has " + std::to_string(claims.n_outputs) + " outputs");
      }
      step.need(covers(claims.outputs, claims.n_outputs), &StepRecord::network, "has an output that parts do not fill");
      const List read = masked ? list_of(table_.ints, step, &StepRecord::b, n_b - 1)
                               : list_of(table_.ints, step, &StepRecord::a, step[&StepRecord::n_a]);
      Degrees degrees{n_b - 1, {}, {}};
      for (int64_t i = 0; i < read.size; i++) {
        degrees.inputs.insert(degrees.inputs.end(), features_[static_cast<size_t>(read[i])], i + 1);
      }
      if (masked) {
        degrees.outputs = degrees_of_theta(first, claims.n_outputs);
      }
      const Network network = networks_.check(step, &StepRecord::network, role_conditioner, size_of(degrees.inputs),
                                              claims.n_outputs, masked ? &degrees : nullptr);
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
    const List own = list_of(table_.ints, part, &PartRecord::members, n_members),
               starts = list_of(table_.ints, part, &PartRecord::theta, n_members);
    part.need(members.meet(own), &PartRecord::members, "must lie within B, each once");
    const int64_t source = part.within(&PartRecord::source, source_free, source_external), size = n_members * n_theta;
    part.need(starts.lies_within(0, count_most), &PartRecord::theta, "begins before or beyond its source");
    std::vector<Slice> slices;
    for (const int64_t start : starts) {
      slices.push_back({start, n_theta});
    }
    if (source == source_free) {
      part.need(covers(slices, size), &PartRecord::theta, "must fill its parameters");
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
    if (n_outputs > size_of(table_.ints)) {  // its degrees must be in INTS
      Part(table_.parts, first_part).fault(&PartRecord::theta, "has no degrees in INTS");
    }
    std::vector<int64_t> degrees(static_cast<size_t>(n_outputs));
    for (int64_t i = first_part; i < n_parts_; i++) {
      const Part part(table_.parts, i);
      const int64_t n_members = part[&PartRecord::n_members];
      const List own = list_of(table_.ints, part, &PartRecord::members, n_members),
                 starts = list_of(table_.ints, part, &PartRecord::theta, n_members);
      for (int64_t j = 0; j < n_members; j++) {
        std::fill_n(degrees.begin() + starts[j], part[&PartRecord::n_theta], own[j]);
      }
    }
    return degrees;
  }

  // Blocks that together hold every dimension of the latent side.
  void check_base() {
    Seen dims(table_.flow.dim);
    for (int64_t i = 0; i < size_of(table_.base); i++) {
      const Record<BaseRecord> block(table_.base, i);
      const int64_t kind = block.code(&BaseRecord::kind, base_names);
      const int64_t n_dims = block.within(&BaseRecord::n_dims, 1, table_.flow.dim);
      if (!dims.meet(list_of(table_.ints, block, &BaseRecord::dims, n_dims))) {
        fail("BASE: blocks must hold every dimension once");
      }
      const int64_t n_options = block.within(&BaseRecord::n_options, 0, n_reals());
      block.span(&BaseRecord::options, n_options, n_reals(), "REALS");
      const int64_t source = block.code(&BaseRecord::source, source_names);
      block.need(source != source_external, &BaseRecord::source, "cannot be external");
      const int64_t n_params = block.within(&BaseRecord::n_params, 0, count_most);
      const int64_t n_numbers = check_numbers(block);
      if (kind == base_uniform) {
        const double *ends = table_.reals.data() + block[&BaseRecord::options];
        block.need(
            std::isfinite(ends[0]) && std::isfinite(ends[1]) && ends[0] < ends[1] && std::isfinite(ends[1] - ends[0]),
            &BaseRecord::options, "are not two ends in order");
      }
      if (source == source_free) {
        block.is(&BaseRecord::n_params, n_numbers);
        claim(block, n_params);
      } else {
        block.zero({&BaseRecord::params, &BaseRecord::n_params});
      }
      if (source != source_network) {
        block.is(&BaseRecord::network, no_index);
        continue;
      }
      const int64_t number = block.within(&BaseRecord::network, 0, size_of(table_.networks) - 1);
      Network(table_.networks, number).within(&NetworkRecord::n_out, 1, output_most);
      claim(networks_.check(block, &BaseRecord::network, role_base, 0, n_numbers, nullptr));
    }
    if (!dims.all()) {
      fail("BASE: blocks must hold every dimension once");
    }
  }

  // Source and options of a block of the base; how many numbers it has that are learned.
  int64_t check_numbers(const Record<BaseRecord> &block) const {
    const int64_t kind = block[&BaseRecord::kind], source = block[&BaseRecord::source], n = block[&BaseRecord::n_dims];
    const double *options = table_.reals.data() + block[&BaseRecord::options];
    const auto fixed_or = [&](bool fixed) {
      const bool fits = fixed ? source == source_fixed : source == source_free || source == source_network;
      block.need(fits, &BaseRecord::source, "is not one that its kind may have");
    };
    if (kind == base_standard_normal || kind == base_uniform) {
      fixed_or(true);
      block.is(&BaseRecord::n_options, kind == base_uniform ? 2 : 0);
      return 0;
    }
    if (kind == base_normal) {
      fixed_or(false);
      block.is(&BaseRecord::n_options, 0);
      return 2 * n;
    }
    if (kind == base_gaussian_mixture) {
      fixed_or(false);
      block.is(&BaseRecord::n_options, 1);
      const double components = options[0];
      block.need(components >= 2 && components <= most_components && components == std::floor(components),
                 &BaseRecord::options, "are not a number of components");
      return static_cast<int64_t>(components) * (1 + 2 * n);
    }
    const bool fixed = source == source_fixed;
    fixed_or(fixed);
    block.is(&BaseRecord::n_options, fixed ? 2 + n : 2);
    block.need(options[0] >= 0.5 && options[0] < options[1] && options[1] <= 1e6, &BaseRecord::options,
               "are not bounds of degrees of freedom");
    block.need(std::all_of(options, options + (fixed ? 2 + n : 2), [](double x) { return std::isfinite(x); }),
               &BaseRecord::options, "are not finite");
    return fixed ? 0 : n;
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
  int64_t params_ = 0, n_parts_ = 0;  // claimed so far
  NetworkChecker networks_;
  std::vector<size_t> features_;               // of each slot
  int64_t n_context_ = 0;                      // features of the context, or of its embedding, as conditioners read it
  std::vector<std::vector<Slice>> externals_;  // what parts claim of each external array
};

}  // namespace

void check_table(const Table &table) { Checker(table).check(); }

}  // namespace penstock
