// Chunks of rows on their way to a device and back: three slots, each with a stream of its own, so that copies of one chunk run
// beside the kernels of another. A slot holds the arrays of one chunk twice, in pinned memory and on the device.
#pragma once

#include <algorithm>
#include <cstring>
#include <functional>
#include <optional>
#include <utility>

#include "cuda/device.hpp"
#include "engine/engine.hpp"

namespace penstock::cuda {

class Slot {
 public:
  // Where an array of n numbers lies; inputs first.
  template <class S>
  int64_t input(int64_t n) {
    const int64_t at = take<S>(n);
    inputs_ = size_;
    return at;
  }
  template <class S>
  int64_t output(int64_t n) {
    return take<S>(n);
  }
  // Room for what was asked for. Once it was, arrays are here, and there.
  void make_room() {
    if (!there_ || there_->size() < size_) {
      here_.reset();
      there_.reset();
      here_.emplace(size_);
      there_.emplace(size_);
    }
  }
  template <class S>
  S *here(int64_t at) {
    return reinterpret_cast<S *>(here_->data() + at);
  }
  template <class S>
  S *there(int64_t at) {
    return reinterpret_cast<S *>(there_->data() + at);
  }
  const Stream &stream() const { return *stream_; }

  void send() {
    stream_->wait(cuda::stream());  // what calls have brought by themselves
    if (inputs_ > 0) {
      copy(there_->data(), here_->data(), inputs_, *stream_);
    }
  }
  // Brings results back; then, when they are here, does something with them.
  void fetch(std::function<void()> then) {
    if (size_ > inputs_) {
      copy(here_->data() + inputs_, there_->data() + inputs_, size_ - inputs_, *stream_);
    }
    then_ = std::move(then);
  }
  // Ends what is under way, and empties the slot.
  void finish() {
    if (then_) {
      stream_->synchronise();
      std::exchange(then_, nullptr)();
    }
    size_ = inputs_ = 0;
  }
  ~Slot() {
    if (then_) {  // after a fault
      stream_->synchronise();
    }
  }

 private:
  template <class S>
  int64_t take(int64_t n) {
    constexpr int64_t alignment = 256;
    const int64_t at = size_;
    size_ += (n * static_cast<int64_t>(sizeof(S)) + alignment - 1) / alignment * alignment;
    return at;
  }

  OwnStream stream_;
  std::optional<Pinned<char>> here_;
  std::optional<Memory<char>> there_;
  int64_t size_ = 0, inputs_ = 0;
  std::function<void()> then_;
};

// body(slot, first, rows) for chunks of n rows, in order, each in the next slot; results of all are there at the end.
template <class Body>
void in_chunks(int64_t n, int64_t chunk, Poll poll, Body &&body) {
  Slot slots[3];
  PacedPoll paced(poll);
  int next = 0;
  for (int64_t first = 0; first < n; first += chunk) {
    if (paced.stops()) {
      throw Interrupted{};
    }
    Slot &slot = slots[next];
    slot.finish();
    body(slot, first, std::min(chunk, n - first));
    next = (next + 1) % 3;
  }
  for (int i = 0; i < 3; i++) {
    slots[(next + i) % 3].finish();
  }
}

// Rows of an array of so many columns, row_of(0), row_of(1), ..., side by side.
template <class RowOf>
void gather_rows(const RowsView &from, int64_t columns, int64_t rows, const RowOf &row_of, char *to) {
  constexpr int64_t piece = 1024;
  const int64_t size = from.item_size, length = columns * size;
  parallel((rows + piece - 1) / piece, rows > 4 * piece ? 256 : 1, nullptr, [&](int64_t p) {
    for (int64_t i = p * piece; i < std::min(rows, (p + 1) * piece); i++) {
      const char *row = from.data + row_of(i) * from.row_stride;
      char *out = to + i * length;
      if (from.column_stride == size) {
        std::memcpy(out, row, static_cast<size_t>(length));
      } else if (size == 4) {
        for (int64_t c = 0; c < columns; c++) {
          std::memcpy(out + c * 4, row + c * from.column_stride, 4);
        }
      } else {
        for (int64_t c = 0; c < columns; c++) {
          std::memcpy(out + c * 8, row + c * from.column_stride, 8);
        }
      }
    }
  });
}

// Rows of results to where the caller wants them.
template <class T>
void scatter_rows(const T *from, int64_t columns, int64_t rows, const RowsOut<T> &to) {
  for (int64_t r = 0; r < rows; r++) {
    std::copy_n(from + r * columns, columns, to.data + r * to.stride);
  }
}

}  // namespace penstock::cuda
