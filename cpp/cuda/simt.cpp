// A grid of a device's threads on the host: see simt.hpp.
#include "cuda/simt.hpp"

#include <algorithm>
#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#if defined(__has_feature)
#  if __has_feature(address_sanitizer)
#    define PENSTOCK_SIMT_ADDRESS
#  endif
#  if __has_feature(thread_sanitizer) && !defined(PENSTOCK_SIMT_THREADS)
#    define PENSTOCK_SIMT_THREADS
#  endif
#endif
#if defined(__SANITIZE_ADDRESS__) && !defined(PENSTOCK_SIMT_ADDRESS)
#  define PENSTOCK_SIMT_ADDRESS
#endif
#if defined(__SANITIZE_THREAD__) && !defined(PENSTOCK_SIMT_THREADS)
#  define PENSTOCK_SIMT_THREADS
#endif

#if defined(PENSTOCK_SIMT_THREADS)
#  include <barrier>
#  include <thread>
#else
#  include <sys/mman.h>

#  include <array>
#  include <memory>
#  if !defined(__ELF__) || !(defined(__x86_64__) || defined(__aarch64__))
#    define PENSTOCK_SIMT_UCONTEXT
#  endif
#  if defined(PENSTOCK_SIMT_UCONTEXT)
#    include <ucontext.h>
#  endif
#  if defined(PENSTOCK_SIMT_ADDRESS)
#    include <sanitizer/common_interface_defs.h>
#  endif
#endif

namespace penstock::simt {

constinit thread_local Thread *current = nullptr;

namespace {

// A kernel does what a device forbids: there is nobody to tell but the reader.
[[noreturn]] __attribute__((format(printf, 1, 2))) void fail(const char *format, ...) {
  std::fflush(stdout);
  std::fputs("penstock::simt: ", stderr);
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fputs("\n", stderr);
  std::abort();
}

uint64_t environment_seed() {
  const char *text = std::getenv("PENSTOCK_SIMT_SEED");
  if (text == nullptr || *text == '\0') {
    return 0;
  }
  char *end = nullptr;
  const uint64_t seed = std::strtoull(text, &end, 10);
  if (*text < '0' || *text > '9' || *end != '\0') {
    fail("PENSTOCK_SIMT_SEED=%s: expected a whole number", text);
  }
  return seed;
}
std::atomic<uint64_t> &seed_now() {
  static std::atomic<uint64_t> seed{environment_seed()};
  return seed;
}

Landing environment_landing() {
  const char *text = std::getenv("PENSTOCK_SIMT_LANDING");
  if (text == nullptr || *text == '\0' || std::strcmp(text, "late") == 0) {
    return Landing::late;
  }
  if (std::strcmp(text, "early") != 0) {
    fail("PENSTOCK_SIMT_LANDING=%s: expected late or early", text);
  }
  return Landing::early;
}
std::atomic<Landing> &landing_now() {
  static std::atomic<Landing> landing{environment_landing()};
  return landing;
}

// SplitMix64.
struct Draw {
  uint64_t state;
  uint64_t operator()() {
    uint64_t z = (state += 0x9E3779B97F4A7C15u);
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
  }
  template <class T>
  void shuffle(T *of, size_t n) {
    for (size_t i = n; i > 1; i--) {
      std::swap(of[i - 1], of[((*this)() >> 32) * i >> 32]);
    }
  }
};

// The order of blocks.
std::vector<int64_t> block_order(int64_t blocks, Draw &draw, bool drawn) {
  std::vector<int64_t> order(static_cast<size_t>(blocks));
  for (size_t i = 0; i < order.size(); i++) {
    order[i] = static_cast<int64_t>(i);
  }
  if (drawn) {
    draw.shuffle(order.data(), order.size());
  }
  return order;
}

// A block's shared memory: of exactly that size, so that AddressSanitizer sees what lies beyond.
class Shared {
 public:
  explicit Shared(int64_t bytes)
      : bytes_(static_cast<size_t>(bytes)),
        memory_(static_cast<char *>(::operator new(bytes_, std::align_val_t{128}))) {}
  Shared(const Shared &) = delete;
  Shared &operator=(const Shared &) = delete;
  ~Shared() { ::operator delete(memory_, std::align_val_t{128}); }
  char *begin_block() {
    if (bytes_ != 0) {
      std::memset(memory_, 0xFF, bytes_);  // NaN, for floats, doubles and halves
    }
    return memory_;
  }

 private:
  size_t bytes_;
  char *memory_;
};

struct Copy {
  char *to;
  const char *from;
  int bytes;
};

// The asynchronous copies of a thread, oldest first.
struct Copies {
  std::vector<Copy> all{};
  std::vector<size_t> ends{};  // of groups
  size_t landed = 0, groups_landed = 0;
};

struct Runner;

// A thread with all that the emulator keeps of it.
struct Full : Thread {
  Runner *runner = nullptr;
  Copies copies{};
};
Full &self() { return *static_cast<Full *>(current); }

void land(const Copy &copy) { std::memcpy(copy.to, copy.from, static_cast<size_t>(copy.bytes)); }

void begin(Full &thread, const Launch &shape, int number, int64_t block, char *shared) {
  static_cast<Thread &>(thread) = {number, shape.threads, block, shape.blocks, shared, shape.shared_bytes};
  thread.copies.all.clear();
  thread.copies.ends.clear();
  thread.copies.landed = thread.copies.groups_landed = 0;
}

void end(const Full &thread) {
  const Copies &copies = thread.copies;
  if (copies.landed != copies.all.size()) {
    fail("thread %d of block %lld has ended with asynchronous copies that it did not wait for: %zu of %zu",
         thread.thread, static_cast<long long>(thread.block), copies.all.size() - copies.landed, copies.all.size());
  }
}

// A barrier for which some threads wait while the others have ended.
[[noreturn]] void fail_barrier(int64_t block, int ended, int threads) {
  fail("block %lld: %d of %d threads wait at a barrier, and %d have ended without it", static_cast<long long>(block),
       threads - ended, threads, ended);
}

void check(const Launch &shape) {
  if (shape.blocks < 0 || shape.threads < 1 || shape.threads > 1024 || shape.shared_bytes < 0) {
    fail("a launch of %lld blocks of %d threads with %lld bytes: expected 1 to 1024 threads",
         static_cast<long long>(shape.blocks), shape.threads, static_cast<long long>(shape.shared_bytes));
  }
}

}  // namespace

void set_order(uint64_t seed) { seed_now().store(seed, std::memory_order_relaxed); }
void set_landing(Landing landing) { landing_now().store(landing, std::memory_order_relaxed); }

void copy_async(void *to_shared, const void *from_global, int bytes) {
  Full &thread = self();
  const Copy copy{static_cast<char *>(to_shared), static_cast<const char *>(from_global), bytes};
  const auto to = reinterpret_cast<uintptr_t>(copy.to), from = reinterpret_cast<uintptr_t>(copy.from);
  const auto shared = reinterpret_cast<uintptr_t>(thread.shared);
  const auto size = static_cast<uintptr_t>(bytes), room = static_cast<uintptr_t>(thread.shared_bytes);
  if (to % size != 0 || from % size != 0) {
    fail("thread %d of block %lld copies %d bytes from %p to %p, which are no multiples of %d", thread.thread,
         static_cast<long long>(thread.block), bytes, from_global, to_shared, bytes);
  }
  if (to < shared || to - shared > room || room - (to - shared) < size) {
    fail("thread %d of block %lld copies %d bytes to %p, which is not in the block's shared memory", thread.thread,
         static_cast<long long>(thread.block), bytes, to_shared);
  }
  if (landing_now().load(std::memory_order_relaxed) == Landing::early) {
    land(copy);
  }
  thread.copies.all.push_back(copy);
}

void commit() {
  Copies &copies = self().copies;
  copies.ends.push_back(copies.all.size());
}

void wait(int in_flight) {
  Copies &copies = self().copies;
  const bool late = landing_now().load(std::memory_order_relaxed) == Landing::late;
  while (copies.ends.size() - copies.groups_landed > static_cast<size_t>(in_flight)) {
    for (const size_t last = copies.ends[copies.groups_landed++]; copies.landed < last; copies.landed++) {
      if (late) {
        land(copies.all[copies.landed]);
      }
    }
  }
  if (copies.groups_landed == copies.ends.size() && copies.landed == copies.all.size()) {
    copies.all.clear();
    copies.ends.clear();
    copies.landed = copies.groups_landed = 0;
  }
}

#if defined(PENSTOCK_SIMT_THREADS)

namespace {

// A block whose threads are threads of the host. Those that end leave the barrier for good.
struct Runner {
  struct Complete {
    Runner *runner;
    void operator()() noexcept {
      const int ended = runner->ended.load();
      if (ended != 0 && ended != runner->threads) {
        fail_barrier(runner->block, ended, runner->threads);
      }
    }
  };
  int64_t block;
  int threads;
  std::atomic<int> ended{0};
  std::barrier<Complete> barrier;
  Runner(int64_t block, int threads) : block(block), threads(threads), barrier(threads, Complete{this}) {}
};

}  // namespace

void sync() { self().runner->barrier.arrive_and_wait(); }

void launch(const Launch &shape, void (*kernel)(const void *), const void *arguments) {
  check(shape);
  Draw draw{seed_now().load(std::memory_order_relaxed)};
  Shared shared(shape.shared_bytes);
  for (const int64_t block : block_order(shape.blocks, draw, draw.state != 0)) {
    char *const memory = shared.begin_block();
    Runner runner(block, shape.threads);
    std::vector<std::thread> all;
    for (int t = 0; t < shape.threads; t++) {
      all.emplace_back([&, t]() noexcept {
        Full thread;
        thread.runner = &runner;
        begin(thread, shape, t, block, memory);
        current = &thread;
        kernel(arguments);
        end(thread);
        current = nullptr;
        runner.ended++;
        runner.barrier.arrive_and_drop();
      });
    }
    for (std::thread &thread : all) {
      thread.join();
    }
  }
}

#else

#  if !defined(PENSTOCK_SIMT_UCONTEXT)
// Saves what a function must preserve on this stack, and goes on where the other one was left.
extern "C" __attribute__((visibility("hidden"))) void penstock_simt_switch(void **from, void *to);
#    if defined(__x86_64__)
__asm__(R"(
    .text
    .p2align 4
    .hidden penstock_simt_switch
    .globl penstock_simt_switch
    .type penstock_simt_switch, @function
penstock_simt_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size penstock_simt_switch, . - penstock_simt_switch
)");
#    else
__asm__(R"(
    .text
    .p2align 4
    .hidden penstock_simt_switch
    .globl penstock_simt_switch
    .type penstock_simt_switch, %function
penstock_simt_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
    .size penstock_simt_switch, . - penstock_simt_switch
)");
#    endif
#  endif

namespace {

constexpr size_t guard_bytes = size_t{64} << 10;  // pages may be as large
constexpr size_t stack_bytes = size_t{256} << 10;
constexpr size_t colour_bytes = 256,
                 colours = 64;  // where stacks begin, so that they don't all share the same cache lines

// A stack, and where whoever runs on it was left.
struct Fiber : Full {
  void *lowest = nullptr;
  size_t bytes = 0;
#  if defined(PENSTOCK_SIMT_UCONTEXT)
  ucontext_t context{};
#  else
  void *stack_pointer = nullptr;
#  endif
#  if defined(PENSTOCK_SIMT_ADDRESS)
  void *fake_stack = nullptr;
#  endif

  Fiber() = default;
  Fiber(const Fiber &) = delete;
  Fiber &operator=(const Fiber &) = delete;
  ~Fiber() {
    if (map_ != nullptr) {
      munmap(map_, map_bytes);
    }
  }

  // A stack of its own; the host's is there already.
  void map(size_t number) {
    void *const at = mmap(nullptr, map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED ||
        mprotect(static_cast<char *>(at) + guard_bytes, map_bytes - guard_bytes, PROT_READ | PROT_WRITE)) {
      fail("no memory for the stack of a thread");
    }
    map_ = static_cast<char *>(at);
    lowest = map_ + guard_bytes;
    bytes = stack_bytes + number % colours * colour_bytes;
  }

  // The next switch to it calls entry().
  void start(void (*entry)()) {
#  if defined(PENSTOCK_SIMT_UCONTEXT)
    getcontext(&context);
    context.uc_stack.ss_sp = lowest;
    context.uc_stack.ss_size = bytes;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
#  else
    auto **const top = reinterpret_cast<void **>(static_cast<char *>(lowest) + bytes);
#    if defined(__x86_64__)
    void **const at = top - 8;  // six registers, where to return to, and no caller
    std::fill(at, top, nullptr);
    at[6] = reinterpret_cast<void *>(entry);
#    else
    void **const at = top - 20;
    std::fill(at, top, nullptr);
    at[11] = reinterpret_cast<void *>(entry);
#    endif
    stack_pointer = at;
#  endif
  }

 private:
  static constexpr size_t map_bytes = guard_bytes + stack_bytes + colours * colour_bytes;
  char *map_ = nullptr;
};

// Goes on in `to`, and returns once somebody goes on in `from`: never, if `from` has ended.
void go_on(Fiber &from, Fiber &to, [[maybe_unused]] bool ended) {
  current = &to;
#  if defined(PENSTOCK_SIMT_ADDRESS)
  __sanitizer_start_switch_fiber(ended ? nullptr : &from.fake_stack, to.lowest, to.bytes);
#  endif
#  if defined(PENSTOCK_SIMT_UCONTEXT)
  swapcontext(&from.context, &to.context);
#  else
  penstock_simt_switch(&from.stack_pointer, to.stack_pointer);
#  endif
#  if defined(PENSTOCK_SIMT_ADDRESS)
  __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#  endif
}

// The fibers of a block. They are kept from launch to launch, and run one block after the other.
struct Runner {
  std::vector<std::unique_ptr<Fiber>> fibers{};
  std::vector<Fiber *> order{};
  Fiber host{};
  Draw draw{0};
  bool drawn = false;
  size_t turn = 0;
  int ended = 0;
  void (*kernel)(const void *) = nullptr;
  const void *arguments = nullptr;

  void run(const Launch &shape, int64_t block, char *shared);

  // Whose turn it is when one waits at a barrier, or has ended: the next in order, which has yet to reach the barrier. Behind the last
  // one all go on in a new order.
  Fiber &next() {
    if (turn == order.size()) {
      const int threads = static_cast<int>(order.size());
      if (ended == threads) {
        return host;
      }
      if (ended != 0) {
        fail_barrier(current->block, ended, threads);
      }
      new_order();
    }
    return *order[turn++];
  }
  void new_order() {
    turn = 0;
    if (drawn) {
      draw.shuffle(order.data(), order.size());
    }
  }
};

// Where a fiber begins. The first one learns of the host's stack.
#  if defined(PENSTOCK_SIMT_ADDRESS)
__attribute__((noinline)) void arrive(Fiber &host) {
  const void *lowest = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(nullptr, &lowest, &bytes);
  if (host.lowest == nullptr) {
    host.lowest = const_cast<void *>(lowest);
    host.bytes = bytes;
  }
}
#  endif
void run_thread() noexcept {
  Runner &runner = *self().runner;
#  if defined(PENSTOCK_SIMT_ADDRESS)
  arrive(runner.host);
#  endif
  runner.kernel(runner.arguments);
  end(self());
  runner.ended++;
  go_on(static_cast<Fiber &>(self()), runner.next(), true);
  __builtin_unreachable();
}

void Runner::run(const Launch &shape, int64_t block, char *shared) {
  host.lowest = nullptr;
  ended = 0;
  order.clear();
  for (int t = 0; t < shape.threads; t++) {
    Fiber &fiber = *fibers[static_cast<size_t>(t)];
    begin(fiber, shape, t, block, shared);
    fiber.start(run_thread);
    order.push_back(&fiber);
  }
  new_order();
  go_on(host, next(), false);
}

// Runners that nobody uses. No lock: a fork may happen at any time. No destructor that a thread runs at its end.
std::array<std::atomic<Runner *>, 64> idle{};

std::unique_ptr<Runner> take_runner(size_t threads) {
  std::unique_ptr<Runner> runner;
  for (std::atomic<Runner *> &place : idle) {
    if (place.load(std::memory_order_relaxed) != nullptr) {
      runner.reset(place.exchange(nullptr, std::memory_order_acquire));
      if (runner != nullptr) {
        break;
      }
    }
  }
  if (runner == nullptr) {
    runner = std::make_unique<Runner>();
  }
  while (runner->fibers.size() < threads) {
    runner->fibers.push_back(std::make_unique<Fiber>());
    runner->fibers.back()->runner = runner.get();
    runner->fibers.back()->map(runner->fibers.size());
  }
  return runner;
}

void give_runner(std::unique_ptr<Runner> runner) {
  for (std::atomic<Runner *> &place : idle) {
    Runner *none = nullptr;
    if (place.compare_exchange_strong(none, runner.get(), std::memory_order_release, std::memory_order_relaxed)) {
      static_cast<void>(runner.release());
      return;
    }
  }
}

__attribute__((destructor)) void free_runners() {
  for (std::atomic<Runner *> &place : idle) {
    delete place.exchange(nullptr);
  }
}

}  // namespace

void sync() {
  auto &fiber = static_cast<Fiber &>(self());
  Fiber &next = fiber.runner->next();
  if (&next != &fiber) {
    go_on(fiber, next, false);
  }
}

void launch(const Launch &shape, void (*kernel)(const void *), const void *arguments) {
  check(shape);
  Thread *const outer = current;
  std::unique_ptr<Runner> runner = take_runner(static_cast<size_t>(shape.threads));
  const uint64_t seed = seed_now().load(std::memory_order_relaxed);
  runner->draw = {seed};
  runner->drawn = seed != 0;
  runner->kernel = kernel;
  runner->arguments = arguments;
  Shared shared(shape.shared_bytes);
  for (const int64_t block : block_order(shape.blocks, runner->draw, runner->drawn)) {
    runner->run(shape, block, shared.begin_block());
  }
  give_runner(std::move(runner));
  current = outer;
}

#endif

}  // namespace penstock::simt
