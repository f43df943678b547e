// The checks of networks in a plan table: for check.cpp.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/record.hpp"
#include "engine/table.hpp"

namespace penstock {

// Degrees of a masked network: the highest, those of what it reads of a row, and those of its output.
struct Degrees {
  int64_t highest;
  std::vector<int64_t> inputs, outputs;
};

// Takes NETWORKS and LINEARS in the order in which steps, the embedding and the base claim them.
class NetworkChecker {
 public:
  using Network = Record<NetworkRecord>;

  explicit NetworkChecker(const Table &table) : table_(table) {}

  // Features of the context as the embedding reads it, and as other networks do.
  void set_context(int64_t n_features, int64_t n_context) {
    n_features_ = n_features;
    n_context_ = n_context;
  }

  // The next network, which a field of its owner names and which reads the context and n_read numbers of a row. degrees: null
  // unless it is masked.
  template <class R>
  Network check(const Record<R> &owner, int64_t R::*field, Role role, int64_t n_read, int64_t n_out,
                const Degrees *degrees) {
    owner.is(field, n_networks_);
    owner.need(n_networks_ < static_cast<int64_t>(table_.networks.size()), field, "goes beyond NETWORKS");
    const Network network(table_.networks, n_networks_++);
    check_network(network, role, n_read, n_out, degrees);
    return network;
  }

  int64_t n_networks() const { return n_networks_; }
  int64_t n_linears() const { return n_linears_; }

 private:
  using Linear = Record<LinearRecord>;

  // What the linear layers of a network can read: its input, its context, and the layers before.
  struct Readable {
    int64_t n_in, n_context, first;
    const Degrees *own;                                   // or null
    std::vector<int64_t> input_degrees, context_degrees;  // of a masked network
    std::vector<List> degrees;                            // of its layers so far
  };

  void check_network(const Network &network, Role role, int64_t n_read, int64_t n_out, const Degrees *degrees);
  void check_linears(const Network &network, const Degrees *degrees);
  void check_linear(const Linear &linear, int64_t i, bool last, const Network &network, const Readable &readable) const;
  void check_width(const Linear &linear, int64_t LinearRecord::*field, int64_t columns, int64_t i,
                   const Readable &readable) const;
  void check_degrees(const Linear &linear, bool last, Readable &readable) const;
  static int64_t source_of(const Linear &linear, int64_t LinearRecord::*field, int64_t i, const Readable &readable);
  int64_t width_of(int64_t source, const Readable &readable) const;
  static List degrees_of(int64_t source, const Readable &readable);

  const Table &table_;
  int64_t n_features_ = 0, n_context_ = 0;
  int64_t n_networks_ = 0, n_linears_ = 0;  // claimed so far
};

}  // namespace penstock
