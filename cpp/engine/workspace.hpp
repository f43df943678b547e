// Memory that a thread keeps from call to call. It goes back when the thread ends, or when the library is done, whichever comes
// first; nothing here is a thread-local object with a destructor, which would keep the library in the process until the
// thread ends.
#pragma once

#include <cstddef>
#include <cstdint>

namespace penstock {

// The calling thread's block number `level`, of at least so many bytes, aligned to 64. It stays where it is until more is asked
// for. Throws std::bad_alloc. Only a thread's first call takes a lock.
void *lend_block(size_t level, int64_t bytes);

// Frees the calling thread's blocks from number `level` on.
void free_blocks(size_t level);

// Frees the blocks of all threads, those that live on included, none of which may be in use.
void free_all_blocks();

// Threads that end from now on free nothing, and call nothing here: for the end of the library, of which it does not know
// whether threads are still at work.
void forget_threads();

}  // namespace penstock
