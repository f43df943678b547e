// Checks a plan table and lays out workspaces and gradients: see plan.hpp.
#include "engine/plan.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "transforms/list.hpp"

namespace penstock {
namespace {

constexpr int64_t magic = 0x504E53544B, version = 1, header_size = 16, step_size = 32;
constexpr int64_t largest = int64_t{1} << 40;  // no count or offset of a real flow comes near

[[noreturn]] void fail(const std::string &what) { throw std::invalid_argument("plan: " + what); }

int64_t padded(int64_t n) { return (n + pad_columns - 1) / pad_columns * pad_columns; }

// n features are dealt evenly to register blocks; where the blocks begin, and n.
std::vector<int> register_blocks(int n) {
  const int64_t count = (n + block_outputs - 1) / block_outputs;
  std::vector<int> start{0};
  for (int64_t i = 1; i <= count; i++) {
    start.push_back(static_cast<int>(i * n / count));
  }
  return start;
}

// Reads the table with every access checked.
class Table {
 public:
  explicit Table(const std::vector<int64_t> &numbers) : numbers_(numbers) {}

  int64_t at(int64_t i, int64_t lo, int64_t hi, const char *name) const {
    const int64_t v = numbers_[static_cast<size_t>(i)];
    if (v < lo || v > hi) {
      fail(std::string(name) + " is " + std::to_string(v) + ", expected " + std::to_string(lo) + " to " +
           std::to_string(hi));
    }
    return v;
  }

  const int64_t *list(int64_t offset, int64_t count, const char *name) const {
    const auto size = static_cast<int64_t>(numbers_.size());
    if (offset < header_size || count < 0 || offset > size || count > size - offset) {
      fail(std::string(name) + " lies outside the table");
    }
    return numbers_.data() + offset;
  }

 private:
  const std::vector<int64_t> &numbers_;
};

struct ThetaSize {
  int fixed, a_bin;
};
#define PENSTOCK_SIZE(name, fixed, a_bin) {fixed, a_bin},
constexpr ThetaSize theta_sizes[] = {PENSTOCK_TRANSFORMS(PENSTOCK_SIZE)};
#undef PENSTOCK_SIZE

}  // namespace

const std::vector<const char *> &transform_names() {
#define PENSTOCK_NAME(name, fixed, a_bin) #name,
  static const std::vector<const char *> names{PENSTOCK_TRANSFORMS(PENSTOCK_NAME)};
#undef PENSTOCK_NAME
  return names;
}

MaskTables::MaskTables(const std::vector<int> &inputs, const std::vector<int> &outputs, int n_degrees) {
  const auto n_in = static_cast<int>(inputs.size()), n_out = static_cast<int>(outputs.size());
  const auto starts = [n_degrees](const auto &sorted, auto degree_of) {
    std::vector<int> start;
    for (int degree = 0; degree <= n_degrees; degree++) {
      start.push_back(static_cast<int>(
          std::partition_point(sorted.begin(), sorted.end(), [&](const auto &x) { return degree_of(x) < degree; }) -
          sorted.begin()));
    }
    return start;
  };
  const auto itself = [](int degree) { return degree; };
  input_start = starts(inputs, itself);
  output_start = starts(outputs, itself);
  // outputs from `to` to the end of their register block, each time that one of them reads more than the one before it
  const auto reach = [&](int n) { return input_start[static_cast<size_t>(outputs[static_cast<size_t>(n)]) + 1]; };
  const std::vector<int> out_blocks = register_blocks(n_out), in_blocks = register_blocks(n_in);
  for (size_t i = 0; i + 1 < out_blocks.size(); i++) {
    const int n0 = out_blocks[i], n1 = out_blocks[i + 1];
    for (int to = n0, known = 0; to < n1; to++) {
      if (to == n0 || reach(to) > known) {
        forward.push_back({to, n1 - to, known, reach(to) - known, to == n0, n_weights});
        n_weights += static_cast<int64_t>(n1 - to) * (reach(to) - known);
        known = reach(to);
      }
    }
  }
  // inputs from the beginning of their register block to one that enters an output which the next one does not
  const auto entry = [&](int k) { return output_start[static_cast<size_t>(inputs[static_cast<size_t>(k)])]; };
  for (int k = 0; k < n_in; k++) {
    first_output.push_back(entry(k));
  }
  for (size_t i = 0; i + 1 < in_blocks.size(); i++) {
    const int k0 = in_blocks[i], k1 = in_blocks[i + 1];
    for (int last = k1 - 1, done = n_out; last >= k0; last--) {
      if (last == k1 - 1 || entry(last) < done) {
        backward.push_back({k0, last + 1 - k0, entry(last), done - entry(last), last == k1 - 1,
                            static_cast<int64_t>(k0) * n_out + entry(last)});
        done = entry(last);
      }
    }
  }
  const auto degree_forward = [&](const Piece &piece) { return outputs[static_cast<size_t>(piece.to)]; };
  const auto degree_backward = [&](const Piece &piece) { return inputs[static_cast<size_t>(piece.to + piece.n - 1)]; };
  std::stable_sort(backward.begin(), backward.end(),
                   [&](const Piece &a, const Piece &b) { return degree_backward(a) < degree_backward(b); });
  forward_start = starts(forward, degree_forward);
  backward_start = starts(backward, degree_backward);
  mask = {n_degrees,          forward.data(),      backward.data(),    forward_start.data(), backward_start.data(),
          input_start.data(), output_start.data(), first_output.data()};
}

Plan::Plan(const int64_t *numbers, int64_t length) : table_(numbers, numbers + length) {
  if (length < header_size || table_[0] != magic) {
    fail("this is not a plan table");
  }
  if (table_[1] != version) {
    fail("version " + std::to_string(table_[1]) + ", this build reads version " + std::to_string(version));
  }
  const Table table(table_);
  table.at(2, length, length, "length");
  item_size = static_cast<int>(table.at(3, 4, 8, "bytes a number"));
  if (item_size != 4 && item_size != 8) {
    fail("bytes a number must be 4 or 8");
  }
  dim = static_cast<int>(table.at(4, 1, 1 << 24, "dim"));
  context_dim = static_cast<int>(table.at(5, 0, 1 << 20, "context_dim"));
  n_params = table.at(6, 0, largest, "n_params");
  n_buffers = table.at(7, 2 * (dim + context_dim), 2 * (dim + context_dim), "n_buffers");
  n_steps = static_cast<int>(table.at(8, 1, (length - header_size) / step_size, "n_steps"));
  table.at(9, step_size, step_size, "step size");
  table.at(10, 0, 0, "base");
  const int64_t *boundary = table.list(table_[11], static_cast<int64_t>(n_steps + 1) * dim, "boundary table");
  boundary_.assign(boundary, boundary + static_cast<int64_t>(n_steps + 1) * dim);
  std::vector<char> seen(static_cast<size_t>(dim));
  for (int k = 0; k <= n_steps; k++) {
    std::fill(seen.begin(), seen.end(), 0);
    for (int i = 0; i < dim; i++) {
      const int64_t slot = this->boundary(k)[i];
      if (slot < 0 || slot >= dim || seen[static_cast<size_t>(slot)]++ != 0) {
        fail("boundary " + std::to_string(k) + " is not a permutation");
      }
    }
  }

  // linears_ must not move once steps point into it
  int64_t count = table.at(14, 0, 1 << 16, "n_linear of the embedding");
  for (int k = 0; k < n_steps; k++) {
    count += table.at(header_size + k * step_size + 16, 0, 1 << 16, "n_linear");
  }
  linears_.reserve(static_cast<size_t>(count));

  int64_t params = 0;
  int64_t old_values = 0;  // numbers of the kept old values, all steps

  // The network of a step, from n_u inputs to n_out numbers: its parameters, and its places in the step's area. That of
  // an autoregressive step is masked.
  const auto add_network = [&](Step &step, int64_t widths_at, int64_t n_out, int64_t degrees_at,
                               const std::string &name) {
    const int64_t *widths = table.list(widths_at, step.n_linear + 1, "widths");
    if (widths[0] != step.n_u || widths[step.n_linear] != n_out) {
      fail("widths of " + name + " do not fit its input and output");
    }
    const auto claim = [&step](int64_t features) {
      const int64_t offset = step.area_size;
      step.area_size += features * tile_stride;
      return offset;
    };
    step.input = claim(step.n_u);
    step.linear = linears_.data() + linears_.size();
    const bool residual = step.conditioner == conditioner_residual_mlp;
    const bool masked = step.kind == step_autoregressive;
    std::vector<int> degrees, degrees_below;  // of the features of a layer, and of the one before it
    const int64_t *hidden_degrees = nullptr;
    int64_t gradients = step.n_u;  // features of the input and of the layers so far
    if (masked) {
      int64_t n_hidden = 0;
      for (int i = 1; i < step.n_linear; i++) {
        n_hidden += std::clamp<int64_t>(widths[i], 0, 1 << 20);
      }
      hidden_degrees = table.list(degrees_at, n_hidden, "degrees");
      for (int i = 0; i < step.n_u; i++) {
        degrees.push_back(std::max(0, i + 1 - step.n_context));
      }
    }
    for (int i = 0; i < step.n_linear; i++) {
      if (widths[i] < (masked && i == 0 ? 0 : 1) || widths[i] > 1 << 20 || widths[i + 1] < 1 ||
          widths[i + 1] > 1 << 24) {
        fail("a width of " + name + " is out of range");
      }
      if (residual && i > 0 && i + 1 < step.n_linear && widths[i] != widths[i + 1]) {
        fail("a residual network has equal widths");
      }
      Linear linear{};
      linear.n_in = static_cast<int>(widths[i]);
      linear.n_out = static_cast<int>(widths[i + 1]);
      linear.weight = params;
      params += widths[i] * widths[i + 1];
      linear.bias = params;
      params += widths[i + 1];
      int64_t n_weights = widths[i] * widths[i + 1];
      if (masked) {
        degrees_below.swap(degrees);
        degrees.clear();
        for (int j = 0; j < linear.n_out; j++) {
          const int64_t degree = i + 1 == step.n_linear ? j / step.n_theta : *hidden_degrees++;
          if (degree < (degrees.empty() ? 0 : degrees.back()) || degree >= step.n_b) {
            fail("degrees of " + name + " must rise and be less than dim");
          }
          degrees.push_back(static_cast<int>(degree));
        }
        if (residual && i > 0 && i + 1 < step.n_linear && degrees != degrees_below) {
          fail("the hidden layers of a residual network have equal degrees");
        }
        linear.mask = &masks_.emplace_back(degrees_below, degrees, step.n_b).mask;
        n_weights = masks_.back().n_weights;
        linear.gradient = gradients * tile_stride;
        gradients += i + 1 < step.n_linear ? linear.n_out : 0;
      }
      linear.panels = panels_size;
      panels_size += padded(n_weights);
      linear.grad_stride = static_cast<int>(padded(linear.n_out));
      linear.grad_weight = padded_size;
      padded_size += widths[i] * linear.grad_stride;
      linear.grad_bias = padded_size;
      padded_size += linear.grad_stride;
      linear.output = claim(linear.n_out);
      const bool hidden = i + 1 < step.n_linear;
      const bool from_output =
          step.activation == act_relu || step.activation == act_tanh || step.activation == act_leaky_relu;
      linear.derivative = hidden && (residual || !from_output) ? claim(linear.n_out) : -1;
      layer_widest = std::max({layer_widest, static_cast<int64_t>(linear.n_in), static_cast<int64_t>(linear.n_out)});
      flops += 2.0 * static_cast<double>(n_weights);
      linears_.push_back(linear);
      const Linear *home = &linears_.back();
      const int chunk = std::max(1, 8192 / linear.n_out);
      for (int from = 0; from < linear.n_in; from += chunk) {
        const int to = std::min(from + chunk, linear.n_in);
        const bool whole = linear.grad_stride == linear.n_out;
        const int rows = whole ? 1 : to - from, longer = whole ? to - from : 1;
        segments.push_back({linear.weight + static_cast<int64_t>(from) * linear.n_out,
                            linear.grad_weight + static_cast<int64_t>(from) * linear.grad_stride, rows,
                            longer * linear.n_out, longer * linear.grad_stride, true, home, from, to});
      }
      segments.push_back({linear.bias, linear.grad_bias, 1, linear.n_out, linear.grad_stride, false, nullptr, 0, 0});
    }
    step.theta = linears_.back().output;
    if (masked) {
      claim(pad_columns);  // transposes read whole vectors of features
      masked_widest = std::max(masked_widest, gradients + pad_columns);
    }
  };

  // The network between the context and the conditioners. Its parameters come after those of the steps.
  evaluation_embedding_.conditioner =
      static_cast<int32_t>(table.at(12, conditioner_free, conditioner_residual_mlp, "embedding"));
  evaluation_embedding_.activation = static_cast<int32_t>(table.at(13, act_relu, act_leaky_relu, "activation"));
  evaluation_embedding_.n_linear = static_cast<int32_t>(table_[14]);
  evaluation_embedding_.n_u = context_dim;
  embeds = evaluation_embedding_.conditioner != conditioner_free;
  n_context = context_dim;
  if (embeds != (evaluation_embedding_.n_linear > 0) || (embeds && context_dim == 0)) {
    fail("the embedding and the context do not fit");
  }
  if (embeds) {
    const int64_t *widths = table.list(table_[15], evaluation_embedding_.n_linear + 1, "widths of the embedding");
    n_context = static_cast<int>(std::clamp<int64_t>(widths[evaluation_embedding_.n_linear], 1, 1 << 20));
    theta_widest = n_context;
  }
  for (int k = 0; k < n_steps; k++) {
    const int64_t at = header_size + k * step_size;
    Step step{};
    step.kind = static_cast<int32_t>(table.at(at, step_permutation, step_autoregressive, "step kind"));
    if ((step.kind == step_standardize) != (k == n_steps - 1)) {
      fail("the standardisation must be the last step and only there");
    }
    table.at(at + 2, params, params, "params offset");
    const int64_t n_params_step = table.at(at + 3, 0, n_params - params, "params count");
    if (step.kind == step_permutation || step.kind == step_standardize) {
      table.at(at + 3, 0, 0, "params count");
      evaluation_steps_.push_back(step);
      continue;
    }
    step.explicit_to_data = static_cast<int32_t>(table.at(at + 1, 0, 1, "explicit"));
    step.params = params;
    step.n_a = static_cast<int>(table.at(at + 6, 0, dim - 1, "n_a"));
    step.a = table.list(table_[at + 7], step.n_a, "A");
    step.n_b = static_cast<int>(table.at(at + 8, 1, dim - step.n_a, "n_b"));
    step.b = table.list(table_[at + 9], step.n_b, "B");
    std::fill(seen.begin(), seen.end(), 0);
    for (int i = 0; i < step.n_a + step.n_b; i++) {
      const int64_t slot = i < step.n_a ? step.a[i] : step.b[i - step.n_a];
      if (slot < 0 || slot >= dim || seen[static_cast<size_t>(slot)]++ != 0) {
        fail("A and B of step " + std::to_string(k) + " must hold different slots");
      }
    }
    if (step.kind == step_lu_linear) {
      const int64_t n = step.n_b;
      if (step.n_a != 0 || n != dim) {
        fail("an LU step moves every dimension");
      }
      step.order = table.list(table_[at + 18], n, "order");
      step.signs = table.list(table_[at + 19], n, "signs");
      std::fill(seen.begin(), seen.end(), 0);
      for (int64_t i = 0; i < n; i++) {
        const int64_t row = step.order[i];
        if (row < 0 || row >= n || seen[static_cast<size_t>(row)]++ != 0 || std::abs(step.signs[i]) != 1) {
          fail("order of step " + std::to_string(k) + " is not a permutation, or a sign is not 1 or -1");
        }
      }
      const auto columns = static_cast<int>(n), stride = static_cast<int>(padded(n));
      step.bias = params + n * n;
      step.grad = padded_size;
      step.grad_bias = padded_size + n * stride;
      const int chunk = std::max(1, 8192 / columns);
      for (int from = 0; from < columns; from += chunk) {
        const int to = std::min(from + chunk, columns);
        segments.push_back({params + from * n, step.grad + static_cast<int64_t>(from) * stride, to - from, columns,
                            stride, false, nullptr, 0, 0});
      }
      segments.push_back({step.bias, step.grad_bias, 1, columns, stride, false, nullptr, 0, 0});
      padded_size += (n + 1) * stride;
      params += n * (n + 1);
      step.panels = panels_size;
      step.panel_size = padded(n * (n + 2 * block_outputs + 1) / 2 + 1);  // starts and corners of blocks included
      panels_size += lu_triangles * step.panel_size;
      step.kept = old_values;
      old_values += n * tile_stride;
      step.area_size = (3 * n + pad_columns) * tile_stride;  // x, v, c; transposes read whole vectors of features
      evaluation_area = std::max(evaluation_area, step.area_size);
      layer_widest = std::max(layer_widest, n);
      flops += 2.0 * static_cast<double>(n) * static_cast<double>(n);
      if (params - step.params != n_params_step) {
        fail("step " + std::to_string(k) + " must have dim (dim + 1) parameters");
      }
      lu_steps.push_back(k);
      evaluation_steps_.push_back(step);
      continue;
    }
    step.transform =
        static_cast<int32_t>(table.at(at + 10, 0, static_cast<int64_t>(transform_names().size()) - 1, "transform"));
    const int64_t n_options = table.at(at + 12, 0, max_options, "n_options");
    std::memcpy(step.options, table.list(table_[at + 13], n_options, "options"),
                static_cast<size_t>(n_options) * sizeof(double));
    const auto [fixed, a_bin] = theta_sizes[step.transform];
    const double bins = a_bin != 0 ? step.options[0] : 0;
    if (a_bin != 0 && (!(bins >= 2 && bins <= most_bins) || bins != std::floor(bins))) {
      fail("the first option of a spline is its number of bins, 2 to " + std::to_string(most_bins));
    }
    const int n_theta_here = fixed + a_bin * static_cast<int>(bins);
    step.n_theta = static_cast<int32_t>(table.at(at + 11, n_theta_here, n_theta_here, "n_theta"));
    step.conditioner = static_cast<int32_t>(table.at(at + 14, conditioner_free, conditioner_external, "conditioner"));
    step.activation = static_cast<int32_t>(table.at(at + 15, act_relu, act_leaky_relu, "activation"));
    step.n_linear = static_cast<int32_t>(table_[at + 16]);
    const int64_t n_theta = static_cast<int64_t>(step.n_b) * step.n_theta;
    theta_widest = std::max(theta_widest, n_theta);
    step.kept = old_values;
    old_values += static_cast<int64_t>(step.n_b) * tile_stride;

    const bool network = step.conditioner == conditioner_mlp || step.conditioner == conditioner_residual_mlp;
    const bool masked = step.kind == step_autoregressive;
    const bool reads = step.kind == step_coupling ? step.n_a > 0 : masked ? step.n_b == dim : true;
    if (((step.kind == step_coupling || masked) && !network) || !reads || network != (step.n_linear > 0)) {
      fail("step " + std::to_string(k) + " and its conditioner do not fit");
    }
    if (network) {
      // an elementwise step with a network is a coupling whose A is empty
      step.kind = masked ? step_autoregressive : step_coupling;
      step.n_context = n_context;
      step.n_u = n_context + (masked ? step.n_b - 1 : step.n_a);
      if (step.n_u == 0 && !masked) {
        fail("the network of step " + std::to_string(k) + " has nothing to read");
      }
      add_network(step, table_[at + 17], n_theta, table_[at + 18], "step " + std::to_string(k));
      step.start = starts_size;
      starts_size += padded(masked || step.n_a > 0 ? step.linear[0].n_out : n_theta);
    } else if (step.conditioner == conditioner_free) {
      step.grad = padded_size;
      const auto columns = static_cast<int>(n_theta);
      segments.push_back({params, padded_size, 1, columns, static_cast<int>(padded(columns)), false, nullptr, 0, 0});
      padded_size += padded(n_theta);
      params += n_theta;
    } else {
      if (external_theta != 0) {
        fail("at most one step can have external theta");
      }
      external_theta = n_theta;
    }
    if (step.n_a != 0 && !network) {
      fail("only a conditioner reads A");
    }
    if (params - step.params != n_params_step) {
      fail("step " + std::to_string(k) + " has " + std::to_string(params - step.params) +
           " parameters, the table says " + std::to_string(n_params_step));
    }
    flops += std::max(60.0, 20.0 * step.n_theta) * step.n_b;
    evaluation_area = std::max(evaluation_area, step.area_size);
    evaluation_steps_.push_back(step);
  }
  if (embeds) {
    add_network(evaluation_embedding_, table_[15], n_context, 0, "the embedding");
  }
  if (params != n_params) {
    fail("steps have " + std::to_string(params) + " parameters, the header says " + std::to_string(n_params));
  }

  training_steps_ = recompute_steps_ = evaluation_steps_;
  int64_t own = old_values;
  for (int k = 0; k < n_steps; k++) {
    training_steps_[static_cast<size_t>(k)].area = own;
    own += evaluation_steps_[static_cast<size_t>(k)].area_size;
    recompute_steps_[static_cast<size_t>(k)].area = old_values;
  }
  // the embedding's area comes last: every conditioner reads what it holds
  training_embedding_ = recompute_embedding_ = evaluation_embedding_;
  const int64_t embedding_size = evaluation_embedding_.area_size;
  evaluation_embedding_.area = evaluation_area;
  training_embedding_.area = own;
  recompute_embedding_.area = old_values + evaluation_area;
  training_kept = own + embedding_size;
  recompute_kept = old_values + evaluation_area + embedding_size;
  evaluation_area += embedding_size;
}

}  // namespace penstock
