// The Python module. No maths.

#include "bindings/module.hpp"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/border.hpp"
#include "bindings/engine.hpp"
#include "bindings/mixture.hpp"
#include "bindings/trainer.hpp"

namespace penstock {
namespace {

// The first rows of the slices of a batch, and its end.
std::vector<int64_t> slices(int64_t rows) {
  std::vector<int64_t> starts;
  for (int s = 0; s <= cross(library()->n_slices, rows); s++) {
    starts.push_back(cross(library()->first_row, rows, s));
  }
  return starts;
}

// positions: an array, or the first of as many consecutive ones as `out` is long. out may be the array.
void row_order(uint64_t seed, uint64_t epoch, int64_t n, const py::object &positions, const py::array &out) {
  const int64_t count = out.size();
  auto *rows = lent<int64_t, true>(out, "out", {count});
  const int64_t *at = nullptr;
  int64_t first = 0;
  if (py::isinstance<py::array>(positions)) {
    at = lent<int64_t, false>(positions, "positions", {count});
  } else {
    first = positions.cast<int64_t>();
  }
  bool within = n >= 0 && first >= 0 && count <= n - first;
  if (at != nullptr) {
    within = std::all_of(at, at + count, [n](int64_t i) { return i >= 0 && i < n; });
  }
  if (!within) {
    wrong("positions", "lie within the n rows");
  }
  without_gil([&] { cross(library()->fill_order, seed, epoch, n, at, first, count, rows); });
}

// Why this processor cannot run the extension; empty if it can.
std::string unusable() {
  return cross(library()->isas).empty()
             ? "this processor has none of the instruction sets that the extension was built for"
             : "";
}

void define_engine(py::module_ &m) {
  using py::arg;
  py::class_<PackedHandle>(m, "Packed");
  py::class_<EngineHandle>(m, "Engine")
      .def(py::init<const py::array &>(), arg("table"))
      .def_property_readonly("dim", [](const EngineHandle &e) { return e.plan().dim; })
      .def_property_readonly("n_params", [](const EngineHandle &e) { return e.plan().n_params; })
      .def_property_readonly("n_buffers", [](const EngineHandle &e) { return e.plan().n_buffers; })
      .def_property_readonly("flops", [](const EngineHandle &e) { return e.plan().flops; })
      .def_property_readonly("externals", &EngineHandle::externals)
      .def_property("recompute", &EngineHandle::recompute, &EngineHandle::set_recompute)
      .def("pack", &EngineHandle::pack, arg("params"), arg("buffers"))
      .def("with_context", &EngineHandle::with_context, arg("packed"), arg("context"))
      .def("evaluate", &EngineHandle::evaluate, arg("packed"), arg("to_data"), arg("first"), arg("last"), arg("x"),
           arg("index"), arg("context"), arg("thetas"), arg("base"), arg("out"), arg("log_det"))
      .def("sample", &EngineHandle::sample, arg("packed"), arg("seed"), arg("context_row"), arg("first_draw"),
           arg("context"), arg("out"), arg("log_prob"))
      .def("latents", &EngineHandle::latents, arg("packed"), arg("seed"), arg("context_row"), arg("first_draw"),
           arg("context"), arg("components"), arg("out"), arg("log_weight"))
      .def("latents_vjp", &EngineHandle::latents_vjp, arg("packed"), arg("seed"), arg("context_row"), arg("first_draw"),
           arg("context"), arg("components"), arg("d_out"), arg("d_log_weight"), arg("d_params"))
      .def("vjp", &EngineHandle::vjp, arg("packed"), arg("to_data"), arg("first"), arg("last"), arg("x"),
           arg("context"), arg("thetas"), arg("base"), arg("d_out"), arg("d_log_det"), arg("log_det"), arg("d_x"),
           arg("d_params"), arg("d_context"), arg("d_thetas"))
      .def("loss_and_grad", &EngineHandle::loss_and_grad, arg("packed"), arg("x"), arg("context"), arg("weight"),
           arg("d_params"))
      .def("adam", &EngineHandle::adam, arg("params"), arg("grad"), arg("m"), arg("v"), arg("step"),
           arg("learning_rate"), arg("beta1"), arg("beta2"), arg("epsilon"), arg("weight_decay"), arg("decoupled"));
}

void define_mixture(py::module_ &m) {
  using py::arg;
  py::class_<MixtureHandle>(m, "Mixture")
      .def(py::init<std::vector<EngineHandle>, std::vector<PackedHandle>, const std::vector<double> &,
                    const std::vector<double> &>(),
           arg("engines"), arg("packed"), arg("weights"), arg("log_weights"))
      .def("evaluate", &MixtureHandle::evaluate, arg("x"), arg("context"), arg("log_prob"), arg("each"), arg("shares"))
      .def("sample", &MixtureHandle::sample, arg("seed"), arg("context_row"), arg("first_draw"), arg("context"),
           arg("out"));
}

void define_trainer(py::module_ &m) {
  using py::arg;
  py::class_<TrainerHandle>(m, "Trainer")
      .def(py::init<const EngineHandle &, const py::object &, const py::object &, double, double, double, double, bool,
                    double, const py::object &>(),
           arg("engine"), arg("params"), arg("buffers"), arg("beta1"), arg("beta2"), arg("epsilon"),
           arg("weight_decay"), arg("decoupled"), arg("clip_norm"), arg("frozen") = py::none())
      .def("run", &TrainerHandle::run, arg("x"), arg("context"), arg("weight"), arg("weight_exponent"),
           arg("weight_scale"), arg("seed"), arg("epoch"), arg("n_train"), arg("first_step"), arg("batch_size"),
           arg("learning_rates"), arg("losses"), arg("norms"))
      .def("part", &TrainerHandle::part, arg("x"), arg("context"), arg("weight"), arg("weight_exponent"), arg("index"),
           arg("batch_size"), arg("first"), arg("last"), arg("nodes"), arg("losses"), arg("weights"))
      .def("finish", &TrainerHandle::finish, arg("gradient"), arg("loss"), arg("weight"), arg("rows"),
           arg("weight_scale"), arg("learning_rate"), arg("told"))
      .def_property_readonly("n_gradient", &TrainerHandle::n_gradient)
      .def("get_params", &TrainerHandle::get_params, arg("out"))
      .def("set_params", &TrainerHandle::set_params, arg("params"))
      .def("get_state", &TrainerHandle::get_state, arg("m"), arg("v"))
      .def("set_state", &TrainerHandle::set_state, arg("m"), arg("v"), arg("step"))
      .def("packed", &TrainerHandle::packed)
      .def_property_readonly("step", &TrainerHandle::step);
}

}  // namespace
}  // namespace penstock

// By way of a macro, which sees the name that PENSTOCK_MODULE stands for.
#define PENSTOCK_DEFINE(name, m) PYBIND11_MODULE(name, m, pybind11::mod_gil_not_used())

PENSTOCK_DEFINE(PENSTOCK_MODULE, m) {
  using namespace penstock;
  if (library() == nullptr) {
    throw pybind11::import_error(
        "the library libpenstock that the extension found is of another build than the extension; install penstock "
        "again");
  }
  try {
    cross(library()->check_arithmetic);
  } catch (const std::runtime_error &error) {
    throw pybind11::import_error(error.what());
  }
  m.doc() = "The compiled backend of penstock. Internal: penstock/runner.py is its only caller.";
  m.attr("version") = PENSTOCK_VERSION;
  m.attr("name") = PENSTOCK_BACKEND;
  m.def("isa", [] { return cross(library()->isa); }, "The instruction set in use.");
  m.def("isas", [] { return cross(library()->isas); }, "The instruction sets that can be used here, best first.");
  m.def("usable", &unusable, "Why this processor cannot run the extension; empty if it can.");
  m.def(
      "transform_names",
      [] {
        const auto names = cross(library()->transform_names);
        return std::vector<std::string>(names.begin(), names.end());
      },
      "Names of the transforms, in the order of their codes.");
  m.def(
      "check_table", [](const py::array &table) { decoded_table(table); }, py::arg("table"),
      "Raises ValueError if this is no valid plan table. Does not ask whether the engine can compute it.");
  m.def("set_num_threads", [](int n) { cross(library()->set_num_threads, n); }, py::arg("n"));
  m.def("set_local_num_threads", [](int n) { cross(library()->set_local_num_threads, n); }, py::arg("n"));
  m.def("num_threads", [] { return cross(library()->num_threads); });
  m.def("row_order", &row_order, py::arg("seed"), py::arg("epoch"), py::arg("n"), py::arg("positions"), py::arg("out"));
  m.def("slices", &slices, py::arg("rows"));
  py::module_::import("atexit").attr("register")(py::cpp_function([] { door.close(); }));
  define_engine(m);
  define_mixture(m);
  define_trainer(m);
  define_own(m);
}
