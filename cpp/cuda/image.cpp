// Plans and packed numbers on a device: see image.hpp.
#include "cuda/image.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <stdexcept>

#include "cuda/kernels.hpp"
#include "isa/dispatch.hpp"

namespace penstock::cuda {
namespace {

// Offsets in a tile of the processor are multiples of its stride; of a device they are of a block's rows.
int64_t features(int64_t offset) { return offset < 0 ? offset : offset / tile_stride; }
int64_t scaled(int64_t offset) { return offset < 0 ? offset : offset / tile_stride * block_rows; }

uint32_t parts_of(const Plan &plan) {
  uint32_t parts = 0;
  const auto network = [&](const Step &step) {
    if (step.n_linear > 1 && step.activation != act_relu) {
      parts |= part_activations;
    }
  };
  const PlanView view = plan.evaluation();
  for (int k = 0; k < view.n_all_steps; k++) {
    const Step &step = view.steps[k];
    for (int i = 0; i < step.n_runs; i++) {
      parts |= 1u << step.runs[i].transform;
    }
    switch (step.kind) {
      case step_coupling:
        parts |= part_coupling;
        if (step.n_a == 0) {
          parts |= part_free;
        }
        network(step);
        break;
      case step_autoregressive:
        parts |= part_autoregressive;
        network(step);
        break;
      case step_elementwise:
        parts |= part_free;
        if (step.conditioner == conditioner_external) {
          parts |= part_external;
        }
        break;
      case step_lu_linear:
        parts |= part_lu_linear;
        break;
      default:
        break;
    }
  }
  if (view.embedding != nullptr) {
    parts |= part_embedding;
    network(*view.embedding);
  }
  if (!plan.mapped().empty() || !plan.context_mapped().empty() || view.context_slots != nullptr) {
    parts |= part_supports;
  }
  for (const BaseBlock &block : plan.base_blocks()) {
    if (block.kind != base_standard_normal) {
      parts |= part_bases;
    }
  }
  return parts;
}

// Where the layers of a network lie in the area of a step that is evaluated, whose size becomes that of features: input and theta in
// one place, since the last layer is done when nobody reads the input any more, and hidden layers in another, over each other,
// where a block computes all outputs before it stores one; else in two by turns.
void place_layers(const Step &host, int item_size, Step &step, std::vector<Linear> &linears) {
  step.area_size = features(host.area_size + tile_stride - 1);
  const bool plain = host.conditioner == conditioner_mlp;
  if (linears.empty() || linears.front().mask != nullptr || (!plain && host.conditioner != conditioner_residual_mlp)) {
    return;
  }
  const int at_once = item_size == 4 ? block_outputs_at_once : block_outputs_at_once / 2;
  int64_t widest = 0;
  bool in_place = plain;
  for (size_t i = 0; i + 1 < linears.size(); i++) {
    widest = std::max<int64_t>(widest, linears[i].n_out);
    in_place = in_place && linears[i].n_out <= at_once;
  }
  const int64_t first = std::max<int64_t>(host.n_u, linears.back().n_out);
  step.input = step.theta = 0;
  for (size_t i = 0; i < linears.size(); i++) {
    const bool last = i + 1 == linears.size();
    linears[i].output = last ? 0 : (first + (in_place ? 0 : static_cast<int64_t>(i % 2) * widest)) * block_rows;
  }
  // a network of one layer reads what it would write over
  if (linears.size() == 1) {
    step.theta = linears[0].output = host.n_u * block_rows;
    step.area_size = host.n_u + linears[0].n_out;
    return;
  }
  step.area_size = first + (in_place ? 1 : 2) * widest;
}

}  // namespace

PlanOf DevicePlan::build(const Plan &plan, const PlanView &host, bool for_gradient, Image &image) const {
  PlanOf of;
  of.view = host;
  int64_t &record = of.record_features;
  const auto take = [&](int64_t n) { return std::exchange(record, record + n); };
  const auto copy_step = [&](const Step &from) {
    Step step = from;
    std::vector<Linear> linears(from.linear, from.linear + from.n_linear);
    for (Linear &linear : linears) {
      if (int64_t{linear.n_in} * linear.n_out > std::numeric_limits<int32_t>::max()) {
        throw std::invalid_argument("a layer of 2^31 weights or more is not computed on a device");
      }
      const int *first = nullptr;
      if (linear.mask != nullptr) {
        const Mask &mask = *linear.mask;
        Mask copied = mask;
        const auto n = static_cast<int64_t>(mask.n_degrees) + 1;
        copied.forward = image.add(mask.forward, mask.forward_start[mask.n_degrees]);
        copied.backward = image.add(mask.backward, mask.backward_start[mask.n_degrees]);
        copied.forward_start = image.add(mask.forward_start, n);
        copied.backward_start = image.add(mask.backward_start, n);
        copied.input_start = image.add(mask.input_start, n);
        copied.output_start = image.add(mask.output_start, n);
        copied.first_output = first = image.add(mask.first_output, linear.n_in);
        linear.mask = image.add(&copied, 1);
      }
      linear.output = scaled(linear.output);
      linear.derivative = scaled(linear.derivative);
      linear.gradient = scaled(linear.gradient);
      if (for_gradient) {
        linear.grad_bias = take(linear.n_in);
        linear.grad_weight = take(linear.n_out);
        const int64_t high = std::max<int64_t>(1, (linear.n_in + linear_inputs - 1) / linear_inputs),
                      wide = (linear.n_out + linear_outputs - 1) / linear_outputs;
        of.linear.push_back({linear.grad_bias, linear.grad_weight, linear.n_in, linear.n_out, linear.weight,
                             linear.bias, linear.n_out, first, 0, static_cast<int32_t>(of.linear_blocks)});
        of.linear_blocks += high * wide;
      }
    }
    step.a = image.add(from.a, from.n_a);
    step.b = image.add(from.b, from.n_b);
    step.runs = image.add(from.runs, from.n_runs);
    if (from.features != nullptr) {
      const int dims = from.kind == step_autoregressive ? std::max(from.n_b - 1, 0) : from.n_a;
      step.features = image.add(from.features, dims + 1);
    }
    const int64_t n = from.n_b;
    if (from.kind == step_lu_linear) {
      step.order = image.add(from.order, n);
      step.signs = image.add(from.signs, n);
    }
    step.kept = scaled(from.kept);
    step.area = scaled(from.area);
    step.input = scaled(from.input);
    step.theta = scaled(from.theta);
    step.external = scaled(from.external);
    if (!for_gradient) {
      place_layers(from, plan.item_size, step, linears);
    }
    step.linear = image.add(linears);
    if (for_gradient && from.kind == step_lu_linear) {
      step.grad = take(5 * n);
      for (const int side : {1, -1}) {
        const int64_t d = step.grad + (side > 0 ? 0 : 2 * n), blocks = (n + linear_inputs - 1) / linear_inputs,
                      wide = (n + linear_outputs - 1) / linear_outputs;
        // dM_ij = sum d_i x_j: rows of M are what the other layers call inputs
        of.linear.push_back({d, d + n, static_cast<int32_t>(n), static_cast<int32_t>(n), from.params, -1, n, nullptr,
                             side, static_cast<int32_t>(of.linear_blocks)});
        of.linear_blocks += blocks * wide;
      }
      for (int64_t i = 0; i < n; i++) {
        of.free.push_back({step.grad + 4 * n + i, from.params + i * (n + 1)});
        of.free.push_back({step.grad + 2 * n + from.order[i], from.bias + i});
      }
    } else if (for_gradient && from.kind == step_elementwise && from.conditioner == conditioner_free) {
      step.grad = take(from.n_theta);
      for (int64_t i = 0; i < from.n_theta; i++) {
        of.free.push_back({step.grad + i, from.params + i});
      }
    }
    return step;
  };
  std::vector<Step> steps;
  int64_t widest_area = 0;
  for (int k = 0; k < host.n_all_steps; k++) {
    steps.push_back(copy_step(host.steps[k]));
    widest_area = std::max(widest_area, steps.back().area_size);
  }
  of.view.steps = image.add(steps);
  if (host.embedding != nullptr) {
    Step embedding = copy_step(*host.embedding);
    if (!for_gradient) {
      embedding.area = widest_area * block_rows;  // behind those of the steps: it is read to the end
      widest_area += embedding.area_size;
    }
    of.view.embedding = image.add(&embedding, 1);
  }
  std::vector<BaseBlock> blocks(host.base, host.base + host.n_base);
  for (BaseBlock &block : blocks) {
    block.dims = image.add(block.dims, block.n);
    block.fixed = image.add(block.fixed, block.n);
    if (for_gradient && block.network < 0 && block.n_numbers > 0) {
      block.grad = take(block.n_numbers);
      for (int64_t i = 0; i < block.n_numbers; i++) {
        of.free.push_back({block.grad + i, block.params + i});
      }
    }
  }
  of.view.base = image.add(blocks);
  of.view.context_slots = image.add(host.context_slots, host.context_slots != nullptr ? host.context_dim : 0);
  of.view.boundary = image.add(host.boundary, (int64_t{host.n_steps} + 1) * host.dim);

  Room &room = of.room;
  int64_t &used = room.features;
  const auto cut = [&](int64_t n) { return std::exchange(used, used + n); };
  cut(plan.dim);
  room.theta = cut(plan.external_features);
  room.context = cut(plan.context_dim > 0 ? plan.n_context : 0);
  room.kept = cut(for_gradient ? features(plan.recompute_kept + tile_stride - 1) : widest_area);
  if (for_gradient) {
    const int64_t widest = std::max(plan.layer_widest, int64_t{1});
    room.d_state = cut(plan.dim);
    room.d_theta = cut(std::max(plan.theta_widest, int64_t{1}));
    room.hidden[0] = cut(std::max(widest, plan.masked_widest));
    room.hidden[1] = cut(widest);
    room.d_context = cut(plan.context_dim > 0 ? plan.n_context : 0);
    room.d_external = cut(plan.external_features);
    int64_t most = 0;  // numbers of theta of an element
    for (int k = 0; k < host.n_all_steps; k++) {
      for (int i = 0; i < host.steps[k].n_runs; i++) {
        most = std::max<int64_t>(most, host.steps[k].runs[i].n_theta);
      }
    }
    room.powers = cut(most);
  }
  return of;
}

DevicePlan::DevicePlan(const Plan &plan) : parts(parts_of(plan)) {
  // Where each number of the panels comes from: the kernels of the processor pack numbers that say where they are.
  std::vector<int64_t> source(static_cast<size_t>(plan.panels_size), -1);
  std::vector<double> panels(static_cast<size_t>(plan.panels_size), -1.0), params(static_cast<size_t>(plan.n_params));
  std::iota(params.begin(), params.end(), 0.0);
  for (const Segment &segment : plan.segments) {
    if (segment.linear != nullptr) {
      kernels<double>().pack(*segment.linear, segment.from, segment.to, params.data(), panels.data());
    }
  }
  std::transform(panels.begin(), panels.end(), source.begin(), [](double at) { return static_cast<int64_t>(at); });
  memory_ = upload([&](Image &image) {
    evaluation = build(plan, plan.evaluation(), false, image);
    gradient = build(plan, plan.training(true), true, image);
    linear_jobs = image.add(gradient.linear);
    free_jobs = image.add(gradient.free);
    panel_source = image.add(source);
    std::vector<Step> lus;
    for (const int k : plan.lu_steps) {
      Step step = plan.evaluation().steps[k];
      step.order = image.add(step.order, step.n_b);
      step.signs = image.add(step.signs, step.n_b);
      lus.push_back(step);
    }
    lu = image.add(lus);
    n_lu = static_cast<int>(lus.size());
  });
  n_linear = static_cast<int64_t>(gradient.linear.size());
  n_free = static_cast<int64_t>(gradient.free.size());
  boundary = evaluation.view.boundary;
}

template <class T>
DevicePacked<T>::DevicePacked(const Plan &plan, const Packed<T> &packed) {
  const PackedView<T> host = packed.view();
  memory_ = upload([&](Image &image) {
    view_ = host;
    view_.params = image.add(host.params, std::max<int64_t>(plan.n_params, 1));
    view_.panels = image.add(host.panels, std::max<int64_t>(plan.panels_size, 1));
    view_.loc = image.add(host.loc, plan.dim);
    view_.scale = image.add(host.scale, plan.dim);
    view_.inverse = image.add(host.inverse, plan.dim);
    view_.zero = image.add(host.zero, plan.dim);
    view_.context_loc = image.add(host.context_loc, plan.context_dim);
    view_.context_inverse = image.add(host.context_inverse, plan.context_dim);
    view_.mapped = image.add(host.mapped, host.n_mapped);
    view_.context_mapped = image.add(host.context_mapped, host.n_context_mapped);
  });
}

template class DevicePacked<float>;
template class DevicePacked<double>;

}  // namespace penstock::cuda
