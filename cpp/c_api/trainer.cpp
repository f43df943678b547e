// Training: a trainer that begins at the parameters of a flow, and flows of what it has come to.
#include "engine/trainer.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <variant>

#include "c_api/flow.hpp"
#include "c_api/rows.hpp"
#include "c_api/status.hpp"
#include "engine/text.hpp"
#include "penstock/penstock.h"

struct penstock_trainer {
  penstock_flow flow;  // that it begins at
  std::variant<std::unique_ptr<penstock::Trainer<float>>, std::unique_ptr<penstock::Trainer<double>>> trainer;
  double weight_scale;

  // body(trainer), of the type that the flow computes in.
  template <class Body>
  void visit(Body &&body) const {
    if (const auto *narrow = std::get_if<0>(&trainer)) {
      body(**narrow);
    } else {
      body(**std::get_if<1>(&trainer));
    }
  }
};

namespace penstock::c {
namespace {

// The options of the first version; later ones have more behind them.
constexpr size_t first_size = offsetof(penstock_trainer_options, weight_scale) + sizeof(double);

constexpr penstock_trainer_options defaults{sizeof(penstock_trainer_options), 0.9, 0.999, 1e-8, 0, 5, 0};

void check_size(const char *name, size_t size) {
  if (size < first_size) {
    wrong(name, "be sizeof(penstock_trainer_options), at least " + std::to_string(first_size) + ", got " +
                    std::to_string(size));
  }
}

void check_options(const penstock_trainer_options &options) {
  const auto check = [](bool fine, const char *name, const char *expected, double value) {
    if (!fine) {
      wrong(name, std::string(expected) + ", got " + shortest(value));
    }
  };
  const auto finite = [](double value) { return value >= 0 && std::isfinite(value); };
  check(options.beta1 >= 0 && options.beta1 < 1, "beta1", "lie in [0, 1)", options.beta1);
  check(options.beta2 >= 0 && options.beta2 < 1, "beta2", "lie in [0, 1)", options.beta2);
  check(options.epsilon > 0 && finite(options.epsilon), "epsilon", "be a positive finite number", options.epsilon);
  check(finite(options.weight_decay), "weight_decay", "be a finite number of at least 0", options.weight_decay);
  check(options.clip_norm > 0, "clip_norm", "be a positive number", options.clip_norm);
  check(finite(options.weight_scale), "weight_scale", "be a finite number of at least 0", options.weight_scale);
}

// What a caller has set. A later program may know of more, all of which says that nothing is wanted as long as it is zero.
penstock_trainer_options read(const penstock_trainer_options *given) {
  if (given == nullptr) {
    return defaults;
  }
  check_size("options.size", given->size);
  penstock_trainer_options options = defaults;
  std::memcpy(&options, given, std::min(given->size, sizeof options));
  const auto *bytes = reinterpret_cast<const unsigned char *>(given);
  for (size_t i = sizeof options; i < given->size; i++) {
    if (bytes[i] != 0) {
      fail(PENSTOCK_ERROR_UNSUPPORTED, "options has fields that this version does not know");
    }
  }
  check_options(options);
  return options;
}

template <class C>
void check_weights(const C *weight, int64_t n) {
  for (int64_t r = 0; weight != nullptr && r < n; r++) {
    const auto w = static_cast<double>(weight[r]);
    if (!(w >= 0) || std::isinf(w)) {
      wrong("weight", std::string(std::isfinite(w) ? "be at least 0" : "be finite") + ", but weight[" +
                          std::to_string(r) + "] is " + shortest(w));
    }
  }
}

// body(trainer), while no other call is at work.
template <class Body>
void alone(penstock_trainer &trainer, Body &&body) {
  trainer.visit([&]<class T>(Trainer<T> &typed) {
    std::optional<typename Trainer<T>::Busy> busy;
    try {
      busy.emplace(typed);
    } catch (const std::runtime_error &error) {
      fail(PENSTOCK_ERROR_BUSY, error.what());
    }
    body(typed);
  });
}

template <class C>
penstock_status step_of(penstock_trainer *trainer, double learning_rate, int64_t n, const C *x, int64_t x_stride,
                        const C *context, int64_t context_stride, const C *weight, double *loss, double *norm) {
  return guard([&] {
    needed("trainer", trainer);
    if (!(learning_rate >= 0) || std::isinf(learning_rate)) {
      wrong("learning_rate", "be a finite number of at least 0, got " + shortest(learning_rate));
    }
    const Batch batch = batch_of(trainer->flow, n, {"x", x, x_stride}, context, context_stride);
    check_weights(weight, n);
    const SampleWeights weights(reinterpret_cast<const char *>(weight), sizeof(C), sizeof(C));
    double of_loss = std::numeric_limits<double>::quiet_NaN(), of_norm = 0;
    alone(*trainer, [&](auto &typed) {
      if (n > 0 && !typed.step(batch, weights, trainer->weight_scale, learning_rate, &of_loss, &of_norm, nullptr)) {
        fail(PENSTOCK_ERROR_NOT_FINITE, (std::isfinite(of_loss) ? "the gradient became " + shortest(of_norm)
                                                                : "the loss became " + shortest(of_loss)) +
                                            "; the step was not taken");
      }
    });
    if (loss != nullptr) {
      *loss = of_loss;
    }
    if (norm != nullptr) {
      *norm = of_norm;
    }
  });
}

}  // namespace
}  // namespace penstock::c

using namespace penstock::c;

penstock_status penstock_trainer_options_init(penstock_trainer_options *options, size_t size) {
  return guard([&] {
    needed("options", options);
    check_size("size", size);
    std::memset(options, 0, size);
    std::memcpy(options, &defaults, std::min(size, sizeof defaults));
    options->size = size;
  });
}

penstock_status penstock_trainer_new(const penstock_flow *flow, const penstock_trainer_options *options,
                                     penstock_trainer **trainer) {
  if (trainer != nullptr) {
    *trainer = nullptr;
  }
  return guard([&] {
    needed("flow", flow);
    needed("trainer", trainer);
    refuse_ensemble(*flow, "trainer");
    const penstock_trainer_options set = read(options);
    auto made = std::make_unique<penstock_trainer>();
    made->flow = *flow;
    made->weight_scale = set.weight_scale;
    flow->visit([&]<class T>(const Members<T> &members) {
      const typename penstock::Trainer<T>::Settings settings{set.beta1,        set.beta2,     set.epsilon,
                                                             set.weight_decay, set.clip_norm, true};
      made->trainer = std::make_unique<penstock::Trainer<T>>(members.engines.front(), members.numbers().params(),
                                                             flow->model->members.front().buffers.data(), settings,
                                                             std::vector<typename penstock::Trainer<T>::Run>{});
    });
    *trainer = made.release();
  });
}

penstock_status penstock_trainer_step_f64(penstock_trainer *trainer, double learning_rate, int64_t n, const double *x,
                                          int64_t x_stride, const double *context, int64_t context_stride,
                                          const double *weight, double *loss, double *norm) {
  return step_of(trainer, learning_rate, n, x, x_stride, context, context_stride, weight, loss, norm);
}

penstock_status penstock_trainer_step_f32(penstock_trainer *trainer, double learning_rate, int64_t n, const float *x,
                                          int64_t x_stride, const float *context, int64_t context_stride,
                                          const float *weight, double *loss, double *norm) {
  return step_of(trainer, learning_rate, n, x, x_stride, context, context_stride, weight, loss, norm);
}

int64_t penstock_trainer_steps(const penstock_trainer *trainer) {
  int64_t steps = 0;
  if (trainer != nullptr) {
    trainer->visit([&](const auto &typed) { steps = typed.step(); });
  }
  return steps;
}

penstock_status penstock_trainer_flow(penstock_trainer *trainer, penstock_flow **flow) {
  if (flow != nullptr) {
    *flow = nullptr;
  }
  return guard([&] {
    needed("trainer", trainer);
    needed("flow", flow);
    alone(*trainer, [&]<class T>(penstock::Trainer<T> &typed) {
      *flow = with_params<T>(trainer->flow, typed.snapshot()).release();
    });
  });
}

void penstock_trainer_free(penstock_trainer *trainer) { delete trainer; }
