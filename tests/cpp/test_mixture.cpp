// Gradients of a mixture against the sum over members done by hand, to the bit: with strides, contexts, far rows, rows outside
// a support, a member of weight 0, and several threads.
#include <cmath>
#include <limits>
#include <memory>

#include "engine/mixture.hpp"
#include "engines.hpp"

namespace {

using namespace penstock;

template <class T>
struct Flows {
  std::vector<std::unique_ptr<Engine<T>>> engines;
  std::vector<std::unique_ptr<Packed<T>>> packed;
  std::vector<Member<T>> members;

  Flows(const std::vector<int64_t> &words, const std::vector<double> &weights) {
    for (size_t k = 0; k < weights.size(); k++) {
      engines.push_back(std::make_unique<Engine<T>>(table_from(words)));
      const Plan &plan = engines.back()->plan();
      packed.push_back(
          std::make_unique<Packed<T>>(plan, numbers<T>(plan.n_params, k + 1, 0.7).data(), buffers_of(plan).data()));
      const double w = weights[k];
      members.push_back({engines.back().get(), packed.back().get(), nullptr, w,
                         w > 0 ? std::log(w) : -std::numeric_limits<double>::infinity()});
    }
  }
  const Plan &plan() const { return engines.front()->plan(); }
};

template <class A>
bool same(A a, A b) {
  return std::isnan(a) ? std::isnan(b) : a == b && std::signbit(a) == std::signbit(b);
}

// `between`: numbers between rows of results; wild: with rows whose gradients are none.
template <class T>
void gradients(const Flows<T> &flows, int64_t rows, bool shared, int64_t between, bool wild) {
  const Plan &plan = flows.plan();
  const int64_t d = plan.dim, c = plan.context_dim, apart = d + between, context_apart = c + between;
  std::vector<T> x = numbers<T>(rows * d, 2);
  const std::vector<T> context = numbers<T>(std::max<int64_t>(rows, 1) * c, 3);
  if (wild && rows > 9) {
    x[static_cast<size_t>(4 * d)] = std::numeric_limits<T>::max() / 2;
    x[static_cast<size_t>(5 * d + d - 2)] = T{-9};
    x[static_cast<size_t>(7 * d)] = std::numeric_limits<T>::quiet_NaN();
    x[static_cast<size_t>(8 * d)] = T{1e9};
  }
  const Batch batch{rows_of(x, d).x, rows, {rows_of(context, c).x, shared ? rows : 1, shared}};

  const auto n = static_cast<int64_t>(flows.members.size());
  std::vector<double> log_p(static_cast<size_t>(rows)), shares(static_cast<size_t>(n * rows));
  evaluate_many(flows.members, batch, {{log_p.data(), sizeof(double)}, nullptr, shares.data()}, nullptr);
  std::vector<double> wanted_x(x.size()), wanted_context(static_cast<size_t>(rows * c)),
      wanted_sum(static_cast<size_t>(c));
  for (int64_t k = 0; k < n; k++) {
    const Member<T> &member = flows.members[static_cast<size_t>(k)];
    std::vector<T> d_value, d_x(x.size()), d_context(wanted_context.size());
    for (int64_t r = 0; r < rows; r++) {
      d_value.push_back(static_cast<T>(shares[static_cast<size_t>(k * rows + r)]));
    }
    std::vector<double> sum(wanted_sum.size());
    Cotangents<T> cotangents;
    cotangents.value = d_value.data();
    cotangents.x = {d_x.data(), d};
    if (shared) {
      cotangents.context_sum = sum.data();
    } else if (c > 0) {
      cotangents.context = {d_context.data(), c};
    }
    member.engine->vjp(*member.packed, {0, plan.n_steps, false, true}, batch, nullptr, {}, cotangents, nullptr);
    for (size_t i = 0; i < d_x.size(); i++) {
      wanted_x[i] += static_cast<double>(d_x[i]);
    }
    for (size_t i = 0; i < d_context.size(); i++) {
      wanted_context[i] += static_cast<double>(d_context[i]);
    }
    for (size_t i = 0; i < sum.size(); i++) {
      wanted_sum[i] += sum[i];
    }
  }

  const T untouched{-77};
  Guarded<T> d_x(rows * apart, untouched), d_context(rows * context_apart, untouched);
  Guarded<double> values(rows), sum(c, 0.0);
  MixtureGradients<T> out{{values.data(), sizeof(double)}, {d_x.data(), apart}};
  if (c > 0 && shared) {
    out.context_sum = sum.data();
  } else if (c > 0) {
    out.context = {d_context.data(), context_apart};
  }
  gradients_many(flows.members, batch, out, nullptr);
  d_x.check(), d_context.check(), values.check(), sum.check();
  for (int64_t r = 0; r < rows; r++) {
    CHECK(same(values.data()[r], log_p[static_cast<size_t>(r)]));
    for (int64_t i = 0; i < apart; i++) {
      CHECK(same(d_x.data()[r * apart + i],
                 i < d ? static_cast<T>(wanted_x[static_cast<size_t>(r * d + i)]) : untouched));
    }
    for (int64_t i = 0; i < context_apart; i++) {
      const bool within = i < c && !shared;
      CHECK(same(d_context.data()[r * context_apart + i],
                 within ? static_cast<T>(wanted_context[static_cast<size_t>(r * c + i)]) : untouched));
    }
  }
  for (int64_t i = 0; shared && i < c; i++) {
    CHECK(same(sum.data()[i], wanted_sum[static_cast<size_t>(i)]));
  }
}

// Draws of a mixture are the same whatever lies between them.
template <class T>
void draws(const Flows<T> &flows, int64_t rows) {
  const int64_t d = flows.plan().dim, apart = d + 5;
  const std::vector<T> context = numbers<T>(rows * flows.plan().context_dim, 3);
  const Context given{rows_of(context, flows.plan().context_dim).x, 1, false};
  const T untouched{-77};
  Guarded<T> x(rows * d), spread(rows * apart, untouched);
  sample_many(flows.members, {9, 0, 0}, given, rows, {x.data(), d}, nullptr);
  sample_many(flows.members, {9, 0, 0}, given, rows, {spread.data(), apart}, nullptr);
  x.check(), spread.check();
  for (int64_t r = 0; r < rows; r++) {
    for (int64_t i = 0; i < apart; i++) {
      CHECK(same(spread.data()[r * apart + i], i < d ? x.data()[r * d + i] : untouched));
    }
  }
}

template <class T>
void mixtures() {
  for (const std::vector<int64_t> &words :
       {table(sizeof(T)), conditional_table(sizeof(T)), table_of_kinds(sizeof(T))}) {
    const Flows<T> flows(words, {0.2, 0.5, 0, 0.3}), one(words, {1});
    for (const int threads : {1, 3}) {
      set_num_threads(threads);
      for (const int64_t rows : {0, 1, 2, 65, 1100, 6000}) {
        for (const bool shared : {false, true}) {
          gradients(flows, rows, shared, 0, true);
          gradients(flows, rows, shared, 3, false);
        }
        gradients(one, rows, false, 0, true);
        draws(flows, rows);
      }
    }
  }
}

}  // namespace

int main() {
  mixtures<float>();
  mixtures<double>();
  return 0;
}
