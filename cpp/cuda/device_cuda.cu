// Devices as CUDA's runtime has them, linked statically, which finds the driver when it is first asked: see device.hpp.
#include <cuda_runtime.h>

#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <unordered_map>
#include <vector>

#include "cuda/device.hpp"
#include "cuda/runtime.hpp"

namespace penstock::cuda {

namespace {

[[noreturn]] void raise(cudaError_t error) {
  if (error == cudaErrorMemoryAllocation) {
    throw std::bad_alloc();
  }
  throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error) + " (" + cudaGetErrorName(error) + ")");
}

void check(cudaError_t error) {
  if (error != cudaSuccess) {
    static_cast<void>(cudaGetLastError());  // so that it is not told again of the next call
    raise(error);
  }
}

cudaStream_t native(const Stream &stream) {
  return reinterpret_cast<cudaStream_t>(stream.handle());  // NOLINT(performance-no-int-to-ptr)
}

struct Found {
  int count = 0;
  cudaError_t error = cudaSuccess;
};

// Asked once: what a driver says first holds for the process, and asking it makes a fork impossible.
const Found &found() {
  static const Found all = [] {
    Found own;
    if (used_by_a_parent()) {
      own.error = cudaErrorInitializationError;
      return own;
    }
    begin_use();
    own.error = cudaGetDeviceCount(&own.count);
    if (own.error != cudaSuccess) {
      own.count = 0;
      static_cast<void>(cudaGetLastError());
      if (own.error == cudaErrorInsufficientDriver || own.error == cudaErrorNoDevice) {
        forget_use();  // nothing was begun that a fork could break
      }
    }
    return own;
  }();
  return all;
}

struct Described {
  Limits limits{};
  std::string name{};
  cudaMemPool_t pool = nullptr;  // of its own, so that nobody else's changes; null where there are none
};

const Described &described(int device) {
  static std::mutex mutex;
  static auto *const all = new std::unordered_map<int, std::unique_ptr<Described>>;
  const std::lock_guard lock(mutex);
  auto &own = (*all)[device];
  if (own == nullptr) {
    auto fresh = std::make_unique<Described>();
    cudaDeviceProp p{};
    check(cudaGetDeviceProperties(&p, device));
    fresh->name = p.name;
    fresh->limits = {p.multiProcessorCount,
                     p.maxThreadsPerBlock,
                     p.maxThreadsPerMultiProcessor,
                     p.maxBlocksPerMultiProcessor,
                     static_cast<int>(p.sharedMemPerBlockOptin),
                     static_cast<int>(p.sharedMemPerMultiprocessor),
                     static_cast<int>(p.reservedSharedMemPerBlock),
                     p.regsPerMultiprocessor,
                     10 * p.major + p.minor,
                     p.l2CacheSize,
                     static_cast<int64_t>(p.totalGlobalMem)};
    if (p.memoryPoolsSupported != 0) {
      cudaMemPoolProps settings{};
      settings.allocType = cudaMemAllocationTypePinned;
      settings.location = {cudaMemLocationTypeDevice, device};
      check(cudaMemPoolCreate(&fresh->pool, &settings));
      uint64_t all_of_it = UINT64_MAX;  // what is released is kept for the next call
      check(cudaMemPoolSetAttribute(fresh->pool, cudaMemPoolAttrReleaseThreshold, &all_of_it));
    }
    own = std::move(fresh);
  }
  return *own;
}

struct Held {
  std::mutex mutex;
  std::unordered_map<void *, Event> events;
};

// Never destroyed, since arrays may outlive the module's static objects.
Held &held() {
  static auto *const all = new Held;
  return *all;
}

std::string number(int capability) { return std::to_string(capability / 10) + "." + std::to_string(capability % 10); }

}  // namespace

// --- which there are --------------------------------------------------------------------------------------------

bool emulated() { return false; }

int device_count() noexcept {
  try {
    return found().count;
  } catch (...) {
    return 0;
  }
}

std::string unavailable(int device) {
  if (used_by_a_parent()) {
    return forked;
  }
  const Found &all = found();
  if (all.error == cudaErrorInsufficientDriver || all.error == cudaErrorNoDevice) {
    return no_device;
  }
  if (all.error != cudaSuccess) {
    return cudaGetErrorString(all.error);
  }
  if (device < 0 || device >= all.count) {
    return no_such_device(device, all.count);
  }
  int major = 0, minor = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  if (10 * major + minor < PENSTOCK_CUDA_OLDEST) {
    return "device " + std::to_string(device) + " has compute capability " + number(10 * major + minor) +
           ", and this build needs at least " + number(PENSTOCK_CUDA_OLDEST);
  }
  return "";
}

std::string device_name(int device) { return described(device).name; }

const Limits &limits(int device) { return described(device).limits; }

int enter_runtime(int device) {
  int before = -1;
  check(cudaGetDevice(&before));
  if (before == device) {
    return -1;
  }
  check(cudaSetDevice(device));
  return before;
}

void leave_runtime(int before) noexcept {
  if (before >= 0) {
    static_cast<void>(cudaSetDevice(before));
  }
}

// --- order ------------------------------------------------------------------------------------------------------

void Stream::synchronise() const { check(cudaStreamSynchronize(native(*this))); }

void Stream::wait(const Event &event) const {
  if (event.event_ != nullptr) {
    check(cudaStreamWaitEvent(native(*this), static_cast<cudaEvent_t>(event.event_), 0));
  }
}

OwnStream::OwnStream() : stream_(0) {
  const Using use;
  cudaStream_t own = nullptr;
  check(cudaStreamCreateWithFlags(&own, cudaStreamNonBlocking));
  stream_ = Stream(reinterpret_cast<uintptr_t>(own));
}

OwnStream::~OwnStream() {
  if (stream_.handle() != 0 && !used_by_a_parent()) {
    static_cast<void>(cudaStreamDestroy(native(stream_)));
  }
}

Event::Event() : event_(nullptr) {}  // made where it is recorded: it belongs to the device in use there

Event::~Event() {
  if (event_ != nullptr && !used_by_a_parent()) {
    static_cast<void>(cudaEventDestroy(static_cast<cudaEvent_t>(event_)));
  }
}

void Event::record(const Stream &stream) {
  if (event_ == nullptr) {
    const Using use;
    cudaEvent_t own = nullptr;
    check(cudaEventCreateWithFlags(&own, cudaEventDisableTiming));
    event_ = own;
  }
  check(cudaEventRecord(static_cast<cudaEvent_t>(event_), native(stream)));
}

void Event::synchronise() const {
  if (event_ != nullptr) {
    check(cudaEventSynchronize(static_cast<cudaEvent_t>(event_)));
  }
}

bool Event::done() const {
  if (event_ == nullptr) {
    return true;
  }
  const cudaError_t error = cudaEventQuery(static_cast<cudaEvent_t>(event_));
  if (error == cudaErrorNotReady) {
    static_cast<void>(cudaGetLastError());
    return false;
  }
  check(error);
  return true;
}

// --- memory -----------------------------------------------------------------------------------------------------

void *allocate(int64_t bytes) {
  const Using use;
  const auto size = static_cast<size_t>(bytes > 0 ? bytes : 1);
  void *memory = nullptr;
  if (cudaMemPool_t pool = described(device()).pool; pool != nullptr) {
    const Stream first(legacy);
    const auto ask = [&] { return cudaMallocFromPoolAsync(&memory, size, pool, native(first)); };
    if (const cudaError_t error = ask(); error == cudaErrorMemoryAllocation) {
      static_cast<void>(cudaGetLastError());
      check(cudaStreamSynchronize(native(first)));
      check(cudaMemPoolTrimTo(pool, 0));
      check(ask());
    } else {
      check(error);
    }
    if (stream().handle() != legacy && stream().handle() != per_thread) {  // these wait for it by themselves
      stream().wait(first);
    }
  } else {
    check(cudaMalloc(&memory, size));
  }
  return memory;
}

void hold(void *memory) {
  const Using use;
  Event event;
  event.record(stream());
  const std::lock_guard lock(held().mutex);
  held().events[memory] = std::move(event);
}

void release(void *memory) noexcept {
  if (memory == nullptr || used_by_a_parent()) {
    return;
  }
  try {
    const Using use(device_of(memory));
    Event until;
    {
      const std::lock_guard lock(held().mutex);
      if (const auto own = held().events.find(memory); own != held().events.end()) {
        until = std::move(own->second);
        held().events.erase(own);
      }
    }
    if (described(device()).pool != nullptr) {
      const Stream last(legacy);
      last.wait(until);
      check(cudaFreeAsync(memory, native(last)));
    } else {
      check(cudaFree(memory));  // which waits for the device
    }
  } catch (...) {  // the process ends, or an earlier fault has taken the device with it
  }
}

int64_t allocated(int device) {
  const Using use(device);
  uint64_t bytes = 0;
  if (cudaMemPool_t pool = described(device).pool; pool != nullptr) {
    check(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &bytes));
  }
  return static_cast<int64_t>(bytes);
}

void *pinned(int64_t bytes) {
  const Using use;
  void *memory = nullptr;
  check(cudaHostAlloc(&memory, static_cast<size_t>(bytes > 0 ? bytes : 1), cudaHostAllocPortable));
  return memory;
}

void release_pinned(void *memory) noexcept {
  if (memory != nullptr && !used_by_a_parent()) {
    static_cast<void>(cudaFreeHost(memory));
  }
}

int device_of(const void *memory) {
  if (memory == nullptr) {
    return -1;
  }
  cudaPointerAttributes attributes{};
  check(cudaPointerGetAttributes(&attributes, memory));
  const bool there = attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
  return there ? attributes.device : -1;
}

void copy(void *to, const void *from, int64_t bytes, const Stream &on) {
  if (bytes > 0) {
    const Using use;
    check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault, native(on)));
    const auto pageable = [](const void *memory) {
      cudaPointerAttributes attributes{};
      check(cudaPointerGetAttributes(&attributes, memory));
      return attributes.type == cudaMemoryTypeUnregistered;
    };
    if (pageable(to) || pageable(from)) {
      check(cudaStreamSynchronize(native(on)));
    }
  }
}

void clear(void *to, int64_t bytes, const Stream &on) {
  if (bytes > 0) {
    const Using use;
    check(cudaMemsetAsync(to, 0, static_cast<size_t>(bytes), native(on)));
  }
}

}  // namespace penstock::cuda
