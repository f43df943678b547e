// Writes plan tables for the tests: what src/penstock/plan.py writes for flows of affine and additive steps.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <iterator>
#include <utility>
#include <vector>

#include "core/codes.hpp"

namespace penstock {

enum Theta { theta_none, theta_free, theta_external, theta_network, theta_residual };

struct StepSpec {
  int64_t kind, explicit_to_data = 0, transform = 0, n_theta = 0;
  Theta theta = theta_none;
  int64_t activation = act_relu;
  std::vector<int64_t> a = {}, b = {}, widths = {};  // of all layers of the network, input and output included
  std::vector<int64_t> degrees = {};                 // of hidden units
};

class TableMaker {
 public:
  TableMaker(int64_t dtype, int64_t dim, int64_t context_dim) : dtype_(dtype), dim_(dim), context_dim_(context_dim) {
    const int64_t n = dim + context_dim;
    for (int64_t i = 0; i < n; i++) {
      add(section_columns, ColumnRecord{i < dim ? side_data : side_context, 0, 0, 0, 0, 0, no_index, no_index, no_index,
                                        no_index, i, n + i, 0, 0});
    }
    add(section_base, BaseRecord{0, 0, dim, 0, 0, source_fixed, 0, 0, no_index});
    for (int64_t i = 0; i < dim; i++) {
      words_[section_ints].push_back(i);
    }
  }

  void boundary(const std::vector<int64_t> &slots) { append(section_boundary, slots); }

  void step(const StepSpec &spec, int64_t n_context) {
    StepRecord record{};
    record.kind = spec.kind;
    record.explicit_ = spec.explicit_to_data;
    record.params = n_params_;
    record.network = no_index;
    if (spec.theta != theta_none) {
      record.n_a = size(spec.a);
      record.a = put(spec.a);
      record.n_b = size(spec.b);
      record.b = put(spec.b);
      record.part = n_parts_++;
      record.n_parts = 1;
      add(section_parts, part(spec, record));
      if (!spec.widths.empty()) {
        record.network = network(role_conditioner, spec.widths, spec.theta == theta_residual, spec.activation,
                                 n_context, spec.kind == step_autoregressive ? &spec : nullptr);
      }
    }
    record.n_params = n_params_ - record.params;
    add(section_steps, record);
  }

  int64_t network(Role role, const std::vector<int64_t> &widths, bool residual, int64_t activation, int64_t n_context,
                  const StepSpec *masked) {
    const int64_t n = size(widths) - 1, start = n_params_;
    std::vector<int64_t> lists(widths.size(), no_index);
    if (masked != nullptr) {
      lists = degrees(*masked, n_context);
    }
    const int64_t first = n_linears_;
    for (int64_t i = 0; i < n; i++) {
      const int64_t n_in = widths[static_cast<size_t>(i)], n_out = widths[static_cast<size_t>(i) + 1];
      const bool hidden = i + 1 < n, skips = residual && hidden && i > 0;
      const int64_t weight = claim(n_in * n_out, range_decays), bias = claim(n_out, 0);
      add(section_linears, LinearRecord{n_in, n_out, weight, bias, i > 0 ? i - 1 : from_input, act_none,
                                        hidden ? activation : int64_t{act_none},
                                        skips ? skip_after_activation : skip_none, skips ? i - 1 : no_index, no_index,
                                        lists[static_cast<size_t>(i)], lists[static_cast<size_t>(i) + 1]});
      n_linears_++;
    }
    add(section_networks, NetworkRecord{role, first, n, widths.front(), widths.back(), n_context, masked != nullptr,
                                        start, n_params_ - start});
    return n_networks_++;
  }

  std::vector<int64_t> finish(int64_t embedding) {
    const int64_t n_buffers = 2 * (dim_ + context_dim_);
    add(section_flow, FlowRecord{dim_, context_dim_, n_params_, n_buffers, dtype_, dtype_, embedding});
    constexpr int64_t n_sections = std::size(section_names);
    int64_t at = table_header_size + n_sections * table_entry_size;
    std::vector<int64_t> table{table_magic, table_version, 1, 0, n_sections, 0, 0, 0};
    for (int64_t i = 0; i < n_sections; i++) {
      const int64_t record = i == section_boundary ? dim_ : section_fields[i] > 0 ? section_fields[i] : 1;
      const int64_t n = size(words_[i]);
      table.insert(table.end(), {i + 1, 1, at, n / record, record, 0});
      at += n;
    }
    for (const std::vector<int64_t> &section : words_) {
      table.insert(table.end(), section.begin(), section.end());
    }
    table[3] = size(table);
    return table;
  }

 private:
  static int64_t size(const std::vector<int64_t> &list) { return static_cast<int64_t>(list.size()); }

  void append(Section section, const std::vector<int64_t> &list) {
    words_[section].insert(words_[section].end(), list.begin(), list.end());
  }
  int64_t put(const std::vector<int64_t> &list) {
    append(section_ints, list);
    return size(words_[section_ints]) - size(list);
  }
  template <class R>
  void add(Section section, const R &record) {
    const auto list = std::bit_cast<std::array<int64_t, sizeof(R) / sizeof(int64_t)>>(record);
    append(section, {list.begin(), list.end()});
  }
  int64_t claim(int64_t n, int64_t flags) {
    add(section_ranges, RangeRecord{n_params_, n, flags});
    return std::exchange(n_params_, n_params_ + n);
  }

  PartRecord part(const StepSpec &spec, const StepRecord &step) {
    std::vector<int64_t> members, starts;
    for (int64_t j = 0; j < step.n_b; j++) {
      members.push_back(j);
      starts.push_back(j * spec.n_theta);
    }
    const int64_t n = step.n_b * spec.n_theta, options = size(words_[section_reals]);
    const int64_t n_options = spec.transform == 0 ? 1 : 0;  // the bound of the affine transform
    words_[section_reals].insert(words_[section_reals].end(), static_cast<size_t>(n_options),
                                 std::bit_cast<int64_t>(2.0));
    const bool free = spec.theta == theta_free;
    const int64_t params = free ? claim(n, 0) : 0;
    const Source source = free ? source_free : spec.theta == theta_external ? source_external : source_network;
    const int64_t external = source == source_external ? n_externals_++ : no_index;
    return {spec.transform, spec.n_theta, options, n_options,    put(members), step.n_b,
            source,         put(starts),  params,  free ? n : 0, external};
  }

  // Where the degrees of the input and of each layer of an autoregressive step's network stand.
  std::vector<int64_t> degrees(const StepSpec &spec, int64_t n_context) {
    std::vector<int64_t> at, layer(static_cast<size_t>(n_context), 0);
    for (int64_t i = 1; i < size(spec.b); i++) {
      layer.push_back(i);
    }
    at.push_back(put(layer));
    auto next = spec.degrees.begin();
    for (size_t i = 1; i + 1 < spec.widths.size(); i++) {
      layer.assign(next, next + spec.widths[i]);
      next += spec.widths[i];
      at.push_back(put(layer));
    }
    layer.clear();
    for (int64_t j = 0; j < spec.widths.back(); j++) {
      layer.push_back(j / spec.n_theta);
    }
    at.push_back(put(layer));
    return at;
  }

  int64_t dtype_, dim_, context_dim_;
  int64_t n_params_ = 0, n_parts_ = 0, n_networks_ = 0, n_linears_ = 0, n_externals_ = 0;
  std::vector<int64_t> words_[std::size(section_names)];
};

// embedding: widths of its network, of gelu, or nothing.
inline std::vector<int64_t> table_of(int64_t item_size, int64_t dim, const std::vector<StepSpec> &steps,
                                     const std::vector<std::vector<int64_t>> &boundaries, int64_t context_dim = 0,
                                     const std::vector<int64_t> &embedding = {}) {
  TableMaker maker(item_size == 8 ? dtype_float64 : dtype_float32, dim, context_dim);
  for (const std::vector<int64_t> &slots : boundaries) {
    maker.boundary(slots);
  }
  for (const StepSpec &spec : steps) {
    maker.step(spec, embedding.empty() ? context_dim : embedding.back());
  }
  return maker.finish(
      embedding.empty() ? no_index : maker.network(role_embedding, embedding, false, act_gelu, context_dim, nullptr));
}

}  // namespace penstock
