// A library with a pool of its own, for test_pool to load and unload.
#include <chrono>
#include <thread>

#include "engine/pool.hpp"

extern "C" __attribute__((visibility("default"))) void use_pool() {
  penstock::set_num_threads(4);
  penstock::parallel(16, 4, nullptr, [](int64_t) { std::this_thread::sleep_for(std::chrono::milliseconds(1)); });
}
