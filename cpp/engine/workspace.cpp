// Memory that threads keep: see workspace.hpp.
#include "engine/workspace.hpp"

#include <pthread.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

namespace penstock {
namespace {

struct Block {
  void *memory = nullptr;
  int64_t size = 0;
};

// The blocks of one thread, which alone touches them, in a list of those of all threads.
struct Blocks {
  uintptr_t number;  // never 0, and never that of another thread's
  Blocks *next = nullptr;
  std::vector<Block> all{};

  explicit Blocks(uintptr_t number) : number(number) {}
  Blocks(const Blocks &) = delete;
  Blocks &operator=(const Blocks &) = delete;
  ~Blocks() { free_from(0); }
  void free_from(size_t level) {
    while (all.size() > level) {
      std::free(all.back().memory);
      all.pop_back();
    }
  }
};

// What a thread knows of its own: plain numbers. They hold for one generation, that is, until blocks of all threads are freed.
struct Own {
  Blocks *blocks;
  uint64_t generation;
};
thread_local Own own = {nullptr, 0};

// The registry. Its lock guards all of it; a generation that is the thread's own is read without.
std::mutex registry_lock;
Blocks *first = nullptr;
uintptr_t last_number = 0;
pthread_key_t key;  // tells of threads that end; its value is the number of the thread's blocks
bool has_key = false;
std::atomic<uint64_t> generation{1};

bool has_own() { return own.generation == generation.load(std::memory_order_relaxed); }

// The place in the list that points to the blocks with a number, or to null.
Blocks **place_of(uintptr_t number) {
  Blocks **at = &first;
  while (*at != nullptr && (*at)->number != number) {
    at = &(*at)->next;
  }
  return at;
}

// Of a thread that ends. Its blocks may have been freed already: a number finds only what is there.
void free_of_thread(void *value) {
  std::unique_ptr<Blocks> found;
  const std::lock_guard guard(registry_lock);
  Blocks **const at = place_of(reinterpret_cast<uintptr_t>(value));
  if (*at != nullptr) {
    found.reset(*at);
    *at = found->next;
    own = {nullptr, 0};  // destructors of other keys may call in once more
  }
}

// Around a fork. The blocks of other threads may have been in the midst of a change: the child leaves them where they are.
void before_fork() { registry_lock.lock(); }
void after_fork() { registry_lock.unlock(); }
void begin_child() {
  first = has_own() ? own.blocks : nullptr;
  if (first != nullptr) {
    first->next = nullptr;
  }
  registry_lock.unlock();
}

void begin_thread() {
  static const int registered = pthread_atfork(before_fork, after_fork, begin_child);
  static_cast<void>(registered);
  const std::lock_guard guard(registry_lock);
  if (!has_key) {
    if (pthread_key_create(&key, free_of_thread) != 0) {
      throw std::bad_alloc();
    }
    has_key = true;
  }
  auto made = std::make_unique<Blocks>(last_number + 1);
  void *const value = reinterpret_cast<void *>(made->number);  // NOLINT(performance-no-int-to-ptr): nobody follows it
  if (pthread_setspecific(key, value) != 0) {
    throw std::bad_alloc();
  }
  last_number++;
  made->next = first;
  first = made.release();
  own = {first, generation.load(std::memory_order_relaxed)};
}

void delete_key() {
  if (has_key) {
    pthread_key_delete(key);
    has_key = false;
  }
}

}  // namespace

void *lend_block(size_t level, int64_t bytes) {
  if (!has_own()) {
    begin_thread();
  }
  std::vector<Block> &all = own.blocks->all;
  if (all.size() <= level) {
    all.resize(level + 1);
  }
  Block &block = all[level];
  if (block.size < bytes) {
    std::free(block.memory);
    block = {};
    const int64_t whole = (bytes + 4095) / 4096 * 4096;
    block.memory = std::aligned_alloc(64, static_cast<size_t>(whole));
    if (block.memory == nullptr) {
      throw std::bad_alloc();
    }
    block.size = whole;
  }
  return block.memory;
}

void free_blocks(size_t level) {
  if (has_own()) {
    own.blocks->free_from(level);
  }
}

void free_all_blocks() {
  const std::lock_guard guard(registry_lock);
  delete_key();
  while (first != nullptr) {
    const std::unique_ptr<Blocks> freed(first);
    first = freed->next;
  }
  generation.fetch_add(1, std::memory_order_relaxed);
}

void forget_threads() {
  const std::lock_guard guard(registry_lock);
  delete_key();
}

}  // namespace penstock
