// An event generator: one event after the other, each drawn from a flow as one row and weighted with the density that it should
// have had.
//
//     event_loop MODEL EVENTS [SEED]
//
// Event i is draw i: a function of the model, the seed and i, so that any of them can be generated again by itself, on any thread. Weights
// have a mean of 1, which the program checks; it prints how long one event took.
#include <array>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <stdexcept>

#include "penstock/penstock.hpp"

namespace {

struct Event {
  std::array<double, 6> x;
  double weight;
};

// The density that events should have, on the unit cube: its coordinates hang together in pairs.
double density(const std::array<double, 6> &x) {
  constexpr double turn = 2 * 3.14159265358979323846;
  double product = 1;
  for (std::size_t i = 0; i < x.size(); i += 2) {
    product *= 1 + 0.9 * std::cos(turn * (x[i] + x[i + 1]));
  }
  return product;
}

class Generator {
 public:
  Generator(const char *model, std::uint64_t seed)
      : flow_(penstock::Flow::load(model)), key_(penstock::key_from_seed(seed)) {
    if (flow_.dim() != 6 || flow_.context_dim() != 0) {
      throw std::runtime_error("the model has to be a flow on the unit cube of six dimensions");
    }
  }

  Event event(std::uint64_t number) const {
    Event event;
    double log_q;
    flow_.sample({key_, number}, penstock::none, event.x, {&log_q, 1});
    event.weight = density(event.x) / std::exp(log_q);
    return event;
  }

 private:
  penstock::Flow flow_;
  std::uint64_t key_;
};

// Whether all is as it should be.
bool run(const char *model, std::uint64_t events, std::uint64_t seed) {
  const Generator generator(model, seed);
  double sum = 0, squares = 0;
  const auto start = std::chrono::steady_clock::now();
  for (std::uint64_t i = 0; i < events; i++) {
    const double weight = generator.event(i).weight;
    sum += weight;
    squares += weight * weight;
  }
  const std::chrono::duration<double, std::micro> time = std::chrono::steady_clock::now() - start;

  const auto n = static_cast<double>(events);
  const double mean = sum / n, error = std::sqrt((squares / n - mean * mean) / (n - 1));
  std::printf("events %.0f mean_weight %.6f error %.6f effective %.4f microseconds %.3f\n", n, mean, error,
              sum * sum / squares / n, time.count() / n);
  const Event once = generator.event(events / 2), again = generator.event(events / 2);
  return std::fabs(mean - 1) < 4 * error && once.x == again.x && once.weight == again.weight;
}

}  // namespace

int main(int n_arguments, char **arguments) {
  if (n_arguments < 3 || n_arguments > 4) {
    std::fprintf(stderr, "usage: event_loop MODEL EVENTS [SEED]\n");
    return 2;
  }
  try {
    const std::uint64_t seed = n_arguments == 4 ? std::strtoull(arguments[3], nullptr, 10) : 0;
    return run(arguments[1], std::strtoull(arguments[2], nullptr, 10), seed) ? 0 : 1;
  } catch (const std::exception &error) {
    std::fprintf(stderr, "event_loop: %s\n", error.what());
    return 1;
  }
}
