// Writes plan tables for the tests: what src/penstock/plan.py writes for flows of affine and additive steps, and of splines on
// circles and boxes. Slots are columns where there are any of these.
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

// Bins of the splines of circles and boxes, and numbers of theta.
constexpr int64_t circle_bins = 2, box_bins = 3;
constexpr int64_t theta_of_circle = 1 + 3 * circle_bins, theta_of_box = 1 + 3 * box_bins;

class TableMaker {
 public:
  // kinds: of the columns of the data; all lines if it is empty.
  TableMaker(int64_t dtype, int64_t dim, int64_t context_dim, const std::vector<int64_t> &kinds = {})
      : dtype_(dtype), dim_(dim), context_dim_(context_dim), kinds_(kinds) {
    const int64_t n = dim + context_dim;
    kinds_.resize(static_cast<size_t>(dim), column_line);
    n_buffers_ = 2 * n;
    for (int64_t i = 0; i < n; i++) {
      ColumnRecord column{
          i < dim ? side_data : side_context, 0, 0, 0, 0, 0, no_index, no_index, no_index, no_index, i, n + i, 0, 0};
      const int64_t kind = i < dim ? kinds_[static_cast<size_t>(i)] : int64_t{column_line};
      if (kind != column_line) {
        column.kind = kind;
        column.ends = end_lower | end_upper;
        column.lo = put_reals({-1.5, 2.5});
        column.hi = column.lo + 1;
        column.map = kind == column_circle ? map_wrap : map_box;
        column.features = kind == column_circle ? features_cos_sin : features_identity;
        if (kind == column_box) {
          column.closed = end_lower;
          column.buffers = n_buffers_;
          column.n_buffers = 2;
          n_buffers_ += 2;
        }
      }
      add(section_columns, column);
    }
    add_base(column_line, base_standard_normal, {});
    add_base(column_circle, base_uniform, {-3.14159265358979323846, 3.14159265358979323846});
    add_base(column_box, base_uniform, {-1, 1});
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
      record.part = n_parts_;
      add_parts(spec, record);
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
    add(section_flow, FlowRecord{dim_, context_dim_, n_params_, n_buffers_, dtype_, dtype_, embedding});
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

  int64_t put_reals(const std::vector<double> &list) {
    for (const double x : list) {
      words_[section_reals].push_back(std::bit_cast<int64_t>(x));
    }
    return size(words_[section_reals]) - static_cast<int64_t>(list.size());
  }

  void add_base(ColumnKind kind, BaseKind base, const std::vector<double> &options) {
    std::vector<int64_t> slots;
    for (int64_t i = 0; i < dim_; i++) {
      if (kinds_[static_cast<size_t>(i)] == kind) {
        slots.push_back(i);
      }
    }
    if (!slots.empty()) {
      const int64_t n = size(slots), dims = put(slots), at = put_reals(options);
      add(section_base,
          BaseRecord{base, dims, n, at, static_cast<int64_t>(options.size()), source_fixed, 0, 0, no_index});
    }
  }

  int64_t kind_of(const StepSpec &spec, int64_t member) const {
    return kinds_[static_cast<size_t>(spec.b[static_cast<size_t>(member)])];
  }
  int64_t theta_of(const StepSpec &spec, int64_t member) const {
    const int64_t kind = kind_of(spec, member);
    return kind == column_circle ? theta_of_circle : kind == column_box ? theta_of_box : spec.n_theta;
  }

  // A part for each kind, in the order in which they come in B. Theta lies in the order of B, but where it is free part by part.
  void add_parts(const StepSpec &spec, StepRecord &step) {
    const int64_t external = spec.theta == theta_external ? n_externals_++ : no_index;
    std::vector<char> done(3, 0);
    for (int64_t first = 0; first < step.n_b; first++) {
      const int64_t kind = kind_of(spec, first);
      if (std::exchange(done[static_cast<size_t>(kind)], 1) != 0) {
        continue;
      }
      std::vector<int64_t> members, starts;
      int64_t at = 0, n = 0;
      for (int64_t j = 0; j < step.n_b; j++) {
        if (kind_of(spec, j) == kind) {
          members.push_back(j);
          starts.push_back(spec.theta == theta_free ? n : at);
          n += theta_of(spec, j);
        }
        at += theta_of(spec, j);
      }
      std::vector<double> options(spec.transform == 0 ? 1 : 0, 2.0);  // the bound of the affine transform
      if (kind != column_line) {
        options = {static_cast<double>(kind == column_circle ? circle_bins : box_bins),
                   kind == column_circle ? 3.14159265358979323846 : 1.0,
                   1e-3,
                   1e-3,
                   1e-3,
                   0.5408};
      }
      const int64_t code = kind == column_circle ? 3 : kind == column_box ? 4 : spec.transform;
      const bool free = spec.theta == theta_free;
      const int64_t params = free ? claim(n, 0) : 0;
      const Source source = free ? source_free : external != no_index ? source_external : source_network;
      const int64_t options_at = put_reals(options), members_at = put(members), starts_at = put(starts);
      add(section_parts, PartRecord{code, theta_of(spec, first), options_at, static_cast<int64_t>(options.size()),
                                    members_at, size(members), source, starts_at, params, free ? n : 0, external});
      n_parts_++;
      step.n_parts++;
    }
  }

  // Where the degrees of the input and of each layer of an autoregressive step's network stand.
  std::vector<int64_t> degrees(const StepSpec &spec, int64_t n_context) {
    std::vector<int64_t> at, layer(static_cast<size_t>(n_context), 0);
    for (int64_t i = 1; i < size(spec.b); i++) {
      layer.insert(layer.end(), kind_of(spec, i - 1) == column_circle ? 2 : 1, i);
    }
    at.push_back(put(layer));
    auto next = spec.degrees.begin();
    for (size_t i = 1; i + 1 < spec.widths.size(); i++) {
      layer.assign(next, next + spec.widths[i]);
      next += spec.widths[i];
      at.push_back(put(layer));
    }
    layer.clear();
    for (int64_t i = 0; i < size(spec.b); i++) {
      layer.insert(layer.end(), static_cast<size_t>(theta_of(spec, i)), i);
    }
    at.push_back(put(layer));
    return at;
  }

  int64_t dtype_, dim_, context_dim_, n_buffers_ = 0;
  std::vector<int64_t> kinds_;
  int64_t n_params_ = 0, n_parts_ = 0, n_networks_ = 0, n_linears_ = 0, n_externals_ = 0;
  std::vector<int64_t> words_[std::size(section_names)];
};

// embedding: widths of its network, of gelu, or nothing.
inline std::vector<int64_t> table_of(int64_t item_size, int64_t dim, const std::vector<StepSpec> &steps,
                                     const std::vector<std::vector<int64_t>> &boundaries, int64_t context_dim = 0,
                                     const std::vector<int64_t> &embedding = {},
                                     const std::vector<int64_t> &kinds = {}) {
  TableMaker maker(item_size == 8 ? dtype_float64 : dtype_float32, dim, context_dim, kinds);
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
