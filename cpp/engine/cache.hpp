// What the engine wants to know of the machine's memory.
#pragma once

#include <cstdint>

namespace penstock {

// Bytes of the last level of cache; 8 MiB where the system does not tell. Asked once.
int64_t last_level_cache();

}  // namespace penstock
