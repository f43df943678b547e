// The pool: every item once, with callers at the same time, jobs inside jobs, bodies that throw, polls, a fork, signals, and
// its end. test_pool PLUGIN also loads and unloads a library that holds a pool of its own.
#include <dlfcn.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__x86_64__)
#  include <immintrin.h>
#endif
#if defined(__GLIBC__)
#  include <malloc.h>
#endif

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
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

using Clock = std::chrono::steady_clock;

// One item that asks whether to go on is interrupted in its midst.
void interrupted_in_one_item() {
  bool caught = false;
  const Clock::time_point start = Clock::now();
  try {
    parallel(
        1, 4, [] { return true; },
        [&](int64_t) {
          while (penstock::keep_going() && Clock::now() - start < std::chrono::seconds(20)) {
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
          }
        });
  } catch (const penstock::Interrupted &) {
    caught = true;
  }
  CHECK(caught && Clock::now() - start < std::chrono::seconds(15));
  CHECK(penstock::keep_going());  // outside of any job
}

// A poll is asked by the clock, whoever has the items, and however often.
void paced() {
  static int asked = 0;
  asked = 0;
  penstock::PacedPoll poll([] { return ++asked == 3; });
  const Clock::time_point start = Clock::now();
  int64_t calls = 0;
  while (!poll.stops()) {
    calls++;
  }
  CHECK(asked == 3 && calls > 3 && Clock::now() - start >= 3 * penstock::PacedPoll::interval);
  penstock::PacedPoll none(nullptr);
  CHECK(!none.stops());
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

template <class Body>
void in_a_child(Body body) {
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    alarm(120);  // a child that hangs is a failure, not a wait without end
    body();
    _exit(0);
  }
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

// The child may use the pool, also when the parent was in the middle of a job.
void child_of_a_fork() {
  in_a_child([] {
    every_item_once(200, 8);
    nested();
    workspaces();
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

#if defined(__linux__)
// Threads of this process with a name.
int threads_named(const std::string &wanted) {
  int n = 0;
  for (const auto &task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream file(task.path() / "comm");
    std::string name;
    n += std::getline(file, name) && (wanted.empty() || name == wanted) ? 1 : 0;
  }
  return n;
}
#endif

volatile sig_atomic_t handled = 0;

// Workers are named, and leave the application's signals alone.
void signals() {
  CHECK(penstock::shutdown());
  struct sigaction action = {}, before;
  action.sa_handler = [](int) { handled = 1; };
  CHECK(sigaction(SIGUSR1, &action, &before) == 0);
  every_item_once(100, 4);
#if defined(__linux__)
  for (int i = 0; i < 1000 && threads_named("penstock") != 3; i++) {  // each names itself
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  CHECK(threads_named("penstock") == 3);
#endif
  sigset_t usr1, old, pending;
  sigemptyset(&usr1);
  sigaddset(&usr1, SIGUSR1);
  pthread_sigmask(SIG_BLOCK, &usr1, &old);
  CHECK(sigismember(&old, SIGUSR1) == 0);  // as it was when the workers started
  CHECK(kill(getpid(), SIGUSR1) == 0);
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  every_item_once(100, 4);
  sigpending(&pending);
  CHECK(handled == 0 && sigismember(&pending, SIGUSR1) == 1);
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
  CHECK(handled == 1);
  sigaction(SIGUSR1, &before, nullptr);
}

// The pool ends, not from within its own job, and starts anew; so it does for trim(), which keeps what is in use.
void ends() {
  every_item_once(100, 4);
  for (int i = 0; i < 3; i++) {
    CHECK(penstock::shutdown() && penstock::shutdown());
#if defined(__linux__)
    CHECK(threads_named("penstock") == 0);
#endif
    every_item_once(100, 4);
    nested();
  }
  std::atomic<int> refused{0};
  parallel(8, 4, nullptr, [&](int64_t) {
    auto *memory = static_cast<char *>(penstock::workspace(5000));
    std::memset(memory, 1, 5000);
    refused += penstock::shutdown() ? 0 : 1;
    penstock::trim();
    void *other = std::aligned_alloc(64, 8192);  // would be given the block of a workspace that was freed
    std::memset(other, 2, 8192);
    CHECK(penstock::workspace(5000) == memory && memory[4999] == 1);
    std::free(other);
  });
  CHECK(refused == 8);
  penstock::workspace(1000);
  penstock::trim();
  penstock::trim();
  std::memset(penstock::workspace(1000), 1, 1000);
  every_item_once(100, 4);
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; c++) {
    callers.emplace_back([c] {
      for (int i = 0; i < 50; i++) {
        c % 2 == 0 ? every_item_once(20, 4) : static_cast<void>(penstock::trim());
      }
    });
  }
  for (std::thread &caller : callers) {
    caller.join();
  }
}

// Threads that live on get new workspaces after the pool has ended, and threads may end while it does.
void ends_beside_threads() {
  std::atomic<bool> once{false}, again{false}, done{false};
  std::thread lives_on([&] {
    std::memset(penstock::workspace(100000), 1, 100000);
    once = true;
    while (!again) {
      std::this_thread::yield();
    }
    std::memset(penstock::workspace(100000), 1, 100000);
    std::memset(penstock::workspace(200000), 1, 200000);
    done = true;
  });
  while (!once) {
    std::this_thread::yield();
  }
  for (int i = 0; i < 20; i++) {
    std::atomic<int> called{0};
    std::vector<std::thread> ending;
    for (int c = 0; c < 6; c++) {
      ending.emplace_back([&] {
        std::memset(penstock::workspace(5000), 1, 5000);
        called++;
      });
    }
    while (called < 6) {
      std::this_thread::yield();
    }
    CHECK(penstock::shutdown());
    for (std::thread &thread : ending) {
      thread.join();
    }
  }
  again = true;
  lives_on.join();
  CHECK(done);
}

// A child of a fork may use workspaces, whatever threads were in the midst of at the time. Under a sanitizer they are in the midst
// of nothing: the locks of its allocator may be held by a thread that the child has not.
void forks_beside_threads() {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  constexpr int n_busy = 0;
#else
  constexpr int n_busy = 3;
#endif
  std::atomic<bool> stop{false};
  std::vector<std::thread> busy;
  for (int c = 0; c < n_busy; c++) {
    busy.emplace_back([&] {
      while (!stop) {
        std::thread([] { std::memset(penstock::workspace(5000), 1, 5000); }).join();
      }
    });
  }
  std::memset(penstock::workspace(5000), 1, 5000);
  for (int i = 0; i < 20; i++) {
    in_a_child([] {
      for (int round = 0; round < 2; round++) {
        std::memset(penstock::workspace(5000), 1, 5000);
        std::memset(penstock::workspace(50000), 1, 50000);
        CHECK(penstock::shutdown());
      }
    });
  }
  stop = true;
  for (std::thread &thread : busy) {
    thread.join();
  }
}

// From within a job nothing ends, also where the caller works alone.
void refuses_to_end_within_a_job() {
  parallel(1, 1, nullptr, [](int64_t) {
    auto *memory = static_cast<char *>(penstock::workspace(5000));
    std::memset(memory, 1, 5000);
    CHECK(!penstock::shutdown());
    CHECK(penstock::workspace(5000) == memory && memory[4999] == 1);
  });
}

struct Plugin {
  void *library;
  explicit Plugin(const char *path) : library(dlopen(path, RTLD_NOW | RTLD_LOCAL)) { CHECK(library != nullptr); }
  template <class Function>
  Function *get(const char *name) const {
    return reinterpret_cast<Function *>(dlsym(library, name));
  }
  // Whether nothing is left of it.
  void close(const char *path) const {
    CHECK(dlclose(library) == 0);
    CHECK(dlopen(path, RTLD_NOW | RTLD_NOLOAD) == nullptr);
#if defined(__linux__)
    CHECK(threads_named("penstock") == 0);
#endif
  }
};

// A thread that does what it is told, and lives on.
class Helper {
 public:
  using Task = void (*)();
  Helper()
      : thread_([this] {
          for (Task task = next(); task != nullptr; task = next()) {
            task();
            done_ = true;
          }
        }) {}
  void run(Task task) {
    done_ = false;
    task_ = task;
    while (!done_) {
      std::this_thread::yield();
    }
  }
  ~Helper() {
    stop_ = true;
    thread_.join();
  }

 private:
  Task next() {
    while (!stop_) {
      if (const Task task = task_.exchange(nullptr); task != nullptr) {
        return task;
      }
      std::this_thread::yield();
    }
    return nullptr;
  }
  std::atomic<Task> task_{nullptr};
  std::atomic<bool> done_{false}, stop_{false};
  std::thread thread_;
};

#if defined(__GLIBC__)
size_t bytes_in_use() { return mallinfo2().uordblks; }
#else
size_t bytes_in_use() { return 0; }
#endif

// Nothing of a library is left once it is unloaded: no workers, no memory, no key, and not itself, whatever threads that it has
// served live on. Without its end being told, the memory that these threads had is lost, and no more.
void unloading(const char *path) {
  CHECK(penstock::shutdown());
  Helper helper;
#if !defined(__SANITIZE_ADDRESS__)  // which tells of what is lost
  for (int i = 0; i < 3; i++) {
    const Plugin plugin(path);
    plugin.get<void()>("use_pool")();
    helper.run(plugin.get<void()>("use_pool"));
    plugin.close(path);
  }
#endif
  for (int i = 0; i < 3; i++) {
    const Plugin plugin(path);
    Helper ends_later;
    ends_later.run(plugin.get<void()>("use_workspace"));
    CHECK(plugin.get<bool()>("end")());
    plugin.close(path);
  }
  size_t before = 0;
  constexpr int cycles = 1100;  // more than there are keys
  for (int i = 0; i < cycles; i++) {
    const Plugin plugin(path);
    plugin.get<void()>("use_workspace")();
    helper.run(plugin.get<void()>("use_workspace"));
    CHECK(plugin.get<bool()>("end")());
    plugin.get<void()>(i % 100 == 0 ? "use_pool" : "use_workspace")();
    CHECK(plugin.get<bool()>("end")());
    plugin.close(path);
    before = i == 100 ? bytes_in_use() : before;
  }
  CHECK(bytes_in_use() < before + 100000);  // a hundred bytes a cycle
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

int main(int argc, char **argv) {
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
  interrupted_in_one_item();
  paced();
  penstock::set_num_threads(4);
  signals();
  ends();
  ends_beside_threads();
  refuses_to_end_within_a_job();
  many_callers();
  child_of_a_fork();
  forks_beside_threads();
  parallel(4, 4, nullptr, [](int64_t i) {
    if (i == 0) {
      child_of_a_fork();
    }
  });
  every_item_once(100, 4);
  if (argc > 1) {
    unloading(argv[1]);
  }
  return 0;
}
