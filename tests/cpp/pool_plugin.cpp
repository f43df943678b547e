// A library with a pool of its own, for test_pool to load and unload.
#include <chrono>
#include <cstring>
#include <thread>

#include "engine/pool.hpp"

#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED void use_pool() {
  penstock::set_num_threads(4);
  penstock::parallel(16, 4, nullptr, [](int64_t) {
    std::memset(penstock::workspace(10000), 1, 10000);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  });
}

// The calling thread alone.
EXPORTED void use_workspace() { std::memset(penstock::workspace(10000), 1, 10000); }

EXPORTED bool end() { return penstock::shutdown(); }
