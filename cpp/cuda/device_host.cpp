// Emulated devices: see device.hpp.
//
// A device's memory is an arena of its own, which the host cannot touch but for the time of a copy or a launch. It is handed out
// filled with NaN, between zones that must not change. PENSTOCK_CUDA_EMULATE_DEVICES (2) and PENSTOCK_CUDA_EMULATE_LIMITS
// ("multiprocessors=2,shared_per_block=101376") say what there is. With PENSTOCK_CUDA_EMULATE_LATE=1 streams wait until somebody
// waits for them.
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <thread>
#include <vector>

#include "cuda/device.hpp"
#include "cuda/runtime.hpp"

namespace penstock::cuda {

namespace {

bool flag(const char *name) {
  const char *value = std::getenv(name);
  return value != nullptr && std::string(value) == "1";
}

// For faults that only a fault of ours can cause.
[[noreturn]] void die(const char *words) {
  std::fprintf(stderr, "penstock: on an emulated device: %s\n", words);
  std::abort();
}

// --- memory -----------------------------------------------------------------------------------------------------

constexpr int64_t arena_bytes = int64_t{64} << 30, page = 4096, boundary = 256, zone = 256, large = 1 << 20;
constexpr unsigned char untouched = 0xA5, unwritten = 0xFF;  // NaN in either precision

struct Arena {
  char *base = nullptr;
  int64_t top = page;                 // what was ever handed out ends here; nobody gets the first page
  std::map<int64_t, int64_t> used{};  // offset and bytes, without zones
  std::map<int64_t, int64_t> free{};  // offset and bytes, with zones
};

struct Memories {
  std::mutex mutex;
  std::vector<Arena> arenas = std::vector<Arena>(static_cast<size_t>(device_count()));
  std::map<void *, Event> held;
  std::map<char *, int64_t> pinned;
  int open = 0;
};

// Never destroyed, since arrays may outlive the module's static objects.
Memories &memories() {
  static auto *const all = new Memories;
  return *all;
}

void protect(const Arena &arena, int64_t first, int64_t last, bool open) {
  first = first / page * page;
  last = std::min((last + page - 1) / page * page, arena_bytes);
  if (first < last && ::mprotect(arena.base + first, static_cast<size_t>(last - first),
                                 open ? PROT_READ | PROT_WRITE : PROT_NONE) != 0) {
    throw std::bad_alloc();
  }
}

void change(int by) {
  Memories &all = memories();
  const std::lock_guard lock(all.mutex);
  const bool before = all.open > 0;
  all.open += by;
  if (before != (all.open > 0)) {
    for (const Arena &arena : all.arenas) {
      protect(arena, page, arena.top, all.open > 0);
    }
  }
}

[[noreturn]] void illegal() {
  throw std::runtime_error("CUDA: an illegal memory access was encountered (beyond what was allocated)");
}

// Throws unless the bytes are the host's, or lie within one block of a device.
void check(const void *memory, int64_t bytes) {
  Memories &all = memories();
  const std::lock_guard lock(all.mutex);
  const auto *at = static_cast<const char *>(memory);
  for (const Arena &arena : all.arenas) {
    if (arena.base != nullptr && at >= arena.base && at < arena.base + arena_bytes) {
      const int64_t offset = at - arena.base;
      const auto behind = arena.used.upper_bound(offset);
      if (behind == arena.used.begin()) {
        illegal();
      }
      const auto block = std::prev(behind);
      if (offset + bytes > block->first + block->second) {
        illegal();
      }
    }
  }
}

bool is_pinned(const void *memory) {
  Memories &all = memories();
  const std::lock_guard lock(all.mutex);
  const auto *at = static_cast<const char *>(memory);
  const auto block = all.pinned.upper_bound(const_cast<char *>(at));
  return block != all.pinned.begin() && at < std::prev(block)->first + std::prev(block)->second;
}

// --- order ------------------------------------------------------------------------------------------------------

struct Queue {
  std::deque<std::function<void()>> waiting{};
  uint64_t done = 0;
  bool blocking = false;  // the legacy stream and it wait for each other
  uint64_t given() const { return done + waiting.size(); }
};
using Shared = std::shared_ptr<Queue>;

struct Streams {
  std::recursive_mutex mutex;
  Shared legacy = std::make_shared<Queue>();
  std::map<std::thread::id, Shared> of_threads;
  std::map<Queue *, Shared> own;
  const bool late = flag("PENSTOCK_CUDA_EMULATE_LATE");
};

Streams &streams() {
  static auto *const all = new Streams;
  return *all;
}

struct Place {
  Shared queue;
  uint64_t number = 0;
};

Shared queue_of(const Stream &stream) {
  Streams &all = streams();
  const std::lock_guard lock(all.mutex);
  if (stream.handle() == legacy) {
    return all.legacy;
  }
  if (stream.handle() == per_thread) {
    Shared &own = all.of_threads[std::this_thread::get_id()];
    if (own == nullptr) {
      own = std::make_shared<Queue>();
      own->blocking = true;
    }
    return own;
  }
  // NOLINTNEXTLINE(performance-no-int-to-ptr): that is what a handle is
  const auto found = all.own.find(reinterpret_cast<Queue *>(stream.handle()));
  if (found == all.own.end()) {
    throw std::runtime_error("CUDA: invalid resource handle (no stream)");
  }
  return found->second;
}

// Does what was given to a queue up to that number.
void drain(const Shared &queue, uint64_t number) {
  const std::lock_guard lock(streams().mutex);
  while (queue->done < number && !queue->waiting.empty()) {
    const std::function<void()> next = std::move(queue->waiting.front());
    queue->waiting.pop_front();
    queue->done++;
    next();
  }
}

void drain(const Shared &queue) { drain(queue, queue->given()); }

void give(const Shared &queue, std::function<void()> work) {
  Streams &all = streams();
  if (!all.late) {
    work();
    return;
  }
  const std::lock_guard lock(all.mutex);
  std::vector<Place> before;
  if (queue == all.legacy) {
    for (const auto &[thread, own] : all.of_threads) {
      before.push_back({own, own->given()});
    }
  } else if (queue->blocking) {
    before.push_back({all.legacy, all.legacy->given()});
  }
  queue->waiting.emplace_back([before, work = std::move(work)] {
    for (const Place &place : before) {
      drain(place.queue, place.number);
    }
    work();
  });
}

// In the order of the queue, and at once.
void give_and_wait(const Shared &queue, const std::function<void()> &work) {
  if (streams().late) {
    give(queue, work);
    drain(queue);
  } else {
    work();
  }
}

Event held_until(void *memory) {
  Memories &all = memories();
  const std::lock_guard lock(all.mutex);
  Event event;
  if (const auto held = all.held.find(memory); held != all.held.end()) {
    event = std::move(held->second);
    all.held.erase(held);
  }
  return event;
}

void free_block(void *memory) {
  Memories &all = memories();
  const Opened opened;
  const std::lock_guard lock(all.mutex);
  auto *at = static_cast<char *>(memory);
  for (Arena &arena : all.arenas) {
    if (arena.base == nullptr || at < arena.base || at >= arena.base + arena_bytes) {
      continue;
    }
    const auto block = arena.used.find(at - arena.base);
    if (block == arena.used.end()) {
      die("what is released was never allocated");
    }
    auto [offset, bytes] = *block;
    arena.used.erase(block);
    const int64_t padded = (bytes + boundary - 1) / boundary * boundary;
    for (int64_t i = bytes; i < padded + zone; i++) {
      if (static_cast<unsigned char>(at[i]) != untouched) {
        die("a kernel wrote beyond a block");
      }
    }
    std::memset(at, unwritten, static_cast<size_t>(bytes));
    if (bytes >= large) {
      ::madvise(at + page - reinterpret_cast<uintptr_t>(at) % page, static_cast<size_t>(bytes - 2 * page),
                MADV_DONTNEED);
    }
    int64_t whole = padded + zone;
    auto next = arena.free.lower_bound(offset);
    if (next != arena.free.end() && offset + whole == next->first) {
      whole += next->second;
      next = arena.free.erase(next);
    }
    if (next != arena.free.begin() && std::prev(next)->first + std::prev(next)->second == offset) {
      std::prev(next)->second += whole;
    } else {
      arena.free[offset] = whole;
    }
  }
}

}  // namespace

// --- which there are --------------------------------------------------------------------------------------------

bool emulated() { return true; }

int device_count() noexcept {
  static const int n = [] {
    const char *value = std::getenv("PENSTOCK_CUDA_EMULATE_DEVICES");
    return value != nullptr ? static_cast<int>(std::strtol(value, nullptr, 10)) : 2;
  }();
  return n;
}

std::string unavailable(int device) {
  if (used_by_a_parent()) {
    return forked;
  }
  const int n = device_count();
  if (n == 0) {
    return no_device;
  }
  return device >= 0 && device < n ? "" : no_such_device(device, n);
}

std::string device_name(int) { return "emulated H100"; }

const Limits &limits(int) {
  static const Limits all = [] {
    Limits own{132, 1024, 2048, 32, 232448, 233472, 1024, 65536, 90, int64_t{50} << 20, int64_t{80} << 30};
    const std::map<std::string, int *> names{
        {"multiprocessors", &own.multiprocessors},
        {"threads_per_block", &own.threads_per_block},
        {"threads_per_multiprocessor", &own.threads_per_multiprocessor},
        {"blocks_per_multiprocessor", &own.blocks_per_multiprocessor},
        {"shared_per_block", &own.shared_per_block},
        {"shared_per_multiprocessor", &own.shared_per_multiprocessor},
        {"shared_reserved_per_block", &own.shared_reserved_per_block},
        {"registers_per_multiprocessor", &own.registers_per_multiprocessor},
        {"capability", &own.capability},
    };
    const char *value = std::getenv("PENSTOCK_CUDA_EMULATE_LIMITS");
    std::string text = value != nullptr ? value : "";
    while (!text.empty()) {
      const std::string entry = text.substr(0, text.find(','));
      text.erase(0, entry.size() + 1);
      const size_t equals = entry.find('=');
      const auto found = names.find(entry.substr(0, equals));
      if (found == names.end() || equals == std::string::npos) {
        throw std::invalid_argument("PENSTOCK_CUDA_EMULATE_LIMITS: there is no " + entry);
      }
      *found->second = static_cast<int>(std::strtol(entry.c_str() + equals + 1, nullptr, 10));
    }
    return own;
  }();
  return all;
}

int enter_runtime(int) { return -1; }
void leave_runtime(int) noexcept {}

// --- order ------------------------------------------------------------------------------------------------------

void Stream::synchronise() const { drain(queue_of(*this)); }

void Stream::wait(const Event &event) const {
  if (const auto *place = static_cast<const Place *>(event.event_); place->queue != nullptr) {
    give(queue_of(*this), [other = *place] { drain(other.queue, other.number); });
  }
}

OwnStream::OwnStream() : stream_(0) {
  const Using use;
  const auto own = std::make_shared<Queue>();
  const std::lock_guard lock(streams().mutex);
  streams().own[own.get()] = own;
  stream_ = Stream(reinterpret_cast<uintptr_t>(own.get()));
}

OwnStream::~OwnStream() {
  if (stream_.handle() == 0 || used_by_a_parent()) {
    return;
  }
  try {
    const Shared own = queue_of(stream_);
    drain(own);
    const std::lock_guard lock(streams().mutex);
    streams().own.erase(own.get());
  } catch (const std::exception &error) {  // there is nobody else to tell
    die(error.what());
  }
}

Event::Event() : event_(new Place) {}
Event::~Event() { delete static_cast<Place *>(event_); }

void Event::record(const Stream &stream) {
  const Shared queue = queue_of(stream);
  const std::lock_guard lock(streams().mutex);
  // A special stream is also behind those that it waits for: an item of its own stands for that.
  give(queue, [] {});
  *static_cast<Place *>(event_) = {queue, queue->given()};
}

void Event::synchronise() const {
  if (const auto *place = static_cast<const Place *>(event_); place->queue != nullptr) {
    drain(place->queue, place->number);
  }
}

bool Event::done() const {
  const auto *place = static_cast<const Place *>(event_);
  const std::lock_guard lock(streams().mutex);
  return place->queue == nullptr || place->queue->done >= place->number;
}

void launch(const Stream &on, std::function<void()> kernel) {
  give(queue_of(on), [kernel = std::move(kernel)] {
    const Opened opened;
    kernel();
  });
}

// --- memory -----------------------------------------------------------------------------------------------------

Opened::Opened() { change(1); }
Opened::~Opened() { change(-1); }

void *allocate(int64_t bytes) {
  const Using use;
  Memories &all = memories();
  const Opened opened;
  const std::lock_guard lock(all.mutex);
  Arena &arena = all.arenas[static_cast<size_t>(device())];
  if (arena.base == nullptr) {
    void *base = ::mmap(nullptr, arena_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) {
      throw std::bad_alloc();
    }
    arena.base = static_cast<char *>(base);
  }
  bytes = std::max(bytes, int64_t{1});
  if (bytes > arena_bytes) {
    throw std::bad_alloc();
  }
  const int64_t padded = (bytes + boundary - 1) / boundary * boundary, whole = padded + zone;
  const auto fits = [whole](const auto &block) { return block.second >= whole; };
  const auto found = std::find_if(arena.free.begin(), arena.free.end(), fits);
  int64_t offset = arena.top;
  if (found != arena.free.end()) {
    offset = found->first;
    if (const int64_t left = found->second - whole; left > 0) {
      arena.free[offset + whole] = left;
    }
    arena.free.erase(offset);
  } else {
    if (whole > arena_bytes - arena.top) {
      throw std::bad_alloc();
    }
    protect(arena, arena.top, arena.top + whole, true);
    arena.top += whole;
  }
  arena.used[offset] = bytes;
  char *at = arena.base + offset;
  std::memset(at, unwritten, static_cast<size_t>(bytes));
  std::memset(at + bytes, untouched, static_cast<size_t>(whole - bytes));
  return at;
}

void hold(void *memory) {
  const Using use;
  Event event;
  event.record(stream());
  Memories &all = memories();
  const std::lock_guard lock(all.mutex);
  all.held.erase(memory);
  all.held.emplace(memory, std::move(event));
}

void release(void *memory) noexcept {
  if (memory == nullptr || used_by_a_parent()) {
    return;
  }
  try {
    const Stream last(legacy);
    last.wait(held_until(memory));
    give(queue_of(last), [memory] { free_block(memory); });
  } catch (const std::exception &error) {
    die(error.what());
  }
}

int64_t allocated(int device) {
  Memories &all = memories();
  const std::lock_guard lock(all.mutex);
  int64_t bytes = 0;
  for (const auto &[offset, size] : all.arenas.at(static_cast<size_t>(device)).used) {
    bytes += size;
  }
  return bytes;
}

void *pinned(int64_t bytes) {
  const Using use;
  constexpr std::align_val_t page{4096};
  auto *memory = static_cast<char *>(operator new(static_cast<size_t>(std::max(bytes, int64_t{1})), page));
  Memories &all = memories();
  const std::lock_guard lock(all.mutex);
  all.pinned[memory] = bytes;
  return memory;
}

void release_pinned(void *memory) noexcept {
  if (memory != nullptr) {
    Memories &all = memories();
    {
      const std::lock_guard lock(all.mutex);
      all.pinned.erase(static_cast<char *>(memory));
    }
    operator delete(memory, std::align_val_t{4096});
  }
}

int device_of(const void *memory) {
  Memories &all = memories();
  const std::lock_guard lock(all.mutex);
  const auto *at = static_cast<const char *>(memory);
  for (size_t i = 0; i < all.arenas.size(); i++) {
    const char *base = all.arenas[i].base;
    if (base != nullptr && at >= base && at < base + arena_bytes) {
      return static_cast<int>(i);
    }
  }
  return -1;
}

void copy(void *to, const void *from, int64_t bytes, const Stream &on) {
  if (bytes <= 0) {
    return;
  }
  const Using use;
  const auto work = [to, from, bytes] {
    check(to, bytes);
    check(from, bytes);
    const Opened opened;
    std::memmove(to, from, static_cast<size_t>(bytes));
  };
  const auto at_once = [](const void *memory) { return !is_device(memory) && !is_pinned(memory); };
  if (at_once(to) || at_once(from)) {
    give_and_wait(queue_of(on), work);
  } else {
    give(queue_of(on), work);
  }
}

void clear(void *to, int64_t bytes, const Stream &on) {
  if (bytes > 0) {
    const Using use;
    give(queue_of(on), [to, bytes] {
      check(to, bytes);
      const Opened opened;
      std::memset(to, 0, static_cast<size_t>(bytes));
    });
  }
}

}  // namespace penstock::cuda
