// The structures of DLPack, by which array libraries of Python lend each other memory: dmlc.github.io/dlpack.
#pragma once

#include <cstdint>

namespace penstock::dlpack {

enum DeviceType : int32_t { cpu = 1, cuda = 2, cuda_host = 3, cuda_managed = 13 };
enum TypeCode : uint8_t { int_code = 0, uint_code = 1, float_code = 2 };
constexpr uint64_t read_only_flag = 1;

struct Device {
  int32_t type, id;
};

struct DataType {
  uint8_t code, bits;
  uint16_t lanes;
};

struct Tensor {
  void *data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t *shape, *strides;  // strides in items; null: C order
  uint64_t byte_offset;
};

// In a capsule of the name "dltensor".
struct Managed {
  Tensor tensor;
  void *context;
  void (*deleter)(Managed *);
};

// In one of the name "dltensor_versioned".
struct ManagedVersioned {
  uint32_t major, minor;
  void *context;
  void (*deleter)(ManagedVersioned *);
  uint64_t flags;
  Tensor tensor;
};

}  // namespace penstock::dlpack
