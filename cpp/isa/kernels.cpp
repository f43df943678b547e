// The instruction sets' room. Think before adding code here: all of it is compiled several times, for machines that may
// not be this one. Everything lies in a namespace of the instruction set, nothing of the standard library is touched, and
// only the two tables at the end are visible outside (tests/test_house.py looks at the symbols).

#include "isa/kernels.hpp"

#include "isa/mixtures.hpp"
#include "isa/steps.hpp"
#include "isa/training.hpp"

namespace penstock::PENSTOCK_ISA {
namespace {

template <class T>
constexpr Kernels<T> table() {
  return {lanes_native<T>,
          begin_log_det<T>,
          columns_in<T>,
          columns_out<T>,
          cotangents_in<T>,
          cotangents_out<T>,
          features_in<T>,
          features_out<T>,
          base_draw<T>,
          base_log_density<T>,
          base_backward<T>,
          base_draw_backward<T>,
          context_in<T>,
          make_context_part<T>,
          context_backward<T>,
          forward<T>,
          backward<T>,
          row<T>,
          pack<T>,
          pack_lu<T>,
          combine<T>,
          mix<Native<double>>,
          sum_rows_double,
          sum_squares<T>,
          adam<T>};
}

}  // namespace

__attribute__((visibility("hidden"))) extern const Kernels<float> kernels_float = table<float>();
__attribute__((visibility("hidden"))) extern const Kernels<double> kernels_double = table<double>();

}  // namespace penstock::PENSTOCK_ISA
