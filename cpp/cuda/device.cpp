// What the process and the calling thread use: see device.hpp.
#include "cuda/device.hpp"

#include <unistd.h>

#include <atomic>
#include <stdexcept>

#include "cuda/runtime.hpp"

namespace penstock::cuda {

namespace {

std::atomic<pid_t> user{0};
thread_local int used = 0;
thread_local uintptr_t given = 0;

}  // namespace

void begin_use() {
  pid_t none = 0;
  user.compare_exchange_strong(none, ::getpid());
  if (used_by_a_parent()) {
    throw std::runtime_error(forked);
  }
}

void forget_use() noexcept { user = 0; }

bool used_by_a_parent() noexcept {
  const pid_t first = user.load();
  return first != 0 && first != ::getpid();
}

std::string no_such_device(int device, int n) {
  const std::string there = n == 1 ? "there is one, number 0" : "there are " + std::to_string(n) + ", counted from 0";
  return "there is no device " + std::to_string(device) + " here: " + there;
}

int device() { return used; }

void set_device(int device) {
  if (const int n = device_count(); device < 0 || device >= n) {
    throw std::invalid_argument(no_such_device(device, n));
  }
  used = device;
}

Using::Using(int device) : before_(used) {
  if (device_count() == 0) {
    throw std::runtime_error(unavailable(device));
  }
  begin_use();
  of_the_runtime_ = enter_runtime(device);
  used = device;
}

Using::~Using() {
  leave_runtime(of_the_runtime_);
  used = before_;
}

Stream stream() { return Stream(stream_given() ? given : per_thread); }

void set_stream(uintptr_t handle) { given = handle; }

bool stream_given() { return given != 0; }

void Stream::wait(const Stream &other) const {
  if (other.handle() != handle_) {
    Event event;
    event.record(other);
    wait(event);
  }
}

}  // namespace penstock::cuda
