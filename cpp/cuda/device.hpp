// Devices: which there are, their memory, and the order in which they do things. device_cuda.cu asks CUDA's runtime;
// device_host.cpp stands for it where there is none: memory of its own that is shut to the host, and streams that may do what
// they were asked to as late as synchronisation allows. Nothing else of the product, but for kernels, knows which it is.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>

namespace penstock::cuda {

// --- which there are --------------------------------------------------------------------------------------------

bool emulated();
// Those that this process sees; 0 without a driver.
int device_count() noexcept;
// Why a device cannot be used; empty if it can. Makes no context.
std::string unavailable(int device);
std::string device_name(int device);

// What a device has. Of shared memory a block may have as much as it opts in to.
struct Limits {
  int multiprocessors, threads_per_block, threads_per_multiprocessor, blocks_per_multiprocessor;
  int shared_per_block, shared_per_multiprocessor, shared_reserved_per_block;
  int registers_per_multiprocessor;
  int capability;  // 90 is 9.0
  int64_t l2_bytes, memory_bytes;
};
const Limits &limits(int device);

// --- the calling thread -----------------------------------------------------------------------------------------

// The device that calls of this thread use, 0 at first. Throws std::invalid_argument for one that is not there.
int device();
void set_device(int device);

// The device that the calling thread uses, until the end of the block: in the eyes of CUDA, too, which then has again the one
// it had. Throws in the child of a fork of a process that has used a device.
class Using {
 public:
  explicit Using(int device);
  Using() : Using(cuda::device()) {}
  Using(const Using &) = delete;
  Using &operator=(const Using &) = delete;
  ~Using();

 private:
  int before_, of_the_runtime_ = -1;
};

// --- what is done in order --------------------------------------------------------------------------------------

class Event;

// What is given to a stream is done in order; not owned. Equal to a cudaStream_t, special ones included: 1 is the legacy
// default stream, 2 that of the calling thread, which waits for the former and it for this.
class Stream {
 public:
  constexpr explicit Stream(uintptr_t handle) : handle_(handle) {}
  uintptr_t handle() const { return handle_; }
  // Returns when all is done that was given to it; throws what a kernel has done wrong.
  void synchronise() const;
  // What is given to it from now on waits for the event.
  void wait(const Event &event) const;
  // What is given to it from now on waits for all that was given to the other one.
  void wait(const Stream &other) const;

 private:
  uintptr_t handle_;
};

// A stream of the device in use that waits for no other one. Destroyed, it ends when all is done that was given to it.
class OwnStream {
 public:
  OwnStream();
  OwnStream(OwnStream &&other) noexcept : stream_(std::exchange(other.stream_, Stream(0))) {}
  OwnStream &operator=(OwnStream &&) = delete;
  ~OwnStream();
  const Stream &operator*() const { return stream_; }
  const Stream *operator->() const { return &stream_; }

 private:
  Stream stream_;
};

// A place in the order of a stream. One that was never recorded is done.
class Event {
 public:
  Event();
  Event(Event &&other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  Event &operator=(Event &&other) noexcept {
    std::swap(event_, other.event_);
    return *this;
  }
  ~Event();
  void record(const Stream &stream);
  void synchronise() const;
  bool done() const;

 private:
  friend class Stream;
  void *event_;
};

// The stream that calls of this thread use, set as the CUDA array interface writes it: 1, 2, or a cudaStream_t. 0: a stream
// of the thread's own, which is 2, and the call returns when it is done.
Stream stream();
void set_stream(uintptr_t handle);
bool stream_given();

// --- memory -----------------------------------------------------------------------------------------------------

// Memory of the device in use, at a 256-byte boundary, for whatever is given to the current stream from now on. Throws
// std::bad_alloc. What is released is used again once all is done that was given to the legacy stream and to those that wait for
// it. Work of other streams has to be done by then, or to be known by hold(): what was given to the current stream so far uses
// this memory.
void *allocate(int64_t bytes);
void hold(void *memory);
void release(void *memory) noexcept;
// Bytes of a device that are allocated and not yet released, by penstock alone.
int64_t allocated(int device);
// Memory of the host that a device reaches by itself: copies from and to it are asynchronous.
void *pinned(int64_t bytes);
void release_pinned(void *memory) noexcept;

// The device whose memory it is, memory that both sides reach included; -1 for that of the host alone, and for null.
int device_of(const void *memory);
inline bool is_device(const void *memory) { return device_of(memory) >= 0; }

// From and to either side. Copies that touch memory of the host that is not pinned are done when this returns.
void copy(void *to, const void *from, int64_t bytes, const Stream &on = stream());
// Zero bytes.
void clear(void *to, int64_t bytes, const Stream &on = stream());

// Memory of the device in use, for numbers.
template <class T>
class Memory {
 public:
  Memory() = default;
  explicit Memory(int64_t n) : data_(static_cast<T *>(allocate(n * static_cast<int64_t>(sizeof(T))))), size_(n) {}
  Memory(Memory &&other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Memory &operator=(Memory &&other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Memory() { release(data_); }
  T *data() const { return data_; }
  int64_t size() const { return size_; }

 private:
  T *data_ = nullptr;
  int64_t size_ = 0;
};

// Pinned memory, for numbers.
template <class T>
class Pinned {
 public:
  explicit Pinned(int64_t n) : data_(static_cast<T *>(pinned(n * static_cast<int64_t>(sizeof(T))))), size_(n) {}
  Pinned(Pinned &&other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Pinned &operator=(Pinned &&) = delete;
  ~Pinned() { release_pinned(data_); }
  T *data() const { return data_; }
  int64_t size() const { return size_; }

 private:
  T *data_;
  int64_t size_;
};

#if PENSTOCK_CUDA_EMULATED
// --- emulation alone --------------------------------------------------------------------------------------------

// Lets the host read and write the memory of devices while there is one.
class Opened {
 public:
  Opened();
  Opened(const Opened &) = delete;
  Opened &operator=(const Opened &) = delete;
  ~Opened();
};

// Does something in the order of a stream, with the memory of devices open to it: what a launch is to a kernel.
void launch(const Stream &on, std::function<void()> kernel);
#endif

}  // namespace penstock::cuda
