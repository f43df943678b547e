// A mixture of flows: log-densities of all members and of their weighted mean in one call, and draws of it. Members agree in
// dimensions; plans may differ.
#pragma once

#include <vector>

#include "engine/engine.hpp"

namespace penstock {

template <class T>
struct Member {
  const Engine<T> *engine;
  const Packed<T> *packed;
  const void *context_part;  // of the one context that the packed numbers have, or null
  double weight, log_weight;
};

// Where results go, or null: log p (rows), and of all members, (members, rows), log p_k and the shares r_k.
struct MixtureValues {
  RowValues log_p;
  double *each = nullptr, *shares = nullptr;
};

// Items are member times tile, so that a few rows keep several threads busy.
template <class T>
void evaluate_many(const std::vector<Member<T>> &members, const Batch &batch, const MixtureValues &out, Poll poll);

// Each draw is that of one member, by the same number; which one follows from the number and the seed alone.
template <class T>
void sample_many(const std::vector<Member<T>> &members, const Draws &draws, const Context &context, int64_t rows,
                 const RowsOut<T> &out, Poll poll);

}  // namespace penstock
