// What Python calls to run a kernel on the emulated device.
#include "cuda/simt.hpp"

extern "C" void launch(void (*kernel)(const void *), const void *parameters, int64_t blocks, int threads,
                       int64_t shared_bytes, uint64_t seed) {
  penstock::simt::set_order(seed);
  penstock::simt::launch({blocks, threads, shared_bytes}, kernel, parameters);
}
