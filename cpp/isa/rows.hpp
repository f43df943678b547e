// Rows of arrays into a tile, and back: in square blocks that are transposed in registers where a row's numbers lie side
// by side, one number at a time otherwise, with the same bits. Nothing beyond a row is read, or beyond the last written.
#pragma once

#include "core/lanes.hpp"
#include "core/tile.hpp"

namespace penstock::PENSTOCK_ISA {

// The columns of an array: which feature of the tile each one is (in order if slots is null), and its map in float64,
// loaded as (x - loc) * factor and stored as loc + factor * u (none if loc is null).
struct Columns {
  int64_t n;
  const int64_t *slots;
  const double *loc, *factor;
  PENSTOCK_INLINE int64_t slot(int64_t i) const { return slots != nullptr ? slots[i] : i; }
};

// Rounded to T; what is finite stays so.
template <class T, class D>
PENSTOCK_INLINE D limit(D x) {
  if constexpr (sizeof(T) == 4) {
    const D most = splat<D>(3.4028234663852886e38), infinity = splat<D>(__builtin_inf());
    x = select((x > most) & (x < infinity), most, x);
    x = select((x < -most) & (x > -infinity), -most, x);
  }
  return x;
}

template <class T, int N>
struct LanesOf {
  using type = Vector<T, N>;
};
template <class T>
struct LanesOf<T, 1> {
  using type = T;
};
template <class T, int N>
using Lanes = typename LanesOf<T, N>::type;

// The doubles that a vector's numbers pass through, a register at a time: all of them, or one half and the other.
template <class V>
using Doubles = Lanes<double, (lanes<V> < lanes_native<double> ? lanes<V> : lanes_native<double>)>;

template <class V, int... J>
PENSTOCK_INLINE V join(typename Halves<V>::type a, typename Halves<V>::type b, Indices<J...>) {
  return __builtin_shufflevector(a, b, J...);
}

// Numbers d, d + 1, ... of a row.
template <class V, class From, bool mapped>
PENSTOCK_INLINE V read_row(const Columns &columns, const char *row, int64_t column_stride, int64_t d) {
  const char *p = row + d * column_stride;
  if constexpr (!mapped && sizeof(From) == sizeof(Element<V>)) {
    return load<V>(p);
  } else {
    using D = Doubles<V>;
    using Part = Lanes<Element<V>, lanes<D>>;
    const auto part = [&](int i) __attribute__((always_inline)) {
      D x = convert<D>(load<Lanes<From, lanes<D>>>(p + i * sizeof(From)));
      if constexpr (mapped) {
        x = (x - load<D>(columns.loc + d + i)) * load<D>(columns.factor + d + i);
      }
      return convert<Part>(limit<Element<V>>(x));
    };
    if constexpr (lanes<V> == lanes<D>) {
      return part(0);
    } else {
      return join<V>(part(0), part(lanes<D>), typename IndicesUpTo<lanes<V>>::type{});
    }
  }
}

// And back.
template <class V, bool mapped>
PENSTOCK_INLINE void write_row(const Columns &columns, V u, Element<V> *row, int64_t d) {
  if constexpr (!mapped) {
    store(row + d, u);
  } else {
    using D = Doubles<V>;
    Lanes<Element<V>, lanes<D>> parts[lanes<V> / lanes<D>];
    __builtin_memcpy(parts, &u, sizeof u);
    for (const auto &part : parts) {
      const D x = load<D>(columns.loc + d) + load<D>(columns.factor + d) * convert<D>(part);
      store(row + d, convert<Lanes<Element<V>, lanes<D>>>(x));
      d += lanes<D>;
    }
  }
}

// Where each of a tile's rows lies; lanes beyond the last row up to a whole vector repeat that row, so that they stay as
// harmless as it is.
struct RowPointers {
  const RowsView &in;
  const int64_t *index;  // the rows' numbers, or null: they follow from first_row
  int64_t first_row;
  int rows;
  PENSTOCK_INLINE const char *operator()(int r) const {
    r = r < rows ? r : rows - 1;
    return in.data + (index != nullptr ? index[r] : first_row + r) * in.row_stride;
  }
};

template <class T>
PENSTOCK_INLINE int whole_vectors(int rows) {
  return (rows + lanes_native<T> - 1) / lanes_native<T> * lanes_native<T>;
}

// The next tile's rows come into the cache while this one is at work. An address beyond the array does no harm.
PENSTOCK_INLINE void prefetch(const void *p, int64_t bytes) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(p) + static_cast<uintptr_t>(bytes);
  __builtin_prefetch(reinterpret_cast<const void *>(address), 0, 2);
}

// Blocks of as many rows and columns as V has lanes; V is a plain number where a row's numbers lie apart. The last block
// of a row begins where it ends with the row, and does some numbers twice.
template <class V, class From, bool mapped>
PENSTOCK_FUNCTION void load_blocks(const Columns &columns, const RowPointers &pointers, int stride, Element<V> *tile) {
  constexpr int W = lanes<V>;
  const RowsView &in = pointers.in;
  const int64_t ahead = pointers.index == nullptr ? tile_rows * in.row_stride : 0;
  const int rows = stride == 1 ? 1 : whole_vectors<Element<V>>(pointers.rows);
  for (int r = 0; r < rows; r += W) {
    const char *row[W];
    for (int i = 0; i < W; i++) {
      row[i] = pointers(r + i);
    }
    for (int64_t begin = 0; begin < columns.n; begin += W) {
      const int64_t d = begin + W <= columns.n ? begin : columns.n - W;
      V block[W];
#pragma GCC unroll 16
      for (int i = 0; i < W; i++) {
        block[i] = read_row<V, From, mapped>(columns, row[i], in.column_stride, d);
        if constexpr (W > 1) {
          prefetch(row[i], ahead + d * in.column_stride);
        }
      }
      transpose_block(block);
#pragma GCC unroll 16
      for (int i = 0; i < W; i++) {
        store(tile + columns.slot(d + i) * stride + r, block[i]);
      }
    }
  }
}

template <class V, bool mapped>
PENSTOCK_FUNCTION void store_blocks(const Columns &columns, const Element<V> *tile, int rows, int stride,
                                    const RowsOut<Element<V>> &out) {
  constexpr int W = lanes<V>;
  for (int r = 0; r < rows; r += W) {
    for (int64_t begin = 0; begin < columns.n; begin += W) {
      const int64_t d = begin + W <= columns.n ? begin : columns.n - W;
      V block[W];
#pragma GCC unroll 16
      for (int i = 0; i < W; i++) {
        block[i] = load<V>(tile + columns.slot(d + i) * stride + r);
      }
      transpose_block(block);
#pragma GCC unroll 16
      for (int i = 0; i < W; i++) {
        if (r + i < rows) {
          Element<V> *row = out.data + (r + i) * out.stride;
          write_row<V, mapped>(columns, block[i], row, d);
          if constexpr (W > 1) {
            prefetch(row, (tile_rows * out.stride + d) * static_cast<int64_t>(sizeof *row));
          }
        }
      }
    }
  }
}

// run(V{}) with the widest block that n columns fill; a plain number if the smallest is too wide.
template <class T, int W = lanes_native<T>, class Run>
PENSTOCK_INLINE void by_width(int64_t n, Run run) {
  if constexpr (W == 1) {
    run(T{});
  } else if (n >= W) {
    run(Vector<T, W>{});
  } else {
    by_width<T, (W * sizeof(T) > 16 ? W / 2 : 1)>(n, run);
  }
}

// stride: tile_stride, or 1 for one row.
template <class T, class From, bool mapped>
PENSTOCK_FUNCTION void load_rows(const Columns &columns, const RowPointers &pointers, int stride, T *tile) {
  const bool blocks = stride == tile_stride && pointers.in.column_stride == sizeof(From);
  by_width<T>(blocks ? columns.n : 1, [&](auto v) __attribute__((always_inline)) {
    load_blocks<decltype(v), From, mapped>(columns, pointers, stride, tile);
  });
}

template <class T, bool mapped>
PENSTOCK_FUNCTION void store_rows(const Columns &columns, const T *tile, int rows, int stride, const RowsOut<T> &out) {
  by_width<T>(stride == tile_stride ? columns.n : 1, [&](auto v) __attribute__((always_inline)) {
    store_blocks<decltype(v), mapped>(columns, tile, rows, stride, out);
  });
}

}  // namespace penstock::PENSTOCK_ISA
