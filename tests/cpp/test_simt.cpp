// The emulated device: blocks do the same in every order, what a device leaves open is as bad as it may be, and what it forbids
// ends the process with a sentence. Built with fibers, with fibers of the C library, and with a host thread for each of a block's.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <string>
#include <thread>

#include "check.hpp"
#include "cuda/block.hpp"

#if defined(__has_feature)
#  if __has_feature(address_sanitizer)
#    define TEST_ADDRESS
#  endif
#  if __has_feature(thread_sanitizer)
#    define TEST_RACES
#  endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#  define TEST_ADDRESS
#endif
#if defined(__SANITIZE_THREAD__)
#  define TEST_RACES
#endif
#if defined(PENSTOCK_SIMT_THREADS) || defined(TEST_RACES)
constexpr bool fibers = false;
#else
constexpr bool fibers = true;
#endif

namespace penstock::cuda {
namespace {

using simt::Landing;
using simt::launch;

constexpr int most_threads = 64, panels = 6;

// What of the kernel below to leave out.
enum class Without { nothing, barrier_before_reading, barrier_before_the_next_copy, waiting };

struct Sums {
  Without without;
  const float *x;  // (blocks, panels, threads)
  float *sums;     // (blocks)
};

// Each thread sums what its neighbour copied into a ring of two slots, and the block sums them in a tree.
void sums(const void *arguments) {
  const Sums &a = *static_cast<const Sums *>(arguments);
  auto *const ring = reinterpret_cast<float *>(shared_memory());
  float *const tree = ring + 2 * threads();
  const int t = thread(), n = threads(), neighbour = (t + 1) % n;
  const float *const x = a.x + block() * panels * n;
  float sum = 0;
  copy_async<4>(ring + t, x + t);
  commit();
  for (int p = 0; p < panels; p++) {
    if (p + 1 < panels) {
      copy_async<4>(ring + (p + 1) % 2 * n + t, x + (p + 1) * n + t);
    }
    commit();
    if (a.without != Without::waiting) {
      wait<1>();
    }
    if (a.without != Without::barrier_before_reading) {
      sync();
    }
    sum += ring[p % 2 * n + neighbour];
    if (a.without != Without::barrier_before_the_next_copy) {
      sync();
    }
  }
  wait<0>();
  tree[t] = sum;
  sync();
  for (int half = n / 2; half > 0; half /= 2) {
    if (t < half) {
      tree[t] += tree[t + half];
    }
    sync();
  }
  if (t == 0) {
    a.sums[block()] = tree[0];
  }
}

constexpr int64_t blocks_of_sums = 5;

std::vector<float> run_sums(Without without, int n) {
  std::vector<float> x(static_cast<size_t>(blocks_of_sums * panels * n)), out(static_cast<size_t>(blocks_of_sums), -1);
  for (size_t i = 0; i < x.size(); i++) {
    x[i] = static_cast<float>(i % 251);
  }
  const Sums arguments{without, x.data(), out.data()};
  launch({blocks_of_sums, n, static_cast<int64_t>(3 * sizeof(float)) * n}, sums, &arguments);
  return out;
}

std::vector<float> right_sums(int n) {
  std::vector<float> out(static_cast<size_t>(blocks_of_sums));
  for (size_t i = 0; i < static_cast<size_t>(blocks_of_sums * panels * n); i++) {
    out[i / static_cast<size_t>(panels * n)] += static_cast<float>(i % 251);
  }
  return out;
}

void set(uint64_t seed, Landing landing) {
  simt::set_order(seed);
  simt::set_landing(landing);
}

void sums_are_right_in_every_order() {
  for (uint64_t seed = 0; seed < (fibers ? 300 : 4); seed++) {
    for (const Landing landing : {Landing::late, Landing::early}) {
      set(seed, landing);
      for (const int n : {1, 2, 32, most_threads}) {
        CHECK(run_sums(Without::nothing, n) == right_sums(n));
      }
    }
  }
  set(0, Landing::late);
}

void callers_at_the_same_time() {
  set(7, Landing::late);
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; c++) {
    callers.emplace_back([c] {
      for (int i = 0; i < (fibers ? 50 : 2); i++) {
        const int n = 8 << (i + c) % 4;
        CHECK(run_sums(Without::nothing, n) == right_sums(n));
      }
    });
  }
  for (std::thread &caller : callers) {
    caller.join();
  }
  set(0, Landing::late);
}

// In fibers a barrier that is missing shows as a wrong sum under some seed, if copies land in the way that is bad for it.
void missing_barriers_show() {
  if (!fibers) {
    return;  // ThreadSanitizer tells of them, see below
  }
  const auto shows = [](Without without, Landing landing) {
    int wrong = 0;
    for (uint64_t seed = 1; seed <= 20; seed++) {
      set(seed, landing);
      wrong += run_sums(without, most_threads) != right_sums(most_threads);
    }
    set(0, Landing::late);
    return wrong == 20;
  };
  CHECK(shows(Without::barrier_before_reading, Landing::late));
  CHECK(shows(Without::barrier_before_the_next_copy, Landing::early));
  CHECK(shows(Without::waiting, Landing::late));
}

// A launch knows its place, and finds NaN in the whole of each block's memory.
struct Places {
  int *seen;  // (blocks, threads)
};
void places(const void *arguments) {
  const Places &a = *static_cast<const Places *>(arguments);
  CHECK(threads() == 6 && blocks() == 4 && reinterpret_cast<uintptr_t>(shared_memory()) % 128 == 0);
  float number;
  std::memcpy(&number, shared_memory() + 4 * thread(), sizeof number);
  CHECK(std::isnan(number));
  sync();
  std::memset(shared_memory() + 4 * thread(), 0, 4);
  a.seen[block() * threads() + thread()]++;
}
void everyone_runs_once() {
  for (const uint64_t seed : {0, 1, 2}) {
    set(seed, Landing::late);
    std::vector<int> seen(24);
    const Places arguments{seen.data()};
    launch({4, 6, 24}, places, &arguments);
    CHECK(std::count(seen.begin(), seen.end(), 1) == 24);
    launch({0, 6, 24}, places, &arguments);  // of no blocks
    CHECK(std::count(seen.begin(), seen.end(), 1) == 24);
  }
  set(0, Landing::late);
}

// Orders: of threads between barriers, and of blocks.
struct Order {
  int *at;
  int *order;  // (3, threads) of each block
};
void order(const void *arguments) {
  const Order &a = *static_cast<const Order *>(arguments);
  for (int i = 0; i < 3; i++) {
    a.order[(*a.at)++] = static_cast<int>(block()) * threads() + thread();
    sync();
  }
}
std::vector<int> run_order(uint64_t seed) {
  set(seed, Landing::late);
  int at = 0;
  std::vector<int> out(3 * 16 * 4);
  const Order arguments{&at, out.data()};
  launch({4, 16, 0}, order, &arguments);
  set(0, Landing::late);
  return out;
}
void seeds_draw_orders() {
  if (!fibers) {
    return;
  }
  const std::vector<int> plain = run_order(0), drawn = run_order(1);
  for (int i = 0; i < 3 * 16 * 4; i++) {
    CHECK(plain[static_cast<size_t>(i)] == i / 48 * 16 + i % 16);
  }
  CHECK(drawn == run_order(1) && drawn != run_order(2));
  CHECK(!std::equal(drawn.begin(), drawn.begin() + 16, drawn.begin() + 16));  // anew at a barrier
  bool moved = false;
  for (int block = 0; block < 4; block++) {
    const int first = drawn[static_cast<size_t>(block) * 48] / 16;
    moved = moved || first != block;
    std::vector<int> turn(drawn.begin() + block * 48, drawn.begin() + block * 48 + 16);
    std::sort(turn.begin(), turn.end());
    for (int t = 0; t < 16; t++) {
      CHECK(turn[static_cast<size_t>(t)] == first * 16 + t);
    }
  }
  CHECK(moved);
}

// Exceptions within a kernel, and deep stacks, on a fiber.
void throwing(const void *) {
  struct Deep {
    static int of(int n) {
      volatile char room[1024] = {1};
      return n == 0 ? throw 7 : of(n - 1) + room[0];
    }
  };
  for (int i = 0; i < 3; i++) {
    int caught = 0;
    try {
      Deep::of(50);
    } catch (const int what) {
      caught = what;
    }
    CHECK(caught == 7);
    sync();
  }
}

// -- what ends the process -----------------------------------------------------------------------

struct Death {
  int status;
  std::string said;
  bool says(const char *text) const { return said.find(text) != std::string::npos; }
  bool by(int signal, const char *sentence) const {
    return WIFSIGNALED(status) && WTERMSIG(status) == signal && says(sentence);
  }
};

// How a child that does this ends, and what it says.
template <class Body>
Death death(const Body &body) {
  int ends[2];
  CHECK(pipe(ends) == 0);
  std::fflush(nullptr);
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    alarm(120);
    dup2(ends[1], STDERR_FILENO);
    close(ends[0]);
    close(ends[1]);
    body();
    _exit(0);
  }
  close(ends[1]);
  Death out{0, {}};
  char text[4096];
  for (ssize_t n; (n = read(ends[0], text, sizeof text)) > 0;) {
    out.said.append(text, static_cast<size_t>(n));
  }
  close(ends[0]);
  CHECK(waitpid(child, &out.status, 0) == child);
  return out;
}

Death death_in(int threads, int64_t shared, void (*kernel)(const void *)) {
  alignas(16) static const char global[64] = {};
  return death([&] { launch({2, threads, shared}, kernel, global); });
}

void faults_are_told() {
  set(3, Landing::late);
  const Death barrier = death_in(8, 0, [](const void *) {
    if (thread() % 2 == 0) {
      sync();
    }
  });
  CHECK(barrier.by(SIGABRT, "4 of 8 threads wait at a barrier, and 4 have ended without it"));
  const Death ended = death_in(8, 0, [](const void *) {
    sync();
    if (thread() == 5) {
      return;
    }
    sync();
  });
  CHECK(ended.by(SIGABRT, "7 of 8 threads wait at a barrier, and 1 have ended without it"));

  const Death in_flight = death_in(1, 64, [](const void *global) {
    copy_async<8>(shared_memory(), global);
    copy_async<8>(shared_memory() + 8, global);
    commit();
  });
  CHECK(in_flight.by(SIGABRT, "has ended with asynchronous copies that it did not wait for: 2 of 2"));
  const Death open = death_in(1, 64, [](const void *global) {
    copy_async<4>(shared_memory(), global);
    commit();
    copy_async<4>(shared_memory(), global);
    wait<0>();
  });
  CHECK(open.by(SIGABRT, "did not wait for: 1 of 2"));
  const Death from = death_in(
      1, 64, [](const void *global) { copy_async<8>(shared_memory(), static_cast<const char *>(global) + 4); });
  CHECK(from.by(SIGABRT, "which are no multiples of 8"));
  const Death to = death_in(1, 64, [](const void *global) { copy_async<16>(shared_memory() + 8, global); });
  CHECK(to.by(SIGABRT, "which are no multiples of 16"));
  const Death outside = death_in(1, 64, [](const void *global) {
    alignas(16) char own[16];
    copy_async<16>(own, global);
  });
  CHECK(outside.by(SIGABRT, "which is not in the block's shared memory"));
  const Death beyond = death_in(1, 60, [](const void *global) { copy_async<16>(shared_memory() + 48, global); });
  CHECK(beyond.by(SIGABRT, "which is not in the block's shared memory"));

  CHECK(death([] { launch({1, 1025, 0}, sums, nullptr); }).by(SIGABRT, "expected 1 to 1024 threads"));
  CHECK(death_in(4, 0, [](const void *) { sync(); }).status == 0);
  set(0, Landing::late);
}

void sanitizers_see_into_blocks() {
#if defined(TEST_ADDRESS)
  const Death beyond = death_in(4, 60, [](const void *) {
    sync();
    volatile char *const memory = shared_memory();
    memory[15 * 4 + thread()] = memory[4];
  });
  CHECK(WEXITSTATUS(beyond.status) != 0 && beyond.says("heap-buffer-overflow"));
#  if !defined(PENSTOCK_SIMT_UCONTEXT)  // of whose switches AddressSanitizer knows too little
  const Death stack = death_in(4, 60, [](const void *) {
    volatile char own[8] = {};
    sync();
    volatile char *volatile at = own;
    at[8 + thread()] = 1;
  });
  CHECK(WEXITSTATUS(stack.status) != 0 && stack.says("stack-buffer-overflow"));
#  endif
#endif
#if defined(TEST_RACES)
  const auto races = [](Without without, Landing landing) {
    set(0, landing);
    const Death of = death([&] { run_sums(without, 8); });
    set(0, Landing::late);
    CHECK((of.status == 0) == of.said.empty());
    return of.says("ThreadSanitizer: data race");
  };
  CHECK(!races(Without::nothing, Landing::late) && !races(Without::nothing, Landing::early));
  CHECK(races(Without::barrier_before_reading, Landing::late));
  CHECK(races(Without::barrier_before_the_next_copy, Landing::early));
#endif
}

// Before anything is set here: each child is the first to ask.
void settings_of_the_environment() {
  const auto with = [](const char *name, const char *value, uint64_t seed) {
    return death([&] {
      setenv(name, value, 1);
      int at = 0;
      std::vector<int> out(3 * 16 * 4);
      const Order arguments{&at, out.data()};
      launch({4, 16, 0}, order, &arguments);
      std::fputs(out == run_order(seed) ? "as wanted" : "another order", stderr);
    });
  };
  if (fibers) {
    CHECK(with("PENSTOCK_SIMT_SEED", "12345", 12345).says("as wanted"));
    CHECK(with("PENSTOCK_SIMT_SEED", "12345", 12346).says("another order"));
    CHECK(with("PENSTOCK_SIMT_SEED", "0", 0).says("as wanted"));
  }
  CHECK(with("PENSTOCK_SIMT_SEED", "-1", 0).by(SIGABRT, "PENSTOCK_SIMT_SEED=-1: expected a whole number"));
  const auto first_copy = [](const char *landing) {
    return death([&] {
      setenv("PENSTOCK_SIMT_LANDING", landing, 1);
      alignas(16) static const char global[64] = {};
      launch(
          {1, 1, 64},
          [](const void *from) {
            copy_async<4>(shared_memory(), from);
            const bool early = shared_memory()[0] == 0;
            std::fputs(early ? "early" : "late", stderr);
            commit();
            shared_memory()[0] = 1;
            wait<0>();
            CHECK(shared_memory()[0] == early);  // it lands once
          },
          global);
    });
  };
  for (const char *landing : {"early", "late"}) {
    const Death of = first_copy(landing);
    CHECK(of.says(landing) && of.status == 0);
  }
  CHECK(first_copy("soon").by(SIGABRT, "PENSTOCK_SIMT_LANDING=soon: expected late or early"));
}

}  // namespace

static void test_all() {
  settings_of_the_environment();
  everyone_runs_once();
  sums_are_right_in_every_order();
  callers_at_the_same_time();
  missing_barriers_show();
  seeds_draw_orders();
  launch({3, 40, 0}, throwing, nullptr);
  faults_are_told();
  sanitizers_see_into_blocks();
}

}  // namespace penstock::cuda

int main() {
  penstock::cuda::test_all();
  return 0;
}
