// A grid of a device's threads on the host, as block.hpp needs it: the threads of a block are fibers that run one after the
// other from barrier to barrier, in an order that a seed draws. What a device leaves open is made as bad as it may be: shared
// memory begins as NaN, asynchronous copies land when they are waited for and not before. What a device forbids ends the process
// with a sentence: a barrier that not all threads reach, copies that are not aligned or never waited for.
//
// With PENSTOCK_SIMT_THREADS, or under ThreadSanitizer, each thread of a block is a thread of the host, and a missing barrier
// is a race.
#pragma once

#include <cstdint>

namespace penstock::simt {

struct Launch {
  int64_t blocks;
  int threads;  // of a block
  int64_t shared_bytes;
};

// Runs kernel(arguments) for every thread of every block, one block after the other. Several threads may launch at once. No
// exception may leave a kernel.
void launch(const Launch &shape, void (*kernel)(const void *arguments), const void *arguments);

// The order of blocks, and that of a block's threads, drawn anew at each barrier: 0 in order, else by this seed. Holds for the
// process; before the first call it is what the environment variable PENSTOCK_SIMT_SEED says.
void set_order(uint64_t seed);

// When asynchronous copies land: late, which finds what reads too early, or at once, which finds what is written over while
// others still read it. Holds for the process; before the first call it is what PENSTOCK_SIMT_LANDING (late, early) says.
enum class Landing : uint8_t { late, early };
void set_landing(Landing landing);

// What a kernel knows of the thread that runs it.
struct Thread {
  int thread, threads;
  int64_t block, blocks;
  char *shared;
  int64_t shared_bytes;
};
extern constinit thread_local Thread *current;

void sync();
void copy_async(void *to_shared, const void *from_global, int bytes);
void commit();
void wait(int in_flight);

}  // namespace penstock::simt
