// What the modules with devices have of their own: which devices there are, their memory, and arrays of other libraries in it.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bindings/border.hpp"
#include "bindings/dlpack.hpp"
#include "bindings/engine.hpp"
#include "bindings/gil.hpp"
#include "bindings/module.hpp"
#include "cuda/calls.hpp"
#include "cuda/device.hpp"
#include "cuda/verbs.hpp"

namespace penstock {

const Calls *library() { return &cuda::calls(); }

namespace {

constexpr uint32_t dlpack_major = 1, dlpack_minor = 0;

// Memory as Python has it: an address.
void *at(uintptr_t address) { return reinterpret_cast<void *>(address); }  // NOLINT(performance-no-int-to-ptr)
uintptr_t address_of(const void *memory) { return reinterpret_cast<uintptr_t>(memory); }

// --- arrays of others --------------------------------------------------------------------------------------------

template <class M>
constexpr const char *capsule_name = std::is_same_v<M, dlpack::Managed> ? "dltensor" : "dltensor_versioned";
template <class M>
constexpr const char *used_name = std::is_same_v<M, dlpack::Managed> ? "used_dltensor" : "used_dltensor_versioned";

// What Python is told of an array: address, shape, strides in bytes or None, dtype as NumPy writes it, kind and number of the
// device, whether it is read-only, and what keeps it alive.
template <class M>
py::tuple taken(py::capsule &capsule) {
  auto *managed = capsule.get_pointer<M>();
  const dlpack::Tensor &tensor = managed->tensor;
  bool read_only = false;
  if constexpr (std::is_same_v<M, dlpack::ManagedVersioned>) {
    if (managed->major > dlpack_major) {
      throw py::buffer_error("a DLPack capsule of version " + std::to_string(managed->major) + " cannot be read");
    }
    read_only = (managed->flags & dlpack::read_only_flag) != 0;
  }
  const int bytes = tensor.dtype.bits / 8;
  std::string dtype;
  if (tensor.dtype.lanes == 1 && tensor.dtype.bits % 8 == 0 && tensor.dtype.code <= dlpack::float_code) {
    dtype = "iuf"[tensor.dtype.code] + std::to_string(bytes);
  }
  py::list shape, strides;
  for (int i = 0; i < tensor.ndim; i++) {
    shape.append(tensor.shape[i]);
    if (tensor.strides != nullptr) {
      strides.append(tensor.strides[i] * bytes);
    }
  }
  capsule.set_name(used_name<M>);
  py::capsule owner(managed, [](void *pointer) {
    auto *mine = static_cast<M *>(pointer);
    if (mine->deleter != nullptr) {
      mine->deleter(mine);
    }
  });
  return py::make_tuple(address_of(static_cast<char *>(tensor.data) + tensor.byte_offset), py::tuple(shape),
                        tensor.strides != nullptr ? py::object(py::tuple(strides)) : py::object(py::none()), dtype,
                        static_cast<int>(tensor.device.type), tensor.device.id, read_only, std::move(owner));
}

py::tuple from_dlpack(py::capsule capsule) {
  const std::string name = capsule.name() != nullptr ? capsule.name() : "";
  if (name == capsule_name<dlpack::Managed>) {
    return taken<dlpack::Managed>(capsule);
  }
  if (name == capsule_name<dlpack::ManagedVersioned>) {
    return taken<dlpack::ManagedVersioned>(capsule);
  }
  throw py::value_error("capsule must be a DLPack capsule that nobody has used");
}

// A tensor and what it points to.
template <class M>
struct Lent {
  M managed{};
  std::vector<int64_t> shape, strides;
  PyObject *owner = nullptr;

  static void end(M *managed) {
    auto *own = static_cast<Lent *>(managed->context);
    if (door.enter()) {
      const py::gil_scoped_acquire gil;
      door.entered();
      Py_DECREF(own->owner);
    }
    delete own;
  }
};

template <class M>
py::capsule lent_out(uintptr_t address, const std::vector<int64_t> &shape, char code, int bytes, int device,
                     bool read_only, const py::object &owner) {
  auto own = std::make_unique<Lent<M>>();
  own->shape = shape;
  own->strides.resize(shape.size());
  int64_t stride = 1;
  for (size_t i = shape.size(); i-- > 0; stride *= shape[i]) {
    own->strides[i] = stride;
  }
  const auto kind = code == 'f' ? dlpack::float_code : code == 'i' ? dlpack::int_code : dlpack::uint_code;
  M &managed = own->managed;
  managed.tensor = {at(address),
                    {dlpack::cuda, device},
                    static_cast<int32_t>(shape.size()),
                    {kind, static_cast<uint8_t>(8 * bytes), 1},
                    own->shape.data(),
                    own->strides.data(),
                    0};
  managed.context = own.get();
  managed.deleter = &Lent<M>::end;
  if constexpr (std::is_same_v<M, dlpack::ManagedVersioned>) {
    managed.major = dlpack_major;
    managed.minor = dlpack_minor;
    managed.flags = read_only ? dlpack::read_only_flag : 0;
  }
  own->owner = owner.inc_ref().ptr();
  return py::capsule(&own.release()->managed, capsule_name<M>, [](PyObject *capsule) {
    if (PyCapsule_IsValid(capsule, capsule_name<M>) != 0) {  // nobody has taken it
      auto *unused = static_cast<M *>(PyCapsule_GetPointer(capsule, capsule_name<M>));
      unused->deleter(unused);
    }
  });
}

py::capsule to_dlpack(uintptr_t address, const std::vector<int64_t> &shape, char code, int bytes, int device,
                      bool read_only, const py::object &owner, bool versioned) {
  return versioned ? lent_out<dlpack::ManagedVersioned>(address, shape, code, bytes, device, read_only, owner)
                   : lent_out<dlpack::Managed>(address, shape, code, bytes, device, read_only, owner);
}

}  // namespace

void define_own(py::module_ &m) {
  using py::arg;
  const py::call_guard<py::gil_scoped_release> released;  // a device may keep the caller waiting
  py::class_<cuda::OwnStream>(m, "Stream", py::module_local())
      .def(py::init(), released)
      .def_property_readonly("handle", [](const cuda::OwnStream &own) { return own->handle(); });
  m.def("is_emulated", &cuda::emulated, "Whether its devices are the processor's imitation of some.");
  m.def("device_count", &cuda::device_count, released);
  m.def("unavailable", &cuda::unavailable, arg("device"), released, "Why a device cannot be used; empty if it can.");
  m.def("device_name", &cuda::device_name, arg("device"), released);
  m.def("device", &cuda::device, "The device that calls of this thread use.");
  m.def("set_device", &cuda::set_device, arg("device"), released);
  m.def("set_stream", &cuda::set_stream, arg("stream"),
        "The stream that calls of this thread use: 1, 2, a cudaStream_t, or 0 for one of its own.");
  m.def("allocate", [](int64_t bytes) { return address_of(cuda::allocate(bytes)); }, arg("bytes"), released);
  m.def(
      "hold", [](uintptr_t memory) { cuda::hold(at(memory)); }, arg("memory"), released,
      "What was given to the stream so far uses this memory.");
  m.def("release", [](uintptr_t memory) { cuda::release(at(memory)); }, arg("memory"), released);
  m.def(
      "device_of", [](uintptr_t memory) { return cuda::device_of(at(memory)); }, arg("memory"), released,
      "The device whose memory it is, or -1.");
  m.def(
      "copy",
      [](uintptr_t to, uintptr_t from, int64_t bytes) {
        const cuda::Using use;
        cuda::copy(at(to), at(from), bytes);
      },
      arg("to"), arg("from"), arg("bytes"), released);
  m.def("allocated", &cuda::allocated, arg("device"), released, "Bytes of a device that are not yet released.");
  m.def(
      "clear",
      [](uintptr_t to, int64_t bytes) {
        const cuda::Using use;
        cuda::clear(at(to), bytes);
      },
      arg("to"), arg("bytes"), released);
  m.def(
      "synchronise",
      [] {
        const cuda::Using use;
        cuda::stream().synchronise();
      },
      released, "Waits until the stream is done.");
  m.def(
      "order",
      [](uintptr_t after, uintptr_t then) {
        const cuda::Using use;
        cuda::Stream(then).wait(cuda::Stream(after));
      },
      arg("after"), arg("then"), released, "What is given to one stream from now on waits for what another one has.");
  m.def(
      "shared_bytes",
      [](const EngineHandle &engine, bool gradient) {
        return engine.visit([&](const auto &own) { return cuda::shared_bytes(*own, gradient); });
      },
      arg("engine"), arg("gradient"), released, "Shared memory that a block takes: to evaluate, or for gradients.");
  m.def("from_dlpack", &from_dlpack, arg("capsule"));
  m.def("to_dlpack", &to_dlpack, arg("address"), arg("shape"), arg("code"), arg("bytes"), arg("device"),
        arg("read_only"), arg("owner"), arg("versioned"));
}

}  // namespace penstock
