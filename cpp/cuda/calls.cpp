// The table of a module with devices: that of the processor, in which other functions stand for what a device does.
#include "cuda/calls.hpp"

#include <functional>
#include <memory>
#include <stdexcept>

#include "cuda/placed.hpp"
#include "cuda/runtime.hpp"
#include "cuda/training.hpp"
#include "cuda/verbs.hpp"
#include "engine/across.hpp"

namespace penstock::cuda {

namespace {

// f, with the device of its first argument in use.
template <auto f, class Function>
struct There;
template <auto f, class R, class First, class... A>
struct There<f, R(First, A...)> {
  static R call(First first, A... rest) {
    const Using use(place_of(first));
    return std::invoke(f, std::forward<First>(first), std::forward<A>(rest)...);
  }
};
template <auto f>
constexpr Entry<f> there = across<&There<f, typename Crossing<decltype(f)>::Function>::call>;

template <class T>
std::shared_ptr<Engine<T>> placed(Table table) {
  begin_use();
  return std::make_shared<Placed<T>>(std::move(table));
}

template <class T>
void replace(TypedCalls<T> &own) {
  own.engine = across<&placed<T>>;
  own.packed = there<&cuda::packed<T>>;
  own.trainer = there<&cuda::trainer<T>>;
  own.evaluate = there<&cuda::evaluate<T>>;
  own.sample = there<&cuda::sample<T>>;
  own.latents = there<&cuda::latents<T>>;
  own.latents_vjp = there<&cuda::latents_vjp<T>>;
  own.vjp = there<&cuda::vjp<T>>;
  own.loss_and_grad = there<&cuda::loss_and_grad<T>>;
  own.evaluate_many = there<&cuda::evaluate_many<T>>;
  own.sample_many = there<&cuda::sample_many<T>>;
  own.run = there<&cuda::run<T>>;
  own.snapshot = there<&cuda::snapshot<T>>;
}

}  // namespace

const Calls &calls() {
  static const Calls all = [] {
    Calls own = penstock::calls();
    replace(own.of_float);
    replace(own.of_double);
    return own;
  }();
  return all;
}

}  // namespace penstock::cuda
