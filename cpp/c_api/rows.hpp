// Arrays of C as the engine takes them: sizes checked, pointers lent, and rows of results of another type than the flow's
// brought to the caller's by a buffer.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <type_traits>

#include "c_api/flow.hpp"
#include "c_api/status.hpp"
#include "engine/engine.hpp"
#include "engine/floating_point.hpp"
#include "engine/workspace.hpp"

namespace penstock::c {

inline void check_count(const char *name, int64_t n) {
  if (n < 0) {
    wrong(name, "be at least 0, got " + std::to_string(n));
  }
}

// n rows, of which each has so many numbers and begins `stride` numbers behind the last, lie in memory that can be.
inline void check_extent(const char *name, int64_t n, int64_t columns, int64_t stride) {
  constexpr int64_t most = int64_t{1} << 59;
  int64_t numbers = 0;
  if (n < 2) {
    return;
  }
  if (__builtin_mul_overflow(n - 1, stride, &numbers) || numbers > most - columns || numbers < columns - most) {
    wrong("n", "be smaller: " + std::to_string(n) + " rows of " + name + ", " + std::to_string(stride) +
                   " numbers apart, are more than memory holds");
  }
}

template <class C>
RowsView rows_in(const char *name, int64_t n, int64_t columns, const C *x, int64_t stride) {
  if (n > 0) {
    needed(name, x);
  }
  check_extent(name, n, columns, stride);
  constexpr auto size = static_cast<int64_t>(sizeof(C));
  return {reinterpret_cast<const char *>(x), (n > 1 ? stride : columns) * size, size, sizeof(C)};
}

// Of an output that may be NULL.
template <class C>
void check_rows_out(const char *name, int64_t n, int64_t columns, const C *rows, int64_t stride) {
  if (rows == nullptr || n < 2) {
    return;
  }
  if (stride < columns && stride > -columns) {
    wrong(std::string(name) + "_stride", "be at least " + std::to_string(columns) +
                                             ", the numbers of a row, so that rows do not overlap, got " +
                                             std::to_string(stride));
  }
  check_extent(name, n, columns, stride);
}

template <class C>
void check_values_out(const char *name, int64_t n, const C *values) {
  if (values != nullptr) {
    check_extent(name, n, 1, 1);
  }
}

// The context of n rows: none, one for all, or one a row.
template <class C>
Context context_of(const penstock_flow &flow, int64_t n, const C *context, int64_t stride) {
  if (flow.context_dim == 0) {
    if (context != nullptr) {
      fail(PENSTOCK_ERROR_ARGUMENT,
           "context was given, but this flow has none (context_dim=0): a flow has no targets, and one that depends on "
           "other variables is built for so many of them, as penstock.nsf_ar(dim, context_dim=1)");
    }
    return {};
  }
  if (context == nullptr && n > 0) {
    wrong("context", "be given: this flow has context_dim=" + std::to_string(flow.context_dim));
  }
  const bool shared = n > 1 && stride == 0;
  return {rows_in("context", n, flow.context_dim, context, stride), shared ? n : 1, shared};
}

// An array of rows, with the name of the argument.
template <class C>
struct NamedRows {
  const char *name;
  const C *data;
  int64_t stride;
};

template <class C>
Batch batch_of(const penstock_flow &flow, int64_t n, const NamedRows<C> &x, const C *context, int64_t context_stride) {
  check_count("n", n);
  return {rows_in(x.name, n, flow.dim, x.data, x.stride), n, context_of(flow, n, context, context_stride)};
}

// Those of the rows from number `first` on, `count` of them.
inline Context part_of(const Context &context, int64_t first, int64_t count) {
  Context part = context;
  if (context.shared) {
    part.block = count;
  } else if (part.rows.data != nullptr) {
    part.rows.data += first * part.rows.row_stride;
  }
  return part;
}

inline Batch part_of(const Batch &batch, int64_t first, int64_t count) {
  Batch part = batch;
  part.x.data += first * part.x.row_stride;
  part.rows = count;
  part.context = part_of(batch.context, first, count);
  return part;
}

// Whether an output is one of two inputs.
template <class C>
bool one_of(const C *output, const C *x, const C *context) {
  return output != nullptr && (output == x || output == context);
}

// A latent side and parameters of its own are what an ensemble has not.
inline void refuse_ensemble(const penstock_flow &flow, const char *verb) {
  if (flow.model->ensemble) {
    fail(PENSTOCK_ERROR_UNSUPPORTED, std::string("an ensemble has no ") + verb +
                                         ": its members have latent sides and parameters of their own; "
                                         "ensemble.members are flows");
  }
}

// Room to work in: that of the thread for one row, which then asks for no memory.
class Room {
 public:
  Room(int64_t bytes, bool one_row) {
    if (one_row) {
      at_ = static_cast<char *>(lend_block(level, bytes));
    } else {
      own_ = std::make_unique_for_overwrite<char[]>(static_cast<size_t>(bytes));
      at_ = own_.get();
    }
  }
  template <class T>
  static int64_t size(int64_t n) {
    return (n * static_cast<int64_t>(sizeof(T)) + 15) / 16 * 16;
  }
  // The next n numbers.
  template <class T>
  T *take(int64_t n) {
    T *const taken = reinterpret_cast<T *>(at_);
    at_ += size<T>(n);
    return taken;
  }

 private:
  static constexpr size_t level = 15;  // the engine's own blocks are as many as polls are inside of each other
  std::unique_ptr<char[]> own_;
  char *at_;
};

// Rows of results of type T on their way to the caller's array of C: straight into it; or through a buffer, some rows at a
// time, where types differ, or where an input lies there, which is read until all is computed.
template <class T, class C>
class Output {
 public:
  Output(C *to, int64_t stride, int64_t columns, bool apart)
      : to_(to), stride_(stride), columns_(columns), buffered_(to != nullptr && (apart || !std::is_same_v<T, C>)) {}

  bool wanted() const { return to_ != nullptr; }
  // Bytes of a buffer for so many rows.
  int64_t needs(int64_t rows) const { return buffered_ ? Room::size<T>(rows * columns_) : 0; }
  void take(Room &room, int64_t rows) { buffer_ = buffered_ ? room.take<T>(rows * columns_) : nullptr; }

  // Where rows from number `first` on go, ...
  RowsOut<T> rows(int64_t first) const {
    if constexpr (std::is_same_v<T, C>) {
      if (!buffered_) {
        return {to_ != nullptr ? to_ + first * stride_ : nullptr, stride_};
      }
    }
    return {buffer_, columns_};
  }
  // ... one number each.
  RowValues values(int64_t first) const { return {rows(first).data, sizeof(T)}; }

  // They are there.
  void finish(int64_t first, int64_t count) const {
    if (!buffered_) {
      return;
    }
    const DefaultFloatingPoint environment;
    for (int64_t r = 0; r < count; r++) {
      const T *from = buffer_ + r * columns_;
      std::transform(from, from + columns_, to_ + (first + r) * stride_, [](T x) { return static_cast<C>(x); });
    }
  }

 private:
  C *to_;
  int64_t stride_, columns_;
  bool buffered_;
  T *buffer_ = nullptr;
};

// body(first, count) for n rows, as many at a time as have room for so many bytes each.
template <class Body>
void in_parts(int64_t n, int64_t bytes_a_row, Body &&body) {
  constexpr int64_t most = int64_t{1} << 21;
  const int64_t together = bytes_a_row > 0 ? std::max<int64_t>(most / bytes_a_row, 1) : n;
  for (int64_t first = 0; first < n; first += std::min(together, n - first)) {
    body(first, std::min(together, n - first));
  }
}

}  // namespace penstock::c
