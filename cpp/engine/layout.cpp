// Lays out steps, networks, gradients and workspaces of a checked table: see layout.hpp.
#include "engine/layout.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>

#include "engine/refuse.hpp"
#include "transforms/parts.hpp"

namespace penstock {
namespace {

// Numbers of W in a segment: enough for a thread to be worth it.
constexpr int64_t segment_numbers = 8192;
// Masks of any network take less than so many bytes, and so many times those of the table itself. A table that lists
// degrees once may let many layers point to them.
constexpr int64_t mask_bytes_most = int64_t{64} << 20, mask_bytes_a_word = 128;

}  // namespace

Plan::Plan(Table table) : table_(std::move(table)) {
  const FlowRecord &flow = table_.flow;
  dim = static_cast<int>(flow.dim);
  context_dim = static_cast<int>(flow.context_dim);
  n_steps = static_cast<int>(table_.steps.size());
  item_size = flow.dtype == dtype_float64 ? 8 : 4;
  n_params = flow.n_params;
  n_buffers = flow.n_buffers;
  refuse_unless(flow.conditioner_dtype == flow.dtype, "conditioners in ", dtype_names[flow.conditioner_dtype]);
  check_columns();
  lay_out_base();
  read_ranges();
  embeds = flow.embedding != no_index;
  n_context = embeds ? static_cast<int>(table_.networks[static_cast<size_t>(flow.embedding)].n_out) : n_features;
  theta_widest = embeds ? n_context : 0;
  linears_.reserve(table_.linears.size());  // steps point into it
  for (const StepRecord &record : table_.steps) {
    evaluation_steps_.push_back(lay_out(record));
  }
  if (embeds) {
    const NetworkRecord &network = table_.networks[static_cast<size_t>(flow.embedding)];
    evaluation_embedding_.n_u = n_features;
    evaluation_embedding_.external = -1;
    lay_out_network(network, evaluation_embedding_);
  }
  lay_out_base_numbers();
  place_areas();
}

void Plan::read_ranges() {
  for (const RangeRecord &range : table_.ranges) {
    if (!ranges_.empty() && ranges_.back().flags == range.flags) {
      ranges_.back().count += range.count;
    } else if (range.count > 0) {
      ranges_.push_back(range);
    }
  }
  // a plan of any size has a bounded number of segments
  segment_numbers_ = std::max(segment_numbers, n_params >> 18);
}

Step Plan::lay_out(const StepRecord &record) {
  Step step{};
  step.kind = static_cast<int32_t>(record.kind);
  step.external = -1;
  if (record.kind == step_permutation || record.kind == step_columns) {
    return step;
  }
  step.explicit_to_data = record.explicit_ == direction_to_data ? 1 : 0;
  step.params = record.params;
  step.n_a = static_cast<int>(record.n_a);
  step.a = table_.ints.data() + record.a;
  step.n_b = static_cast<int>(record.n_b);
  step.b = table_.ints.data() + record.b;
  step.kept = old_values_;
  old_values_ += record.n_b * tile_stride;
  if (record.kind == step_lu_linear) {
    lay_out_lu(record, step);
  } else {
    lay_out_parts(record, step);
  }
  evaluation_area = std::max(evaluation_area, step.area_size);
  return step;
}

void Plan::lay_out_lu(const StepRecord &record, Step &step) {
  for (int64_t i = 0; i < step.n_b; i++) {
    const int32_t kind = kinds_[static_cast<size_t>(step.b[i])];
    refuse_unless(kind == column_line, "an LU layer on dimensions of kind ", column_kind_names[kind]);
  }
  const int n = step.n_b, stride = static_cast<int>(padded(n));
  step.order = table_.ints.data() + record.order;
  step.signs = table_.ints.data() + record.signs;
  step.bias = step.params + static_cast<int64_t>(n) * n;
  step.grad = padded_size;
  step.grad_bias = padded_size + static_cast<int64_t>(n) * stride;
  const auto chunk = static_cast<int>(std::max(int64_t{1}, segment_numbers_ / n));
  for (int from = 0; from < n; from += chunk) {
    const int rows = std::min(chunk, n - from);
    add_segments({step.params + static_cast<int64_t>(from) * n, step.grad + static_cast<int64_t>(from) * stride, rows,
                  n, stride, false, false, nullptr, 0, 0});
  }
  add_segments({step.bias, step.grad_bias, 1, n, stride, false, false, nullptr, 0, 0});
  padded_size += (static_cast<int64_t>(n) + 1) * stride;
  step.panels = panels_size;
  step.panel_size = triangle_size(n);
  panels_size += lu_triangles * step.panel_size;
  // x, v, c; transposes read whole vectors of features
  step.area_size = (3 * static_cast<int64_t>(n) + pad_columns) * tile_stride;
  layer_widest = std::max<int64_t>(layer_widest, n);
  flops += 2.0 * n * n;
  lu_steps.push_back(static_cast<int>(evaluation_steps_.size()));
}

// A step with transforms.
void Plan::lay_out_parts(const StepRecord &record, Step &step) {
  refuse_unless(record.kind != step_autoregressive || step.n_b == dim,
                "an autoregressive layer on some of the dimensions");
  lay_out_runs(record, step);
  theta_widest = std::max(theta_widest, step.n_theta);
  const PartRecord &first = table_.parts[static_cast<size_t>(record.part)];
  if (first.source == source_network) {
    return lay_out_conditioner(table_.networks[static_cast<size_t>(record.network)], step);
  }
  if (first.source == source_external) {
    refuse_unless(first.external == static_cast<int64_t>(externals.size()),
                  "an external theta that several steps share");
    step.conditioner = conditioner_external;
    step.external = external_features * tile_stride;
    externals.push_back({static_cast<int>(evaluation_steps_.size()), step.n_theta, external_features});
    external_features += step.n_theta;
    return;
  }
  step.conditioner = conditioner_free;
  step.grad = padded_size;
  constexpr int64_t longest = int64_t{1} << 30;
  for (int64_t from = 0; from < step.n_theta; from += longest) {
    const auto n = static_cast<int>(std::min(longest, step.n_theta - from));
    add_segments(
        {step.params + from, step.grad + from, 1, n, static_cast<int>(padded(n)), false, false, nullptr, 0, 0});
  }
  padded_size += padded(step.n_theta);
}

// Neighbours in B of one part whose theta lies in their order become a run. Theta of a step begins with the parameters that
// are its own, with the output of its network, or with its external array.
void Plan::lay_out_runs(const StepRecord &record, Step &step) {
  struct Member {
    const PartRecord *part;
    int64_t theta;
  };
  std::vector<Member> members(static_cast<size_t>(step.n_b));
  const PartRecord *parts = table_.parts.data() + record.part;
  for (int64_t i = 0; i < record.n_parts; i++) {
    refuse_unless(parts[i].source == parts[0].source, "several sources of theta in one step");
    refuse_unless(parts[i].external == parts[0].external, "several external thetas in one step");
    const int64_t from = parts[i].source == source_free ? parts[i].params - record.params : 0;
    for (int64_t j = 0; j < parts[i].n_members; j++) {
      const int64_t member = table_.ints[static_cast<size_t>(parts[i].members + j)];
      members[static_cast<size_t>(member)] = {parts + i, from + table_.ints[static_cast<size_t>(parts[i].theta + j)]};
    }
    step.n_theta += parts[i].n_members * parts[i].n_theta;
    flops += std::max(60.0, 20.0 * static_cast<double>(parts[i].n_theta)) * static_cast<double>(parts[i].n_members);
  }
  std::vector<Run> &runs = runs_.emplace_back();
  for (int i = 0; i < step.n_b; i++) {
    const auto &[part, theta] = members[static_cast<size_t>(i)];
    check_transform(*part, step.b[i]);
    const bool first = i == 0 || members[static_cast<size_t>(i) - 1].part != part ||
                       members[static_cast<size_t>(i) - 1].theta + part->n_theta != theta;
    if (first) {
      Run run{i, i, static_cast<int32_t>(part->transform), static_cast<int32_t>(part->n_theta), theta, {}};
      std::copy_n(table_.reals.begin() + part->options, part->n_options, run.options);
      runs.push_back(run);
    }
    runs.back().to = i + 1;
  }
  step.runs = runs.data();
  step.n_runs = static_cast<int>(runs.size());
}

// A circle and a box have the splines that map them to themselves.
void Plan::check_transform(const PartRecord &part, int64_t slot) const {
  const int32_t kind = kinds_[static_cast<size_t>(slot)];
  if (kind == column_line) {
    return;
  }
  const bool circle = kind == column_circle;
  refuse_unless(part.transform == (circle ? transform_circular_rational_quadratic : transform_box_rational_quadratic),
                circle ? "on a circle transform " : "on a box transform ",
                transform_names()[static_cast<size_t>(part.transform)]);
  refuse_unless(table_.reals[static_cast<size_t>(part.options) + 1] == (circle ? circle_bound : box_bound),
                circle ? "on a circle splines of another bound than pi" : "on a box splines of another bound than 1");
}

// The network of a step. An elementwise step with one is a coupling whose A is empty.
void Plan::lay_out_conditioner(const NetworkRecord &network, Step &step) {
  const bool masked = network.masked != 0;
  refuse_unless(network.n_context == n_context, "conditioners that ignore the context");
  step.kind = masked ? step_autoregressive : step_coupling;
  step.n_context = n_context;
  step.n_u = static_cast<int>(network.n_in);
  lay_out_features(masked ? step.b : step.a, masked ? step.n_b - 1 : step.n_a, step);
  lay_out_network(network, step);
  step.start = starts_size;
  starts_size += padded(masked || step.n_a > 0 ? step.linear[0].n_out : network.n_out);
}

// Features of the dimensions that a conditioner reads, where there are circles among them.
void Plan::lay_out_features(const int64_t *slots, int64_t n, Step &step) {
  const auto circle = [this](int64_t slot) { return kinds_[static_cast<size_t>(slot)] == column_circle; };
  if (std::none_of(slots, slots + n, circle)) {
    return;
  }
  std::vector<int> &first = features_.emplace_back();
  first.push_back(0);
  for (int64_t i = 0; i < n; i++) {
    first.push_back(first.back() + (circle(slots[i]) ? 2 : 1));
  }
  step.features = first.data();
}

// A network from n_u inputs: its parameters, and its places in the step's area.
void Plan::lay_out_network(const NetworkRecord &network, Step &step) {
  classify(network, step);
  step.linear = linears_.data() + linears_.size();
  step.n_linear = static_cast<int32_t>(network.n_linears);
  step.input = 0;
  step.area_size = static_cast<int64_t>(step.n_u) * tile_stride;
  int64_t gradients = step.n_u;  // features of the input and of the layers so far
  for (int64_t i = 0; i < network.n_linears; i++) {
    const LinearRecord &record = table_.linears[static_cast<size_t>(network.linear + i)];
    lay_out_linear(record, i + 1 < network.n_linears, step, gradients);
  }
  step.theta = linears_.back().output;
  if (network.masked != 0) {
    step.area_size += pad_columns * tile_stride;  // transposes read whole vectors of features
    masked_widest = std::max(masked_widest, gradients + pad_columns);
  }
}

// Plain or residual, with one activation; any other network is refused.
void Plan::classify(const NetworkRecord &network, Step &step) const {
  const LinearRecord *linears = table_.linears.data() + network.linear;
  const int64_t last = network.n_linears - 1;
  const bool residual = last > 1 && linears[1].skip != skip_none;
  step.conditioner = residual ? conditioner_residual_mlp : conditioner_mlp;
  step.activation = static_cast<int32_t>(last > 0 ? linears[0].activation : int64_t{act_relu});
  for (int64_t i = 0; i <= last; i++) {
    const LinearRecord &linear = linears[i];
    refuse_unless(linear.gate == no_index, "gates");
    refuse_unless(linear.skip != skip_before_activation, "skips before the activation");
    refuse_unless(linear.activation_before == act_none, "activations before a linear layer");
    refuse_unless(linear.bias != no_index, "linear layers without a bias");
    refuse_unless(linear.source == (i > 0 ? i - 1 : from_input), "networks that are no chain of linear layers");
    const bool skips = residual && i > 0 && i < last;
    refuse_unless((linear.skip != skip_none) == skips, "skips in some of the hidden layers");
    refuse_unless(!skips || linear.skip_source == i - 1, "skips over more than one layer");
    if (i < last) {
      refuse_unless(linear.activation >= act_relu && linear.activation <= act_leaky_relu, "activation ",
                    activation_names[linear.activation]);
      refuse_unless(linear.activation == step.activation, "networks with several activations");
    }
    if (network.masked != 0) {
      const std::vector<int> outputs = degrees(linear.out_degrees, linear.n_out);
      refuse_unless(std::is_sorted(outputs.begin(), outputs.end()), "degrees that do not rise");
      refuse_unless(!skips || outputs == degrees(linear.in_degrees, linear.n_in),
                    "degrees of a residual network that differ");
    }
  }
}

void Plan::lay_out_linear(const LinearRecord &record, bool hidden, Step &step, int64_t &gradients) {
  Linear linear{};
  linear.n_in = static_cast<int>(record.n_in);
  linear.n_out = static_cast<int>(record.n_out);
  linear.weight = record.weight;
  linear.bias = record.bias;
  int64_t n_weights = record.n_in * record.n_out;
  if (record.in_degrees != no_index) {
    mask_linear(record, step, linear);
    n_weights = masks_.back().n_weights;
    linear.gradient = gradients * tile_stride;
    gradients += hidden ? linear.n_out : 0;
  }
  linear.panels = panels_size;
  panels_size += padded(n_weights);
  linear.grad_stride = static_cast<int>(padded(linear.n_out));
  linear.grad_weight = padded_size;
  padded_size += record.n_in * linear.grad_stride;
  linear.grad_bias = padded_size;
  padded_size += linear.grad_stride;
  const auto claim = [&] { return std::exchange(step.area_size, step.area_size + record.n_out * tile_stride); };
  linear.output = claim();
  const bool residual = step.conditioner == conditioner_residual_mlp;
  linear.derivative = hidden && (residual || !derivative_from_output(step.activation)) ? claim() : -1;
  layer_widest = std::max({layer_widest, record.n_in, record.n_out});
  flops += 2.0 * static_cast<double>(n_weights);
  linears_.push_back(linear);
  add_weight_segments(linears_.back());
  add_segments({linear.bias, linear.grad_bias, 1, linear.n_out, linear.grad_stride, false, false, nullptr, 0, 0});
}

void Plan::mask_linear(const LinearRecord &record, const Step &step, Linear &linear) {
  mask_bytes_ += MaskTables::bytes(record.n_in, record.n_out, step.n_b);
  refuse_unless(mask_bytes_ <= mask_bytes_most + mask_bytes_a_word * table_.length, "masks of this size");
  const std::vector<int> inputs = degrees(record.in_degrees, record.n_in);
  linear.mask = &masks_.emplace_back(inputs, degrees(record.out_degrees, record.n_out), step.n_b).mask;
}

// W of a linear layer, a number of rows at a time.
void Plan::add_weight_segments(const Linear &linear) {
  const auto chunk = static_cast<int>(std::max(int64_t{1}, segment_numbers_ / linear.n_out));
  for (int from = 0; from < linear.n_in; from += chunk) {
    const int to = std::min(from + chunk, linear.n_in);
    const bool whole = linear.grad_stride == linear.n_out;
    const int rows = whole ? 1 : to - from, longer = whole ? to - from : 1;
    add_segments({linear.weight + static_cast<int64_t>(from) * linear.n_out,
                  linear.grad_weight + static_cast<int64_t>(from) * linear.grad_stride, rows, longer * linear.n_out,
                  longer * linear.grad_stride, false, false, &linear, from, to});
  }
}

// A segment, cut where flags change. Rows of W are packed by the segment that holds them, so they stay whole.
void Plan::add_segments(const Segment &whole) {
  const int64_t stop = whole.flat + whole.rows * whole.columns;
  auto range = std::upper_bound(ranges_.begin(), ranges_.end(), whole.flat,
                                [](int64_t at, const RangeRecord &r) { return at < r.offset; }) -
               1;
  for (int64_t at = whole.flat; at < stop; range++) {
    const int64_t end = std::min(stop, range->offset + range->count);
    while (at < end) {
      const int64_t row = (at - whole.flat) / whole.columns, column = (at - whole.flat) % whole.columns;
      Segment part = whole;
      part.flat = at;
      part.padded = whole.padded + row * whole.stride + column;
      part.decay = (range->flags & range_decays) != 0;
      part.frozen = (range->flags & range_frozen) != 0;
      part.rows = (end - at) / whole.columns;
      if (column != 0 || part.rows == 0) {  // part of a row
        part.rows = 1;
        part.columns = part.stride = static_cast<int>(std::min(whole.columns - column, end - at));
      }
      at += part.rows * part.columns;
      if (whole.linear != nullptr) {
        const int64_t n_out = whole.linear->n_out;
        refuse_unless((at - whole.linear->weight) % n_out == 0, "flags that change within a row of weights");
        part.from = static_cast<int>((part.flat - whole.linear->weight) / n_out);
        part.to = static_cast<int>((at - whole.linear->weight) / n_out);
      }
      segments.push_back(part);
    }
  }
}

// The places of areas in the kept store: one for all, or one for each, behind the old values. That of the embedding comes
// last: every conditioner reads what it holds.
void Plan::place_areas() {
  training_steps_ = recompute_steps_ = evaluation_steps_;
  training_embedding_ = recompute_embedding_ = evaluation_embedding_;
  int64_t own = old_values_;
  for (size_t k = 0; k < evaluation_steps_.size(); k++) {
    training_steps_[k].area = own;
    own += evaluation_steps_[k].area_size;
    recompute_steps_[k].area = old_values_;
  }
  const int64_t embedding_size = evaluation_embedding_.area_size;
  evaluation_embedding_.area = evaluation_area;
  training_embedding_.area = own;
  recompute_embedding_.area = old_values_ + evaluation_area;
  training_kept = own + embedding_size;
  recompute_kept = old_values_ + evaluation_area + embedding_size;
  evaluation_area += embedding_size;
}

std::vector<int> Plan::degrees(int64_t at, int64_t n) const {
  return {table_.ints.begin() + at, table_.ints.begin() + at + n};
}

}  // namespace penstock
