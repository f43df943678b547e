// The JSON texts of a model file: of the spec what its reader can tell without compiling it, of the history and the
// provenance whether they are ones. Faults are in the words of src/penstock/files/.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace penstock {

inline constexpr size_t members_most = 1 << 12;

// The entries of the spec of one flow, as far as they are read here.
struct FlowHead {
  std::string fault;  // what is wrong with it, empty where nothing is
  std::string dtype;
  int64_t context_dim = 0;
};

struct SpecHead {
  bool ensemble = false;
  std::vector<FlowHead> flows;  // one, or those of the members
};

// The spec of a file of `size` bytes. The constructor throws std::invalid_argument where it is none of this format; what is
// wrong with its entries comes later, since the hash of the file is checked between.
class SpecReader {
 public:
  SpecReader(std::string_view spec, size_t size);
  // Throws what is wrong with the list of members; what is wrong with a flow stands in its head.
  const SpecHead &head() const;

 private:
  SpecHead head_;
  std::string fault_;
  std::vector<std::string> entries_;  // beside the version and the members
};

// Throw std::invalid_argument.
void check_history(std::string_view history);
void check_provenance(std::string_view provenance);

// The histories of n members, each as it stands; empty where there is none.
std::vector<std::string_view> member_histories(std::string_view history, size_t n);

// The spec and the provenance of a file that a library of this version writes.
std::string stamped_spec(std::string_view spec, std::string_view version);
std::string stamped_provenance(const std::optional<std::string> &provenance, std::string_view version);

}  // namespace penstock
