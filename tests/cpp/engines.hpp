// Plans of all kinds for the tests of the engine, and numbers to run them with.
#pragma once

#include <algorithm>

#include "check.hpp"
#include "engine/engine.hpp"
#include "make_table.hpp"

namespace penstock {

constexpr int dim = 3;  // of table(), external_table() and conditional_table()

// Free theta, a permutation, and an MLP and a residual MLP, whose explicit direction is the other one, dense and masked.
inline std::vector<int64_t> table(int64_t item_size) {
  const std::vector<int64_t> plain{0, 1, 2}, turned{2, 0, 1};
  return table_of(
      item_size, dim,
      {{.kind = step_elementwise, .n_theta = 2, .theta = theta_free, .b = plain},
       {.kind = step_permutation},
       {.kind = step_coupling, .n_theta = 2, .theta = theta_network, .a = {2, 0}, .b = {1}, .widths = {2, 7, 2}},
       {.kind = step_coupling,
        .explicit_to_data = 1,
        .transform = 1,
        .n_theta = 1,
        .theta = theta_residual,
        .activation = act_silu,
        .a = {1},
        .b = {2, 0},
        .widths = {1, 5, 5, 5, 2}},
       {.kind = step_autoregressive,
        .n_theta = 2,
        .theta = theta_network,
        .b = {1, 0, 2},
        .widths = {2, 8, 2, 6},
        .degrees = {1, 1, 1, 1, 2, 2, 2, 2, 0, 1}},
       {.kind = step_autoregressive,
        .explicit_to_data = 1,
        .transform = 1,
        .n_theta = 1,
        .theta = theta_residual,
        .activation = act_silu,
        .b = {2, 1, 0},
        .widths = {2, 3, 3, 3},
        .degrees = {0, 1, 2, 0, 1, 2}},
       {.kind = step_columns}},
      {plain, plain, turned, turned, turned, turned, turned, turned});
}

// External theta before and after a coupling, in both of its directions, and beside free theta.
inline std::vector<int64_t> external_table(int64_t item_size) {
  const std::vector<int64_t> plain{0, 1, 2};
  return table_of(
      item_size, dim,
      {{.kind = step_elementwise, .explicit_to_data = 1, .n_theta = 2, .theta = theta_external, .b = plain},
       {.kind = step_coupling, .n_theta = 2, .theta = theta_network, .a = {2, 0}, .b = {1}, .widths = {2, 7, 2}},
       {.kind = step_elementwise, .n_theta = 2, .theta = theta_free, .b = plain},
       {.kind = step_elementwise, .transform = 1, .n_theta = 1, .theta = theta_external, .b = {2, 1}},
       {.kind = step_columns}},
      {plain, plain, plain, plain, plain, plain});
}

// A context of two numbers, through an embedding of three to a coupling and to a step that reads nothing else.
inline std::vector<int64_t> conditional_table(int64_t item_size) {
  const std::vector<int64_t> plain{0, 1, 2};
  return table_of(item_size, dim,
                  {{.kind = step_elementwise,
                    .n_theta = 2,
                    .theta = theta_network,
                    .activation = act_tanh,
                    .b = plain,
                    .widths = {3, 4, 6}},
                   {.kind = step_coupling,
                    .explicit_to_data = 1,
                    .n_theta = 2,
                    .theta = theta_network,
                    .a = {2},
                    .b = {1},
                    .widths = {4, 7, 2}},
                   {.kind = step_columns}},
                  {plain, plain, plain, plain}, 2, {2, 5, 3});
}

// A line, a circle, a box and another circle: in couplings, in autoregressive steps of both directions, with theta free and
// external, and an LU step on lines alone.
std::vector<int64_t> table_of_kinds(int64_t item_size) {
  const std::vector<int64_t> plain{0, 1, 2, 3};
  const std::vector<StepSpec> steps{{.kind = step_elementwise, .n_theta = 2, .theta = theta_free, .b = {0, 1, 2, 3}},
                                    {.kind = step_coupling,
                                     .transform = 1,
                                     .n_theta = 1,
                                     .theta = theta_network,
                                     .activation = act_tanh,
                                     .a = {1, 0},
                                     .b = {3, 2},
                                     .widths = {3, 5, theta_of_circle + theta_of_box}},
                                    {.kind = step_coupling,
                                     .explicit_to_data = 1,
                                     .n_theta = 2,
                                     .theta = theta_network,
                                     .activation = act_tanh,
                                     .a = {3},
                                     .b = {1, 0},
                                     .widths = {2, 5, theta_of_circle + 2}},
                                    {.kind = step_autoregressive,
                                     .n_theta = 2,
                                     .theta = theta_network,
                                     .activation = act_silu,
                                     .b = {1, 2, 0, 3},
                                     .widths = {4, 6, theta_of_circle + theta_of_box + 2 + theta_of_circle},
                                     .degrees = {0, 1, 1, 2, 2, 3}},
                                    {.kind = step_autoregressive,
                                     .explicit_to_data = 1,
                                     .n_theta = 2,
                                     .theta = theta_residual,
                                     .activation = act_tanh,
                                     .b = {3, 1, 0, 2},
                                     .widths = {5, 4, 4, theta_of_circle + theta_of_circle + 2 + theta_of_box},
                                     .degrees = {1, 1, 2, 3, 1, 1, 2, 3}},
                                    {.kind = step_columns}};
  return table_of(item_size, 4, steps, std::vector(steps.size() + 1, plain), 0, {},
                  {column_line, column_circle, column_box, column_circle});
}

// The same kinds with external theta.
inline std::vector<int64_t> external_table_of_kinds(int64_t item_size) {
  const std::vector<int64_t> plain{0, 1, 2, 3};
  return table_of(
      item_size, 4,
      {{.kind = step_elementwise, .n_theta = 2, .theta = theta_external, .b = {2, 0, 3, 1}}, {.kind = step_columns}},
      {plain, plain, plain}, 0, {}, {column_line, column_circle, column_box, column_circle});
}

inline Table table_from(const std::vector<int64_t> &words) {
  return decode_table(words.data(), static_cast<int64_t>(words.size()));
}

template <class T>
std::vector<T> numbers(int64_t n, uint64_t seed, double size = 1) {
  Random random{seed};
  std::vector<T> x(static_cast<size_t>(n));
  for (T &v : x) {
    v = static_cast<T>(random.uniform(-size, size));
  }
  return x;
}

inline std::vector<double> buffers_of(int64_t n) {
  std::vector<double> buffers(static_cast<size_t>(2 * n), 0.25);
  for (size_t i = buffers.size() / 2; i < buffers.size(); i++) {
    buffers[i] = 1.5 + 0.1 * static_cast<double>(i);
  }
  return buffers;
}

// Of any plan: loc, scale, and numbers that a column has of its own, m and s of a box.
inline std::vector<double> buffers_of(const Plan &plan) {
  std::vector<double> buffers = buffers_of(plan.dim + plan.context_dim);
  buffers.resize(static_cast<size_t>(plan.n_buffers), 0.4);
  for (const MappedColumn &column : plan.mapped()) {
    const auto at = static_cast<size_t>(column.column);
    buffers[at] = 0;
    buffers[at + static_cast<size_t>(plan.dim + plan.context_dim)] = 1;
  }
  return buffers;
}

template <class T>
Batch rows_of(const std::vector<T> &x, int64_t columns) {
  const auto item = static_cast<int64_t>(sizeof(T));
  return {{reinterpret_cast<const char *>(x.data()), columns * item, item, sizeof(T)},
          static_cast<int64_t>(x.size()) / std::max<int64_t>(columns, 1)};
}

}  // namespace penstock
