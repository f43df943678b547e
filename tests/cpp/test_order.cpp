// Orders of rows: permutations, uniform also for few rows, of both signs, and the ones that a seed has always given.
#include <algorithm>
#include <cmath>
#include <map>

#include "check.hpp"
#include "engine/order.hpp"

namespace {

using penstock::Order;

std::vector<int64_t> values(const Order &order, int64_t n) {
  std::vector<int64_t> all(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; i++) {
    all[static_cast<size_t>(i)] = order(i);
  }
  return all;
}

bool odd(std::vector<int64_t> p) {
  bool sign = false;
  for (size_t i = 0; i < p.size(); i++) {
    while (p[i] != static_cast<int64_t>(i)) {
      std::swap(p[i], p[static_cast<size_t>(p[i])]);
      sign = !sign;
    }
  }
  return sign;
}

// Salmon et al., known answers of Random123.
void known_words() {
  uint32_t words[4];
  const uint32_t zero[4] = {}, ones[4] = {~0u, ~0u, ~0u, ~0u};
  penstock::philox(0, zero, words);
  CHECK(words[0] == 0x6627E8D5 && words[1] == 0xE169C58D && words[2] == 0xBC57AC4C && words[3] == 0x9B00DBD8);
  penstock::philox(~uint64_t{0}, ones, words);
  CHECK(words[0] == 0x408F276D && words[1] == 0x41C83B0E && words[2] == 0xA20BC7C6 && words[3] == 0x6D5451FD);
}

void permutations() {
  for (const int64_t n : {1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 255, 256, 257, 1000, 4096, 5000}) {
    for (uint64_t seed = 0; seed < 8; seed++) {
      std::vector<int64_t> all = values(Order(seed, seed * 3, n), n);
      std::sort(all.begin(), all.end());
      for (int64_t i = 0; i < n; i++) {
        CHECK(all[static_cast<size_t>(i)] == i);
      }
    }
  }
}

// Pearson's statistic, by a factor, lies within five standard deviations of the mean of chi-square.
void uniform(const char *what, int64_t n, const std::vector<int64_t> &counts, double expected, double factor,
             double freedom) {
  double statistic = 0;
  for (const int64_t count : counts) {
    statistic += factor * (static_cast<double>(count) - expected) * (static_cast<double>(count) - expected) / expected;
  }
  if (std::fabs(statistic - freedom) > 5 * std::sqrt(2 * freedom)) {
    std::fprintf(stderr, "%s of %d rows: chi-square %.1f, of mean %.0f\n", what, static_cast<int>(n), statistic,
                 freedom);
    std::exit(1);
  }
}

void uniform_for_few_rows() {
  constexpr int64_t orders = 60000;
  for (int64_t n = 2; n <= 12; n++) {
    std::vector<int64_t> places(static_cast<size_t>(n * n));  // how often each row went to each place
    std::map<std::vector<int64_t>, int64_t> seen;             // how often each permutation came, if there are few
    for (int64_t k = 0; k < orders; k++) {
      const std::vector<int64_t> p = values(Order(static_cast<uint64_t>(k / 4), static_cast<uint64_t>(k % 4), n), n);
      for (int64_t i = 0; i < n; i++) {
        places[static_cast<size_t>(i * n + p[static_cast<size_t>(i)])]++;
      }
      if (n <= 6) {
        seen[p]++;
      }
    }
    // permutation matrices: all rows and columns sum to the number of orders
    const auto m = static_cast<double>(n);
    uniform("places", n, places, orders / m, (m - 1) / m, (m - 1) * (m - 1));
    if (n <= 6) {
      std::vector<int64_t> counts;
      for (const auto &[p, count] : seen) {
        counts.push_back(count);
      }
      const double permutations_of_n = std::tgamma(m + 1);
      counts.resize(static_cast<size_t>(permutations_of_n));
      uniform("permutations", n, counts, orders / permutations_of_n, 1, permutations_of_n - 1);
    }
  }
}

void both_signs() {
  for (const int64_t n : {4, 16, 64, 256, 1024, 4096}) {
    int n_odd = 0;
    for (uint64_t seed = 0; seed < 400; seed++) {
      n_odd += odd(values(Order(seed, 1, n), n)) ? 1 : 0;
    }
    CHECK(n_odd > 150 && n_odd < 250);
  }
}

// Orders of more than 64 rows, powers of four apart, are those of version 0.1.
void known_orders() {
  Hash h;
  for (const int64_t n : {65, 100, 255, 257, 1000, 1023, 4095, 4097, 20000}) {
    for (uint64_t seed = 0; seed < 4; seed++) {
      for (const int64_t v : values(Order(seed << 33 | seed, seed, n), n)) {
        h.add(v);
      }
    }
  }
  CHECK(h.value == 0x8B1FA4502472EA95u);
}

}  // namespace

int main() {
  known_words();
  known_orders();
  permutations();
  uniform_for_few_rows();
  both_signs();
  return 0;
}
