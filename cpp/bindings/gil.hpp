// Out of Python and back: calls that release the GIL, can be interrupted, and survive the end of the interpreter.
#pragma once

#include <pybind11/pybind11.h>

#include <atomic>
#include <chrono>
#include <exception>
#include <thread>

#include "engine/pool.hpp"

namespace penstock {

namespace py = pybind11;

// A thread that asks for the GIL of an interpreter that has ended is torn down by force, through frames that do not expect
// it. So the way back into Python is closed before, and a thread that comes later waits outside until the process is gone.
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
inline Door door;

// Raises in Python what a signal handler raised, once the call is over.
inline bool poll_signals() {
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

}  // namespace penstock
