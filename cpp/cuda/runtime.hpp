// What device.cpp has in common with the two that stand for a runtime.
#pragma once

#include <cstdint>
#include <string>

namespace penstock::cuda {

inline constexpr uintptr_t legacy = 1, per_thread = 2;

// Reasons why a device cannot be used.
inline constexpr const char *no_device = "no NVIDIA driver or GPU here";
inline constexpr const char *forked =
    "CUDA does not survive a fork, and the process that this one was forked from has used it: start processes with "
    "multiprocessing.get_context('spawn') or 'forkserver', or fork before the first use of CUDA";
std::string no_such_device(int device, int n);

// Notes which process uses CUDA, before it first does; throws std::runtime_error in a child of that process, which can neither
// use nor release what it inherits.
void begin_use();
void forget_use() noexcept;
bool used_by_a_parent() noexcept;

// Makes a device that of the runtime in this thread, and gives the one that was: for leave_runtime.
int enter_runtime(int device);
void leave_runtime(int before) noexcept;

}  // namespace penstock::cuda
