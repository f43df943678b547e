// Sums over slices of a batch, in an order that depends on the size of the batch alone.
#pragma once

#include "engine/layout.hpp"
#include "engine/pool.hpp"

namespace penstock {

inline constexpr int most_slices = 16;

// The first of n padded gradients becomes their sum, by the fixed tree.
template <class T>
void combine_gradients(const Plan &plan, T *gradients, int n, Poll poll);

// The same for n numbers; 0 if there are none.
double combine_numbers(double *x, int n);

}  // namespace penstock
