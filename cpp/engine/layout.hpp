// A checked table as the kernels read it, and the sizes of workspaces, packed weights and gradients. Refuses by its name
// what a table may say and these kernels do not compute.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "core/tile.hpp"
#include "engine/masks.hpp"
#include "engine/table.hpp"

namespace penstock {

// A piece of one parameter tensor: where it lies in the flat vector and in a padded gradient. Rows that need no padding
// count as one long row.
struct Segment {
  int64_t flat, padded;
  int64_t rows;
  int columns, stride;
  bool decay, frozen;
  const Linear *linear;  // the layer whose W this is part of, or null
  int from, to;          // the rows of W that it holds
};

// Theta of a step that comes from an array of the caller's.
struct External {
  int step;
  int64_t n;       // numbers a row
  int64_t offset;  // features of Tile::theta before it
};

class Plan {
 public:
  // Both throw std::invalid_argument that names what is wrong with the table, or what is not computed.
  Plan(const int64_t *table, int64_t length) : Plan(decode_table(table, length)) {}
  explicit Plan(Table table);
  Plan(const Plan &) = delete;
  Plan &operator=(const Plan &) = delete;

  // One area for every step; or each its own, for the way back (see Pass::recompute).
  PlanView evaluation() const { return view(evaluation_steps_, evaluation_embedding_); }
  PlanView training(bool recompute) const {
    return recompute ? view(recompute_steps_, recompute_embedding_) : view(training_steps_, training_embedding_);
  }
  const int64_t *boundary(int k) const { return table_.boundary.data() + static_cast<int64_t>(k) * dim; }
  // Where the columns have their standardisation among the buffers, (dim) of the data and (context_dim) of the context.
  const std::vector<int64_t> &loc() const { return loc_; }
  const std::vector<int64_t> &scale() const { return scale_; }
  // Columns of the data with a support of their own, and where each has numbers of its own among the buffers, or no_index.
  const std::vector<MappedColumn> &mapped() const { return mapped_; }
  const std::vector<int64_t> &mapped_buffers() const { return mapped_buffers_; }
  // How many of them are no members of groups, which stand behind, each behind the one before it.
  int n_alone() const { return n_alone_; }
  // The same of columns of the context, which are in no groups.
  const std::vector<MappedColumn> &context_mapped() const { return context_mapped_; }
  const std::vector<int64_t> &context_mapped_buffers() const { return context_mapped_buffers_; }
  const std::vector<BaseBlock> &base_blocks() const { return base_; }
  // A hash of the table.
  uint64_t digest() const { return table_.digest; }

  int dim = 0, context_dim = 0, n_steps = 0, item_size = 0;
  int64_t n_params = 0, n_buffers = 0;
  int64_t panels_size = 0, padded_size = 0;                            // numbers
  int64_t evaluation_area = 0, training_kept = 0, recompute_kept = 0;  // numbers of the kept store
  int64_t theta_widest = 0;                                            // features of Tile::d_theta
  int64_t layer_widest = 0;   // features of a layer of a network, or of an LU step
  int64_t masked_widest = 0;  // features of all layers of a masked network
  int64_t starts_size = 0;    // numbers of Tile::starts
  bool embeds = false;        // whether a network stands between the context and the conditioners
  int n_features = 0;         // features of the columns of the context
  int n_context = 0;          // features of the context that conditioners read
  bool base_learns = false;   // whether the base has parameters
  std::vector<External> externals;
  int64_t external_features = 0;  // numbers of external theta a row, all steps
  double flops = 0;               // a row, one direction
  std::vector<Segment> segments;
  std::vector<int> lu_steps;  // numbers of the LU steps

 private:
  PlanView view(const std::vector<Step> &steps, const Step &embedding) const {
    return {dim,
            context_dim,
            n_steps,
            n_context,
            context_slots_.empty() ? nullptr : context_slots_.data(),
            steps.data(),
            embeds ? &embedding : nullptr,
            table_.boundary.data(),
            static_cast<int>(base_.size()),
            base_.data(),
            n_normals_,
            static_cast<int>(steps.size())};
  }

  void check_columns();
  MappedColumn mapped_column(const ColumnRecord &record) const;
  void map_context();
  void map_groups();
  void map_group(const std::vector<int64_t> &members);
  void lay_out_base();
  void lay_out_base_numbers();
  BaseBlock base_block(const BaseRecord &record);
  void lay_out_numbers(const BaseRecord &record, BaseBlock &block);
  void uniform_block(const BaseRecord &record, int32_t kind, BaseBlock &block);
  void read_ranges();
  Step lay_out(const StepRecord &record);
  void lay_out_lu(const StepRecord &record, Step &step);
  void lay_out_parts(const StepRecord &record, Step &step);
  void lay_out_runs(const StepRecord &record, Step &step);
  void check_transform(const PartRecord &part, int64_t slot) const;
  void lay_out_features(const int64_t *slots, int64_t n, Step &step);
  void lay_out_conditioner(const NetworkRecord &network, Step &step);
  void lay_out_network(const NetworkRecord &network, Step &step);
  void classify(const NetworkRecord &network, Step &step) const;
  void lay_out_linear(const LinearRecord &record, bool hidden, Step &step, int64_t &gradients);
  void mask_linear(const LinearRecord &record, const Step &step, Linear &linear);
  void add_weight_segments(const Linear &linear);
  void add_segments(const Segment &whole);
  void place_areas();
  std::vector<int> degrees(int64_t at, int64_t n) const;

  Table table_;
  std::vector<int64_t> loc_, scale_;
  std::vector<MappedColumn> mapped_;
  std::vector<int64_t> mapped_buffers_;
  int n_alone_ = 0;
  std::vector<MappedColumn> context_mapped_;
  std::vector<int64_t> context_mapped_buffers_;
  std::vector<int64_t> context_slots_;  // first feature of each column of the context; none if it has no circles
  std::vector<int32_t> kinds_;          // of each slot
  std::vector<BaseBlock> base_;
  std::deque<std::vector<int64_t>> base_dims_;  // which base blocks point into
  int n_normals_ = 0;
  std::deque<std::vector<Run>> runs_;  // which steps point into
  std::deque<std::vector<int>> features_;
  std::vector<RangeRecord> ranges_;  // neighbours with the same flags in one
  int64_t segment_numbers_ = 0;      // of W, at least
  std::vector<Linear> linears_;
  std::deque<MaskTables> masks_;  // which steps point into
  int64_t mask_bytes_ = 0;
  int64_t old_values_ = 0;  // numbers of the kept old values, all steps
  std::vector<Step> evaluation_steps_, training_steps_, recompute_steps_;
  Step evaluation_embedding_{}, training_embedding_{}, recompute_embedding_{};
};

}  // namespace penstock
