// Lays out the two ends of a checked table, columns and base: see layout.hpp.
#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/layout.hpp"
#include "engine/refuse.hpp"

namespace penstock {
namespace {

// The number of T next to an end, towards the largest of either sign; itself if it belongs to the support and is no number
// beyond the end, or may be.
template <class T>
double next_to(double end, bool belongs, bool may_round, T towards) {
  if (std::isinf(end)) {
    return static_cast<double>(-towards);
  }
  constexpr auto top = static_cast<double>(std::numeric_limits<T>::max());
  const T near = static_cast<T>(std::clamp(end, -top, top));
  const bool beyond = towards > 0 ? near < end : near > end;
  return static_cast<double>(belongs && (may_round || !beyond) ? near : std::nextafter(near, towards));
}

bool in_group(const ColumnRecord &column) { return column.map == map_ordered || column.map == map_simplex; }

}  // namespace

void Plan::check_columns() {
  for (const ColumnRecord &column : table_.columns) {
    const bool data = column.side == side_data;
    const bool mapped = column.map == map_positive || column.map == map_logit || column.kind != column_line ||
                        (data && in_group(column));
    refuse_unless(column.map == map_identity || mapped, "columns with map ", column_map_names[column.map]);
    refuse_unless(column.ends == 0 || mapped, "columns with ends");
    refuse_unless(column.closed == 0 || column.map == map_box, "columns with closed ends");
    refuse_unless(column.lattice == no_index, "columns on a lattice");
    refuse_unless(column.loc != no_index, "columns without a standardisation");
    refuse_unless(column.n_buffers == 0 || mapped, "columns with buffers of their own");
    if (mapped && data && !in_group(column)) {
      mapped_.push_back(mapped_column(column));
      mapped_buffers_.push_back(column.n_buffers > 0 ? column.buffers : no_index);
      const MappedColumn &own = mapped_.back();
      const auto in_order = [](double a, double b, bool belongs) { return belongs ? a <= b : a < b; };
      const bool belongs[2] = {column.map == map_wrap || (column.closed & end_lower) != 0,
                               (column.closed & end_upper) != 0};
      refuse_unless(
          in_order(own.lo, own.least, belongs[0]) && own.least <= own.most && in_order(own.most, own.hi, belongs[1]),
          "columns between whose ends there is no number");
    }
    loc_.push_back(column.loc);
    scale_.push_back(column.scale);
  }
  map_groups();
  map_context();
  kinds_.resize(static_cast<size_t>(dim));
  for (int64_t i = 0; i < dim; i++) {
    const auto slot = static_cast<size_t>(boundary(n_steps)[i]);
    kinds_[slot] = static_cast<int32_t>(table_.columns[static_cast<size_t>(i)].kind);
  }
}

// Of the context nothing is stored, and it has no density, so that an end counts as either type of rows rounds it.
void Plan::map_context() {
  std::vector<int64_t> slots;
  for (int64_t i = 0; i < context_dim; i++) {
    const ColumnRecord &record = table_.columns[static_cast<size_t>(dim + i)];
    slots.push_back(n_features);
    n_features += record.features == features_cos_sin ? 2 : 1;
    if (record.map == map_identity) {
      continue;
    }
    MappedColumn &column = context_mapped_.emplace_back(mapped_column(record));
    column.column = i;
    std::fill_n(column.first, 2, std::min(column.first[0], column.first[1]));
    std::fill_n(column.last, 2, std::max(column.last[0], column.last[1]));
    context_mapped_buffers_.push_back(record.n_buffers > 0 ? record.buffers : no_index);
  }
  if (n_features > context_dim) {
    context_slots_ = std::move(slots);
  }
}

// The numbers within, in the type of the flow: what is stored lies between them. An end that does not belong to the support
// counts as that type rounds it.
MappedColumn Plan::mapped_column(const ColumnRecord &record) const {
  MappedColumn column{};
  column.column = static_cast<int64_t>(loc_.size());
  column.map = static_cast<int32_t>(record.map);
  column.mirrored = (record.ends & end_lower) == 0;
  constexpr double infinity = std::numeric_limits<double>::infinity();
  column.lo = column.mirrored ? -infinity : table_.reals[static_cast<size_t>(record.lo)];
  column.hi = (record.ends & end_upper) == 0 ? infinity : table_.reals[static_cast<size_t>(record.hi)];
  column.middle = record.map == map_wrap ? column.lo + 0.5 * (column.hi - column.lo) : 0.0;
  column.scale = record.map == map_logit  ? column.hi - column.lo
                 : record.map == map_wrap ? (column.hi - column.lo) / (2 * circle_bound)
                                          : 1.0;
  const bool closed[2] = {record.map == map_wrap || (record.closed & end_lower) != 0, (record.closed & end_upper) != 0};
  const auto ends = [&](auto most, bool may_round, double &least, double &greatest) {
    least = next_to(column.lo, closed[0], may_round, most);
    greatest = next_to(column.hi, closed[1], may_round, -most);
  };
  constexpr float most_float = std::numeric_limits<float>::max();
  constexpr double most_double = std::numeric_limits<double>::max();
  if (item_size == 8) {
    ends(most_double, false, column.least, column.most);
  } else {
    ends(most_float, false, column.least, column.most);
  }
  // which rows count as within: an end of a box belongs to it, or does not, as the type of the rows rounds it
  ends(most_double, true, column.first[1], column.last[1]);
  column.first[0] = column.first[1];
  column.last[0] = column.last[1];
  if (record.map == map_box) {
    ends(most_float, true, column.first[0], column.last[0]);
  } else if (record.map == map_wrap) {
    std::fill_n(column.first, 2, -infinity);
    std::fill_n(column.last, 2, infinity);
  }
  return column;
}

void Plan::map_groups() {
  n_alone_ = static_cast<int>(mapped_.size());
  std::vector<int64_t> after(static_cast<size_t>(dim), no_index);
  for (int64_t i = 0; i < dim; i++) {
    if (const int64_t before = table_.columns[static_cast<size_t>(i)].group; before != no_index) {
      after[static_cast<size_t>(before)] = i;
    }
  }
  for (int64_t i = 0; i < dim; i++) {
    const ColumnRecord &column = table_.columns[static_cast<size_t>(i)];
    if (in_group(column) && column.group == no_index) {
      std::vector<int64_t> members;
      for (int64_t j = i; j != no_index; j = after[static_cast<size_t>(j)]) {
        members.push_back(j);
      }
      map_group(members);
    }
  }
}

// Members from the first on. Between the least and the most number of each there is room, in the type of the flow, for those
// before it and those behind.
void Plan::map_group(const std::vector<int64_t> &members) {
  const ColumnRecord &record = table_.columns[static_cast<size_t>(members[0])];
  const bool simplex = record.map == map_simplex, below = (record.ends & end_upper) != 0;
  constexpr double infinity = std::numeric_limits<double>::infinity();
  MappedColumn column{};
  column.map = static_cast<int32_t>(record.map);
  column.mirrored = simplex || record.ends == end_upper;
  column.scale = 1.0;
  column.lo = simplex ? 0.0 : (record.ends & end_lower) != 0 ? table_.reals[static_cast<size_t>(record.lo)] : -infinity;
  column.hi = simplex ? 1.0 : below ? table_.reals[static_cast<size_t>(record.hi)] : infinity;
  const bool interval = simplex || record.ends == (end_lower | end_upper);
  const size_t n = members.size();
  std::vector<double> least(n, 0.0), most(n, 1.0);  // by size
  const auto lay_out = [&](auto towards) {
    using T = decltype(towards);
    constexpr auto room = static_cast<double>(std::numeric_limits<T>::min());
    T low = static_cast<T>(next_to(column.lo, false, false, towards));
    T high = static_cast<T>(next_to(column.hi, false, false, -towards));
    for (size_t i = 0; i < n; i++) {
      least[i] = simplex ? room : static_cast<double>(low);
      most[n - 1 - i] = simplex ? 1.0 : static_cast<double>(high);
      low = std::nextafter(low, towards);
      high = std::nextafter(high, -towards);
    }
    column.room = room;
  };
  if (item_size == 8) {
    lay_out(std::numeric_limits<double>::max());
  } else {
    lay_out(std::numeric_limits<float>::max());
  }
  refuse_unless(column.lo < least[0] && least[n - 1] <= most[n - 1] && (simplex || most[n - 1] < column.hi),
                "columns between whose ends there is no number");
  const double room = column.room;
  for (size_t j = 0; j < n; j++) {
    const ColumnRecord &own = table_.columns[static_cast<size_t>(members[j])];
    const size_t size = column.mirrored ? n - 1 - j : j;
    column.column = members[j];
    column.opens = j == 0;
    column.before = own.group;
    column.shape = interval ? member_interval : j == 0 && record.ends == 0 ? member_real : member_half_line;
    column.least = least[size];
    column.most = most[size];
    column.room = static_cast<double>(n - j) * room;
    mapped_.push_back(column);
    mapped_buffers_.push_back(own.n_buffers > 0 ? own.buffers : no_index);
  }
}

void Plan::lay_out_base() {
  for (const BaseRecord &record : table_.base) {
    base_.push_back(base_block(record));
  }
}

// Networks of the base have their places behind those of the steps and of the embedding.
void Plan::lay_out_base_numbers() {
  for (size_t i = 0; i < base_.size(); i++) {
    if (table_.base[i].kind != base_uniform) {
      lay_out_numbers(table_.base[i], base_[i]);
    }
  }
}

BaseBlock Plan::base_block(const BaseRecord &record) {
  std::vector<int64_t> &dims =
      base_dims_.emplace_back(table_.ints.begin() + record.dims, table_.ints.begin() + record.dims + record.n_dims);
  std::sort(dims.begin(), dims.end());
  const int32_t kind = kinds_[static_cast<size_t>(dims[0])];
  refuse_unless(
      std::all_of(dims.begin(), dims.end(), [&](int64_t d) { return kinds_[static_cast<size_t>(d)] == kind; }),
      "a block of the base on dimensions of several kinds");
  BaseBlock block{};
  block.kind = static_cast<int32_t>(record.kind);
  block.circle = kind == column_circle;
  block.n = static_cast<int>(record.n_dims);
  block.dims = dims.data();
  block.network = -1;
  block.components = 1;
  if (record.kind != base_uniform) {
    refuse_unless(kind == column_line, "a base other than uniform on dimensions of kind ", column_kind_names[kind]);
    return block;
  }
  uniform_block(record, kind, block);
  return block;
}

// What a block other than a uniform one has learned, and the normals that its draws begin with.
void Plan::lay_out_numbers(const BaseRecord &record, BaseBlock &block) {
  const double *options = table_.reals.data() + record.options;
  const int64_t n = block.n;
  if (record.kind == base_student_t) {
    block.lo = options[0];
    block.hi = options[1];
    block.fixed = record.source == source_fixed ? options + 2 : nullptr;
    block.n_numbers = block.fixed != nullptr ? 0 : n;
  } else {
    n_normals_ = std::max(n_normals_, static_cast<int>(block.dims[n - 1]) + 1);
    block.components = record.kind == base_gaussian_mixture ? static_cast<int>(options[0]) : 1;
    block.n_numbers = record.kind == base_standard_normal ? 0
                      : record.kind == base_normal        ? 2 * n
                                                          : block.components * (1 + 2 * n);
  }
  theta_widest = std::max(theta_widest, block.n_numbers);
  base_learns = base_learns || block.n_numbers > 0;
  flops += 60.0 * static_cast<double>(block.n_numbers);
  if (record.source == source_network) {
    Step step{};
    step.external = -1;
    step.n_b = 1;
    step.n_theta = block.n_numbers;
    lay_out_conditioner(table_.networks[static_cast<size_t>(record.network)], step);
    evaluation_area = std::max(evaluation_area, step.area_size);
    block.network = static_cast<int>(evaluation_steps_.size());
    evaluation_steps_.push_back(step);
  } else if (block.n_numbers > 0) {
    block.params = record.params;
    block.grad = padded_size;
    const auto count = static_cast<int>(block.n_numbers);
    add_segments({block.params, block.grad, 1, count, static_cast<int>(padded(count)), false, false, nullptr, 0, 0});
    padded_size += padded(block.n_numbers);
  }
}

void Plan::uniform_block(const BaseRecord &record, int32_t kind, BaseBlock &block) {
  const double bound = kind == column_circle ? circle_bound : box_bound;
  block.lo = table_.reals[static_cast<size_t>(record.options)];
  block.hi = table_.reals[static_cast<size_t>(record.options) + 1];
  refuse_unless(kind == column_line || (block.lo == -bound && block.hi == bound),
                "a uniform base of another width on dimensions of kind ", column_kind_names[kind]);
  block.constant = -static_cast<double>(block.n) * std::log(block.hi - block.lo);
  const auto place = [&](auto zero) {
    using T = decltype(zero);
    const auto lo = static_cast<T>(block.lo), hi = static_cast<T>(block.hi);
    refuse_unless(std::isfinite(lo) && std::isfinite(hi) && std::isfinite(hi - lo), "a uniform base of this width");
    block.least = static_cast<double>(block.circle ? lo : std::nextafter(lo, hi));
    block.most = static_cast<double>(block.circle ? hi : std::nextafter(hi, lo));
  };
  if (item_size == 8) {
    place(double{});
  } else {
    place(float{});
  }
  refuse_unless(block.least <= block.most && block.lo < block.hi,
                "a uniform base between whose ends there is no number");
}

}  // namespace penstock
