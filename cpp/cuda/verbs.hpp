// The verbs of Engine on a device: the same arguments, results and bits. Arrays are of the host, or all of the device in use,
// which are then read and written where they are, in the order of the current stream.
#pragma once

#include <memory>
#include <vector>

#include "cuda/image.hpp"
#include "engine/engine.hpp"
#include "engine/mixture.hpp"

namespace penstock::cuda {

template <class T>
std::shared_ptr<Packed<T>> packed(const Engine<T> &engine, const T *params, const double *buffers);

template <class T>
void evaluate(const Engine<T> &engine, const Packed<T> &packed, const Range &range, const Batch &batch,
              const ExternalTheta<T> *thetas, const RowsOut<T> &out, RowValues values, Poll poll);
template <class T>
void sample(const Engine<T> &engine, const Packed<T> &packed, const Draws &draws, const Context &context, int64_t rows,
            const RowsOut<T> &out, RowValues log_prob, Poll poll);
template <class T>
void latents(const Engine<T> &engine, const Packed<T> &packed, const Draws &draws, const Components &components,
             const Context &context, int64_t rows, const RowsOut<T> &out, double *log_weight, Poll poll);
template <class T>
void latents_vjp(const Engine<T> &engine, const Packed<T> &packed, const Draws &draws, const Components &components,
                 const Context &context, int64_t rows, const T *d_out, const T *d_log_weight, double *params,
                 Poll poll);
template <class T>
void vjp(const Engine<T> &engine, const Packed<T> &packed, const Range &range, const Batch &batch,
         const ExternalTheta<T> *thetas, RowValues values, const Cotangents<T> &cotangents, Poll poll);
template <class T>
LossSums loss_and_grad(const Engine<T> &engine, const Packed<T> &packed, const Batch &batch,
                       const SampleWeights &weights, double *params, Poll poll);
template <class T>
void evaluate_many(const std::vector<Member<T>> &members, const Batch &batch, const MixtureValues &out, Poll poll);
template <class T>
void sample_many(const std::vector<Member<T>> &members, const Draws &draws, const Context &context, int64_t rows,
                 const RowsOut<T> &out, Poll poll);

// Shared memory that a block takes for rows of a flow, in bytes: to evaluate, or for gradients.
template <class T>
int64_t shared_bytes(const Engine<T> &engine, bool gradient);

}  // namespace penstock::cuda
