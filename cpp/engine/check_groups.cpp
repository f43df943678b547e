// Checks groups of columns: see check_groups.hpp.
#include "engine/check_groups.hpp"

#include <cstdint>
#include <vector>

#include "engine/record.hpp"

namespace penstock {
namespace {

using Column = Record<ColumnRecord>;

bool in_group(const Column &column) {
  return column[&ColumnRecord::map] == map_ordered || column[&ColumnRecord::map] == map_simplex;
}

// Open ends, none of a simplex, and a scale for each half-line: all members of an ordered group that has not both ends, but
// for the first one where it has none.
void check_member(const Column &column) {
  const bool first = column[&ColumnRecord::group] == no_index, simplex = column[&ColumnRecord::map] == map_simplex;
  column.is(&ColumnRecord::kind, column_line);
  column.is(&ColumnRecord::closed, 0);
  const int64_t ends = column[&ColumnRecord::ends];
  if (simplex) {
    column.is(&ColumnRecord::ends, 0);
  }
  const bool without = simplex || ends == (end_lower | end_upper) || (first && ends == 0);
  column.is(&ColumnRecord::n_buffers, without ? 0 : 1);
}

}  // namespace

void check_groups(const Table &table) {
  const int64_t n = size_of(table.columns);
  std::vector<int64_t> after(static_cast<size_t>(n), no_index);  // the member behind each
  int64_t n_members = 0, n_met = 0;
  const auto same_end = [&](int64_t a, int64_t b) {
    return a == b || (a != no_index && b != no_index &&
                      table.reals[static_cast<size_t>(a)] == table.reals[static_cast<size_t>(b)]);
  };
  for (int64_t i = 0; i < n; i++) {
    const Column column(table.columns, i);
    const int64_t before = column[&ColumnRecord::group];
    column.need(in_group(column) || before == no_index, &ColumnRecord::group, "is not of its map");
    if (!in_group(column)) {
      continue;
    }
    n_members++;
    check_member(column);
    if (before == no_index) {
      continue;
    }
    const ColumnRecord &own = table.columns[static_cast<size_t>(i)];
    const ColumnRecord &other = table.columns[static_cast<size_t>(before)];
    column.need(other.side == own.side && other.map == own.map && other.ends == own.ends &&
                    same_end(other.lo, own.lo) && same_end(other.hi, own.hi),
                &ColumnRecord::group, "names a column of another group");
    int64_t &follower = after[static_cast<size_t>(before)];
    column.need(follower == no_index, &ColumnRecord::group, "names a column that another one follows");
    follower = i;
  }
  for (int64_t i = 0; i < n; i++) {
    const Column column(table.columns, i);
    if (in_group(column) && column[&ColumnRecord::group] == no_index) {
      for (int64_t j = i; j != no_index; j = after[static_cast<size_t>(j)]) {
        n_met++;
      }
    }
  }
  if (n_met != n_members) {
    fail("COLUMNS: a group without a first column");
  }
}

}  // namespace penstock
