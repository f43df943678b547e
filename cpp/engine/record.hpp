// Reading records of a plan table with a check: faults name section, record and field. For table.cpp and the checkers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/codes.hpp"

namespace penstock {

constexpr int64_t dim_most = int64_t{1} << 24, context_dim_most = int64_t{1} << 20;
constexpr int64_t width_most = int64_t{1} << 20;   // of a hidden layer, and of what any layer reads
constexpr int64_t output_most = int64_t{1} << 24;  // of a network
constexpr int64_t count_most = int64_t{1} << 40;   // no count or offset of a real flow comes near

[[noreturn]] inline void fail(const std::string &what) { throw std::invalid_argument("plan table: " + what); }

inline std::string expected(int64_t value, int64_t lo, int64_t hi) {
  const std::string is = "is " + std::to_string(value);
  return lo == hi ? is + ", not " + std::to_string(lo)
                  : is + ", expected " + std::to_string(lo) + " to " + std::to_string(hi);
}

template <class R>
int64_t size_of(const std::vector<R> &records) {
  return static_cast<int64_t>(records.size());
}

// One record, whose fields are read with a check.
template <class R>
class Record {
 public:
  using Field = int64_t R::*;
  Record(const std::vector<R> &records, int64_t number)
      : record_(records[static_cast<size_t>(number)]), number_(number) {}

  int64_t operator[](Field field) const { return record_.*field; }
  int64_t number() const { return number_; }

  [[noreturn]] void fault(Field field, const std::string &what) const {
    const auto address = [](const auto &x) { return reinterpret_cast<const char *>(&x); };
    const auto at = static_cast<size_t>(address(record_.*field) - address(record_)) / sizeof(int64_t);
    fail(std::string(section_names[R::section]) + " " + std::to_string(number_) + ": " + R::names[at] + " " + what);
  }
  void need(bool fine, Field field, const char *what) const {
    if (!fine) {
      fault(field, what);
    }
  }
  // A field from lo to hi, both included.
  int64_t within(Field field, int64_t lo, int64_t hi) const {
    const int64_t value = record_.*field;
    if (value < lo || value > hi) {
      fault(field, expected(value, lo, hi));
    }
    return value;
  }
  int64_t is(Field field, int64_t value) const { return within(field, value, value); }
  void zero(std::initializer_list<Field> fields) const {
    for (const Field field : fields) {
      is(field, 0);
    }
  }
  // A code of a list of names.
  template <size_t n>
  int64_t code(Field field, const char *const (&)[n]) const {
    return within(field, 0, static_cast<int64_t>(n) - 1);
  }
  // Where count of size things begin.
  int64_t span(Field field, int64_t count, int64_t size, const char *what) const {
    const int64_t at = record_.*field;
    if (at < 0 || at > size || count > size - at) {
      fault(field, std::string("lies outside ") + what);
    }
    return at;
  }

 private:
  const R &record_;
  int64_t number_;
};

struct Slice {
  int64_t start, count;
};

// Whether slices fill [0, size) without overlap, in any order. Empty ones may lie anywhere.
inline bool covers(std::vector<Slice> slices, int64_t size) {
  std::sort(slices.begin(), slices.end(), [](const Slice &a, const Slice &b) { return a.start < b.start; });
  int64_t used = 0;
  for (const Slice &slice : slices) {
    if (slice.count == 0) {
      continue;
    }
    if (slice.start != used || slice.count > size - used) {
      return false;
    }
    used += slice.count;
  }
  return used == size;
}

// A list of INTS.
struct List {
  const int64_t *data;
  int64_t size;
  const int64_t *begin() const { return data; }
  const int64_t *end() const { return data + size; }
  int64_t operator[](int64_t i) const { return data[i]; }
  bool lies_within(int64_t lo, int64_t hi) const {
    return std::all_of(begin(), end(), [=](int64_t value) { return value >= lo && value <= hi; });
  }
  bool operator==(const List &other) const { return std::equal(begin(), end(), other.begin(), other.end()); }
};

// The list of count numbers that a field points to.
template <class R>
List list_of(const std::vector<int64_t> &ints, const Record<R> &record, int64_t R::*field, int64_t count) {
  return {ints.data() + record.span(field, count, size_of(ints), "INTS"), count};
}

// Marks numbers of [0, size) that were met.
class Seen {
 public:
  explicit Seen(int64_t size) : seen_(static_cast<size_t>(size)) {}
  // False at the first number of a list that is out of range or was met before.
  bool meet(List list) {
    for (const int64_t value : list) {
      if (value < 0 || value >= static_cast<int64_t>(seen_.size()) || seen_[static_cast<size_t>(value)] != 0) {
        return false;
      }
      seen_[static_cast<size_t>(value)] = 1;
      count_++;
    }
    return true;
  }
  bool all() const { return count_ == static_cast<int64_t>(seen_.size()); }

 private:
  std::vector<char> seen_;
  int64_t count_ = 0;
};

inline bool is_permutation(List list) {
  Seen seen(list.size);
  return seen.meet(list);
}

}  // namespace penstock
