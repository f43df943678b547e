// The engine without Python: tables checked, every single number of one perturbed, batches of all sizes inside guard
// bands, gradients against differences, the same bits for every number of threads, and calls that a poll stops.
#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "check.hpp"
#include "engine/engine.hpp"
#include "engine/trainer.hpp"
#include "make_table.hpp"

namespace {

using namespace penstock;

constexpr int dim = 3;

// Free theta, a permutation, and an MLP and a residual MLP, whose explicit direction is the other one, dense and masked.
std::vector<int64_t> table(int64_t item_size) {
  const std::vector<int64_t> plain{0, 1, 2}, turned{2, 0, 1};
  return table_of(
      item_size, dim,
      {{.kind = step_elementwise, .n_theta = 2, .theta = theta_free, .b = plain},
       {.kind = step_permutation},
       {.kind = step_coupling, .n_theta = 2, .theta = theta_network, .a = {2, 0}, .b = {1}, .widths = {2, 7, 2}},
       {.kind = step_coupling,
        .explicit_to_data = 1,
        .transform = 1,
        .n_theta = 1,
        .theta = theta_residual,
        .activation = act_silu,
        .a = {1},
        .b = {2, 0},
        .widths = {1, 5, 5, 5, 2}},
       {.kind = step_autoregressive,
        .n_theta = 2,
        .theta = theta_network,
        .b = {1, 0, 2},
        .widths = {2, 8, 2, 6},
        .degrees = {1, 1, 1, 1, 2, 2, 2, 2, 0, 1}},
       {.kind = step_autoregressive,
        .explicit_to_data = 1,
        .transform = 1,
        .n_theta = 1,
        .theta = theta_residual,
        .activation = act_silu,
        .b = {2, 1, 0},
        .widths = {2, 3, 3, 3},
        .degrees = {0, 1, 2, 0, 1, 2}},
       {.kind = step_columns}},
      {plain, plain, turned, turned, turned, turned, turned, turned});
}

// External theta before and after a coupling, in both of its directions, and beside free theta.
std::vector<int64_t> external_table(int64_t item_size) {
  const std::vector<int64_t> plain{0, 1, 2};
  return table_of(
      item_size, dim,
      {{.kind = step_elementwise, .explicit_to_data = 1, .n_theta = 2, .theta = theta_external, .b = plain},
       {.kind = step_coupling, .n_theta = 2, .theta = theta_network, .a = {2, 0}, .b = {1}, .widths = {2, 7, 2}},
       {.kind = step_elementwise, .n_theta = 2, .theta = theta_free, .b = plain},
       {.kind = step_elementwise, .transform = 1, .n_theta = 1, .theta = theta_external, .b = {2, 1}},
       {.kind = step_columns}},
      {plain, plain, plain, plain, plain, plain});
}

// A context of two numbers, through an embedding of three to a coupling and to a step that reads nothing else.
std::vector<int64_t> conditional_table(int64_t item_size) {
  const std::vector<int64_t> plain{0, 1, 2};
  return table_of(item_size, dim,
                  {{.kind = step_elementwise,
                    .n_theta = 2,
                    .theta = theta_network,
                    .activation = act_tanh,
                    .b = plain,
                    .widths = {3, 4, 6}},
                   {.kind = step_coupling,
                    .explicit_to_data = 1,
                    .n_theta = 2,
                    .theta = theta_network,
                    .a = {2},
                    .b = {1},
                    .widths = {4, 7, 2}},
                   {.kind = step_columns}},
                  {plain, plain, plain, plain}, 2, {2, 5, 3});
}

// A line, a circle, a box and another circle: in couplings, in autoregressive steps of both directions, with theta free and
// external, and an LU step on lines alone.
std::vector<int64_t> table_of_kinds(int64_t item_size) {
  const std::vector<int64_t> plain{0, 1, 2, 3};
  const std::vector<StepSpec> steps{{.kind = step_elementwise, .n_theta = 2, .theta = theta_free, .b = {0, 1, 2, 3}},
                                    {.kind = step_coupling,
                                     .transform = 1,
                                     .n_theta = 1,
                                     .theta = theta_network,
                                     .activation = act_tanh,
                                     .a = {1, 0},
                                     .b = {3, 2},
                                     .widths = {3, 5, theta_of_circle + theta_of_box}},
                                    {.kind = step_coupling,
                                     .explicit_to_data = 1,
                                     .n_theta = 2,
                                     .theta = theta_network,
                                     .activation = act_tanh,
                                     .a = {3},
                                     .b = {1, 0},
                                     .widths = {2, 5, theta_of_circle + 2}},
                                    {.kind = step_autoregressive,
                                     .n_theta = 2,
                                     .theta = theta_network,
                                     .activation = act_silu,
                                     .b = {1, 2, 0, 3},
                                     .widths = {4, 6, theta_of_circle + theta_of_box + 2 + theta_of_circle},
                                     .degrees = {0, 1, 1, 2, 2, 3}},
                                    {.kind = step_autoregressive,
                                     .explicit_to_data = 1,
                                     .n_theta = 2,
                                     .theta = theta_residual,
                                     .activation = act_tanh,
                                     .b = {3, 1, 0, 2},
                                     .widths = {5, 4, 4, theta_of_circle + theta_of_circle + 2 + theta_of_box},
                                     .degrees = {1, 1, 2, 3, 1, 1, 2, 3}},
                                    {.kind = step_columns}};
  return table_of(item_size, 4, steps, std::vector(steps.size() + 1, plain), 0, {},
                  {column_line, column_circle, column_box, column_circle});
}

// The same kinds with external theta.
std::vector<int64_t> external_table_of_kinds(int64_t item_size) {
  const std::vector<int64_t> plain{0, 1, 2, 3};
  return table_of(
      item_size, 4,
      {{.kind = step_elementwise, .n_theta = 2, .theta = theta_external, .b = {2, 0, 3, 1}}, {.kind = step_columns}},
      {plain, plain, plain}, 0, {}, {column_line, column_circle, column_box, column_circle});
}

Table table_from(const std::vector<int64_t> &words) {
  return decode_table(words.data(), static_cast<int64_t>(words.size()));
}

template <class T>
std::vector<T> numbers(int64_t n, uint64_t seed, double size = 1) {
  Random random{seed};
  std::vector<T> x(static_cast<size_t>(n));
  for (T &v : x) {
    v = static_cast<T>(random.uniform(-size, size));
  }
  return x;
}

std::vector<double> buffers_of(int64_t n) {
  std::vector<double> buffers(static_cast<size_t>(2 * n), 0.25);
  for (size_t i = buffers.size() / 2; i < buffers.size(); i++) {
    buffers[i] = 1.5 + 0.1 * static_cast<double>(i);
  }
  return buffers;
}

// Of any plan: loc, scale, and numbers that a column has of its own, m and s of a box.
std::vector<double> buffers_of(const Plan &plan) {
  std::vector<double> buffers = buffers_of(plan.dim + plan.context_dim);
  buffers.resize(static_cast<size_t>(plan.n_buffers), 0.4);
  for (const MappedColumn &column : plan.mapped()) {
    const auto at = static_cast<size_t>(column.column);
    buffers[at] = 0;
    buffers[at + static_cast<size_t>(plan.dim + plan.context_dim)] = 1;
  }
  return buffers;
}

template <class T>
Batch rows_of(const std::vector<T> &x, int64_t columns) {
  const auto item = static_cast<int64_t>(sizeof(T));
  return {{reinterpret_cast<const char *>(x.data()), columns * item, item, sizeof(T)},
          static_cast<int64_t>(x.size()) / std::max<int64_t>(columns, 1)};
}

// Everything an engine does with a batch; a hash of all the results.
template <class T>
uint64_t everything(const Engine<T> &engine, int64_t rows) {
  const Plan &plan = engine.plan();
  const int64_t d = plan.dim, n_theta = plan.external_features;
  const size_t n_externals = plan.externals.size();
  const Packed<T> packed(plan, numbers<T>(plan.n_params, 1, 0.7).data(), buffers_of(plan).data());
  const std::vector<T> x = numbers<T>(rows * d, 2), theta = numbers<T>(rows * n_theta, 3),
                       bar = numbers<T>(rows * d, 4), log_det_bar = numbers<T>(rows, 5);
  std::vector<ExternalTheta<T>> thetas, shared_thetas;
  for (const External &external : plan.externals) {
    thetas.push_back({theta.data() + external.offset * rows, false});
    shared_thetas.push_back({theta.data() + external.offset * rows, true});
  }
  const bool some = n_externals > 0 && rows > 0;
  // a context for each row, one for each half of them, and one for all; all of them the same where there is none
  const std::vector<T> context = numbers<T>(rows * plan.context_dim, 6);
  const RowsView view = rows_of(context, plan.context_dim).x;
  std::vector<Context> contexts{{view, 1, false}};
  if (plan.context_dim > 0 && rows > 1) {
    contexts.push_back({view, rows, true});
    if (rows % 2 == 0) {
      contexts.push_back({view, rows / 2, false});
    }
  }
  Hash all;
  const auto take = [&](const auto &guarded) {
    guarded.check();
    for (const auto v : guarded.numbers()) {
      all.add(v);
    }
  };
  for (const Context &given : contexts) {
    if (plan.context_dim == 0) {
      break;
    }
    const Batch batch{rows_of(x, d).x, rows, given};
    const int64_t n_sums = given.shared ? 1 : rows / std::max<int64_t>(given.block, 1);
    Guarded<T> log_p(rows), d_x(rows * d), d_context(rows * plan.context_dim), draws(rows * d);
    Guarded<double> d_params(plan.n_params), sums(n_sums * plan.context_dim);
    const Range range{0, plan.n_steps, false, true};
    engine.evaluate(packed, range, batch, nullptr, nullptr, {log_p.data(), sizeof(T)}, nullptr);
    Cotangents<T> cotangents;
    cotangents.value = log_det_bar.data();
    cotangents.x = d_x.data();
    Guarded<T> again(rows);
    engine.vjp(packed, range, batch, nullptr, {again.data(), sizeof(T)}, cotangents, nullptr);
    again.check();
    CHECK(hash(again.numbers()) == hash(log_p.numbers()));
    cotangents.context = d_context.data();
    cotangents.params = d_params.data();
    engine.vjp(packed, range, batch, nullptr, {}, cotangents, nullptr);
    cotangents.context = nullptr;
    cotangents.context_sum = sums.data();
    engine.vjp(packed, range, batch, nullptr, {}, cotangents, nullptr);
    engine.sample(packed, {9, 0, 0}, given, rows, draws.data(), nullptr, nullptr);
    const double loss = engine.loss_and_grad(packed, batch, {}, d_params.data(), nullptr).loss;
    take(log_p), take(d_x), take(d_context), take(d_params), take(sums), take(draws);
    all.add(loss);
  }
  if (plan.context_dim > 0) {
    return all.value;
  }
  for (const bool to_data : {false, true}) {
    const Range range{0, plan.n_steps, to_data, !to_data};
    Guarded<T> out(rows * d), log_det(rows), d_x(rows * d), d_theta(rows * n_theta);
    Guarded<double> wide(rows), d_params(plan.n_params), theta_sum(n_theta);
    engine.evaluate(packed, range, rows_of(x, d), thetas.data(), out.data(), {log_det.data(), sizeof(T)}, nullptr);
    engine.evaluate(packed, range, rows_of(x, d), thetas.data(), nullptr, {wide.data(), sizeof(double)}, nullptr);
    std::vector<ExternalGradient<T>> gradients, sums;
    for (const External &external : plan.externals) {
      gradients.push_back({d_theta.data() + external.offset * rows, nullptr});
      sums.push_back({nullptr, theta_sum.data() + external.offset});
    }
    Cotangents<T> cotangents;
    cotangents.out = to_data ? bar.data() : nullptr;
    cotangents.value = log_det_bar.data();
    cotangents.x = d_x.data();
    cotangents.params = d_params.data();
    cotangents.thetas = gradients.data();
    Guarded<T> again(rows);
    engine.vjp(packed, range, rows_of(x, d), thetas.data(), {again.data(), sizeof(T)}, cotangents, nullptr);
    again.check();
    CHECK(hash(again.numbers()) == hash(log_det.numbers()));
    if (some) {
      cotangents = {};
      cotangents.value = log_det_bar.data();
      cotangents.thetas = sums.data();
      engine.vjp(packed, range, rows_of(x, d), shared_thetas.data(), {}, cotangents, nullptr);
    }
    take(out), take(log_det), take(wide), take(d_x), take(d_params), take(d_theta), take(theta_sum);
  }
  if (n_theta == 0) {
    Guarded<T> draws(rows * d), density(rows);
    Guarded<double> d_params(plan.n_params);
    engine.sample(packed, {9, 0, 0}, {}, rows, draws.data(), density.data(), nullptr);
    const LossSums sums = engine.loss_and_grad(packed, rows_of(x, d), {}, d_params.data(), nullptr);
    CHECK(sums.weight == static_cast<double>(rows));
    take(draws), take(density), take(d_params);
    all.add(sums.loss);
  }
  return all.value;
}

template <class T>
uint64_t train(int64_t rows, int64_t steps, double &first, double &last) {
  const auto engine = std::make_shared<Engine<T>>(table_from(table(sizeof(T))));
  const std::vector<T> start = numbers<T>(engine->plan().n_params, 1, 0.7), x = numbers<T>(rows * dim, 2);
  Trainer<T> trainer(engine, start.data(), buffers_of(dim).data(), {0.9, 0.999, 1e-8, 1e-4, 5.0, true}, {});
  const int64_t batch = (rows + steps - 1) / steps;
  const std::vector<double> rates(static_cast<size_t>(steps), 1e-2);
  Guarded<double> losses(steps), norms(steps);
  for (uint64_t epoch = 1; epoch <= 3; epoch++) {
    CHECK(trainer.run(rows_of(x, dim), {}, 1.0, {7, epoch, rows, batch, 0}, (rows + batch - 1) / batch, rates.data(),
                      losses.data(), norms.data(), nullptr) == (rows + batch - 1) / batch);
    first = epoch == 1 ? losses.data()[0] : first;
    last = losses.data()[0];
  }
  losses.check();
  norms.check();
  return hash(std::vector<T>(trainer.params(), trainer.params() + engine->plan().n_params));
}

template <class T>
void batches_and_threads() {
  for (const std::vector<int64_t> &numbers : {table(sizeof(T)), external_table(sizeof(T)), conditional_table(sizeof(T)),
                                              table_of_kinds(sizeof(T)), external_table_of_kinds(sizeof(T))}) {
    Engine<T> engine(table_from(numbers));
    for (const int64_t rows : {0, 1, 2, 63, 64, 65, 1000, 6000}) {
      uint64_t wanted = 0;
      for (const int n : {1, 2, 3, 5}) {
        set_num_threads(n);
        for (const int recompute : {0, 1}) {
          engine.recompute = recompute;
          const uint64_t got = everything(engine, rows);
          CHECK((n == 1 && recompute == 0) || got == wanted);
          wanted = got;
        }
      }
    }
  }
  uint64_t wanted = 0;
  for (const int n : {1, 2, 3, 5}) {
    set_num_threads(n);
    double first = 0, last = 0;
    const uint64_t got = train<T>(4000, 4, first, last);
    CHECK(last < first && (n == 1 || got == wanted));
    wanted = got;
  }
}

// Gradients of sum_i c_i log p(x_i) against differences, and the way there and back.
void gradients(const std::vector<int64_t> &words, double tolerance) {
  const Engine<double> engine(table_from(words));
  const Plan &plan = engine.plan();
  const int64_t rows = 70, dim = plan.dim;
  std::vector<double> params = numbers<double>(plan.n_params, 1, 0.7), x = numbers<double>(rows * dim, 2);
  const std::vector<double> c = numbers<double>(rows, 3), buffers = buffers_of(plan);
  const Range range{0, plan.n_steps, false, true};
  const auto value = [&] {
    std::vector<double> log_p(rows);
    engine.evaluate(Packed<double>(plan, params.data(), buffers.data()), range, rows_of(x, dim), nullptr, nullptr,
                    {log_p.data(), sizeof(double)}, nullptr);
    double sum = 0;
    for (size_t i = 0; i < log_p.size(); i++) {
      sum += c[i] * log_p[i];
    }
    return sum;
  };
  std::vector<double> d_x(x.size()), d_params(params.size());
  const Packed<double> packed(plan, params.data(), buffers.data());
  engine.vjp(packed, range, rows_of(x, dim), nullptr, {}, {nullptr, c.data(), d_x.data(), d_params.data()}, nullptr);
  const auto compare = [&](double &v, double gradient) {
    const double old = v, h = 1e-6;
    v = old + h;
    const double above = value();
    v = old - h;
    const double below = value();
    v = old;
    CHECK(std::fabs((above - below) / (2 * h) - gradient) < 1e-5 * (1 + std::fabs(gradient)));
  };
  for (size_t i = 0; i < params.size(); i++) {
    compare(params[i], d_params[i]);
  }
  for (size_t i = 0; i < x.size(); i += 11) {
    compare(x[i], d_x[i]);
  }

  std::vector<double> z(x.size()), back(x.size()), there(rows), again(rows);
  engine.evaluate(packed, {0, plan.n_steps, false, false}, rows_of(x, dim), nullptr, z.data(),
                  {there.data(), sizeof(double)}, nullptr);
  engine.evaluate(packed, {0, plan.n_steps, true, false}, rows_of(z, dim), nullptr, back.data(),
                  {again.data(), sizeof(double)}, nullptr);
  for (size_t i = 0; i < x.size(); i++) {
    const size_t r = i / static_cast<size_t>(dim);
    CHECK(std::fabs(back[i] - x[i]) < tolerance && std::fabs(there[r] + again[r]) < tolerance);
  }
}

// No single wrong number may do worse than be refused, or be another plan that runs.
template <class T>
void corrupt_tables() {
  set_num_threads(1);
  for (const std::vector<int64_t> &good : {table(sizeof(T)), external_table(sizeof(T)), conditional_table(sizeof(T)),
                                           table_of_kinds(sizeof(T)), external_table_of_kinds(sizeof(T))}) {
    for (size_t i = 0; i < good.size(); i++) {
      const int64_t v = good[i];
      for (const int64_t bad :
           {v + 1, v - 1, -v, int64_t{0}, int64_t{2}, int64_t{3}, int64_t{1} << 20, int64_t{1} << 33,
            std::numeric_limits<int64_t>::max(), std::numeric_limits<int64_t>::min()}) {
        std::vector<int64_t> table = good;
        table[i] = bad;
        bool refused = false;
        try {
          const Engine<T> engine(table_from(table));
          everything(engine, 3);
        } catch (const std::invalid_argument &) {
          refused = true;
        }
        CHECK(i != 0 || refused || bad == v);
      }
    }
    for (size_t n = 0; n < good.size(); n++) {  // cut off, also with a length that fits
      std::vector<int64_t> table(good.begin(), good.begin() + static_cast<int64_t>(n));
      if (n > 3) {
        table[3] = static_cast<int64_t>(n);
      }
      bool refused = false;
      try {
        const Engine<T> engine(table_from(table));
      } catch (const std::invalid_argument &) {
        refused = true;
      }
      CHECK(refused);
    }
  }
}

bool interrupted(const auto &call) {
  try {
    call();
  } catch (const Interrupted &) {
    return true;
  }
  return false;
}

// One tile of wide networks takes longer than a call may go on after a poll said stop.
void stopped_within_a_tile() {
  const std::vector<int64_t> plain{0, 1, 2};
  std::vector<StepSpec> steps(8, {.kind = step_coupling,
                                  .n_theta = 2,
                                  .theta = theta_network,
                                  .a = {2, 0},
                                  .b = {1},
                                  .widths = {2, 2048, 2048, 2}});
  steps.push_back({.kind = step_columns});
  const Engine<float> engine(table_from(table_of(4, dim, steps, std::vector(steps.size() + 1, plain))));
  const std::vector<double> x(tile_rows * dim, 0.5), buffers = buffers_of(dim);
  const std::vector<float> params(static_cast<size_t>(engine.plan().n_params), 1e-3F);
  const Packed<float> packed(engine.plan(), params.data(), buffers.data());
  std::vector<double> d_params(params.size());
  set_num_threads(1);
  CHECK(interrupted([&] { engine.loss_and_grad(packed, rows_of(x, dim), {}, d_params.data(), [] { return true; }); }));
}

void stopped_by_a_poll() {
  const auto engine = std::make_shared<Engine<double>>(table_from(table(8)));
  const Plan &plan = engine->plan();
  const int64_t rows = 1 << 22;  // no call ends before the first poll
  const std::vector<double> x(static_cast<size_t>(rows) * dim, 0.5), buffers = buffers_of(dim),
                                                                     params = numbers<double>(plan.n_params, 1, 0.7);
  const Packed<double> packed(plan, params.data(), buffers.data());
  const Poll stop = [] { return true; };
  const int64_t steps = rows / 64;
  const std::vector<double> rates(static_cast<size_t>(steps), 1e-3);
  std::vector<double> losses(rates), norms(rates), out(x.size()), d_params(params.size());
  for (const int n : {1, 3}) {
    set_num_threads(n);
    CHECK(interrupted([&] { engine->sample(packed, {1, 0, 0}, {}, rows, out.data(), nullptr, stop); }));
    CHECK(interrupted([&] { engine->loss_and_grad(packed, rows_of(x, dim), {}, d_params.data(), stop); }));
    Trainer<double> trainer(engine, params.data(), buffers.data(), {0.9, 0.999, 1e-8, 0, 5.0, false}, {});
    CHECK(interrupted([&] {
      trainer.run(rows_of(x, dim), {}, 1.0, {1, 1, rows, 64, 0}, steps, rates.data(), losses.data(), norms.data(),
                  stop);
    }));
    CHECK(trainer.step() < steps);
  }
  for (const double g : d_params) {
    CHECK(g == 0);  // a stopped call adds nothing
  }
}

}  // namespace

int main() {
  gradients(table(8), 1e-12);
  gradients(table_of_kinds(8), 1e-9);
  corrupt_tables<double>();
  corrupt_tables<float>();
  batches_and_threads<float>();
  batches_and_threads<double>();
  stopped_by_a_poll();
  stopped_within_a_tile();
  return 0;
}
