// What the library runs on.
#pragma once

namespace penstock::c {

// The instruction set in use, whose arithmetic was checked at the first call. Throws where there is none.
const char *instruction_set();

}  // namespace penstock::c
