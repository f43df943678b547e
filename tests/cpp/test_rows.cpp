// Rows into a tile and back against a plain loop, to the bit: every width, layout and number of rows, and nothing else
// touched. Arrays are exactly as long as their rows, so that the sanitizer sees what reads beyond.
#include <cmath>
#include <limits>

#include "check.hpp"
#include "isa/rows.hpp"

namespace penstock::PENSTOCK_ISA {
namespace {

// NaN counts as NaN; zeros have signs.
template <class T>
bool same(T a, T b) {
  return std::isnan(a) ? std::isnan(b) : a == b && std::signbit(a) == std::signbit(b);
}

// Of all sizes that From has, among them a few that are none.
template <class From>
std::vector<From> numbers(size_t n, uint64_t seed) {
  Random random{seed};
  const From wild[] = {std::numeric_limits<From>::infinity(), -std::numeric_limits<From>::infinity(),
                       std::numeric_limits<From>::quiet_NaN(), std::numeric_limits<From>::max(), From{-0.0}};
  std::vector<From> x(n);
  for (From &v : x) {
    v = static_cast<From>(random.uniform(-1, 1) * std::pow(10.0, random.uniform(-44, sizeof(From) == 4 ? 38 : 60)));
    if (random.uniform(0, 1) < 0.1) {
      v = wild[random() % 5];
    }
  }
  return x;
}

template <class T>
T rounded(double x) {
  const auto most = static_cast<double>(std::numeric_limits<T>::max());
  return static_cast<T>(std::isfinite(x) && std::fabs(x) > most ? std::copysign(most, x) : x);
}

struct Map {
  std::vector<double> loc, factor;
  explicit Map(int64_t n) : loc(static_cast<size_t>(n)), factor(static_cast<size_t>(n)) {
    Random random{9};
    for (size_t i = 0; i < loc.size(); i++) {
      loc[i] = random.uniform(-5, 5);
      factor[i] = std::exp(random.uniform(-2, 2));
    }
  }
};

// Slots in an order of their own, some of them free.
std::vector<int64_t> some_slots(int64_t n) {
  std::vector<int64_t> slots(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; i++) {
    slots[static_cast<size_t>(i)] = (n - 1 - i) * 2 + i % 2;
  }
  return slots;
}

// Rows `apart` rows of the array from each other (backwards if negative), columns `spread` numbers.
template <class T, class From, bool mapped>
void loads(int64_t n, int rows, int64_t apart, int64_t spread, bool by_index, bool by_slot, int stride) {
  const int64_t width = (n - 1) * spread + 1, steps = apart < 0 ? -apart : apart, before = by_index ? 0 : 3;
  const int64_t total = (before + rows - 1) * steps * width + width;
  std::vector<From> values = numbers<From>(static_cast<size_t>(total), static_cast<uint64_t>(n));
  std::vector<char> memory(static_cast<size_t>(total) * sizeof(From) + 1);  // unaligned
  std::memcpy(memory.data() + 1, values.data(), values.size() * sizeof(From));
  std::vector<int64_t> index(static_cast<size_t>(rows));
  for (int64_t r = 0; r < rows; r++) {
    index[static_cast<size_t>(r)] = (r * 7 + 2) % rows;
  }
  const int64_t row_stride = apart * width, start = apart < 0 ? total - width : 0;
  const auto item = static_cast<int64_t>(sizeof(From));
  const RowsView in{memory.data() + 1 + start * item, row_stride * item, spread * item, static_cast<int>(item)};
  const Map map(n);
  const std::vector<int64_t> slots = some_slots(n);
  const T untouched{-77};
  Guarded<T> tile(2 * n * stride, untouched);
  load_rows<T, From, mapped>(
      {n, by_slot ? slots.data() : nullptr, mapped ? map.loc.data() : nullptr, mapped ? map.factor.data() : nullptr},
      {in, by_index ? index.data() : nullptr, before, rows}, stride, tile.data());
  tile.check();
  std::vector<T> wanted(static_cast<size_t>(2 * n * stride), untouched);
  const int whole = stride == 1 ? 1 : whole_vectors<T>(rows);
  for (int64_t d = 0; d < n; d++) {
    for (int r = 0; r < whole; r++) {
      const int64_t last = r < rows ? r : rows - 1, row = by_index ? index[static_cast<size_t>(last)] : before + last;
      auto x = static_cast<double>(values[static_cast<size_t>(start + row * row_stride + d * spread)]);
      if (mapped) {
        x = (x - map.loc[static_cast<size_t>(d)]) * map.factor[static_cast<size_t>(d)];
      }
      wanted[static_cast<size_t>((by_slot ? slots[static_cast<size_t>(d)] : d) * stride + r)] = rounded<T>(x);
    }
  }
  for (size_t i = 0; i < wanted.size(); i++) {
    CHECK(same(tile.data()[i], wanted[i]));
  }
}

// Rows with `between` numbers between them, which stay as they are.
template <class T, bool mapped>
void stores(int64_t n, int rows, bool by_slot, int stride, int64_t between = 0) {
  const std::vector<T> tile = numbers<T>(static_cast<size_t>(2 * n * stride), static_cast<uint64_t>(n));
  const Map map(n);
  const std::vector<int64_t> slots = some_slots(n);
  const int64_t apart = n + between;
  const T untouched{-77};
  Guarded<T> out((rows - 1) * apart + n, untouched);
  store_rows<T, mapped>(
      {n, by_slot ? slots.data() : nullptr, mapped ? map.loc.data() : nullptr, mapped ? map.factor.data() : nullptr},
      tile.data(), rows, stride, {out.data(), apart});
  out.check();
  for (int64_t r = 0; r < rows; r++) {
    for (int64_t d = n; d < apart && r + 1 < rows; d++) {
      CHECK(out.data()[r * apart + d] == untouched);
    }
    for (int64_t d = 0; d < n; d++) {
      const auto at = static_cast<size_t>(d);
      const T u = tile[static_cast<size_t>((by_slot ? slots[at] : d) * stride + r)];
      CHECK(same(out.data()[r * apart + d],
                 mapped ? static_cast<T>(map.loc[at] + map.factor[at] * static_cast<double>(u)) : u));
    }
  }
}

template <class T, class From, bool mapped>
void all_loads(int64_t n, int rows) {
  for (const bool by_index : {false, true}) {
    for (const bool by_slot : {false, true}) {
      loads<T, From, mapped>(n, rows, 1, 1, by_index, by_slot, tile_stride);
      loads<T, From, mapped>(n, rows, 2, 1, by_index, by_slot, tile_stride);
      loads<T, From, mapped>(n, rows, -1, 1, by_index, by_slot, tile_stride);
      loads<T, From, mapped>(n, rows, 0, 1, by_index, by_slot, tile_stride);
      loads<T, From, mapped>(n, rows, 1, 2, by_index, by_slot, tile_stride);
    }
  }
  if (rows == 1) {
    loads<T, From, mapped>(n, 1, 1, 1, false, true, 1);
    loads<T, From, mapped>(n, 1, 1, 3, false, true, 1);
  }
}

template <class T>
void all(int64_t n) {
  for (const int rows : {1, 2, 7, 15, 17, 33, 63, 64}) {
    all_loads<T, float, false>(n, rows);
    all_loads<T, float, true>(n, rows);
    all_loads<T, double, false>(n, rows);
    all_loads<T, double, true>(n, rows);
    for (const bool by_slot : {false, true}) {
      stores<T, false>(n, rows, by_slot, tile_stride);
      stores<T, true>(n, rows, by_slot, tile_stride);
      stores<T, false>(n, rows, by_slot, tile_stride, 3);
      stores<T, true>(n, rows, by_slot, tile_stride, 1);
    }
  }
  stores<T, false>(n, 1, true, 1);
  stores<T, true>(n, 1, true, 1);
}

}  // namespace
}  // namespace penstock::PENSTOCK_ISA

int main() {
  using namespace penstock::PENSTOCK_ISA;
  for (int64_t n = 1; n <= 40; n++) {
    all<float>(n);
    all<double>(n);
  }
  return 0;
}
