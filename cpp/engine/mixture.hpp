// A mixture of flows: log-densities of all members and of their weighted mean in one call, gradients of it, and draws. Members agree in
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

template <class T>
Batch for_member(const Member<T> &member, Batch batch) {
  if (member.context_part != nullptr) {
    batch.context.part = member.context_part;
  }
  return batch;
}

// Members that count: those of weight 0 do not, unless they are asked by themselves.
template <class T>
std::vector<int64_t> counting(const std::vector<Member<T>> &members, bool all) {
  std::vector<int64_t> numbers;
  for (size_t k = 0; k < members.size(); k++) {
    if (all || members[k].weight > 0) {
      numbers.push_back(static_cast<int64_t>(k));
    }
  }
  return numbers;
}

// Where results go, or null: log p (rows), and of all members, (members, rows), log p_k and the shares r_k.
struct MixtureValues {
  RowValues log_p;
  double *each = nullptr, *shares = nullptr;
};

// Where log p and its gradients go, or null: of the rows and of contexts of their own, (rows, context_dim); or of the one context
// that all rows share, the sum over rows, (context_dim), added to.
template <class T>
struct MixtureGradients {
  RowValues log_p;
  RowsOut<T> x{}, context{};
  double *context_sum = nullptr;
};

// Items are member times tile, so that a few rows keep several threads busy.
template <class T>
void evaluate_many(const std::vector<Member<T>> &members, const Batch &batch, const MixtureValues &out, Poll poll);

// The gradients of log p are those of the members, each from its share as the cotangent, rounded to T, and summed in float64 in
// the order of the members. Nothing is held for the whole batch.
template <class T>
void gradients_many(const std::vector<Member<T>> &members, const Batch &batch, const MixtureGradients<T> &out,
                    Poll poll);

// The rows of draws that are those of each member that counts: of the first whose sum of weights lies above the chance of a draw.
template <class T>
std::vector<std::vector<int64_t>> rows_of_members(const std::vector<Member<T>> &members, const Draws &draws,
                                                  const Context &context, int64_t rows, Poll poll);

// Each draw is that of one member, by the same number; which one follows from the number and the seed alone.
template <class T>
void sample_many(const std::vector<Member<T>> &members, const Draws &draws, const Context &context, int64_t rows,
                 const RowsOut<T> &out, Poll poll);

}  // namespace penstock
