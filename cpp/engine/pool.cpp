// The thread pool: see pool.hpp.
#include "engine/pool.hpp"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <deque>
#include <exception>
#include <mutex>
#include <new>
#include <thread>

#if defined(__x86_64__)
#  include <immintrin.h>
#endif

namespace penstock {
namespace {

// Rounding to nearest, denormals kept, no traps, for as long as it lives: a worker would otherwise inherit what the
// thread that started it had, flush-to-zero for instance.
class DefaultFloatingPoint {
 public:
#if defined(__x86_64__)
  DefaultFloatingPoint() : saved_(_mm_getcsr()) { _mm_setcsr(0x1F80); }
  ~DefaultFloatingPoint() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#elif defined(__aarch64__)
  DefaultFloatingPoint() {
    __asm__ __volatile__("mrs %0, fpcr" : "=r"(saved_));
    __asm__ __volatile__("msr fpcr, %0" : : "r"(uint64_t{0}));
  }
  ~DefaultFloatingPoint() { __asm__ __volatile__("msr fpcr, %0" : : "r"(saved_)); }

 private:
  uint64_t saved_;
#endif
};

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ __volatile__("yield");
#endif
}

// Spin a little, since the next phase of a training step follows within microseconds, then sleep.
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
  std::atomic<int64_t> next{0};
  int64_t end = 0;
};

struct Job {
  void (*body)(void *, int64_t);
  void *context;
  Share *shares;
  int n_shares;
  std::atomic<bool> stop{false};
  bool interrupted = false;    // by poll, which only the caller's thread asks
  std::exception_ptr error{};  // of the first body that threw, which is a workspace that memory had no room for
  std::mutex error_lock{};
};

// What the current thread is doing, for keep_going().
struct Doing {
  Job *job;
  Poll poll;
  std::chrono::steady_clock::time_point asked;
  Doing *outer;
};
thread_local Doing *doing = nullptr;

void deal(Job &job, int64_t n_items) {
  for (int i = 0; i < job.n_shares; i++) {
    job.shares[i].next.store(i * n_items / job.n_shares, std::memory_order_relaxed);
    job.shares[i].end = (i + 1) * n_items / job.n_shares;
  }
}

// Does items, its own share first, until none are left or the job is to stop.
void work(Job &job, int mine_first, Poll poll) noexcept {
  const DefaultFloatingPoint environment;
  Doing mine{&job, poll, {}, doing};
  if (poll != nullptr) {
    mine.asked = std::chrono::steady_clock::now();
  }
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
      job.stop.store(true);
    }
    keep_going();
  }
  doing = mine.outer;
}

// One word says all: bits 0-7 workers inside the job, 8-15 workers invited, 16 open, 17-31 generation. A worker enters
// by adding itself while the job is open; the caller closes it when the items are gone and waits for those inside only,
// so that a worker which wakes too late costs nothing.
constexpr uint32_t inside = 0xFF, invited_shift = 8, open_bit = 1u << 16, generation_shift = 17;
constexpr int most_workers = 255;

class Pool {
 public:
  // Whether this thread may use the workers now. If not, it works alone.
  bool try_enter() { return !busy_.test_and_set(std::memory_order_acquire); }
  void leave() { busy_.clear(std::memory_order_release); }

  // Starts workers as needed; how many there are (fewer than asked for if the system gives no more).
  int grow(int wanted) {
    while (workers_ < wanted) {
      try {
        std::thread([this, id = static_cast<uint32_t>(workers_)] { serve(id); }).detach();
      } catch (const std::exception &) {
        break;
      }
      workers_++;
    }
    return workers_;
  }

  // The caller has share 0, worker i has share i + 1.
  void open(Job &job, int64_t n_items, int workers) {
    job.shares = shares_;
    job.n_shares = workers + 1;
    deal(job, n_items);
    job_ = &job;
    const uint32_t generation = (state_.load(std::memory_order_relaxed) >> generation_shift) + 1;
    state_.store(generation << generation_shift | open_bit | static_cast<uint32_t>(workers) << invited_shift,
                 std::memory_order_release);
    state_.notify_all();
  }

  void close() {
    state_.fetch_and(~open_bit, std::memory_order_acq_rel);
    wait_until(state_, [](uint32_t s) { return (s & inside) == 0; });
  }

 private:
  void serve(uint32_t id) {
    uint32_t seen = 0;
    for (;;) {
      wait_until(state_, [&](uint32_t s) { return s >> generation_shift != seen; });
      uint32_t s = state_.load(std::memory_order_acquire);
      bool in = false;
      while ((s & open_bit) != 0 && id < ((s >> invited_shift) & 0xFF) && !in) {
        in = state_.compare_exchange_weak(s, s + 1, std::memory_order_acq_rel);
      }
      seen = s >> generation_shift;
      if (in) {
        work(*job_, static_cast<int>(id) + 1, nullptr);
        if ((state_.fetch_sub(1, std::memory_order_acq_rel) & inside) == 1) {
          state_.notify_all();
        }
      }
    }
  }

  Share shares_[most_workers + 1];
  Job *job_ = nullptr;
  int workers_ = 0;
  std::atomic<uint32_t> state_{0};
  std::atomic_flag busy_;  // no mutex: a caller may come back from within its own job, by way of its poll
};

std::atomic<int> threads{1};
thread_local int local_threads = 0;  // 0: as the process
std::atomic<Pool *> shared_pool{nullptr};

// Workers do not survive a fork, and locks may have been held: the child starts afresh. The old pool is left alone, as
// it is at exit, where joining workers from a destructor is a known way to hang.
void forget_pool() { shared_pool.store(nullptr); }

Pool &pool() {
  static const int registered = pthread_atfork(nullptr, nullptr, forget_pool);
  static_cast<void>(registered);
  Pool *current = shared_pool.load(std::memory_order_acquire);
  if (current == nullptr) {
    Pool *made = new Pool;
    if (shared_pool.compare_exchange_strong(current, made, std::memory_order_acq_rel)) {
      return *made;
    }
    delete made;  // another thread was quicker; ours has no workers yet
  }
  return *current;
}

struct Block {
  void *memory = nullptr;
  int64_t size = 0;
  Block() = default;
  Block(const Block &) = delete;
  Block &operator=(const Block &) = delete;
  ~Block() { std::free(memory); }
};

// How many polls this thread is inside of: one may run a signal handler that calls in again, while items of the call that
// polled still use their workspace.
thread_local size_t depth = 0;
class Deeper {
 public:
  Deeper() { depth++; }
  ~Deeper() { depth--; }
};

}  // namespace

void set_num_threads(int n) { threads.store(std::clamp(n, 1, most_workers + 1)); }
void set_local_num_threads(int n) { local_threads = std::clamp(n, 0, most_workers + 1); }
int num_threads() { return local_threads > 0 ? local_threads : threads.load(); }

bool keep_going() {
  if (doing->poll != nullptr) {
    const auto now = std::chrono::steady_clock::now();
    if (now - doing->asked > std::chrono::milliseconds(100)) {
      Doing *const mine = doing;
      mine->asked = now;
      const Deeper inside_poll;
      if (mine->poll()) {
        mine->job->interrupted = true;
        mine->job->stop.store(true);
      }
    }
  }
  return !doing->job->stop.load(std::memory_order_relaxed);
}

void *workspace(int64_t bytes) {
  thread_local std::deque<Block> blocks;
  while (blocks.size() <= depth) {
    blocks.emplace_back();
  }
  Block &block = blocks[depth];
  if (block.size < bytes) {
    std::free(block.memory);
    block.size = 0;
    const int64_t whole = (bytes + 4095) / 4096 * 4096;
    block.memory = std::aligned_alloc(64, static_cast<size_t>(whole));
    if (block.memory == nullptr) {
      throw std::bad_alloc();
    }
    block.size = whole;
  }
  return block.memory;
}

void parallel(int64_t n_items, int max_threads, void (*body)(void *, int64_t), void *context, Poll poll) {
  Share whole;
  Job job{body, context, &whole, 1};
  deal(job, n_items);
  const int64_t wanted = std::min<int64_t>({max_threads, num_threads(), n_items}) - 1;
  Pool *helped = nullptr;
  if (wanted > 0 && pool().try_enter()) {
    helped = &pool();
    if (const int workers = std::min(helped->grow(static_cast<int>(wanted)), static_cast<int>(wanted)); workers > 0) {
      helped->open(job, n_items, workers);
    } else {
      helped->leave();
      helped = nullptr;
    }
  }
  work(job, 0, n_items > 1 ? poll : nullptr);
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
