// penstock_flow: the engines and packed numbers of a flow, or of the members of an ensemble, in one type or the other.
#pragma once

#include <cstdint>
#include <memory>
#include <variant>
#include <vector>

#include "engine/engine.hpp"
#include "engine/file.hpp"
#include "engine/lattice.hpp"
#include "engine/mixture.hpp"

namespace penstock::c {

template <class T>
struct Members {
  std::vector<std::shared_ptr<const Engine<T>>> engines;
  std::vector<std::shared_ptr<const Packed<T>>> packed;
  std::vector<Member<T>> mixture;  // the same, as an ensemble asks them; empty in a single flow

  const Engine<T> &engine() const { return *engines.front(); }
  const Packed<T> &numbers() const { return *packed.front(); }
  bool ensemble() const { return !mixture.empty(); }
};

}  // namespace penstock::c

// Never changes once it is made.
struct penstock_flow {
  int64_t dim, context_dim;
  std::variant<penstock::c::Members<float>, penstock::c::Members<double>> members;
  penstock::Lattice lattice;
  std::shared_ptr<const penstock::Model> model;

  // body(members), of the type that the flow computes in.
  template <class Body>
  void visit(Body &&body) const {
    if (const auto *narrow = std::get_if<penstock::c::Members<float>>(&members)) {
      body(*narrow);
    } else {
      body(*std::get_if<penstock::c::Members<double>>(&members));
    }
  }
};

namespace penstock::c {

// The flow of a file. Throws what read_model throws, and Failure where the library does not compute it.
std::unique_ptr<penstock_flow> make_flow(Model model);

// The flow of other parameters of a single flow, trained ones.
template <class T>
std::unique_ptr<penstock_flow> with_params(const penstock_flow &flow, std::shared_ptr<const Packed<T>> packed);

}  // namespace penstock::c
