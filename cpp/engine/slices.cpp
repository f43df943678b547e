// Slices and their sums: see slices.hpp.
#include "engine/slices.hpp"

#include <algorithm>
#include <atomic>

#include "isa/dispatch.hpp"

namespace penstock {
namespace {

constexpr int64_t few_rows = 4096, slice_rows = 256;
constexpr int64_t piece = 8192;  // numbers of a gradient that one thread adds up at a time

// The memory of gradients that are done, for the next ones: where flows are fitted again and again, pages that the system
// clears for each fit would cost more than a step.
class Spare {
 public:
  static constexpr int64_t most = int64_t{64} << 20;  // bytes
  ~Spare() { delete memory_.exchange(nullptr); }
  std::unique_ptr<Aligned<char>> take() { return std::unique_ptr<Aligned<char>>(memory_.exchange(nullptr)); }
  void give(std::unique_ptr<Aligned<char>> memory) {
    if (memory != nullptr && memory->size() <= most) {
      delete memory_.exchange(memory.release());
    }
  }

 private:
  std::atomic<Aligned<char> *> memory_{nullptr};
};
Spare spare;

}  // namespace

Slices::Slices(int64_t rows) : rows(rows), tiles(tiles_of(rows)) {
  const int64_t wanted = rows <= few_rows ? std::min<int64_t>(most_of_few_rows, tiles)
                                          : std::min<int64_t>(most, (rows + slice_rows - 1) / slice_rows);
  n = static_cast<int>(wanted);
}

double combine_numbers(double *x, int n) {
  for (int step = 1; step < n; step *= 2) {
    for (int i = 0; i + step < n; i += 2 * step) {
      x[i] += x[i + step];
    }
  }
  return n > 0 ? x[0] : 0.0;
}

template <class T>
void SliceGradients<T>::reserve(int64_t rows) {
  const int64_t needed = std::min(Slices(rows).n, most) * plan_.padded_size * static_cast<int64_t>(sizeof(T));
  if (needed > (memory_ != nullptr ? memory_->size() : 0)) {
    memory_ = spare.take();
  }
  if (memory_ == nullptr || memory_->size() < needed) {
    memory_ = std::make_unique<Aligned<char>>(needed);
  }
}

template <class T>
SliceGradients<T>::~SliceGradients() {
  spare.give(std::move(memory_));
}

template <class T>
void SliceGradients<T>::combine(int n, Poll poll) {
  const int64_t size = plan_.padded_size;
  parallel((size + piece - 1) / piece, n > 1 ? 256 : 1, poll, [&](int64_t i) {
    kernels<T>().combine(gradient(0) + i * piece, size, n, std::min(piece, size - i * piece));
  });
}

template <class T>
int SliceGradients<T>::run_all(int n, int n_threads, Poll poll, const Call &run) {
  if (n <= most) {
    parallel(n, n_threads, poll, [&](int64_t s) { run(s, gradient(static_cast<int>(s))); });
    return n;
  }
  sums_of(0, n, true, n_threads, poll, run);
  return 1;
}

template <class T>
std::vector<const T *> SliceGradients<T>::nodes_of(int first, int last, int n_threads, Poll poll, const Call &run) {
  std::vector<const T *> found;
  for (const Sum &sum : sums_of(first, last, false, n_threads, poll, run)) {
    found.push_back(gradient(sum.buffer));
  }
  return found;
}

template <class T>
auto SliceGradients<T>::sums_of(int begin, int end, bool whole, int n_threads, Poll poll, const Call &run)
    -> std::vector<Sum> {
  std::vector<Sum> sums;
  std::vector<int> free;
  for (int i = std::min(most, end - begin) - 1; i >= 0; i--) {
    free.push_back(i);
  }
  for (int first = begin; first < end;) {
    const int n = std::min(end - first, static_cast<int>(free.size()));
    const std::vector<int> used(free.rbegin(), free.rbegin() + n);
    free.resize(free.size() - static_cast<size_t>(n));
    parallel(n, n_threads, poll, [&](int64_t i) { run(first + i, gradient(used[static_cast<size_t>(i)])); });
    meet(first, used, whole && first + n == end, sums, free, poll);
    first += n;
  }
  return sums;
}

// Adds up what the tree adds up of the gradients so far, those of slices from the first on being new: neighbouring sums over
// equally many that are the halves of one node, and at the end all.
template <class T>
void SliceGradients<T>::meet(int first, const std::vector<int> &finished, bool last, std::vector<Sum> &sums,
                             std::vector<int> &free, Poll poll) {
  std::vector<std::pair<int, int>> additions;  // of buffers, the second to the first
  const auto add_last = [&] {
    const Sum right = sums.back();
    sums.pop_back();
    sums.back().n += right.n;
    additions.emplace_back(sums.back().buffer, right.buffer);
    free.push_back(right.buffer);
  };
  const auto halves = [](const Sum &left, const Sum &right) {
    return left.n == right.n && left.first % (2 * left.n) == 0;
  };
  for (const int buffer : finished) {
    sums.push_back({first++, 1, buffer});
    while (sums.size() > 1 && halves(sums[sums.size() - 2], sums.back())) {
      add_last();
    }
  }
  while (last && sums.size() > 1) {
    add_last();
  }
  const int64_t size = plan_.padded_size;
  parallel((size + piece - 1) / piece, 256, poll, [&](int64_t i) {
    for (const auto &[to, from] : additions) {
      T *a = gradient(to) + i * piece;
      kernels<T>().combine(a, gradient(from) - gradient(to), 2, std::min(piece, size - i * piece));
    }
  });
}

template class SliceGradients<float>;
template class SliceGradients<double>;

}  // namespace penstock
