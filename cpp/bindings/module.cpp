// The Python module: checks sizes against the plan, lends pointers, releases the GIL, calls the engine once. No maths.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <atomic>
#include <chrono>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <variant>

#include "engine/engine.hpp"
#include "engine/trainer.hpp"
#include "isa/arithmetic.hpp"

namespace py = pybind11;

namespace penstock {
namespace {

// The way back into Python. A thread that asks for the GIL of an interpreter that has ended is torn down by force, through
// frames that do not expect it: so the door is closed before, and whoever comes later waits outside until the process is gone.
class Door {
 public:
  // False once it is closed to this thread.
  bool enter() {
    entering_.fetch_add(1);
    if (closed_.load() && std::this_thread::get_id() != closer_) {
      entering_.fetch_sub(1);
      return false;
    }
    return true;
  }
  void entered() { entering_.fetch_sub(1); }

  void close() {
    closer_ = std::this_thread::get_id();
    closed_.store(true);
    const py::gil_scoped_release release;
    // a child of a fork may count threads that it does not have: not for ever
    for (int i = 0; i < 10000 && entering_.load() != 0; i++) {
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
  }

 private:
  std::atomic<int> entering_{0};
  std::atomic<bool> closed_{false};
  std::thread::id closer_{};
};
Door door;

// Raises in Python what a signal handler raised, once the call is over.
bool poll_signals() {
  if (!door.enter()) {
    return false;
  }
  bool raised = false;
  {
    const py::gil_scoped_acquire gil;
    door.entered();
    raised = PyErr_CheckSignals() != 0;
  }
  return raised;
}

[[noreturn]] void wrong(const char *name, const std::string &expected) {
  throw py::value_error(std::string(name) + " must " + expected);
}

std::string shape(std::initializer_list<int64_t> sizes) {
  std::string text = "(";
  for (const int64_t n : sizes) {
    text += std::to_string(n) + ", ";
  }
  return text.substr(0, text.size() - (sizes.size() > 1 ? 2 : 1)) + ")";
}

// Whether an array holds native numbers of this type; dtypes that are equal may be different objects.
template <class T>
bool holds(const py::array &array) {
  const py::dtype wanted = py::dtype::of<T>();
  return array.dtype().is(wanted) || array.dtype().equal(wanted);
}

// The data of a C-ordered array of exactly this type and shape; null for None.
template <class T, bool writable>
auto lent(const py::object &object, const char *name, std::initializer_list<int64_t> sizes) {
  using Pointer = std::conditional_t<writable, T *, const T *>;
  if (object.is_none()) {
    return Pointer{nullptr};
  }
  if (!py::isinstance<py::array>(object)) {
    wrong(name, "be an array");
  }
  auto array = py::reinterpret_borrow<py::array>(object);
  bool fits = holds<T>(array) && array.ndim() == static_cast<int64_t>(sizes.size()) &&
              (array.flags() & py::array::c_style) != 0 && (!writable || array.writeable());
  int64_t axis = 0;
  for (const int64_t n : sizes) {
    fits = fits && array.shape(axis) == n;
    axis++;
  }
  if (!fits || reinterpret_cast<uintptr_t>(array.data()) % alignof(T) != 0) {
    wrong(name, std::string("be ") + (writable ? "a writable, " : "an ") + "aligned C-ordered array of shape " +
                    shape(sizes) + " and of " + std::to_string(sizeof(T)) + "-byte " +
                    (std::is_integral_v<T> ? "integers" : "floats"));
  }
  return static_cast<Pointer>(const_cast<void *>(array.data()));
}

int item_size(const py::array &array, const char *name) {
  if (holds<float>(array)) {
    return 4;
  }
  if (holds<double>(array)) {
    return 8;
  }
  wrong(name, "hold native float32 or float64 numbers");
}

RowsView rows_view(const py::array &x, int dim, int64_t &rows) {
  if (x.ndim() != 2 || x.shape(1) != dim) {
    wrong("x", "have shape (rows, " + std::to_string(dim) + ")");
  }
  rows = x.shape(0);
  return {static_cast<const char *>(x.data()), x.strides(0), x.strides(1), item_size(x, "x")};
}

SampleWeights weights_view(const py::object &object, int64_t rows) {
  if (object.is_none()) {
    return {};
  }
  const auto weight = py::reinterpret_borrow<py::array>(object);
  if (!py::isinstance<py::array>(object) || weight.ndim() != 1 || weight.shape(0) != rows) {
    wrong("weight", "have shape (" + std::to_string(rows) + ",)");
  }
  return {static_cast<const char *>(weight.data()), weight.strides(0), item_size(weight, "weight")};
}

// Rows of context, (m, context_dim): one for each rows / m rows in turn; or (context_dim,), one for all.
Context context_view(const py::object &object, int context_dim, int64_t rows) {
  if (context_dim == 0) {
    if (!object.is_none()) {
      wrong("context", "be None: this plan has no context");
    }
    return {};
  }
  const std::string c = std::to_string(context_dim);
  const std::string expected =
      "be an array of shape (" + c + ",) or (m, " + c + "), where m divides the number of rows";
  if (!py::isinstance<py::array>(object)) {
    wrong("context", expected);
  }
  const auto array = py::reinterpret_borrow<py::array>(object);
  const auto axes = array.ndim();
  if ((axes != 1 && axes != 2) || array.shape(axes - 1) != context_dim) {
    wrong("context", expected);
  }
  const int64_t m = axes == 1 ? 1 : array.shape(0);
  if (m == 0 ? rows != 0 : rows % m != 0) {
    wrong("context", expected);
  }
  const RowsView view{static_cast<const char *>(array.data()), axes == 1 ? 0 : array.strides(0),
                      array.strides(axes - 1), item_size(array, "context")};
  return {view, m == 0 ? 0 : rows / m, m == 1};
}

template <class Body>
void without_gil(Body &&body) {
  bool interrupted = false;
  std::exception_ptr error;
  PyThreadState *state = PyEval_SaveThread();
  try {
    body();
  } catch (const Interrupted &) {
    interrupted = true;
  } catch (...) {
    error = std::current_exception();
  }
  while (!door.enter()) {
    std::this_thread::sleep_for(std::chrono::hours(1));
  }
  PyEval_RestoreThread(state);
  door.entered();
  if (error) {
    std::rethrow_exception(error);
  }
  if (interrupted) {
    throw py::error_already_set();
  }
}

// A Python object holds either precision; std::visit hands the body the one that the plan was made for.
using PackedPair = std::variant<std::shared_ptr<Packed<float>>, std::shared_ptr<Packed<double>>>;
struct PackedHandle {
  PackedPair pair;
};

Table decoded_table(const py::array &table) {
  if (table.ndim() != 1 || !holds<int64_t>(table) || (table.flags() & py::array::c_style) == 0) {
    wrong("table", "be a contiguous one-dimensional array of int64");
  }
  return decode_table(static_cast<const int64_t *>(table.data()), table.size());
}

class EngineHandle {
 public:
  explicit EngineHandle(const py::array &table) {
    Table decoded = decoded_table(table);
    isa();  // so that a forced instruction set that is not there is an error now
    if (decoded.flow.dtype == dtype_float64) {
      engine_ = std::make_shared<Engine<double>>(std::move(decoded));
    } else {
      engine_ = std::make_shared<Engine<float>>(std::move(decoded));
    }
  }

  template <class Body>
  decltype(auto) visit(Body &&body) const {
    return std::visit(std::forward<Body>(body), engine_);
  }

  const Plan &plan() const {
    return visit([](const auto &engine) -> const Plan & { return engine->plan(); });
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

  PackedHandle pack(const py::object &params, const py::object &buffers) const {
    return visit([&]<class T>(const std::shared_ptr<Engine<T>> &engine) {
      const T *p = lent<T, false>(params, "params", {plan().n_params});
      const double *b = lent<double, false>(buffers, "buffers", {plan().n_buffers});
      if (p == nullptr || b == nullptr) {
        wrong("params and buffers", "be arrays");
      }
      return PackedHandle{std::make_shared<Packed<T>>(engine->plan(), p, b)};
    });
  }

  Range range(bool to_data, int64_t first, int64_t last, bool base) const {
    if (first < 0 || last < first || last > plan().n_steps || (base && first != 0)) {
      wrong("first and last", "be a range of steps, beginning at 0 with base");
    }
    return {static_cast<int>(first), static_cast<int>(last), to_data, base};
  }

  template <class T>
  ExternalTheta<T> theta(const py::object &object, const Range &range, int64_t rows) const {
    if (plan().external_features == 0 || (range.first == range.last && object.is_none())) {
      if (!object.is_none()) {
        wrong("theta", "be None: no step takes it from outside");
      }
      return {};
    }
    if (object.is_none()) {
      wrong("theta", "be given: a step takes it from outside");
    }
    const auto array = py::reinterpret_borrow<py::array>(object);
    const bool shared = py::isinstance<py::array>(object) && array.ndim() == 1;
    return {shared ? lent<T, false>(object, "theta", {plan().external_features})
                   : lent<T, false>(object, "theta", {rows, plan().external_features}),
            shared};
  }

  void evaluate(const PackedHandle &handle, bool to_data, int64_t first, int64_t last, const py::array &x,
                const py::object &context, const py::object &theta_object, bool base, const py::object &out,
                const py::object &log_det) const {
    with(handle, [&]<class T>(const Engine<T> &engine, const Packed<T> &packed) {
      int64_t rows = 0;
      const Range steps = range(to_data, first, last, base);
      const RowsView view = rows_view(x, plan().dim, rows);
      const Batch batch{view, rows, context_view(context, plan().context_dim, rows)};
      const ExternalTheta<T> external = theta<T>(theta_object, steps, rows);
      T *y = lent<T, true>(out, "out", {rows, plan().dim});
      LogDetOut sums;
      if (!log_det.is_none()) {
        if (py::isinstance<py::array_t<double>>(log_det)) {
          sums = {lent<double, true>(log_det, "log_det", {rows}), sizeof(double)};
        } else {
          sums = {lent<T, true>(log_det, "log_det", {rows}), sizeof(T)};
        }
      }
      without_gil([&] { engine.evaluate(packed, steps, batch, external, y, sums, poll_signals); });
    });
  }

  void sample(const PackedHandle &handle, uint64_t seed, int64_t context_row, int64_t first_draw,
              const py::object &context, const py::array &out, const py::object &log_prob) const {
    constexpr int64_t most_draws = int64_t{1} << 56, most_contexts = int64_t{1} << 40;
    with(handle, [&]<class T>(const Engine<T> &engine, const Packed<T> &packed) {
      const int64_t rows = out.ndim() == 2 ? out.shape(0) : 0;
      const Context given = context_view(context, plan().context_dim, rows);
      const int64_t draws = given.block > 0 ? given.block : rows, contexts = draws > 0 ? rows / draws : 0;
      if (first_draw < 0 || context_row < 0 || context_row >= most_contexts || context_row > most_contexts - contexts ||
          first_draw > most_draws - draws) {
        wrong("first_draw and context_row", "leave draws below 2^56 and context rows below 2^40");
      }
      T *x = lent<T, true>(out, "out", {rows, plan().dim});
      T *p = lent<T, true>(log_prob, "log_prob", {rows});
      without_gil([&] {
        const Draws numbers{seed, static_cast<uint64_t>(context_row), static_cast<uint64_t>(first_draw)};
        engine.sample(packed, numbers, given, rows, x, p, poll_signals);
      });
    });
  }

  void vjp(const PackedHandle &handle, bool to_data, int64_t first, int64_t last, const py::array &x,
           const py::object &context, const py::object &theta_object, bool base, const py::object &d_out,
           const py::object &d_log_det, const py::object &d_x, const py::object &d_params, const py::object &d_context,
           const py::object &d_theta) const {
    with(handle, [&]<class T>(const Engine<T> &engine, const Packed<T> &packed) {
      int64_t rows = 0;
      const Range steps = range(to_data, first, last, base);
      const RowsView view = rows_view(x, plan().dim, rows);
      const Batch batch{view, rows, context_view(context, plan().context_dim, rows)};
      const ExternalTheta<T> external = theta<T>(theta_object, steps, rows);
      Cotangents<T> cotangents;
      if (context.is_none()) {
        lent<T, true>(d_context, "d_context", {0, 0});
      } else if (const auto given = py::reinterpret_borrow<py::array>(context); given.ndim() == 1) {
        cotangents.context_sum = lent<double, true>(d_context, "d_context", {plan().context_dim});
      } else if (given.shape(0) == rows) {
        cotangents.context = lent<T, true>(d_context, "d_context", {rows, plan().context_dim});
      } else {
        cotangents.context_sum = lent<double, true>(d_context, "d_context", {given.shape(0), plan().context_dim});
      }
      cotangents.out = lent<T, false>(d_out, "d_out", {rows, plan().dim});
      cotangents.log_det = lent<T, false>(d_log_det, "d_log_det", {rows});
      cotangents.x = lent<T, true>(d_x, "d_x", {rows, plan().dim});
      cotangents.params = lent<double, true>(d_params, "d_params", {plan().n_params});
      if (external.shared) {
        cotangents.theta_sum = lent<double, true>(d_theta, "d_theta", {plan().external_features});
      } else if (external.data != nullptr) {
        cotangents.theta = lent<T, true>(d_theta, "d_theta", {rows, plan().external_features});
      }
      without_gil([&] { engine.vjp(packed, steps, batch, external, cotangents, poll_signals); });
    });
  }

  std::pair<double, double> loss_and_grad(const PackedHandle &handle, const py::array &x, const py::object &context,
                                          const py::object &weight, const py::object &d_params) const {
    LossSums sums;
    with(handle, [&]<class T>(const Engine<T> &engine, const Packed<T> &packed) {
      int64_t rows = 0;
      const RowsView view = rows_view(x, plan().dim, rows);
      const Batch batch{view, rows, context_view(context, plan().context_dim, rows)};
      const SampleWeights weights = weights_view(weight, rows);
      double *gradient = lent<double, true>(d_params, "d_params", {plan().n_params});
      if (gradient == nullptr) {
        wrong("d_params", "be an array");
      }
      without_gil([&] { sums = engine.loss_and_grad(packed, batch, weights, gradient, poll_signals); });
    });
    return {sums.loss, sums.weight};
  }

  void adam(const py::object &params, const py::object &grad, const py::object &m, const py::object &v, int64_t step,
            double learning_rate, double beta1, double beta2, double epsilon, double weight_decay,
            bool decoupled) const {
    visit([&]<class T>(const std::shared_ptr<Engine<T>> &engine) {
      const int64_t n = plan().n_params;
      T *p = lent<T, true>(params, "params", {n});
      const double *g = lent<double, false>(grad, "grad", {n});
      T *mean = lent<T, true>(m, "m", {n});
      T *square = lent<T, true>(v, "v", {n});
      if (p == nullptr || g == nullptr || mean == nullptr || square == nullptr || step < 1) {
        wrong("params, grad, m, v", "be arrays, and step at least 1");
      }
      const AdamSettings settings = adam_settings(learning_rate, beta1, beta2, epsilon, weight_decay, decoupled, step);
      without_gil([&] { engine->adam(settings, g, p, mean, square); });
    });
  }

  int recompute() const {
    return visit([](const auto &engine) { return engine->recompute; });
  }
  void set_recompute(int mode) {
    visit([mode](const auto &engine) { engine->recompute = mode; });
  }

  using Pair = std::variant<std::shared_ptr<Engine<float>>, std::shared_ptr<Engine<double>>>;
  const Pair &pair() const { return engine_; }

 private:
  Pair engine_;
};

class TrainerHandle {
 public:
  TrainerHandle(const EngineHandle &engine, const py::object &params, const py::object &buffers, double beta1,
                double beta2, double epsilon, double weight_decay, bool decoupled, double clip_norm) {
    engine.visit([&]<class T>(const std::shared_ptr<Engine<T>> &typed) {
      const Plan &plan = typed->plan();
      const T *p = lent<T, false>(params, "params", {plan.n_params});
      const double *b = lent<double, false>(buffers, "buffers", {plan.n_buffers});
      if (p == nullptr || b == nullptr) {
        wrong("params and buffers", "be arrays");
      }
      trainer_ = std::make_shared<Trainer<T>>(
          typed, p, b, typename Trainer<T>::Settings{beta1, beta2, epsilon, weight_decay, clip_norm, decoupled});
    });
  }

  int64_t run(const py::array &x, const py::object &context, const py::object &weight, double weight_scale,
              uint64_t seed, uint64_t epoch, int64_t n_train, int64_t first_step, int64_t batch_size,
              const py::object &learning_rates, const py::object &losses, const py::object &norms) {
    return std::visit(
        [&]<class T>(const std::shared_ptr<Trainer<T>> &trainer) {
          int64_t rows = 0, done = 0;
          const Plan &plan = trainer->engine().plan();
          const RowsView view = rows_view(x, plan.dim, rows);
          const Batch batch{view, rows, context_view(context, plan.context_dim, rows)};
          const SampleWeights weights = weights_view(weight, rows);
          if (!py::isinstance<py::array>(learning_rates)) {
            wrong("learning_rates", "be an array");
          }
          const int64_t n = py::reinterpret_borrow<py::array>(learning_rates).size();
          const double *rates = lent<double, false>(learning_rates, "learning_rates", {n});
          double *l = lent<double, true>(losses, "losses", {n});
          double *g = lent<double, true>(norms, "norms", {n});
          if (l == nullptr || g == nullptr) {
            wrong("losses and norms", "be arrays");
          }
          const bool counts = n_train >= 1 && n_train <= rows && batch_size >= 1 && first_step >= 0;
          if (!counts || first_step > (n_train - 1) / batch_size + 1 - n) {
            wrong("n_train, first_step and batch_size", "lie within the rows");
          }
          without_gil([&] {
            done = trainer->run(batch, weights, weight_scale, {seed, epoch, n_train, batch_size, first_step}, n, rates,
                                l, g, poll_signals);
          });
          return done;
        },
        trainer_);
  }

  void get_params(const py::object &out) const {
    std::visit(
        [&]<class T>(const std::shared_ptr<Trainer<T>> &trainer) {
          const int64_t n = trainer->engine().plan().n_params;
          T *p = lent<T, true>(out, "out", {n});
          if (p == nullptr) {
            wrong("out", "be an array");
          }
          std::copy_n(trainer->params(), n, p);
        },
        trainer_);
  }

  void set_params(const py::object &params) {
    std::visit(
        [&]<class T>(const std::shared_ptr<Trainer<T>> &trainer) {
          const T *p = lent<T, false>(params, "params", {trainer->engine().plan().n_params});
          if (p == nullptr) {
            wrong("params", "be an array");
          }
          trainer->set_params(p);
        },
        trainer_);
  }

  PackedHandle packed() const {
    return std::visit([](const auto &trainer) { return PackedHandle{trainer->snapshot()}; }, trainer_);
  }
  int64_t step() const {
    return std::visit([](const auto &trainer) { return trainer->step(); }, trainer_);
  }

 private:
  std::variant<std::shared_ptr<Trainer<float>>, std::shared_ptr<Trainer<double>>> trainer_;
};

void row_order(uint64_t seed, uint64_t epoch, int64_t n, int64_t first, const py::array &out) {
  const int64_t count = out.size();
  auto *rows = lent<int64_t, true>(out, "out", {count});
  if (n < 0 || first < 0 || first + count > n) {
    wrong("first", "name positions within the n rows");
  }
  without_gil([&] {
    const Order order(seed, epoch, n);
    for (int64_t i = 0; i < count; i++) {
      rows[i] = order(first + i);
    }
  });
}

// Why this processor cannot run the extension; empty if it can.
std::string unusable() {
  return isas().empty() ? "this processor has none of the instruction sets that the extension was built for" : "";
}

}  // namespace
}  // namespace penstock

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  using namespace penstock;
  try {
    check_arithmetic();
  } catch (const std::runtime_error &error) {
    throw py::import_error(error.what());
  }
  m.doc() = "The compiled backend of penstock. Internal: penstock/plan.py is its only caller.";
  m.attr("version") = PENSTOCK_VERSION;
  m.attr("name") = "cpp";
  m.def("isa", [] { return isa(); }, "The instruction set in use.");
  m.def("isas", &isas, "The instruction sets that can be used here, best first.");
  m.def("usable", &unusable, "Why this processor cannot run the extension; empty if it can.");
  m.def(
      "transform_names", [] { return std::vector<std::string>(transform_names().begin(), transform_names().end()); },
      "Names of the transforms, in the order of their codes.");
  m.def(
      "check_table", [](const py::array &table) { decoded_table(table); }, py::arg("table"),
      "Raises ValueError if this is no valid plan table. Does not ask whether the engine can compute it.");
  m.def("set_num_threads", &set_num_threads, py::arg("n"));
  m.def("set_local_num_threads", &set_local_num_threads, py::arg("n"));
  m.def("num_threads", &num_threads);
  m.def("row_order", &row_order, py::arg("seed"), py::arg("epoch"), py::arg("n"), py::arg("first"), py::arg("out"));

  py::module_::import("atexit").attr("register")(py::cpp_function([] { door.close(); }));

  py::class_<PackedHandle>(m, "Packed");

  py::class_<EngineHandle>(m, "Engine")
      .def(py::init<const py::array &>(), py::arg("table"))
      .def_property_readonly("dim", [](const EngineHandle &e) { return e.plan().dim; })
      .def_property_readonly("n_params", [](const EngineHandle &e) { return e.plan().n_params; })
      .def_property_readonly("n_buffers", [](const EngineHandle &e) { return e.plan().n_buffers; })
      .def_property_readonly("flops", [](const EngineHandle &e) { return e.plan().flops; })
      .def_property("recompute", &EngineHandle::recompute, &EngineHandle::set_recompute)
      .def("pack", &EngineHandle::pack, py::arg("params"), py::arg("buffers"))
      .def("evaluate", &EngineHandle::evaluate, py::arg("packed"), py::arg("to_data"), py::arg("first"),
           py::arg("last"), py::arg("x"), py::arg("context"), py::arg("theta"), py::arg("base"), py::arg("out"),
           py::arg("log_det"))
      .def("sample", &EngineHandle::sample, py::arg("packed"), py::arg("seed"), py::arg("context_row"),
           py::arg("first_draw"), py::arg("context"), py::arg("out"), py::arg("log_prob"))
      .def("vjp", &EngineHandle::vjp, py::arg("packed"), py::arg("to_data"), py::arg("first"), py::arg("last"),
           py::arg("x"), py::arg("context"), py::arg("theta"), py::arg("base"), py::arg("d_out"), py::arg("d_log_det"),
           py::arg("d_x"), py::arg("d_params"), py::arg("d_context"), py::arg("d_theta"))
      .def("loss_and_grad", &EngineHandle::loss_and_grad, py::arg("packed"), py::arg("x"), py::arg("context"),
           py::arg("weight"), py::arg("d_params"))
      .def("adam", &EngineHandle::adam, py::arg("params"), py::arg("grad"), py::arg("m"), py::arg("v"), py::arg("step"),
           py::arg("learning_rate"), py::arg("beta1"), py::arg("beta2"), py::arg("epsilon"), py::arg("weight_decay"),
           py::arg("decoupled"));

  py::class_<TrainerHandle>(m, "Trainer")
      .def(py::init<const EngineHandle &, const py::object &, const py::object &, double, double, double, double, bool,
                    double>(),
           py::arg("engine"), py::arg("params"), py::arg("buffers"), py::arg("beta1"), py::arg("beta2"),
           py::arg("epsilon"), py::arg("weight_decay"), py::arg("decoupled"), py::arg("clip_norm"))
      .def("run", &TrainerHandle::run, py::arg("x"), py::arg("context"), py::arg("weight"), py::arg("weight_scale"),
           py::arg("seed"), py::arg("epoch"), py::arg("n_train"), py::arg("first_step"), py::arg("batch_size"),
           py::arg("learning_rates"), py::arg("losses"), py::arg("norms"))
      .def("get_params", &TrainerHandle::get_params, py::arg("out"))
      .def("set_params", &TrainerHandle::set_params, py::arg("params"))
      .def("packed", &TrainerHandle::packed)
      .def_property_readonly("step", &TrainerHandle::step);
}
