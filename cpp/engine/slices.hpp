// A batch is cut into slices of whole tiles, each of which has a gradient of its own; they add up by a binary tree. Cut and
// tree follow from the size of the batch alone, so that no bit depends on the number of threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "engine/layout.hpp"
#include "engine/packed.hpp"
#include "engine/pool.hpp"

namespace penstock {

inline int64_t tiles_of(int64_t rows) { return (rows + tile_rows - 1) / tile_rows; }

// Up to 4096 rows there are at most 16 slices, then one for each 256 rows, at most 64.
struct Slices {
  static constexpr int most = 64, most_of_few_rows = 16;

  explicit Slices(int64_t rows);
  int64_t first_tile(int64_t slice) const { return slice * tiles / n; }

  int64_t rows, tiles;
  int n;
};

// Nodes of the tree that some neighbouring slices make, at most: each size twice, on the way up and on the way down.
constexpr int most_nodes = 12;

// The first of n numbers becomes their sum, by the tree; 0 if there are none.
double combine_numbers(double *x, int n);

// Padded gradients of slices. No more than 16 exist at once: where there are more slices, finished neighbours are added up
// before the next ones begin.
template <class T>
class SliceGradients {
 public:
  static constexpr int most = 16;

  SliceGradients(const Plan &plan, int64_t rows) : plan_(plan) { reserve(rows); }
  SliceGradients(const SliceGradients &) = delete;
  SliceGradients &operator=(const SliceGradients &) = delete;
  ~SliceGradients();
  // Makes room for a batch of so many rows.
  void reserve(int64_t rows);

  // run(slice, gradient) for every slice; how many gradients are left to be combined.
  template <class Run>
  int run(const Slices &slices, int n_threads, Poll poll, const Run &run) {
    return run_all(slices.n, n_threads, poll, Call(run));
  }

  // run(slice, gradient) for slices first to last - 1; what the tree over all slices makes of these alone, in their order.
  template <class Run>
  std::vector<const T *> nodes(int first, int last, int n_threads, Poll poll, const Run &run) {
    return nodes_of(first, last, n_threads, poll, Call(run));
  }

  // The first of n gradients becomes their sum.
  void combine(int n, Poll poll);
  T *gradient(int i) { return reinterpret_cast<T *>(memory_->data()) + i * plan_.padded_size; }

 private:
  // The sum over n slices from the first on, a power of two of them but at the end, and where it stands.
  struct Sum {
    int first, n, buffer;
  };

  // A function, whatever its type: a copy of all of this for each would be code for nothing.
  struct Call {
    const void *function;
    void (*call)(const void *, int64_t, T *);
    template <class Run>
    explicit Call(const Run &run)
        : function(&run),
          call([](const void *f, int64_t slice, T *gradient) { (*static_cast<const Run *>(f))(slice, gradient); }) {}
    void operator()(int64_t slice, T *gradient) const { call(function, slice, gradient); }
  };
  int run_all(int n, int n_threads, Poll poll, const Call &run);
  std::vector<const T *> nodes_of(int first, int last, int n_threads, Poll poll, const Call &run);
  // Sums over slices begin to end - 1: nodes of the tree, or if these are whole, all slices, one.
  std::vector<Sum> sums_of(int begin, int end, bool whole, int n_threads, Poll poll, const Call &run);
  void meet(int first, const std::vector<int> &finished, bool last, std::vector<Sum> &sums, std::vector<int> &free,
            Poll poll);

  const Plan &plan_;
  std::unique_ptr<Aligned<char>> memory_;
};

}  // namespace penstock
