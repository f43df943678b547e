// Flows: see flow.hpp.
#include "c_api/flow.hpp"

#include <cmath>
#include <limits>
#include <new>
#include <string>
#include <string_view>
#include <utility>

#include "c_api/library.hpp"
#include "c_api/status.hpp"
#include "engine/file_io.hpp"

namespace penstock::c {
namespace {

// Throws where these kernels do not compute what a table says, or nothing gives them theta that comes from outside.
template <class T>
std::shared_ptr<const Engine<T>> engine_of(const FileMember &member) {
  try {
    auto engine = std::make_shared<const Engine<T>>(member.table);
    engine->refuse_external_theta("a flow");
    return engine;
  } catch (const std::invalid_argument &error) {
    fail(PENSTOCK_ERROR_UNSUPPORTED, error.what());
  }
}

template <class T>
void set_mixture(const Model &model, Members<T> &members) {
  for (size_t k = 0; k < model.members.size(); k++) {
    const double weight = model.weights[k];
    const double log_weight = weight > 0 ? std::log(weight) : -std::numeric_limits<double>::infinity();
    members.mixture.push_back({members.engines[k].get(), members.packed[k].get(), nullptr, weight, log_weight});
  }
}

template <class T>
Members<T> members_of(const Model &model) {
  Members<T> members;
  for (const FileMember &member : model.members) {
    const auto &engine = members.engines.emplace_back(engine_of<T>(member));
    const auto &params = *std::get_if<std::vector<T>>(&member.params);
    members.packed.push_back(std::make_shared<const Packed<T>>(engine->plan(), params.data(), member.buffers.data()));
  }
  if (model.ensemble) {
    set_mixture(model, members);
  }
  return members;
}

// Columns of each simplex, each behind those that leave it less.
std::vector<std::vector<int64_t>> wholes(const Plan &plan) {
  std::vector<std::vector<int64_t>> found;
  const std::vector<MappedColumn> &mapped = plan.mapped();
  for (size_t i = static_cast<size_t>(plan.n_alone()); i < mapped.size(); i++) {
    if (mapped[i].map == map_simplex && mapped[i].opens) {
      found.emplace_back();
    }
    if (mapped[i].map == map_simplex) {
      found.back().push_back(mapped[i].column);
    }
  }
  return found;
}

}  // namespace

std::unique_ptr<penstock_flow> make_flow(Model model) {
  instruction_set();
  const FlowRecord &first = model.members.front().table.flow;
  auto flow = std::make_unique<penstock_flow>();
  flow->dim = first.dim;
  flow->context_dim = first.context_dim;
  if (std::holds_alternative<std::vector<double>>(model.members.front().params)) {
    flow->members = members_of<double>(model);
  } else {
    flow->members = members_of<float>(model);
  }
  if (!model.steps.empty()) {
    flow->visit([&](const auto &members) {
      flow->lattice = Lattice(model.steps, model.origins, wholes(members.engine().plan()));
    });
  }
  flow->model = std::make_shared<const Model>(std::move(model));
  return flow;
}

template <class T>
std::unique_ptr<penstock_flow> with_params(const penstock_flow &flow, std::shared_ptr<const Packed<T>> packed) {
  Model model = *flow.model;
  FileMember &member = model.members.front();
  auto &params = *std::get_if<std::vector<T>>(&member.params);
  params.assign(packed->params(), packed->params() + params.size());
  member.initialised = true;
  model.history.reset();
  auto made = std::make_unique<penstock_flow>(flow);
  std::get_if<Members<T>>(&made->members)->packed = {std::move(packed)};
  made->model = std::make_shared<const Model>(std::move(model));
  return made;
}

template std::unique_ptr<penstock_flow> with_params(const penstock_flow &, std::shared_ptr<const Packed<float>>);
template std::unique_ptr<penstock_flow> with_params(const penstock_flow &, std::shared_ptr<const Packed<double>>);

namespace {

// *flow becomes what body() makes, or NULL.
template <class Body>
penstock_status make(penstock_flow **flow, Body &&body) {
  if (flow != nullptr) {
    *flow = nullptr;
  }
  return guard([&] {
    needed("flow", flow);
    *flow = make_flow(body()).release();
  });
}

std::string bytes_of(const penstock_flow *flow) {
  needed("flow", flow);
  return write_model(*flow->model, penstock_version());
}

const char *name_at(const std::vector<std::string> &names, int64_t i) {
  return i >= 0 && i < static_cast<int64_t>(names.size()) ? names[static_cast<size_t>(i)].c_str() : nullptr;
}

}  // namespace
}  // namespace penstock::c

using namespace penstock::c;

penstock_status penstock_load(const char *path, penstock_flow **flow) {
  return make(flow, [&] {
    needed("path", path);
    return penstock::load_model(path);
  });
}

penstock_status penstock_load_bytes(const void *data, size_t size, penstock_flow **flow) {
  return make(flow, [&] {
    if (size > 0) {
      needed("data", data);
    }
    return penstock::read_model(data, size, "data");
  });
}

void penstock_free(penstock_flow *flow) { delete flow; }

penstock_status penstock_save(const penstock_flow *flow, const char *path) {
  return guard([&] {
    needed("flow", flow);
    needed("path", path);
    penstock::save_bytes(path, bytes_of(flow));
  });
}

penstock_status penstock_save_bytes(const penstock_flow *flow, void *data, size_t capacity, size_t *size) {
  return guard([&] {
    needed("size", size);
    const std::string bytes = bytes_of(flow);
    *size = bytes.size();
    if (data == nullptr) {
      return;
    }
    if (capacity < bytes.size()) {
      wrong("capacity",
            "be at least " + std::to_string(bytes.size()) + " for this flow, got " + std::to_string(capacity));
    }
    bytes.copy(static_cast<char *>(data), bytes.size());
  });
}

int64_t penstock_dim(const penstock_flow *flow) { return flow != nullptr ? flow->dim : 0; }

int64_t penstock_context_dim(const penstock_flow *flow) { return flow != nullptr ? flow->context_dim : 0; }

int penstock_dtype(const penstock_flow *flow) {
  if (flow == nullptr) {
    return 0;
  }
  return std::holds_alternative<Members<float>>(flow->members) ? PENSTOCK_FLOAT32 : PENSTOCK_FLOAT64;
}

int64_t penstock_n_members(const penstock_flow *flow) {
  return flow != nullptr ? static_cast<int64_t>(flow->model->members.size()) : 0;
}

const char *penstock_column_name(const penstock_flow *flow, int64_t i) {
  return flow != nullptr ? name_at(flow->model->columns, i) : nullptr;
}

const char *penstock_context_column_name(const penstock_flow *flow, int64_t i) {
  return flow != nullptr ? name_at(flow->model->context_columns, i) : nullptr;
}
