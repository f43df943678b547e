// Engine and Packed as Python has them: checks sizes against the plan, lends pointers, releases the GIL, calls once.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "bindings/arrays.hpp"
#include "bindings/border.hpp"
#include "bindings/gil.hpp"
#include "engine/engine.hpp"

namespace penstock::inline PENSTOCK_MODULE {

// The one context that all calls with some packed numbers have, and what it contributes to each conditioner.
struct GivenContext {
  std::vector<double> numbers;
  std::shared_ptr<const void> part;

  Context view(int64_t rows) const {
    return {
        {reinterpret_cast<const char *>(numbers.data()), 0, sizeof(double), sizeof(double)}, rows, true, part.get()};
  }
};

// A Python object holds either precision; std::visit hands the body the one that the plan was made for.
struct PackedHandle {
  std::variant<std::shared_ptr<Packed<float>>, std::shared_ptr<Packed<double>>> pair;
  std::shared_ptr<const GivenContext> given{};
};

inline Table decoded_table(const py::array &table) {
  if (table.ndim() != 1 || !holds<int64_t>(table) || (table.flags() & py::array::c_style) == 0) {
    wrong("table", "be a contiguous one-dimensional array of int64");
  }
  return cross(library()->decode_table, static_cast<const int64_t *>(table.data()), table.size());
}

// Numbers of draws for each row of a context, known to have counters of their own.
inline Draws draws(uint64_t seed, int64_t context_row, int64_t first_draw, const Context &given, int64_t rows) {
  constexpr int64_t most_draws = int64_t{1} << 56, most_contexts = int64_t{1} << 40;
  const int64_t each = given.block > 0 ? given.block : rows, contexts = each > 0 ? rows / each : 0;
  if (first_draw < 0 || context_row < 0 || context_row >= most_contexts || context_row > most_contexts - contexts ||
      first_draw > most_draws - each) {
    wrong("first_draw and context_row", "leave draws below 2^56 and context rows below 2^40");
  }
  return {seed, static_cast<uint64_t>(context_row), static_cast<uint64_t>(first_draw)};
}

class EngineHandle {
 public:
  explicit EngineHandle(const py::array &table) {
    Table decoded = decoded_table(table);
    cross(library()->isa);  // so that a forced instruction set that is not there is an error now
    if (decoded.flow.dtype == dtype_float64) {
      engine_ = cross(library()->of<double>().engine, std::move(decoded));
    } else {
      engine_ = cross(library()->of<float>().engine, std::move(decoded));
    }
  }

  template <class Body>
  decltype(auto) visit(Body &&body) const {
    return std::visit(std::forward<Body>(body), engine_);
  }

  const Plan &plan() const {
    return visit([](const auto &engine) -> const Plan & { return engine->plan(); });
  }

  // Numbers of theta a row of each external step.
  std::vector<int64_t> externals() const {
    std::vector<int64_t> sizes;
    for (const External &external : plan().externals) {
      sizes.push_back(external.n);
    }
    return sizes;
  }

  PackedHandle pack(const py::object &params, const py::object &buffers) const {
    return visit([&]<class T>(const std::shared_ptr<Engine<T>> &engine) {
      const T *p = needed<T, false>(params, "params", {plan().n_params});
      const double *b = needed<double, false>(buffers, "buffers", {plan().n_buffers});
      return PackedHandle{cross(library()->of<T>().packed, *engine, p, b)};
    });
  }

  // The same numbers for calls that all have this context, of shape (context_dim,), and pass none.
  PackedHandle with_context(const PackedHandle &handle, const py::object &context) const {
    PackedHandle result{handle.pair};
    with(handle, [&]<class T>(const Engine<T> &engine, const Packed<T> &packed) {
      const Context given = context_view(context, plan().context_dim, 1);
      auto own = std::make_shared<GivenContext>();
      for (int64_t i = 0; i < plan().context_dim; i++) {
        own->numbers.push_back(number_of(given.rows, 0, i));
      }
      const std::shared_ptr<Aligned<T>> part =
          cross(library()->of<T>().context_part, engine, packed, own->view(1).rows);
      own->part = {part, part->data()};
      result.given = own;
    });
    return result;
  }

  void evaluate(const PackedHandle &handle, bool to_data, int64_t first, int64_t last, const py::array &x,
                const py::object &index, const py::object &context, const py::object &thetas, bool base,
                const py::object &out, const py::object &log_det) const {
    with(handle, [&]<class T>(const Engine<T> &engine, const Packed<T> &packed) {
      const Range steps = range(to_data, first, last, base);
      int64_t n_rows = 0;
      const RowsView view = rows_view(x, plan().dim, n_rows);
      int64_t rows = n_rows;
      if (!index.is_none()) {
        rows = py::isinstance<py::array>(index) ? py::reinterpret_borrow<py::array>(index).size() : 0;
      }
      const Batch batch{view, rows, context_of(handle, context, n_rows), lent<int64_t, false>(index, "index", {rows}),
                        n_rows};
      const auto external = theta_views<T>(thetas, steps, rows);
      const RowsOut<T> y = rows_out<T>(out, "out", rows, plan().dim);
      const RowValues values = values_view<T>(log_det, "log_det", rows);
      without_gil([&] {
        cross(library()->of<T>().evaluate, engine, packed, steps, batch, external.data(), y, values, poll_signals);
      });
    });
  }

  void sample(const PackedHandle &handle, uint64_t seed, int64_t context_row, int64_t first_draw,
              const py::object &context, const py::array &out, const py::object &log_prob) const {
    with(handle, [&]<class T>(const Engine<T> &engine, const Packed<T> &packed) {
      const int64_t rows = out.ndim() == 2 ? out.shape(0) : 0;
      const Context given = context_of(handle, context, rows);
      const Draws numbers = draws(seed, context_row, first_draw, given, rows);
      const RowsOut<T> x = rows_out<T>(out, "out", rows, plan().dim);
      const RowValues p{lent<T, true>(log_prob, "log_prob", {rows}), sizeof(T)};
      without_gil([&] { cross(library()->of<T>().sample, engine, packed, numbers, given, rows, x, p, poll_signals); });
    });
  }

  // Both of a call that draws from the base alone; components: (mixtures, rows), or None.
  void latents(const PackedHandle &handle, uint64_t seed, int64_t context_row, int64_t first_draw,
               const py::object &context, const py::object &components, const py::array &out,
               const py::object &log_weight) const {
    with(handle, [&]<class T>(const Engine<T> &engine, const Packed<T> &packed) {
      const int64_t rows = out.ndim() == 2 ? out.shape(0) : 0;
      const Context given = context_of(handle, context, rows);
      const Draws numbers = draws(seed, context_row, first_draw, given, rows);
      const Components chosen = components_of(components, rows);
      const RowsOut<T> z = rows_out<T>(out, "out", rows, plan().dim);
      double *weights = lent<double, true>(log_weight, "log_weight", {rows});
      without_gil([&] {
        cross(library()->of<T>().latents, engine, packed, numbers, chosen, given, rows, z, weights, poll_signals);
      });
    });
  }

  void latents_vjp(const PackedHandle &handle, uint64_t seed, int64_t context_row, int64_t first_draw,
                   const py::object &context, const py::object &components, const py::array &d_out,
                   const py::object &d_log_weight, const py::object &d_params) const {
    with(handle, [&]<class T>(const Engine<T> &engine, const Packed<T> &packed) {
      const int64_t rows = d_out.ndim() == 2 ? d_out.shape(0) : 0;
      const Context given = context_of(handle, context, rows);
      const Draws numbers = draws(seed, context_row, first_draw, given, rows);
      const Components chosen = components_of(components, rows);
      const T *d_z = lent<T, false>(d_out, "d_out", {rows, plan().dim});
      const T *d_weights = lent<T, false>(d_log_weight, "d_log_weight", {rows});
      double *gradient = needed<double, true>(d_params, "d_params", {plan().n_params});
      without_gil([&] {
        cross(library()->of<T>().latents_vjp, engine, packed, numbers, chosen, given, rows, d_z, d_weights, gradient,
              poll_signals);
      });
    });
  }

  void vjp(const PackedHandle &handle, bool to_data, int64_t first, int64_t last, const py::array &x,
           const py::object &context, const py::object &thetas, bool base, const py::object &d_out,
           const py::object &d_log_det, const py::object &log_det, const py::object &d_x, const py::object &d_params,
           const py::object &d_context, const py::object &d_thetas) const {
    with(handle, [&]<class T>(const Engine<T> &engine, const Packed<T> &packed) {
      const Range steps = range(to_data, first, last, base);
      int64_t rows = 0;
      const RowsView view = rows_view(x, plan().dim, rows);
      const Batch batch{view, rows, context_of(handle, context, rows)};
      const auto external = theta_views<T>(thetas, steps, rows);
      const auto external_gradients = theta_gradients<T>(d_thetas, external, rows);
      const RowValues values = values_view<T>(log_det, "log_det", rows);
      Cotangents<T> cotangents;
      cotangents.out = lent<T, false>(d_out, "d_out", {rows, plan().dim});
      cotangents.value = lent<T, false>(d_log_det, "d_log_det", {rows});
      cotangents.x = rows_out<T>(d_x, "d_x", rows, plan().dim);
      cotangents.params = lent<double, true>(d_params, "d_params", {plan().n_params});
      cotangents.thetas = external_gradients.data();
      const int64_t c = plan().context_dim;
      if (context.is_none()) {
        if (!d_context.is_none()) {
          wrong("d_context", "be None where context is None");
        }
      } else if (const auto given = py::reinterpret_borrow<py::array>(context); given.ndim() == 1) {
        cotangents.context_sum = lent<double, true>(d_context, "d_context", {c});
      } else if (given.shape(0) == rows) {
        cotangents.context = rows_out<T>(d_context, "d_context", rows, c);
      } else {
        cotangents.context_sum = lent<double, true>(d_context, "d_context", {given.shape(0), c});
      }
      without_gil([&] {
        cross(library()->of<T>().vjp, engine, packed, steps, batch, external.data(), values, cotangents, poll_signals);
      });
    });
  }

  std::pair<double, double> loss_and_grad(const PackedHandle &handle, const py::array &x, const py::object &context,
                                          const py::object &weight, const py::object &d_params) const {
    LossSums sums;
    with(handle, [&]<class T>(const Engine<T> &engine, const Packed<T> &packed) {
      int64_t rows = 0;
      const RowsView view = rows_view(x, plan().dim, rows);
      const Batch batch{view, rows, context_of(handle, context, rows)};
      const SampleWeights weights = weights_view(weight, rows);
      double *gradient = needed<double, true>(d_params, "d_params", {plan().n_params});
      without_gil([&] {
        sums = cross(library()->of<T>().loss_and_grad, engine, packed, batch, weights, gradient, poll_signals);
      });
    });
    return {sums.loss, sums.weight};
  }

  void adam(const py::object &params, const py::object &grad, const py::object &m, const py::object &v, int64_t step,
            double learning_rate, double beta1, double beta2, double epsilon, double weight_decay,
            bool decoupled) const {
    visit([&]<class T>(const std::shared_ptr<Engine<T>> &engine) {
      const int64_t n = plan().n_params;
      T *p = needed<T, true>(params, "params", {n});
      const double *g = needed<double, false>(grad, "grad", {n});
      T *mean = needed<T, true>(m, "m", {n});
      T *square = needed<T, true>(v, "v", {n});
      if (step < 1) {
        wrong("step", "be at least 1");
      }
      const AdamSettings settings =
          cross(library()->adam_settings, learning_rate, beta1, beta2, epsilon, weight_decay, decoupled, step);
      without_gil([&] { cross(library()->of<T>().adam, *engine, settings, g, p, mean, square); });
    });
  }

  int recompute() const {
    return visit([](const auto &engine) { return engine->recompute.load(); });
  }
  void set_recompute(int mode) {
    visit([mode](const auto &engine) { engine->recompute = mode; });
  }

  // body(engine, packed) with both of the plan's type.
  template <class Body>
  void with(const PackedHandle &handle, Body &&body) const {
    visit([&]<class T>(const std::shared_ptr<Engine<T>> &engine) {
      const auto *packed = std::get_if<std::shared_ptr<Packed<T>>>(&handle.pair);
      if (packed == nullptr || !(*packed)->fits(engine->plan())) {
        wrong("packed", "come from an engine of the same plan");
      }
      body(*engine, **packed);
    });
  }

  Components components_of(const py::object &object, int64_t rows) const {
    const auto is_mixture = [](const BaseBlock &block) { return block.kind == base_gaussian_mixture; };
    const std::vector<BaseBlock> &blocks = plan().base_blocks();
    const auto mixtures = static_cast<int64_t>(std::count_if(blocks.begin(), blocks.end(), is_mixture));
    return {lent<int64_t, false>(object, "components", {mixtures, rows}), rows};
  }

  Context context_of(const PackedHandle &handle, const py::object &context, int64_t rows) const {
    if (handle.given == nullptr) {
      return context_view(context, plan().context_dim, rows);
    }
    if (!context.is_none()) {
      wrong("context", "be None: packed has one of its own");
    }
    return handle.given->view(rows);
  }

 private:
  Range range(bool to_data, int64_t first, int64_t last, bool base) const {
    if (first < 0 || last < first || last > plan().n_steps || (base && first != 0)) {
      wrong("first and last", "be a range of steps, beginning at 0 with base");
    }
    return {static_cast<int>(first), static_cast<int>(last), to_data, base};
  }

  template <class T>
  std::vector<ExternalTheta<T>> theta_views(const py::object &thetas, const Range &range, int64_t rows) const {
    const std::vector<External> &externals = plan().externals;
    if (externals.empty() && !thetas.is_none() && py::len(thetas) != 0) {
      wrong("thetas", "have 0 entries");
    }
    std::vector<ExternalTheta<T>> views(externals.size());
    for (size_t i = 0; i < externals.size(); i++) {
      const std::string name = "thetas[" + std::to_string(i) + "]";
      const int step = externals[i].step;
      const py::object object = item(thetas, "thetas", i, externals.size());
      if (object.is_none()) {
        if (range.first <= step && step < range.last) {
          wrong(name, "be given: step " + std::to_string(step) + " reads it");
        }
        continue;
      }
      const bool shared = py::isinstance<py::array>(object) && py::reinterpret_borrow<py::array>(object).ndim() == 1;
      views[i] = {shared ? lent<T, false>(object, name, {externals[i].n})
                         : lent<T, false>(object, name, {rows, externals[i].n}),
                  shared};
    }
    return views;
  }

  template <class T>
  std::vector<ExternalGradient<T>> theta_gradients(const py::object &d_thetas,
                                                   const std::vector<ExternalTheta<T>> &thetas, int64_t rows) const {
    if (thetas.empty() && !d_thetas.is_none() && py::len(d_thetas) != 0) {
      wrong("d_thetas", "have 0 entries");
    }
    std::vector<ExternalGradient<T>> gradients(thetas.size());
    for (size_t i = 0; i < thetas.size(); i++) {
      const std::string name = "d_thetas[" + std::to_string(i) + "]";
      const int64_t n = plan().externals[i].n;
      const py::object object = item(d_thetas, "d_thetas", i, thetas.size());
      if (thetas[i].data == nullptr) {
        if (!object.is_none()) {
          wrong(name, "be None where thetas[" + std::to_string(i) + "] is None");
        }
      } else if (thetas[i].shared) {
        gradients[i].sum = lent<double, true>(object, name, {n});
      } else {
        gradients[i].rows = lent<T, true>(object, name, {rows, n});
      }
    }
    return gradients;
  }

  std::variant<std::shared_ptr<Engine<float>>, std::shared_ptr<Engine<double>>> engine_;
};

}  // namespace penstock::inline PENSTOCK_MODULE
