// What the library has for the bindings, and how a call gets there and back.
//
// Either side may have a C++ run time of its own, linked in, and neither can catch what the other throws: an unwinder knows its
// own exceptions only. So exceptions end on the library's side, are carried over as a Fault, and thrown again on the other.
// Everything else may pass, since both sides are made by one build, see build.cpp: memory is that of malloc, and classes are
// the same. The bindings call nothing of the library but through this table; what they use of its headers is inline.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "engine/engine.hpp"
#include "engine/mixture.hpp"
#include "engine/trainer.hpp"
#include "isa/arithmetic.hpp"

namespace penstock {

// What a call threw, if anything.
struct Fault {
  enum Kind { none, argument, memory, interrupted, other } kind = none;
  std::string words{};
};

// What a call returned; nothing if it threw.
template <class R>
using Returned = std::optional<std::conditional_t<std::is_void_v<R>, std::monostate, std::remove_cvref_t<R>>>;

// A function, and a member function with its object as first argument, as it stands in the table.
template <class Function>
struct Crossing;
template <class R, class... A>
struct Crossing<R(A...)> {
  using Function = R(A...);
  using Pointer = Fault (*)(Returned<R> &, A...);
};
template <class R, class... A>
struct Crossing<R (*)(A...)> : Crossing<R(A...)> {};
template <class C, class R, class... A>
struct Crossing<R (C::*)(A...)> : Crossing<R(C &, A...)> {};
template <class C, class R, class... A>
struct Crossing<R (C::*)(A...) const> : Crossing<R(const C &, A...)> {};
template <auto f>
using Entry = typename Crossing<decltype(f)>::Pointer;  // NOLINT(readability-redundant-typename): Clang 14 wants it

template <class C, class... A>
std::shared_ptr<C> made(A... arguments) {
  return std::make_shared<C>(std::forward<A>(arguments)...);
}

template <class T>
std::shared_ptr<Packed<T>> packed(const Engine<T> &engine, const T *params, const double *buffers) {
  return std::make_shared<Packed<T>>(engine.plan(), params, buffers);
}

// Rows `at` of an order, or `first` and those after it.
void fill_order(uint64_t seed, uint64_t epoch, int64_t n, const int64_t *at, int64_t first, int64_t count,
                int64_t *rows);

// Of a batch of so many rows: how many slices it has, and the first row of one; behind the last one, where the batch ends.
int64_t n_slices(int64_t rows);
int64_t first_row(int64_t rows, int slice);

template <class T>
struct TypedCalls {
  Entry<&made<Engine<T>, Table>> engine;
  Entry<&penstock::packed<T>> packed;
  Entry<&made<Trainer<T>, std::shared_ptr<const Engine<T>>, const T *, const double *,
              const typename Trainer<T>::Settings &, const std::vector<typename Trainer<T>::Run> &>>
      trainer;
  Entry<&Engine<T>::evaluate> evaluate;
  Entry<&Engine<T>::sample> sample;
  Entry<&Engine<T>::latents> latents;
  Entry<&Engine<T>::latents_vjp> latents_vjp;
  Entry<&Engine<T>::vjp> vjp;
  Entry<&Engine<T>::loss_and_grad> loss_and_grad;
  Entry<&Engine<T>::adam> adam;
  Entry<&Engine<T>::context_part> context_part;
  Entry<&penstock::evaluate_many<T>> evaluate_many;
  Entry<&penstock::sample_many<T>> sample_many;
  Entry<&Trainer<T>::run> run;
  Entry<&Trainer<T>::set_params> set_params;
  Entry<&Trainer<T>::set_state> set_state;
  Entry<&Trainer<T>::snapshot> snapshot;
  Entry<&Trainer<T>::part> part;
  Entry<&Trainer<T>::finish> finish;
};

struct Calls {
  Entry<&penstock::check_arithmetic> check_arithmetic;
  Entry<&penstock::isa> isa;
  Entry<&penstock::isas> isas;
  Entry<&penstock::transform_names> transform_names;
  Entry<&penstock::set_num_threads> set_num_threads;
  Entry<&penstock::set_local_num_threads> set_local_num_threads;
  Entry<&penstock::num_threads> num_threads;
  Entry<&penstock::decode_table> decode_table;
  Entry<&penstock::adam_settings> adam_settings;
  Entry<&SampleWeights::scaled> scaled;
  Entry<&penstock::fill_order> fill_order;
  Entry<&penstock::n_slices> n_slices;
  Entry<&penstock::first_row> first_row;
  TypedCalls<float> of_float;
  TypedCalls<double> of_double;

  template <class T>
  const TypedCalls<T> &of() const {
    if constexpr (std::is_same_v<T, float>) {
      return of_float;
    } else {
      return of_double;
    }
  }
};

const Calls &calls();

}  // namespace penstock

// The one symbol that the library has for the bindings: its Calls, or null for a build that is not its own.
extern "C" __attribute__((visibility("default"))) const penstock::Calls *penstock_private(const char *build);
