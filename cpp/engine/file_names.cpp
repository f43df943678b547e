// Names and shapes of tensors: see file_names.hpp. src/penstock/plan.py gives the same ones.
#include "engine/file_names.hpp"

#include <algorithm>
#include <utility>

namespace penstock {
namespace {

// Appends names as parameters are met.
class Names {
 public:
  explicit Names(const Table &table) : table_(table) {}

  void add_step(size_t number) {
    const StepRecord &step = table_.steps[number];
    const std::string prefix = "layers." + std::to_string(number) + ".";
    if (step.kind == step_lu_linear) {
      add(prefix + "lu", {step.n_b, step.n_b});
      add(prefix + "bias", {step.n_b});
      return;
    }
    bool first = true;
    for (int64_t i = step.part; i < step.part + step.n_parts; i++) {
      const PartRecord &part = table_.parts[static_cast<size_t>(i)];
      if (part.source == source_free) {
        const char *transform = transform_names()[static_cast<size_t>(part.transform)];
        add(prefix + "theta" + (first ? "" : std::string("_") + transform), {part.n_members, part.n_theta});
        first = false;
      }
    }
    if (step.network != no_index && step.n_parts > 0) {
      add_network(step.network, prefix + "conditioner.");
    }
  }

  void add_network(int64_t number, const std::string &prefix) {
    const NetworkRecord &network = table_.networks[static_cast<size_t>(number)];
    for (int64_t i = 0; i < network.n_linears; i++) {
      const LinearRecord &linear = table_.linears[static_cast<size_t>(network.linear + i)];
      const std::string own = prefix + std::to_string(i);
      add(own + ".weight", {linear.n_in, linear.n_out});
      if (linear.bias != no_index) {
        add(own + ".bias", {linear.n_out});
      }
    }
  }

  void add_block(const BaseRecord &block, const std::string &prefix) {
    const int64_t n = block.n_dims;
    if (block.source == source_network) {
      add_network(block.network, prefix + "conditioner.");
    } else if (block.source == source_free && block.kind == base_normal) {
      add(prefix + "mean", {n});
      add(prefix + "log_scale", {n});
    } else if (block.source == source_free && block.kind == base_student_t) {
      add(prefix + "log_df", {n});
    } else if (block.source == source_free && block.kind == base_gaussian_mixture) {
      const int64_t components = block.n_params / (1 + 2 * n);
      add(prefix + "logit", {components});
      add(prefix + "mean", {components, n});
      add(prefix + "log_scale", {components, n});
    }
  }

  std::vector<TensorName> names;

 private:
  void add(std::string name, std::vector<int64_t> shape) { names.push_back({std::move(name), std::move(shape)}); }

  const Table &table_;
};

}  // namespace

std::vector<TensorName> buffer_names(const Table &table) {
  const int64_t dim = table.flow.dim, context_dim = table.flow.context_dim;
  std::vector<TensorName> names{{"standardize.loc", {dim}}, {"standardize.scale", {dim}}};
  if (context_dim > 0) {
    names.push_back({"context.loc", {context_dim}});
    names.push_back({"context.scale", {context_dim}});
  }
  const int64_t own = table.flow.n_buffers - 2 * (dim + context_dim);
  if (own > 0) {
    names.push_back({"support.numbers", {own}});
  }
  return names;
}

std::vector<TensorName> parameter_names(const Table &table, const std::vector<int64_t> &blocks) {
  Names found(table);
  for (size_t k = 0; k < table.steps.size(); k++) {
    found.add_step(k);
  }
  if (table.flow.embedding != no_index) {
    found.add_network(table.flow.embedding, "embedding.");
  }
  // Circles and boxes are all that a block can act on that does not count.
  int64_t spare = std::count_if(table.columns.begin(), table.columns.begin() + table.flow.dim,
                                [](const ColumnRecord &column) { return column.kind != column_line; });
  int64_t next = 0;
  for (const BaseRecord &block : table.base) {
    if (block.source == source_fixed) {
      next++;
      continue;
    }
    const auto own = std::lower_bound(blocks.begin(), blocks.end(), next);
    const int64_t number = own == blocks.end() || *own - next > spare ? next : *own;
    spare -= number - next;
    found.add_block(block, "base." + std::to_string(number) + ".");
    next = number + 1;
  }
  return std::move(found.names);
}

bool has_buffers_of_format(const Table &table) {
  const int64_t dim = table.flow.dim, context_dim = table.flow.context_dim;
  int64_t own = 2 * (dim + context_dim);
  bool fine = true;
  for (size_t i = 0; i < table.columns.size(); i++) {
    const ColumnRecord &column = table.columns[i];
    const auto number = static_cast<int64_t>(i);
    const int64_t loc = number < dim ? number : dim + number;
    fine = fine && column.loc == loc && column.scale == loc + (number < dim ? dim : context_dim) &&
           (column.n_buffers == 0 || column.buffers == own);
    own += column.n_buffers;
  }
  return fine;
}

}  // namespace penstock
