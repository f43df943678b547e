// Decodes a plan table: header, directory, sections. See table.hpp; check.cpp checks the records.
#include "engine/table.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <iterator>
#include <string>
#include <unordered_set>

#include "engine/check.hpp"
#include "engine/record.hpp"
#include "transforms/list.hpp"

namespace penstock {
namespace {

constexpr int64_t record_size_most = 4096;
constexpr int64_t n_sections_known = std::size(section_names);

// The words of a section.
struct Words {
  const int64_t *data = nullptr;
  int64_t count = 0, size = 0;  // records, words a record
};

// Header and directory, and of each known section its records.
class Sections {
 public:
  Sections(const int64_t *words, int64_t length) : words_(words), length_(length) {
    check_header();
    const int64_t n = words[4];
    int64_t used = table_header_size + table_entry_size * n;
    std::unordered_set<int64_t> tags;
    for (int64_t i = 0; i < n; i++) {
      const int64_t *entry = words + table_header_size + table_entry_size * i;
      if (!tags.insert(entry[0]).second) {
        fail(called(entry[0]) + " comes twice");
      }
      used = enter(entry, used);
    }
    if (used != length) {
      fail("sections end at " + std::to_string(used) + ", the table at " + std::to_string(length));
    }
    for (int64_t i = 0; i < n_sections_known; i++) {
      if (found_[i].data == nullptr) {
        fail(std::string(section_names[i]) + " is missing");
      }
    }
  }

  const Words &of(Section section) const { return found_[section]; }

  template <class R>
  void read(std::vector<R> &records) const {
    const Words &words = found_[R::section];
    records.resize(static_cast<size_t>(words.count));
    for (int64_t i = 0; i < words.count; i++) {
      std::memcpy(&records[static_cast<size_t>(i)], words.data + i * words.size, sizeof(R));
    }
  }

 private:
  static std::string called(int64_t tag) {
    return tag >= 1 && tag <= n_sections_known ? section_names[tag - 1] : "section " + std::to_string(tag);
  }

  void check_header() const {
    if (length_ < table_header_size || words_[0] != table_magic) {
      fail("this is none");
    }
    if (words_[1] != table_version) {
      fail("version " + std::to_string(words_[1]) + ", this build reads version " + std::to_string(table_version));
    }
    if (words_[2] < 1) {
      fail("revision is " + std::to_string(words_[2]) + ", expected at least 1");
    }
    if (words_[3] != length_) {
      fail("its header says length " + std::to_string(words_[3]) + ", it has " + std::to_string(length_));
    }
    if (words_[5] != 0 || words_[6] != 0 || words_[7] != 0) {
      fail("a reserved word of the header is not 0");
    }
    if (words_[4] < 0 || words_[4] > (length_ - table_header_size) / table_entry_size) {
      fail(std::to_string(words_[4]) + " sections do not fit into it");
    }
  }

  // One entry of the directory, whose section begins where the one before it ended; where it ends.
  int64_t enter(const int64_t *entry, int64_t used) {
    const int64_t tag = entry[0], required = entry[1], offset = entry[2], count = entry[3], size = entry[4];
    const bool known = tag >= 1 && tag <= n_sections_known;
    if (required < 0 || required > 1 || entry[5] != 0) {
      fail(called(tag) + ": required must be 0 or 1, and the reserved word 0");
    }
    const int64_t most = known && tag - 1 == section_boundary ? dim_most : record_size_most;
    if (size < 1 || size > most || count < 0 || count > length_) {
      fail(called(tag) + ": " + std::to_string(count) + " records of " + std::to_string(size) + " words");
    }
    if (offset != used || count > (length_ - used) / size) {
      fail(called(tag) + " does not follow the section before it, or ends beyond the table");
    }
    if (known) {
      enter_known(static_cast<Section>(tag - 1), required, {words_ + offset, count, size});
    } else if (required != 0) {
      fail(called(tag) + " is required and unknown to this build");
    }
    return used + count * size;
  }

  void enter_known(Section section, int64_t required, const Words &words) {
    const std::string name = section_names[section];
    const int64_t n_fields = section_fields[section];
    if (required == 0) {
      fail(name + " must be required");
    }
    const bool plain = section == section_ints || section == section_reals;
    if (words.size < n_fields || (plain && words.size != 1)) {
      fail(name + ": a record has " + std::to_string(words.size) + " words, expected " +
           std::to_string(std::max(n_fields, int64_t{1})));
    }
    for (int64_t i = 0; n_fields > 0 && i < words.count; i++) {
      for (int64_t j = n_fields; j < words.size; j++) {
        if (words.data[i * words.size + j] != 0) {
          fail(name + " " + std::to_string(i) + ": unknown fields are not 0");
        }
      }
    }
    found_[section] = words;
  }

  const int64_t *words_;
  int64_t length_;
  Words found_[n_sections_known];
};

uint64_t digest_of(const int64_t *words, int64_t length) {
  uint64_t hash = static_cast<uint64_t>(length);
  for (int64_t i = 0; i < length; i++) {  // the finaliser of SplitMix64 (Steele, Lea, Flood 2014) on each word
    uint64_t x = (hash ^ static_cast<uint64_t>(words[i])) + 0x9E3779B97F4A7C15U;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9U;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBU;
    hash = x ^ (x >> 31);
  }
  return hash;
}

}  // namespace

const std::vector<const char *> &transform_names() {
#define PENSTOCK_NAME(name, ...) #name,
  static const std::vector<const char *> names{PENSTOCK_TRANSFORMS(PENSTOCK_NAME)};
#undef PENSTOCK_NAME
  return names;
}

Table decode_table(const int64_t *words, int64_t length) {
  const Sections sections(words, length);
  Table table;
  table.length = length;
  table.digest = digest_of(words, length);
  std::vector<FlowRecord> flows;
  sections.read(flows);
  if (flows.size() != 1) {
    fail("FLOW: " + std::to_string(flows.size()) + " records, expected 1");
  }
  table.flow = flows[0];
  sections.read(table.columns);
  sections.read(table.base);
  sections.read(table.steps);
  sections.read(table.parts);
  sections.read(table.networks);
  sections.read(table.linears);
  sections.read(table.ranges);
  const auto numbers = [&sections](Section section) {
    const Words &found = sections.of(section);
    return std::vector<int64_t>(found.data, found.data + found.count * found.size);
  };
  const Words &boundary = sections.of(section_boundary);
  const auto n_steps = static_cast<int64_t>(table.steps.size());
  if (n_steps < 1) {
    fail("STEPS: no records");
  }
  if (boundary.count != n_steps + 1 || boundary.size != table.flow.dim) {
    fail("BOUNDARY: " + std::to_string(boundary.count) + " records of " + std::to_string(boundary.size) +
         " words, expected " + std::to_string(n_steps + 1) + " of " + std::to_string(table.flow.dim));
  }
  table.boundary = numbers(section_boundary);
  table.ints = numbers(section_ints);
  for (const int64_t word : numbers(section_reals)) {
    table.reals.push_back(std::bit_cast<double>(word));
  }
  check_table(table);
  return table;
}

}  // namespace penstock
