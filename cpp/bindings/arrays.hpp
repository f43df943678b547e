// Arrays of Python as pointers and views, their sizes checked. Nothing is copied or converted.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>

#include "engine/engine.hpp"

namespace penstock {

namespace py = pybind11;

[[noreturn]] inline void wrong(const std::string &name, const std::string &expected) {
  throw py::value_error(name + " must " + expected);
}

inline std::string shape(std::initializer_list<int64_t> sizes) {
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
auto lent(const py::object &object, const std::string &name, std::initializer_list<int64_t> sizes) {
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

// The same, where None will not do.
template <class T, bool writable>
auto needed(const py::object &object, const std::string &name, std::initializer_list<int64_t> sizes) {
  auto *data = lent<T, writable>(object, name, sizes);
  if (data == nullptr) {
    wrong(name, "be an array");
  }
  return data;
}

inline int item_size(const py::array &array, const char *name) {
  if (holds<float>(array)) {
    return 4;
  }
  if (holds<double>(array)) {
    return 8;
  }
  wrong(name, "hold native float32 or float64 numbers");
}

inline RowsView rows_view(const py::array &x, int dim, int64_t &rows) {
  if (x.ndim() != 2 || x.shape(1) != dim) {
    wrong("x", "have shape (rows, " + std::to_string(dim) + ")");
  }
  rows = x.shape(0);
  return {static_cast<const char *>(x.data()), x.strides(0), x.strides(1), item_size(x, "x")};
}

inline SampleWeights weights_view(const py::object &object, int64_t rows) {
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
inline Context context_view(const py::object &object, int context_dim, int64_t rows) {
  if (context_dim == 0) {
    if (!object.is_none()) {
      wrong("context", "be None: this plan has no context");
    }
    return {};
  }
  const auto array = py::reinterpret_borrow<py::array>(object);
  const bool is_array = py::isinstance<py::array>(object);
  const auto axes = is_array ? array.ndim() : 0;
  const int64_t m = axes == 2 ? array.shape(0) : 1;
  if ((axes != 1 && axes != 2) || array.shape(axes - 1) != context_dim || (m == 0 ? rows != 0 : rows % m != 0)) {
    const std::string c = std::to_string(context_dim);
    wrong("context", "be an array of shape (" + c + ",) or (m, " + c + "), where m divides the number of rows");
  }
  const RowsView view{static_cast<const char *>(array.data()), axes == 1 ? 0 : array.strides(0),
                      array.strides(axes - 1), item_size(array, "context")};
  return {view, m == 0 ? 0 : rows / m, m == 1};
}

// Rows of results; null for None.
template <class T>
RowsOut<T> rows_out(const py::object &object, const char *name, int64_t rows, int64_t columns) {
  return {lent<T, true>(object, name, {rows, columns}), columns};
}

// Values of rows go to an array of T or of float64.
template <class T>
RowValues values_view(const py::object &object, const char *name, int64_t rows) {
  if (py::isinstance<py::array_t<double>>(object)) {
    return {lent<double, true>(object, name, {rows}), sizeof(double)};
  }
  return {lent<T, true>(object, name, {rows}), sizeof(T)};
}

// The item of a sequence for external theta number i; None where there is no sequence.
inline py::object item(const py::object &sequence, const char *name, size_t i, size_t n) {
  if (sequence.is_none()) {
    return py::none();
  }
  if (!py::isinstance<py::sequence>(sequence) || py::len(sequence) != n) {
    wrong(name, "have " + std::to_string(n) + " entries, one for each external theta");
  }
  return sequence[py::int_(i)];
}

}  // namespace penstock
