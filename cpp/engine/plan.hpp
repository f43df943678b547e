// A checked plan: the table of src/penstock/plan.py turned into the structs that kernels read, and the sizes of workspaces.
#pragma once

#include <cstdint>
#include <vector>

#include "core/plan.hpp"

namespace penstock {

// A piece of one parameter tensor: where it lies in the flat vector and in a padded gradient. Rows that need no padding
// count as one long row.
struct Segment {
  int64_t flat, padded;
  int rows, columns, stride;
  bool decay;
  const Linear *linear;  // the layer whose W this is part of, or null
  int from, to;          // the rows of W that it holds
};

class Plan {
 public:
  // Throws std::invalid_argument that names what is wrong with the table.
  Plan(const int64_t *table, int64_t length);
  Plan(const Plan &) = delete;
  Plan &operator=(const Plan &) = delete;

  // One area for every step; or each its own, for the way back (see Pass::recompute).
  PlanView evaluation() const { return view(evaluation_steps_, evaluation_embedding_); }
  PlanView training(bool recompute) const {
    return recompute ? view(recompute_steps_, recompute_embedding_) : view(training_steps_, training_embedding_);
  }
  const int64_t *boundary(int k) const { return boundary_.data() + static_cast<int64_t>(k) * dim; }

  int dim = 0, context_dim = 0, n_steps = 0, item_size = 0;
  int64_t n_params = 0, n_buffers = 0;
  int64_t panels_size = 0, padded_size = 0;                            // numbers
  int64_t evaluation_area = 0, training_kept = 0, recompute_kept = 0;  // numbers of the kept store
  int64_t theta_widest = 0, layer_widest = 0;                          // features
  int64_t starts_size = 0;                                             // numbers of Tile::starts
  bool embeds = false;         // whether a network stands between the context and the conditioners
  int n_context = 0;           // features of the context that conditioners read
  int64_t external_theta = 0;  // numbers of external theta a row, 0 if there is none
  double flops = 0;            // a row, one direction
  std::vector<Segment> segments;
  std::vector<int> lu_steps;  // numbers of the LU steps

 private:
  PlanView view(const std::vector<Step> &steps, const Step &embedding) const {
    return {dim, context_dim, n_steps, n_context, steps.data(), embeds ? &embedding : nullptr, boundary_.data()};
  }

  std::vector<int64_t> table_;
  std::vector<int64_t> boundary_;
  std::vector<Linear> linears_;
  std::vector<Step> evaluation_steps_, training_steps_, recompute_steps_;
  Step evaluation_embedding_{}, training_embedding_{}, recompute_embedding_{};
};

// The names in list.hpp, in order.
const std::vector<const char *> &transform_names();

}  // namespace penstock
