// The thread pool: see pool.hpp.
#include "engine/pool.hpp"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "engine/floating_point.hpp"
#include "engine/workspace.hpp"

#if defined(__x86_64__)
#  include <immintrin.h>
#endif

namespace penstock {
namespace {

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ __volatile__("yield");
#endif
}

// Spin a little, since the next phase of a training step follows within microseconds, then sleep. The load that makes done
// true is an acquire.
template <class Done>
void wait_until(std::atomic<uint32_t> &word, Done done) {
  for (int i = 0; i < 2000; i++) {
    if (done(word.load(std::memory_order_acquire))) {
      return;
    }
    relax();
  }
  for (uint32_t seen = word.load(std::memory_order_acquire); !done(seen); seen = word.load(std::memory_order_acquire)) {
    word.wait(seen, std::memory_order_acquire);
  }
}

// A run of items that one thread does before it helps the others. The same thread gets the same items in every job of
// a kind, so that what it wrote (gradients, parameters) is still in its cache when it comes back.
struct alignas(64) Share {
  std::atomic<int64_t> next{0};  // relaxed: a number to be had once; what an item reads was there when the job opened
  int64_t end = 0;
};

struct Job {
  void (*body)(void *, int64_t);
  void *context;
  int64_t n_items;
  Share *shares;
  int n_shares;
  std::atomic<bool> stop{false};  // relaxed: who sees it late does one item more
  bool interrupted = false;       // by poll, which only the caller's thread asks
  std::exception_ptr error{};     // of the first body that threw, which is a workspace that memory had no room for
  std::mutex error_lock{};
};

// How many polls this thread is inside of: one may run a signal handler that calls in again, while items of the call that
// polled still use their workspace.
thread_local size_t depth = 0;
class Deeper {
 public:
  Deeper() { depth++; }
  ~Deeper() { depth--; }
};

// What the current thread is doing, for keep_going().
struct Doing {
  Job *job;
  PacedPoll poll;
  size_t depth;
  Doing *outer;
};
thread_local Doing *doing = nullptr;

// Before the job is open, or for the caller alone.
void deal(Job &job) {
  for (int i = 0; i < job.n_shares; i++) {
    job.shares[i].next.store(i * job.n_items / job.n_shares, std::memory_order_relaxed);
    job.shares[i].end = (i + 1) * job.n_items / job.n_shares;
  }
}

// Does items, its own share first, until none are left or the job is to stop.
void work(Job &job, int mine_first, Poll poll) noexcept {
  const DefaultFloatingPoint environment;
  Doing mine{&job, PacedPoll(poll), depth, doing};
  doing = &mine;
  for (int visited = 0; visited < job.n_shares && !job.stop.load(std::memory_order_relaxed);) {
    Share &share = job.shares[(mine_first + visited) % job.n_shares];
    const int64_t item = share.next.fetch_add(1, std::memory_order_relaxed);
    if (item >= share.end) {
      visited++;
      continue;
    }
    try {
      job.body(job.context, item);
    } catch (...) {
      const std::lock_guard lock(job.error_lock);
      job.error = job.error ? job.error : std::current_exception();
      job.stop.store(true, std::memory_order_relaxed);
    }
    if (job.n_items > 1) {
      keep_going();
    }
  }
  doing = mine.outer;
}

// All signals but those that a thread raises by what it does itself are blocked for as long as it lives, so that threads
// which are started meanwhile never run a handler of the application's.
class BlockedSignals {
 public:
  BlockedSignals() {
    sigset_t all;
    sigfillset(&all);
    for (const int own : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS}) {
      sigdelset(&all, own);
    }
    pthread_sigmask(SIG_SETMASK, &all, &saved_);
  }
  ~BlockedSignals() { pthread_sigmask(SIG_SETMASK, &saved_, nullptr); }

 private:
  sigset_t saved_;
};

void name_this_thread() {
#if defined(__APPLE__)
  pthread_setname_np("penstock");
#else
  pthread_setname_np(pthread_self(), "penstock");
#endif
}

// One word, state_, says all: bits 0-7 workers inside the job, 8-15 workers invited, 16 open, 17 quit, 18-31 generation. A
// worker enters by adding itself while the job is open; the caller closes it when the items are gone and waits for those
// inside only, so that a worker which wakes too late costs nothing.
//
// Memory orders. Plain members belong to the thread that has busy_, whose acquire and release hand them from one caller to
// the next. A job is published by the release store of open(): a worker's compare-exchange, an acquire, reads that store,
// or a later addition or subtraction of another worker in its release sequence, and so sees job_ and the shares.
// The store overwrites nobody's addition: the job before is closed, and no worker is inside. What workers wrote goes back
// by their subtractions, releases, all of which the wait in close() reads from, an acquire.
//
// The generation wraps after 2^14 jobs. A worker that slept through exactly so many takes the open job for the one it has
// seen, and sleeps on: late, as a worker may be. One that read the word before and compares it after finds the same word,
// which says the same of the job that is open now: it enters that one.
constexpr uint32_t inside = 0xFF, invited_shift = 8, open_bit = 1u << 16, quit_bit = 1u << 17, generation_shift = 18;
constexpr int most_workers = 255;

class Pool {
 public:
  // Whether this thread may use the workers now. If not, it works alone.
  bool try_enter() { return !busy_.test_and_set(std::memory_order_acquire); }
  void leave() { busy_.clear(std::memory_order_release); }

  // Starts workers as needed; how many there are (fewer than asked for if the system gives no more).
  int grow(int wanted) {
    if (static_cast<int>(workers_.size()) < wanted) {
      const BlockedSignals blocked;
      try {
        while (static_cast<int>(workers_.size()) < wanted) {
          workers_.emplace_back([this, id = static_cast<uint32_t>(workers_.size())] { serve(id); });
        }
      } catch (const std::exception &) {
        return static_cast<int>(workers_.size());  // no more threads, or no memory for one
      }
    }
    return static_cast<int>(workers_.size());
  }

  // The caller has share 0, worker i has share i + 1.
  void open(Job &job, int workers) {
    job.shares = shares_;
    job.n_shares = workers + 1;
    deal(job);
    job_ = &job;
    const uint32_t generation = (state_.load(std::memory_order_relaxed) >> generation_shift) + 1;
    state_.store(generation << generation_shift | open_bit | static_cast<uint32_t>(workers) << invited_shift,
                 std::memory_order_release);
    state_.notify_all();
  }

  void close() {
    state_.fetch_and(~open_bit, std::memory_order_relaxed);
    wait_until(state_, [](uint32_t s) { return (s & inside) == 0; });
  }

  // Ends and joins the workers.
  void end() {
    state_.fetch_or(quit_bit, std::memory_order_relaxed);
    state_.notify_all();
    for (std::thread &worker : workers_) {
      worker.join();
    }
    workers_ = std::vector<std::thread>();
    state_.fetch_and(~quit_bit, std::memory_order_relaxed);
  }

 private:
  void serve(uint32_t id) {
    name_this_thread();
    uint32_t seen = 0;
    for (;;) {
      wait_until(state_, [&](uint32_t s) { return (s & quit_bit) != 0 || s >> generation_shift != seen; });
      uint32_t s = state_.load(std::memory_order_relaxed);
      if ((s & quit_bit) != 0) {
        return;
      }
      bool in = false;
      while ((s & open_bit) != 0 && id < ((s >> invited_shift) & 0xFF) && !in) {
        in = state_.compare_exchange_weak(s, s + 1, std::memory_order_acquire, std::memory_order_relaxed);
      }
      seen = s >> generation_shift;
      if (in) {
        work(*job_, static_cast<int>(id) + 1, nullptr);
        if ((state_.fetch_sub(1, std::memory_order_release) & inside) == 1) {
          state_.notify_all();
        }
      }
    }
  }

  Share shares_[most_workers + 1];
  Job *job_ = nullptr;
  std::vector<std::thread> workers_;
  std::atomic<uint32_t> state_{0};
  std::atomic_flag busy_;  // no mutex: a caller may come back from within its own job, by way of its poll
};

std::atomic<int> threads{1};
thread_local int local_threads = 0;  // 0: as the process
// The process's pool, which is there before the first call, so that threads that call first at once find the same one; it is
// never destroyed, since a thread may still be in it at exit.
union Kept {
  Pool pool;
  constexpr Kept() noexcept : pool() {}
  ~Kept() {}
};
constinit Kept first_pool;
constinit std::atomic<Pool *> shared_pool{&first_pool.pool};

// Workers do not survive a fork, and the pool may have been busy: the child starts afresh. The old pool is left alone.
void forget_pool() { shared_pool.store(nullptr, std::memory_order_relaxed); }

Pool &pool() {
  static const int registered = pthread_atfork(nullptr, nullptr, forget_pool);
  static_cast<void>(registered);
  Pool *current = shared_pool.load(std::memory_order_acquire);
  if (current == nullptr) {
    auto made = std::make_unique<Pool>();
    if (shared_pool.compare_exchange_strong(current, made.get(), std::memory_order_acq_rel)) {
      return *made.release();
    }
  }
  return *current;
}

// Ends the workers, then does something that no job may run beside. False, and nothing done, where a job has them.
template <class Then>
bool end_workers(Then then) {
  Pool *const current = shared_pool.load(std::memory_order_acquire);
  if (current == nullptr) {
    then();
    return true;
  }
  if (!current->try_enter()) {
    return false;
  }
  current->end();
  then();
  current->leave();
  return true;
}

// At exit, and before the code that workers sleep in is unloaded. A pool that another thread is using is left alone, and so
// are workspaces: at exit other threads may still be at work.
__attribute__((destructor)) void unload() {
  end_workers([] {});
  forget_threads();
}

}  // namespace

void set_num_threads(int n) { threads.store(std::clamp(n, 1, most_workers + 1), std::memory_order_relaxed); }
void set_local_num_threads(int n) { local_threads = std::clamp(n, 0, most_workers + 1); }
int num_threads() { return local_threads > 0 ? local_threads : threads.load(std::memory_order_relaxed); }

bool PacedPoll::stops() {
  if (poll_ == nullptr) {
    return false;
  }
  const auto now = std::chrono::steady_clock::now();
  if (asked_ == std::chrono::steady_clock::time_point{}) {
    asked_ = now;
  }
  if (now - asked_ < interval) {
    return false;
  }
  asked_ = now;
  const Deeper inside_poll;
  return poll_();
}

bool keep_going() {
  Doing *const mine = doing;
  if (mine == nullptr) {
    return true;
  }
  if (mine->poll.stops()) {
    mine->job->interrupted = true;
    mine->job->stop.store(true, std::memory_order_relaxed);
  }
  return !mine->job->stop.load(std::memory_order_relaxed);
}

void *workspace(int64_t bytes) { return lend_block(depth, bytes); }

bool shutdown() {
  if (doing != nullptr) {
    return false;
  }
  return end_workers([] { free_all_blocks(); });
}

bool trim() {
  free_blocks(doing != nullptr ? doing->depth + 1 : 0);
  return end_workers([] {});
}

void parallel(int64_t n_items, int max_threads, void (*body)(void *, int64_t), void *context, Poll poll) {
  Share whole;
  Job job{body, context, n_items, &whole, 1};
  deal(job);
  const int64_t wanted = std::min<int64_t>({max_threads, num_threads(), n_items}) - 1;
  Pool *helped = nullptr;
  if (wanted > 0 && pool().try_enter()) {
    helped = &pool();
    if (const int workers = std::min(helped->grow(static_cast<int>(wanted)), static_cast<int>(wanted)); workers > 0) {
      helped->open(job, workers);
    } else {
      helped->leave();
      helped = nullptr;
    }
  }
  work(job, 0, poll);
  if (helped != nullptr) {
    helped->close();
    helped->leave();
  }
  if (job.error) {
    std::rethrow_exception(job.error);
  }
  if (job.interrupted) {
    throw Interrupted{};
  }
}

}  // namespace penstock
