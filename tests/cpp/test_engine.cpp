// The engine without Python: tables checked, every single number of one perturbed, batches of all sizes inside guard
// bands, gradients against differences, steps of training, the same bits for every number of threads, and calls that a poll stops.
#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "engine/trainer.hpp"
#include "engines.hpp"

namespace {

using namespace penstock;

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
    engine.evaluate(packed, range, batch, nullptr, {}, {log_p.data(), sizeof(T)}, nullptr);
    Cotangents<T> cotangents;
    cotangents.value = log_det_bar.data();
    cotangents.x = {d_x.data(), d};
    Guarded<T> again(rows);
    engine.vjp(packed, range, batch, nullptr, {again.data(), sizeof(T)}, cotangents, nullptr);
    again.check();
    CHECK(hash(again.numbers()) == hash(log_p.numbers()));
    cotangents.context = {d_context.data(), plan.context_dim};
    cotangents.params = d_params.data();
    engine.vjp(packed, range, batch, nullptr, {}, cotangents, nullptr);
    cotangents.context = {};
    cotangents.context_sum = sums.data();
    engine.vjp(packed, range, batch, nullptr, {}, cotangents, nullptr);
    engine.sample(packed, {9, 0, 0}, given, rows, {draws.data(), d}, {}, nullptr);
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
    engine.evaluate(packed, range, rows_of(x, d), thetas.data(), {out.data(), d}, {log_det.data(), sizeof(T)}, nullptr);
    engine.evaluate(packed, range, rows_of(x, d), thetas.data(), {}, {wide.data(), sizeof(double)}, nullptr);
    std::vector<ExternalGradient<T>> gradients, sums;
    for (const External &external : plan.externals) {
      gradients.push_back({d_theta.data() + external.offset * rows, nullptr});
      sums.push_back({nullptr, theta_sum.data() + external.offset});
    }
    Cotangents<T> cotangents;
    cotangents.out = to_data ? bar.data() : nullptr;
    cotangents.value = log_det_bar.data();
    cotangents.x = {d_x.data(), d};
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
    engine.sample(packed, {9, 0, 0}, {}, rows, {draws.data(), d}, {density.data(), sizeof(T)}, nullptr);
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

// Batches of a run, fed row by row to the step of another trainer, give the bits of the run: with weights in another unit
// there, and contexts.
template <class T>
void run_and_step(const std::vector<int64_t> &words) {
  const auto engine = std::make_shared<Engine<T>>(table_from(words));
  const Plan &plan = engine->plan();
  const int64_t rows = 500, n_train = 450, size = 70, c = plan.context_dim;
  const uint64_t seed = 7;
  const std::vector<T> start = numbers<T>(plan.n_params, 1, 0.7), x = numbers<T>(rows * plan.dim, 2),
                       context = numbers<T>(rows * c, 3);
  std::vector<double> weights = numbers<double>(rows, 4), scaled;
  for (double &w : weights) {
    w = w < -0.8 ? 0 : std::fabs(w);
    scaled.push_back(std::ldexp(w, 900));
  }
  const SampleWeights given(reinterpret_cast<const char *>(weights.data()), sizeof(double), sizeof(double));
  const typename Trainer<T>::Settings settings{0.9, 0.999, 1e-8, 1e-4, 5.0, true};
  Trainer<T> trainer(engine, start.data(), buffers_of(plan).data(), settings, {}),
      other(engine, start.data(), buffers_of(plan).data(), settings, {});
  const double weight_scale = 1.25;
  const std::vector<double> rates{1e-2, 2e-2, 3e-3, 1e-2, 1e-2, 1e-2, 1e-2};
  const auto n = static_cast<int64_t>(rates.size());
  std::vector<double> losses(rates.size()), norms(rates.size());
  const auto same = [&] {
    CHECK(trainer.step() == other.step());
    CHECK(std::memcmp(trainer.params(), other.params(), static_cast<size_t>(plan.n_params) * sizeof(T)) == 0);
    CHECK(std::memcmp(trainer.m(), other.m(), static_cast<size_t>(plan.n_params) * sizeof(T)) == 0);
  };
  for (uint64_t epoch = 1; epoch <= 2; epoch++) {
    const Batch data{rows_of(x, plan.dim).x, rows, {rows_of(context, c).x, 1, false}};
    CHECK(trainer.run(data, given, weight_scale, {seed, epoch, n_train, size, 0}, n, rates.data(), losses.data(),
                      norms.data(), nullptr) == n);
    const Order split(seed, 0, rows), shuffle(seed, epoch, n_train);
    for (int64_t k = 0; k < n; k++) {
      std::vector<T> own_x, own_context;
      std::vector<double> own_weights;
      for (int64_t i = k * size; i < std::min(n_train, (k + 1) * size); i++) {
        const int64_t row = split(shuffle(i));
        own_x.insert(own_x.end(), x.begin() + row * plan.dim, x.begin() + (row + 1) * plan.dim);
        own_context.insert(own_context.end(), context.begin() + row * c, context.begin() + (row + 1) * c);
        own_weights.push_back(scaled[static_cast<size_t>(row)]);
      }
      const Batch batch{
          rows_of(own_x, plan.dim).x, static_cast<int64_t>(own_weights.size()), {rows_of(own_context, c).x, 1, false}};
      double loss = 0, norm = 0;
      CHECK(other.step(batch, {reinterpret_cast<const char *>(own_weights.data()), sizeof(double), sizeof(double)},
                       std::ldexp(weight_scale, -900), rates[static_cast<size_t>(k)], &loss, &norm, nullptr));
      CHECK(loss == losses[static_cast<size_t>(k)] && norm == norms[static_cast<size_t>(k)]);
    }
    same();
  }

  // of the weighted mean: the same step as one with the scale that makes it so
  const Batch batch{rows_of(x, plan.dim).x, rows, {rows_of(context, c).x, 1, false}};
  double sum = 0;
  for (const double w : weights) {
    sum += w;
  }
  Trainer<T> mean(engine, start.data(), buffers_of(plan).data(), settings, {}),
      told(engine, start.data(), buffers_of(plan).data(), settings, {});
  double norm = 0, wanted = 0;
  CHECK(mean.step(batch, given, 0, 1e-2, nullptr, &norm, nullptr));
  CHECK(told.step(batch, given, static_cast<double>(rows) / sum, 1e-2, nullptr, &wanted, nullptr));
  CHECK(std::fabs(norm - wanted) < 1e-12 * wanted && mean.step() == 1);

  // weights that are all zero are no step, and neither is a row that is none
  double loss = 0;
  std::vector<double> zeros(static_cast<size_t>(rows), 0.0);
  CHECK(other.step(batch, {reinterpret_cast<const char *>(zeros.data()), sizeof(double), sizeof(double)}, 0, 1e-2,
                   &loss, &norm, nullptr));
  CHECK(std::isnan(loss) && norm == 0);
  same();
  CHECK(other.step({batch.x, 0, batch.context}, {}, 0, 1e-2, &loss, nullptr, nullptr) && std::isnan(loss));
  std::vector<T> wrong = x;
  wrong[5] = std::numeric_limits<T>::quiet_NaN();
  CHECK(!other.step({rows_of(wrong, plan.dim).x, rows, batch.context}, {}, 0, 1e-2, &loss, &norm, nullptr));
  same();
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
    engine.evaluate(Packed<double>(plan, params.data(), buffers.data()), range, rows_of(x, dim), nullptr, {},
                    {log_p.data(), sizeof(double)}, nullptr);
    double sum = 0;
    for (size_t i = 0; i < log_p.size(); i++) {
      sum += c[i] * log_p[i];
    }
    return sum;
  };
  std::vector<double> d_x(x.size()), d_params(params.size());
  const Packed<double> packed(plan, params.data(), buffers.data());
  engine.vjp(packed, range, rows_of(x, dim), nullptr, {}, {nullptr, c.data(), {d_x.data(), dim}, d_params.data()},
             nullptr);
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
  engine.evaluate(packed, {0, plan.n_steps, false, false}, rows_of(x, dim), nullptr, {z.data(), dim},
                  {there.data(), sizeof(double)}, nullptr);
  engine.evaluate(packed, {0, plan.n_steps, true, false}, rows_of(z, dim), nullptr, {back.data(), dim},
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
    CHECK(interrupted([&] { engine->sample(packed, {1, 0, 0}, {}, rows, {out.data(), dim}, {}, stop); }));
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
  for (const int n : {1, 3}) {
    set_num_threads(n);
    run_and_step<float>(table(4)), run_and_step<double>(table(8));
    run_and_step<float>(conditional_table(4)), run_and_step<double>(conditional_table(8));
  }
  stopped_by_a_poll();
  stopped_within_a_tile();
  return 0;
}
