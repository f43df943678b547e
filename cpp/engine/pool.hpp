// The thread pool: a caller and its workers share the items of one job at a time. Never OpenMP: two copies of it in a process hang or crash, and none survives fork.
#pragma once

#include <chrono>
#include <cstdint>

namespace penstock {

// Called now and then by the thread that started the call; true means stop.
using Poll = bool (*)();

// Thrown out of a call that its poll stopped.
struct Interrupted {};

// A poll that is asked by the clock: at most every `interval`, however often stops() is called.
class PacedPoll {
 public:
  static constexpr std::chrono::milliseconds interval{50};

  explicit PacedPoll(Poll poll) : poll_(poll) {}
  // Whether the poll said stop just now. The first call starts the clock and asks nothing.
  bool stops();

 private:
  Poll poll_;
  std::chrono::steady_clock::time_point asked_{};
};

// For the process; for calls from the calling thread alone, 0 to follow the process again; what holds for this thread.
void set_num_threads(int n);
void set_local_num_threads(int n);
int num_threads();

// Runs body(context, item) for every item in [0, n_items), on at most max_threads threads, the caller's included, in any
// order. A second caller meanwhile, or a nested one, does its items alone. Throws Interrupted if poll said stop: then
// some items have not run, or not to their end. The poll is asked by the clock between items and in keep_going(), on the
// caller's thread alone. Each thread works under the default floating-point environment.
void parallel(int64_t n_items, int max_threads, void (*body)(void *, int64_t), void *context, Poll poll);

template <class Body>
void parallel(int64_t n_items, int max_threads, Poll poll, const Body &body) {
  parallel(
      n_items, max_threads, [](void *context, int64_t item) { (*static_cast<const Body *>(context))(item); },
      const_cast<Body *>(&body), poll);
}

// To be asked now and then inside an item that takes long: false once the job is to stop, and the item may end where it is.
// Outside of any job: true.
bool keep_going();

// Aligned memory of the calling thread, at least so many bytes; the same block is lent again by the next call, but for
// calls from within a poll, which have blocks of their own.
void *workspace(int64_t bytes);

// Ends all workers and waits for them, and frees the workspaces of all threads, of which none may be at work; the next call
// of any thread begins anew. False, and nothing done, while a job has the workers, or within the caller's own. Workers
// also end when the library is unloaded and when the process exits.
bool shutdown();

// Gives back the memory of workspaces, that of the calling thread and that of the workers, which end. Blocks that the calling
// thread is using stay. False where a job has the workers: then these stay too.
bool trim();

}  // namespace penstock
