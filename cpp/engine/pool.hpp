// The thread pool: a caller and its workers share the items of one job at a time. Never OpenMP (see HOUSE in README).
#pragma once

#include <cstdint>

namespace penstock {

// Called now and then by the thread that started the call; true means stop.
using Poll = bool (*)();

// Thrown out of a call that its poll stopped.
struct Interrupted {};

// For the process; for calls from the calling thread alone, 0 to follow the process again; what holds for this thread.
void set_num_threads(int n);
void set_local_num_threads(int n);
int num_threads();

// Runs body(context, item) for every item in [0, n_items), on at most max_threads threads, the caller's included, in any
// order. A second caller meanwhile, or a nested one, does its items alone. Throws Interrupted if poll said stop: then
// some items have not run. Each thread works under the default floating-point environment.
void parallel(int64_t n_items, int max_threads, void (*body)(void *, int64_t), void *context, Poll poll);

template <class Body>
void parallel(int64_t n_items, int max_threads, Poll poll, const Body &body) {
  parallel(
      n_items, max_threads, [](void *context, int64_t item) { (*static_cast<const Body *>(context))(item); },
      const_cast<Body *>(&body), poll);
}

// To be asked now and then inside an item that takes long: false once the job is to stop. Asks the poll at most every
// tenth of a second, and only on the caller's thread.
bool keep_going();

// Aligned memory of the calling thread, at least so many bytes; the same block is lent again by the next call, but for
// calls from within a poll, which have blocks of their own.
void *workspace(int64_t bytes);

}  // namespace penstock
