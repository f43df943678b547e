// The library's side of the border: see border.hpp.
#include "engine/border.hpp"

#include <algorithm>

#include "engine/across.hpp"

namespace penstock {
namespace {

template <class T>
constexpr TypedCalls<T> typed_calls{
    across<&made<Engine<T>, Table>>,
    across<&penstock::packed<T>>,
    across<&made<Trainer<T>, std::shared_ptr<const Engine<T>>, const T *, const double *,
                 const typename Trainer<T>::Settings &, const std::vector<typename Trainer<T>::Run> &>>,
    across<&Engine<T>::evaluate>,
    across<&Engine<T>::sample>,
    across<&Engine<T>::latents>,
    across<&Engine<T>::latents_vjp>,
    across<&Engine<T>::vjp>,
    across<&Engine<T>::loss_and_grad>,
    across<&Engine<T>::adam>,
    across<&Engine<T>::context_part>,
    across<&evaluate_many<T>>,
    across<&sample_many<T>>,
    across<&Trainer<T>::run>,
    across<&Trainer<T>::set_params>,
    across<&Trainer<T>::set_state>,
    across<&Trainer<T>::snapshot>,
    across<&Trainer<T>::part>,
    across<&Trainer<T>::finish>,
};

}  // namespace

void fill_order(uint64_t seed, uint64_t epoch, int64_t n, const int64_t *at, int64_t first, int64_t count,
                int64_t *rows) {
  const Order order(seed, epoch, n);
  for (int64_t i = 0; i < count; i++) {
    rows[i] = order(at != nullptr ? at[i] : first + i);
  }
}

int64_t n_slices(int64_t rows) { return Slices(rows).n; }

int64_t first_row(int64_t rows, int slice) { return std::min(rows, Slices(rows).first_tile(slice) * tile_rows); }

const Calls &calls() {
  static constexpr Calls all{
      across<&check_arithmetic>,
      across<&isa>,
      across<&isas>,
      across<&transform_names>,
      across<&set_num_threads>,
      across<&set_local_num_threads>,
      across<&num_threads>,
      across<&decode_table>,
      across<&adam_settings>,
      across<&SampleWeights::scaled>,
      across<&fill_order>,
      across<&n_slices>,
      across<&first_row>,
      typed_calls<float>,
      typed_calls<double>,
  };
  return all;
}

}  // namespace penstock
