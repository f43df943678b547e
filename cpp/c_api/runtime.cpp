// About the C++ run time that is linked into a shared object with -static-libstdc++. In no static library: there it belongs to the program.
#include <cstdlib>

// NOLINTBEGIN(bugprone-reserved-identifier,cert-dcl*): the names are libstdc++'s
namespace __gnu_cxx {

// What std::terminate() calls: without libstdc++'s own, which prints, and brings a demangler of 50 KB.
void __verbose_terminate_handler() { std::abort(); }

// Frees the memory that exceptions are made of when there is no other, which nobody gives back when a library is unloaded.
void __freeres();

}  // namespace __gnu_cxx
// NOLINTEND(bugprone-reserved-identifier,cert-dcl*)

// Behind every other destructor: lower numbers run later, and those below 101 are the compiler's.
__attribute__((destructor(101))) static void free_runtime() { __gnu_cxx::__freeres(); }
