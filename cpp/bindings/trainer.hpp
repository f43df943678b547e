// Trainer as Python has it: see engine.hpp.
#pragma once

#include <algorithm>
#include <memory>
#include <variant>
#include <vector>

#include "bindings/engine.hpp"
#include "engine/trainer.hpp"

namespace penstock::inline PENSTOCK_MODULE {

class TrainerHandle {
  // body(trainer), while no other call is at work.
  template <class Body>
  auto alone(Body &&body) {
    return std::visit(
        [&]<class T>(const std::shared_ptr<Trainer<T>> &trainer) {
          const typename Trainer<T>::Busy busy(*trainer);
          return body(*trainer);
        },
        trainer_);
  }

 public:
  TrainerHandle(const EngineHandle &engine, const py::object &params, const py::object &buffers, double beta1,
                double beta2, double epsilon, double weight_decay, bool decoupled, double clip_norm,
                const py::object &frozen) {
    engine.visit([&]<class T>(const std::shared_ptr<Engine<T>> &typed) {
      const Plan &plan = typed->plan();
      const T *p = needed<T, false>(params, "params", {plan.n_params});
      const double *b = needed<double, false>(buffers, "buffers", {plan.n_buffers});
      std::vector<typename Trainer<T>::Run> runs;
      const int64_t n = py::isinstance<py::array>(frozen) ? py::reinterpret_borrow<py::array>(frozen).shape(0) : 0;
      const int64_t *numbers = lent<int64_t, false>(frozen, "frozen", {n, 2});
      for (int64_t i = 0; i < n; i++) {
        runs.emplace_back(numbers[2 * i], numbers[2 * i + 1]);
      }
      trainer_ = cross(library()->of<T>().trainer, typed, p, b,
                       typename Trainer<T>::Settings{beta1, beta2, epsilon, weight_decay, clip_norm, decoupled}, runs);
    });
  }

  int64_t run(const py::array &x, const py::object &context, const py::object &weight, int weight_exponent,
              double weight_scale, uint64_t seed, uint64_t epoch, int64_t n_train, int64_t first_step,
              int64_t batch_size, const py::object &learning_rates, const py::object &losses, const py::object &norms) {
    return alone([&]<class T>(Trainer<T> &trainer) {
      int64_t rows = 0, done = 0;
      const Plan &plan = trainer.engine().plan();
      const RowsView view = rows_view(x, plan.dim, rows);
      const Batch batch{view, rows, context_view(context, plan.context_dim, rows)};
      const SampleWeights weights = cross(library()->scaled, weights_view(weight, rows), weight_exponent);
      if (!py::isinstance<py::array>(learning_rates)) {
        wrong("learning_rates", "be an array");
      }
      const int64_t n = py::reinterpret_borrow<py::array>(learning_rates).size();
      const double *rates = needed<double, false>(learning_rates, "learning_rates", {n});
      double *l = needed<double, true>(losses, "losses", {n});
      double *g = needed<double, true>(norms, "norms", {n});
      const bool counts =
          n_train >= 1 && n_train <= rows && batch_size >= 1 && batch_size <= n_train && first_step >= 0;
      if (!counts || first_step > (n_train - 1) / batch_size + 1 - n) {
        wrong("n_train, first_step and batch_size", "lie within the rows");
      }
      const typename Trainer<T>::Epoch numbers{seed, epoch, n_train, batch_size, first_step};
      without_gil([&] {
        done =
            cross(library()->of<T>().run, trainer, batch, weights, weight_scale, numbers, n, rates, l, g, poll_signals);
      });
      return done;
    });
  }

  int part(const py::array &x, const py::object &context, const py::object &weight, int weight_exponent,
           const py::object &index, int64_t batch_size, int first, int last, const py::object &nodes,
           const py::object &losses, const py::object &weights) {
    return alone([&]<class T>(Trainer<T> &trainer) {
      int64_t rows = 0, n = 0;
      const Plan &plan = trainer.engine().plan();
      const RowsView view = rows_view(x, plan.dim, rows);
      Batch batch{view, batch_size, context_view(context, plan.context_dim, rows)};
      const SampleWeights of_rows = cross(library()->scaled, weights_view(weight, rows), weight_exponent);
      if (batch_size < 1) {
        wrong("batch_size", "be at least 1");
      }
      const auto slices = static_cast<int>(cross(library()->n_slices, batch_size));
      if (first < 0 || first > last || last > slices) {
        wrong("first and last", "lie within the slices of a batch");
      }
      const int64_t begin = cross(library()->first_row, batch_size, first),
                    end = cross(library()->first_row, batch_size, last);
      const int64_t *numbers = needed<int64_t, false>(index, "index", {end - begin});
      if (!std::all_of(numbers, numbers + (end - begin), [&](int64_t row) { return row >= 0 && row < rows; })) {
        wrong("index", "lie within the rows");
      }
      T *to = needed<T, true>(nodes, "nodes", {most_nodes, plan.padded_size});
      const SomeSlices some{first, last, needed<double, true>(losses, "losses", {slices}),
                            needed<double, true>(weights, "weights", {slices})};
      without_gil(
          [&] { n = cross(library()->of<T>().part, trainer, batch, of_rows, numbers, some, to, poll_signals); });
      return static_cast<int>(n);
    });
  }

  bool finish(const py::object &gradient, double loss, double weight, int64_t rows, double weight_scale,
              double learning_rate, const py::object &told) {
    return alone([&]<class T>(Trainer<T> &trainer) {
      const T *sum = needed<T, false>(gradient, "gradient", {trainer.engine().plan().padded_size});
      double *out = needed<double, true>(told, "told", {2});
      bool taken = false;
      without_gil([&] {
        taken = cross(library()->of<T>().finish, trainer, sum, LossSums{loss, weight}, rows, weight_scale,
                      learning_rate, out, out + 1);
      });
      return taken;
    });
  }

  int64_t n_gradient() const {
    return std::visit([](const auto &trainer) { return trainer->engine().plan().padded_size; }, trainer_);
  }

  void get_params(const py::object &out) {
    alone([&]<class T>(Trainer<T> &trainer) {
      const int64_t n = trainer.engine().plan().n_params;
      std::copy_n(trainer.params(), n, needed<T, true>(out, "out", {n}));
    });
  }

  void set_params(const py::object &params) {
    alone([&]<class T>(Trainer<T> &trainer) {
      cross(library()->of<T>().set_params, trainer,
            needed<T, false>(params, "params", {trainer.engine().plan().n_params}));
    });
  }

  int64_t get_state(const py::object &m, const py::object &v) {
    return alone([&]<class T>(Trainer<T> &trainer) {
      const int64_t n = trainer.engine().plan().n_params;
      T *mean = needed<T, true>(m, "m", {n}), *square = needed<T, true>(v, "v", {n});
      std::copy_n(trainer.m(), n, mean);
      std::copy_n(trainer.v(), n, square);
      return trainer.step();
    });
  }

  void set_state(const py::object &m, const py::object &v, int64_t step) {
    alone([&]<class T>(Trainer<T> &trainer) {
      const int64_t n = trainer.engine().plan().n_params;
      const T *mean = needed<T, false>(m, "m", {n}), *square = needed<T, false>(v, "v", {n});
      if (step < 0) {
        wrong("step", "be at least 0");
      }
      cross(library()->of<T>().set_state, trainer, mean, square, step);
    });
  }

  PackedHandle packed() {
    return alone(
        []<class T>(Trainer<T> &trainer) { return PackedHandle{cross(library()->of<T>().snapshot, trainer)}; });
  }
  int64_t step() const {
    return std::visit([](const auto &trainer) { return trainer->step(); }, trainer_);
  }

 private:
  std::variant<std::shared_ptr<Trainer<float>>, std::shared_ptr<Trainer<double>>> trainer_;
};

}  // namespace penstock::inline PENSTOCK_MODULE
