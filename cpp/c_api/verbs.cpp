// The verbs: arguments are checked, and the engine is called once, or once for each buffer of rows.
#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "c_api/flow.hpp"
#include "c_api/rows.hpp"
#include "c_api/status.hpp"
#include "engine/engine.hpp"
#include "engine/mixture.hpp"
#include "penstock/penstock.h"

namespace penstock::c {
namespace {

// --- log_prob ----------------------------------------------------------------------------------------------------------

template <class T>
Range density(const Engine<T> &engine) {
  return {0, engine.plan().n_steps, false, true};
}

template <class T>
void evaluate(const Members<T> &members, const Batch &batch, RowValues log_prob) {
  if (members.ensemble()) {
    evaluate_many(members.mixture, batch, {log_prob}, nullptr);
  } else {
    members.engine().evaluate(members.numbers(), density(members.engine()), batch, nullptr, {}, log_prob, nullptr);
  }
}

template <class C>
penstock_status log_prob_of(const penstock_flow *flow, int64_t n, const C *x, int64_t x_stride, const C *context,
                            int64_t context_stride, C *log_prob) {
  return guard([&] {
    needed("flow", flow);
    const Batch batch = batch_of(*flow, n, {"x", x, x_stride}, context, context_stride);
    check_values_out("log_prob", n, log_prob);
    if (n == 0) {
      return;
    }
    needed("log_prob", log_prob);
    flow->visit([&](const auto &members) { evaluate(members, batch, {log_prob, sizeof(C)}); });
  });
}

// --- log_prob_and_grad -------------------------------------------------------------------------------------------------

// sum, of gradients of the one context that rows share: is added to, or null.
template <class T>
void differentiate(const Members<T> &members, const Batch &batch, RowValues log_prob, const T *ones,
                   const RowsOut<T> &grad, const RowsOut<T> &grad_context, double *sum) {
  if (members.ensemble()) {
    gradients_many(members.mixture, batch, {log_prob, grad, grad_context, sum}, nullptr);
    return;
  }
  Cotangents<T> cotangents;
  cotangents.value = ones;
  cotangents.x = grad;
  cotangents.context = grad_context;
  cotangents.context_sum = sum;
  members.engine().vjp(members.numbers(), density(members.engine()), batch, nullptr, log_prob, cotangents, nullptr);
}

template <class C>
struct RowsTo {
  C *data;
  int64_t stride, columns;
};

template <class T, class C>
void gradients_into(const Members<T> &members, const Batch &batch, C *log_prob, const RowsTo<C> &grad,
                    const RowsTo<C> &grad_context, bool apart) {
  const bool shared = batch.context.shared && grad_context.data != nullptr;
  Output<C, C> values(log_prob, 1, 1, apart);
  Output<T, C> of_x(grad.data, grad.stride, grad.columns, apart);
  Output<T, C> of_context(shared ? nullptr : grad_context.data, grad_context.stride, grad_context.columns, apart);
  std::vector<double> sum(shared ? static_cast<size_t>(grad_context.columns) : 0);
  const auto bytes = [&](int64_t rows) {
    return values.needs(rows) + of_x.needs(rows) + of_context.needs(rows) + Room::size<T>(rows);
  };
  // A sum over rows is one of all of them, in the order of the engine.
  in_parts(batch.rows, shared ? 0 : bytes(1), [&](int64_t first, int64_t count) {
    Room room(bytes(count), batch.rows == 1);
    T *ones = room.take<T>(count);
    std::fill_n(ones, count, T{1});
    values.take(room, count);
    of_x.take(room, count);
    of_context.take(room, count);
    differentiate(members, part_of(batch, first, count), values.values(first), ones, of_x.rows(first),
                  of_context.rows(first), shared ? sum.data() : nullptr);
    values.finish(first, count);
    of_x.finish(first, count);
    of_context.finish(first, count);
  });
  if (shared) {
    const DefaultFloatingPoint environment;
    std::transform(sum.begin(), sum.end(), grad_context.data, [](double x) { return static_cast<C>(x); });
  }
}

template <class C>
penstock_status log_prob_and_grad_of(const penstock_flow *flow, int64_t n, const C *x, int64_t x_stride,
                                     const C *context, int64_t context_stride, C *log_prob, C *grad,
                                     int64_t grad_stride, C *grad_context, int64_t grad_context_stride) {
  return guard([&] {
    needed("flow", flow);
    const Batch batch = batch_of(*flow, n, {"x", x, x_stride}, context, context_stride);
    check_values_out("log_prob", n, log_prob);
    check_rows_out("grad", n, flow->dim, grad, grad_stride);
    if (flow->context_dim == 0 && grad_context != nullptr) {
      wrong("grad_context", "be NULL: this flow has no context (context_dim=0)");
    }
    if (!batch.context.shared) {
      check_rows_out("grad_context", n, flow->context_dim, grad_context, grad_context_stride);
    }
    if (n == 0) {
      if (grad_context != nullptr && context_stride == 0) {
        std::fill_n(grad_context, flow->context_dim, C{0});
      }
      return;
    }
    const bool apart = one_of(grad, x, context) || one_of(grad_context, x, context) || one_of(log_prob, x, context);
    flow->visit([&](const auto &members) {
      if (grad == nullptr && grad_context == nullptr) {
        if (log_prob != nullptr) {
          evaluate(members, batch, {log_prob, sizeof(C)});
        }
        return;
      }
      gradients_into(members, batch, log_prob, RowsTo<C>{grad, grad_stride, flow->dim},
                     RowsTo<C>{grad_context, grad_context_stride, flow->context_dim}, apart);
    });
  });
}

// --- sample ------------------------------------------------------------------------------------------------------------

// Numbers of draws, known to have counters of their own.
Draws draws_of(uint64_t key, uint64_t first_context_row, uint64_t first_draw, const Context &context, int64_t n) {
  const bool each = context.block == 1 && !context.shared;
  const auto check = [](const char *name, uint64_t first, int64_t count, int bits) {
    const uint64_t limit = uint64_t{1} << bits;
    if (static_cast<uint64_t>(count) > limit || first > limit - static_cast<uint64_t>(count)) {
      wrong(name,
            "be at least 0, and numbers must stay below 2**" + std::to_string(bits) + ", got " + std::to_string(first));
    }
  };
  check("first_draw", first_draw, each ? std::min<int64_t>(n, 1) : n, 56);
  check("first_context_row", first_context_row, each ? n : 1, 40);
  return {key, first_context_row, first_draw};
}

// Draws as they are stored, rounded to the lattice if there is one, and their log-density.
template <class T>
void draw(const Members<T> &members, const Lattice &lattice, const Draws &draws, const Context &context, int64_t n,
          const RowsOut<T> &x, RowValues log_prob) {
  if (lattice.empty() && !members.ensemble()) {
    members.engine().sample(members.numbers(), draws, context, n, x, log_prob, nullptr);
    return;
  }
  if (members.ensemble()) {
    sample_many(members.mixture, draws, context, n, x, nullptr);
  } else {
    members.engine().sample(members.numbers(), draws, context, n, x, {}, nullptr);
  }
  if (!lattice.empty()) {
    lattice.round(x, n);
  }
  if (log_prob.data != nullptr) {
    constexpr auto size = static_cast<int64_t>(sizeof(T));
    const RowsView rows{reinterpret_cast<const char *>(x.data), x.stride * size, size, sizeof(T)};
    evaluate(members, {rows, n, context}, log_prob);
  }
}

template <class T, class C>
void draw_into(const Members<T> &members, const penstock_flow &flow, const Draws &draws, const Context &context,
               int64_t n, C *x, int64_t x_stride, C *log_prob, bool apart) {
  Output<T, C> rows(x, x_stride, flow.dim, apart);
  Output<C, C> values(log_prob, 1, 1, apart);
  const bool each = !context.shared && flow.context_dim > 0;
  const auto bytes = [&](int64_t count) { return rows.needs(count) + values.needs(count); };
  in_parts(n, bytes(1), [&](int64_t first, int64_t count) {
    Room room(bytes(count), n == 1);
    rows.take(room, count);
    values.take(room, count);
    Draws some = draws;
    (each ? some.context_row : some.first_draw) += static_cast<uint64_t>(first);
    draw(members, flow.lattice, some, part_of(context, first, count), count, rows.rows(first), values.values(first));
    rows.finish(first, count);
    values.finish(first, count);
  });
}

template <class C>
penstock_status sample_of(const penstock_flow *flow, uint64_t key, uint64_t first_context_row, uint64_t first_draw,
                          int64_t n, const C *context, int64_t context_stride, C *x, int64_t x_stride, C *log_prob) {
  return guard([&] {
    needed("flow", flow);
    check_count("n", n);
    const Context given = context_of(*flow, n, context, context_stride);
    const Draws draws = draws_of(key, first_context_row, first_draw, given, n);
    check_rows_out("x", n, flow->dim, x, x_stride);
    check_values_out("log_prob", n, log_prob);
    if (n == 0) {
      return;
    }
    needed("x", x);
    const bool apart = one_of(x, context, context) || one_of(log_prob, context, context);
    flow->visit([&](const auto &members) { draw_into(members, *flow, draws, given, n, x, x_stride, log_prob, apart); });
  });
}

// --- the latent side ---------------------------------------------------------------------------------------------------

template <class T, class C>
void map_into(const Members<T> &members, bool to_data, const Batch &batch, C *out, int64_t out_stride, C *log_det) {
  const Engine<T> &engine = members.engine();
  const Range all{0, engine.plan().n_steps, to_data, false};
  Output<T, C> rows(out, out_stride, engine.plan().dim, false);
  Output<C, C> values(log_det, 1, 1, false);
  in_parts(batch.rows, rows.needs(1), [&](int64_t first, int64_t count) {
    Room room(rows.needs(count), batch.rows == 1);
    rows.take(room, count);
    engine.evaluate(members.numbers(), all, part_of(batch, first, count), nullptr, rows.rows(first),
                    values.values(first), nullptr);
    rows.finish(first, count);
  });
}

template <class C>
penstock_status map_of(const penstock_flow *flow, bool to_data, int64_t n, const C *in, int64_t in_stride,
                       const C *context, int64_t context_stride, C *out, int64_t out_stride, C *log_det) {
  return guard([&] {
    needed("flow", flow);
    refuse_ensemble(*flow, to_data ? "to_data" : "to_latent");
    const Batch batch = batch_of(*flow, n, {to_data ? "z" : "x", in, in_stride}, context, context_stride);
    check_rows_out(to_data ? "x" : "z", n, flow->dim, out, out_stride);
    check_values_out("log_det", n, log_det);
    if (n == 0 || (out == nullptr && log_det == nullptr)) {
      return;
    }
    flow->visit([&](const auto &members) { map_into(members, to_data, batch, out, out_stride, log_det); });
  });
}

}  // namespace
}  // namespace penstock::c

using namespace penstock::c;

penstock_status penstock_log_prob_f64(const penstock_flow *flow, int64_t n, const double *x, int64_t x_stride,
                                      const double *context, int64_t context_stride, double *log_prob) {
  return log_prob_of(flow, n, x, x_stride, context, context_stride, log_prob);
}

penstock_status penstock_log_prob_f32(const penstock_flow *flow, int64_t n, const float *x, int64_t x_stride,
                                      const float *context, int64_t context_stride, float *log_prob) {
  return log_prob_of(flow, n, x, x_stride, context, context_stride, log_prob);
}

penstock_status penstock_log_prob_and_grad_f64(const penstock_flow *flow, int64_t n, const double *x, int64_t x_stride,
                                               const double *context, int64_t context_stride, double *log_prob,
                                               double *grad, int64_t grad_stride, double *grad_context,
                                               int64_t grad_context_stride) {
  return log_prob_and_grad_of(flow, n, x, x_stride, context, context_stride, log_prob, grad, grad_stride, grad_context,
                              grad_context_stride);
}

penstock_status penstock_log_prob_and_grad_f32(const penstock_flow *flow, int64_t n, const float *x, int64_t x_stride,
                                               const float *context, int64_t context_stride, float *log_prob,
                                               float *grad, int64_t grad_stride, float *grad_context,
                                               int64_t grad_context_stride) {
  return log_prob_and_grad_of(flow, n, x, x_stride, context, context_stride, log_prob, grad, grad_stride, grad_context,
                              grad_context_stride);
}

penstock_status penstock_sample_f64(const penstock_flow *flow, uint64_t key, uint64_t first_context_row,
                                    uint64_t first_draw, int64_t n, const double *context, int64_t context_stride,
                                    double *x, int64_t x_stride, double *log_prob) {
  return sample_of(flow, key, first_context_row, first_draw, n, context, context_stride, x, x_stride, log_prob);
}

penstock_status penstock_sample_f32(const penstock_flow *flow, uint64_t key, uint64_t first_context_row,
                                    uint64_t first_draw, int64_t n, const float *context, int64_t context_stride,
                                    float *x, int64_t x_stride, float *log_prob) {
  return sample_of(flow, key, first_context_row, first_draw, n, context, context_stride, x, x_stride, log_prob);
}

penstock_status penstock_to_latent_f64(const penstock_flow *flow, int64_t n, const double *x, int64_t x_stride,
                                       const double *context, int64_t context_stride, double *z, int64_t z_stride,
                                       double *log_det) {
  return map_of(flow, false, n, x, x_stride, context, context_stride, z, z_stride, log_det);
}

penstock_status penstock_to_latent_f32(const penstock_flow *flow, int64_t n, const float *x, int64_t x_stride,
                                       const float *context, int64_t context_stride, float *z, int64_t z_stride,
                                       float *log_det) {
  return map_of(flow, false, n, x, x_stride, context, context_stride, z, z_stride, log_det);
}

penstock_status penstock_to_data_f64(const penstock_flow *flow, int64_t n, const double *z, int64_t z_stride,
                                     const double *context, int64_t context_stride, double *x, int64_t x_stride,
                                     double *log_det) {
  return map_of(flow, true, n, z, z_stride, context, context_stride, x, x_stride, log_det);
}

penstock_status penstock_to_data_f32(const penstock_flow *flow, int64_t n, const float *z, int64_t z_stride,
                                     const float *context, int64_t context_stride, float *x, int64_t x_stride,
                                     float *log_det) {
  return map_of(flow, true, n, z, z_stride, context, context_stride, x, x_stride, log_det);
}
