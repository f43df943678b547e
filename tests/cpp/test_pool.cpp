// The pool: every item once, with callers at the same time, jobs inside jobs, bodies that throw, polls, and a fork.
#include <sys/wait.h>
#include <unistd.h>

#if defined(__x86_64__)
#  include <immintrin.h>
#endif

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>

#include "check.hpp"
#include "engine/pool.hpp"

namespace {

using penstock::parallel;

void every_item_once(int64_t n, int max_threads) {
  std::vector<std::atomic<int>> seen(static_cast<size_t>(n));
  parallel(n, max_threads, nullptr, [&](int64_t i) { seen[static_cast<size_t>(i)]++; });
  for (const std::atomic<int> &times : seen) {
    CHECK(times == 1);
  }
}

void many_callers() {
  std::vector<std::thread> callers;
  for (int c = 0; c < 6; c++) {
    callers.emplace_back([c] {
      for (int i = 0; i < 100; i++) {
        every_item_once(i % 40 + c, 8);
      }
    });
  }
  for (std::thread &caller : callers) {
    caller.join();
  }
}

void nested() {
  std::atomic<int> count{0};
  parallel(7, 8, nullptr, [&](int64_t) { parallel(9, 8, nullptr, [&](int64_t) { count++; }); });
  CHECK(count == 63);
}

void throwing() {
  for (int round = 0; round < 20; round++) {
    bool caught = false;
    try {
      parallel(100, 8, nullptr, [](int64_t i) {
        if (i % 10 == 3) {
          throw std::runtime_error("of an item");
        }
      });
    } catch (const std::runtime_error &) {
      caught = true;
    }
    CHECK(caught);
    every_item_once(50, 8);
  }
}

void interrupted() {
  bool caught = false;
  try {
    parallel(1000, 4, [] { return true; }, [](int64_t) { std::this_thread::sleep_for(std::chrono::milliseconds(2)); });
  } catch (const penstock::Interrupted &) {
    caught = true;
  }
  CHECK(caught);
  parallel(3, 4, [] { return false; }, [](int64_t) { std::this_thread::sleep_for(std::chrono::milliseconds(120)); });
}

// The child may use the pool, also when the parent was in the middle of a job.
void child_of_a_fork() {
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    every_item_once(200, 8);
    nested();
    _exit(0);
  }
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

void workspaces() {
  parallel(64, 8, nullptr, [](int64_t i) {
    const int64_t size = 100 + i * 37;
    auto *memory = static_cast<char *>(penstock::workspace(size));
    CHECK(reinterpret_cast<uintptr_t>(memory) % 64 == 0);
    std::memset(memory, 1, static_cast<size_t>(size));
    CHECK(penstock::workspace(size) == memory);
  });
}

// A poll may run code that calls in again, and asks for more memory than the item that is being polled for holds.
void calls_from_a_poll() {
  static void *inner = nullptr;
  auto *outer = static_cast<char *>(penstock::workspace(1000));
  std::memset(outer, 7, 1000);
  parallel(
      2, 1,
      [] {
        inner = penstock::workspace(1 << 22);
        std::memset(inner, 1, 1 << 22);
        every_item_once(3, 4);
        return false;
      },
      [&](int64_t) {
        std::this_thread::sleep_for(std::chrono::milliseconds(120));
        penstock::keep_going();
      });
  CHECK(inner != nullptr && inner != outer);
  CHECK(penstock::workspace(1000) == outer && outer[0] == 7 && outer[999] == 7);
}

void local_numbers() {
  penstock::set_num_threads(3);
  penstock::set_local_num_threads(1);
  CHECK(penstock::num_threads() == 1);
  std::thread([] { CHECK(penstock::num_threads() == 3); }).join();
  penstock::set_local_num_threads(0);
  CHECK(penstock::num_threads() == 3);
}

#if defined(__x86_64__)
// Flush-to-zero of the thread that starts the pool reaches no item, and is its own again afterwards.
void floating_point_environment() {
  const unsigned before = _mm_getcsr();
  _mm_setcsr(before | 0x8040);
  parallel(64, 8, nullptr, [](int64_t) {
    CHECK((_mm_getcsr() & 0x8040) == 0);
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  });
  CHECK((_mm_getcsr() & 0x8040) == 0x8040);
  _mm_setcsr(before);
}
#endif

}  // namespace

int main() {
#if defined(__x86_64__)
  penstock::set_num_threads(4);
  floating_point_environment();  // first, since workers take what the thread had that started them
#endif
  local_numbers();
  for (const int n : {1, 2, 5, 300}) {
    penstock::set_num_threads(n);
    CHECK(penstock::num_threads() == (n > 256 ? 256 : n));
    penstock::set_num_threads(n > 8 ? 8 : n);
    for (const int64_t items : {0, 1, 2, 100}) {
      every_item_once(items, 8);
    }
    nested();
    throwing();
    workspaces();
    interrupted();
  }
  calls_from_a_poll();
  penstock::set_num_threads(4);
  many_callers();
  child_of_a_fork();
  parallel(4, 4, nullptr, [](int64_t i) {
    if (i == 0) {
      child_of_a_fork();
    }
  });
  every_item_once(100, 4);
  return 0;
}
