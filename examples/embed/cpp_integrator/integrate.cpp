// Monte Carlo integration whose flow is trained, as it goes, on the points at which the integrand was evaluated.
//
//     integrate MODEL CALLS [SEED [THREADS]]
//
// MODEL is an unfitted flow on the unit cube (make_model.py), CALLS how often the integrand may be called in all. Points x are drawn
// from q = (1 - a) flow + a uniform, and the mean of the weights f(x) / q(x) estimates the integral: the uniform part keeps
// weights below f(x) / a. There are two stages.
//
// Search. While the flow is far from f, a few weights are nearly all of the sum. The flow is trained on weights to the power
// that leaves a tenth of the points in effect, which aims at a density between the flow's and f. Where the power comes to 1,
// f is found. Nothing of this stage is part of the result.
//
// Iterations. Each trains the flow on all points since then and draws more from it, for an estimate of their own. As VEGAS does,
// estimates are averaged with their inverse variances, and chi^2 tells whether they agree.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <numeric>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

#include "integrand.hpp"
#include "penstock/penstock.hpp"

namespace {

constexpr double uniform_share = 0.05;
constexpr double effective_share = 0.1;  // of points, in the search
constexpr std::size_t chunk = 2048;      // points that a worker takes at a time
constexpr std::size_t batch = 512;
constexpr double learning_rate = 3e-3;
constexpr std::size_t passes = 3;  // of each iteration's training over all points in effect
const std::vector<double> iterations = {0.05, 0.1, 0.2, 0.3, 0.35};  // shares of the calls that the search has left

// Rows of points, and their weights. Those of one draw begin with uniform ones.
struct Points {
  std::vector<double> x, weight;
  std::size_t n_uniform = 0;

  std::size_t size() const { return weight.size(); }
  void append(const Points &more) {
    x.insert(x.end(), more.x.begin(), more.x.end());
    weight.insert(weight.end(), more.weight.begin(), more.weight.end());
  }
};

// body(0) ... body(n - 1), on so many threads.
template <class Body>
void on_threads(int threads, std::size_t n, const Body &body) {
  std::atomic<std::size_t> next{0};
  std::exception_ptr failure;
  std::mutex failing;
  std::vector<std::thread> workers;
  for (int t = 0; t < threads; t++) {
    workers.emplace_back([&] {
      try {
        for (std::size_t i; (i = next++) < n;) {
          body(i);
        }
      } catch (...) {
        const std::lock_guard<std::mutex> lock(failing);
        failure = std::current_exception();
      }
    });
  }
  for (std::thread &worker : workers) {
    worker.join();
  }
  if (failure) {
    std::rethrow_exception(failure);
  }
}

// Where points come from. They depend on the seed and on how many came before, not on threads.
class Source {
 public:
  Source(std::uint64_t seed, int threads) : key_(penstock::key_from_seed(seed)), threads_(threads) {}

  // n points of the mixture: the first ones uniform, the others the flow's, in fixed numbers.
  Points draw(const penstock::Flow &flow, std::size_t n) {
    Points points;
    points.n_uniform = static_cast<std::size_t>(uniform_share * static_cast<double>(n));
    points.x.resize(n * dim);
    points.weight.resize(n);
    const double share = static_cast<double>(points.n_uniform) / static_cast<double>(n);
    on_threads(threads_, (n + chunk - 1) / chunk, [&](std::size_t i) {
      const std::size_t begin = i * chunk, end = std::min(begin + chunk, n);
      const std::size_t uniform_end = std::clamp(points.n_uniform, begin, end);
      double *x = &points.x[begin * dim], *weight = &points.weight[begin];
      double *flow_x = x + (uniform_end - begin) * dim, *flow_weight = weight + (uniform_end - begin);
      std::mt19937_64 random(key_ ^ (drawn_ + begin));
      std::generate(x, flow_x, [&] { return std::generate_canonical<double, 53>(random); });
      flow.log_prob({x, (uniform_end - begin) * dim}, penstock::none, {weight, uniform_end - begin});
      flow.sample({key_, drawn_ + uniform_end}, penstock::none, {flow_x, (end - uniform_end) * dim},
                  {flow_weight, end - uniform_end});
      for (std::size_t k = 0; k < end - begin; k++) {
        weight[k] = integrand(x + k * dim) / ((1 - share) * std::exp(weight[k]) + share);
      }
    });
    drawn_ += n;
    return points;
  }
  std::size_t drawn() const { return drawn_; }

 private:
  std::uint64_t key_;
  int threads_;
  std::size_t drawn_ = 0;
};

// The share of points in effect (Kish) under weights to a power.
double effective(const std::vector<double> &weight, double power) {
  const double largest = *std::max_element(weight.begin(), weight.end());
  double sum = 0, squares = 0;
  for (const double w : weight) {
    const double v = std::pow(w / largest, power);
    sum += v;
    squares += v * v;
  }
  return sum * sum / squares / static_cast<double>(weight.size());
}

// The largest power up to 1 that leaves enough points in effect.
double power_for(const std::vector<double> &weight) {
  double low = 0, high = 1;
  if (effective(weight, 1) >= effective_share) {
    return 1;
  }
  while (high - low > 1e-3) {
    const double middle = (low + high) / 2;
    (effective(weight, middle) >= effective_share ? low : high) = middle;
  }
  return low;
}

// Steps of training on points that are drawn in proportion to the weights: batches without rows that hardly count.
void train(penstock::Trainer &trainer, const Points &points, double power, std::size_t steps, double last_rate,
           std::mt19937_64 &random) {
  std::vector<double> sums(points.size()), x(batch * dim);
  double sum = 0;
  for (std::size_t i = 0; i < points.size(); i++) {
    sums[i] = sum += std::pow(points.weight[i], power);
  }
  for (std::size_t step = 0; step < steps; step++) {
    const double done = static_cast<double>(step) / static_cast<double>(steps);
    const double rate = last_rate + (learning_rate - last_rate) * (1 + std::cos(3.14159265358979323846 * done)) / 2;
    for (std::size_t k = 0; k < batch; k++) {
      const double u = std::generate_canonical<double, 53>(random) * sum;
      const auto row = static_cast<std::size_t>(std::upper_bound(sums.begin(), sums.end() - 1, u) - sums.begin());
      std::copy_n(&points.x[row * dim], dim, &x[k * dim]);
    }
    trainer.step(rate, x);
  }
}

struct Estimate {
  double mean, variance;
};

// The mean of the weights of one draw. Both parts have their fixed share of it, so that each only varies around its own mean.
Estimate estimate(const Points &points) {
  const auto n = static_cast<double>(points.size());
  double sum = 0, variance = 0;
  for (const bool uniform : {true, false}) {
    const std::size_t begin = uniform ? 0 : points.n_uniform, end = uniform ? points.n_uniform : points.size();
    const auto count = static_cast<double>(end - begin);
    const double part = std::accumulate(&points.weight[begin], &points.weight[end], 0.0);
    double squares = 0;
    for (std::size_t i = begin; i < end; i++) {
      squares += std::pow(points.weight[i] - part / count, 2);
    }
    sum += part;
    variance += squares * count / std::max(1.0, count - 1);
  }
  return {sum / n, variance / n / n};
}

void integrate(const char *model, std::size_t calls, std::uint64_t seed, int threads) {
  penstock::Flow flow = penstock::Flow::load(model);
  if (flow.dim() != static_cast<std::int64_t>(dim) || flow.context_dim() != 0) {
    throw std::runtime_error("the model has to be a flow on the unit cube of six dimensions");
  }
  penstock::set_num_threads(threads);
  penstock::Trainer trainer(flow);
  Source source(seed, threads);
  std::mt19937_64 random(seed);

  Points points;
  for (double power = 0; power < 1;) {
    if (source.drawn() > calls / 2) {
      throw std::runtime_error("half of the calls did not find where the integrand is");
    }
    points = source.draw(flow, std::max<std::size_t>(calls / 32, 1000));
    power = power_for(points.weight);
    std::printf("search: %zu calls, power %.3f\n", source.drawn(), power);
    if (power < 1) {
      train(trainer, points, power, 100, learning_rate, random);
      flow = trainer.flow();
    }
  }

  const auto left = static_cast<double>(calls - source.drawn());
  std::vector<Estimate> found;
  for (const double share : iterations) {
    train(trainer, points, 1, passes * points.size() / batch, learning_rate / 30, random);
    flow = trainer.flow();
    const bool last = found.size() + 1 == iterations.size();
    const Points more = source.draw(flow, last ? calls - source.drawn() : static_cast<std::size_t>(left * share));
    found.push_back(estimate(more));
    points.append(more);
    std::printf("iteration: %zu calls, %.6f +- %.6f, deviation of weights %.3f\n", source.drawn(), found.back().mean,
                std::sqrt(found.back().variance), std::sqrt(found.back().variance * static_cast<double>(more.size())));
  }

  double mean = 0, precision = 0, chi2 = 0;
  for (const Estimate &e : found) {
    mean += e.mean / e.variance;
    precision += 1 / e.variance;
  }
  mean /= precision;
  for (const Estimate &e : found) {
    chi2 += (e.mean - mean) * (e.mean - mean) / e.variance;
  }
  // Estimates that disagree are not better known than their scatter says.
  const auto freedom = static_cast<double>(found.size() - 1);
  const double error = std::sqrt(std::max(1.0, chi2 / freedom) / precision);
  std::printf("integral %.8f error %.8f chi2 %.2f of %.0f calls %zu\n", mean, error, chi2, freedom, source.drawn());
}

}  // namespace

int main(int n_arguments, char **arguments) {
  if (n_arguments < 3 || n_arguments > 5) {
    std::fprintf(stderr, "usage: integrate MODEL CALLS [SEED [THREADS]]\n");
    return 2;
  }
  try {
    const auto number = [&](int i, unsigned long long otherwise) {
      return i < n_arguments ? std::strtoull(arguments[i], nullptr, 10) : otherwise;
    };
    integrate(arguments[1], number(2, 0), number(3, 0), static_cast<int>(number(4, 2)));
  } catch (const std::exception &error) {
    std::fprintf(stderr, "integrate: %s\n", error.what());
    return 1;
  }
  return 0;
}
