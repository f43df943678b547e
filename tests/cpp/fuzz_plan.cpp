// Fuzzes the reader of plan tables: whatever the words, a table is refused by std::invalid_argument or laid out, within the
// memory that its length allows. For libFuzzer; see CMakeLists.txt, and fuzz_corpus.py for seeds.
//     fuzz_plan CORPUS -max_len=65536 -malloc_limit_mb=512 -max_total_time=60
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <stdexcept>
#include <vector>

#include "engine/layout.hpp"

using namespace penstock;

extern "C" size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

namespace {

using Words = std::vector<int64_t>;

Words words_of(const uint8_t *data, size_t size) {
  Words words(size / sizeof(int64_t));
  if (!words.empty()) {
    std::memcpy(words.data(), data, words.size() * sizeof(int64_t));
  }
  return words;
}

// What a checked plan promises to the kernels.
void check_plan(const Plan &plan) {
  const auto demand = [](bool fine) {
    if (!fine) {
      __builtin_trap();
    }
  };
  int64_t covered = 0;
  for (const Segment &segment : plan.segments) {
    covered += segment.rows * segment.columns;
    demand(segment.flat >= 0 && segment.flat + segment.rows * segment.columns <= plan.n_params);
    demand(segment.padded >= 0 && segment.padded + segment.rows * segment.stride <= plan.padded_size);
    demand(segment.columns <= segment.stride);
  }
  demand(covered == plan.n_params);
  const PlanView views[] = {plan.evaluation(), plan.training(false), plan.training(true)};
  const int64_t sizes[] = {plan.evaluation_area, plan.training_kept, plan.recompute_kept};
  for (int v = 0; v < 3; v++) {
    for (int k = 0; k < plan.n_steps; k++) {
      const Step &step = views[v].steps[k];
      demand(step.area >= 0 && step.area + step.area_size <= sizes[v]);
      demand(v == 0 || step.kept + step.n_b * tile_stride <= sizes[v]);
      demand(step.external == -1 || step.external / tile_stride + step.n_b * step.n_theta <= plan.external_features);
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const Words words = words_of(data, size);
  try {
    check_plan(Plan(words.data(), static_cast<int64_t>(words.size())));
  } catch (const std::invalid_argument &) {
    return 0;
  }
  return 0;
}

// Words, not bytes, mostly: bytes alone would not get past the header. The length is put right every other time.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
  std::minstd_rand random(seed);
  if (random() % 8 == 0 || size < sizeof(int64_t)) {
    size = LLVMFuzzerMutate(data, size, max_size);
  }
  Words words = words_of(data, size);
  if (words.empty()) {
    return size;
  }
  const auto any = [&] { return random() % words.size(); };
  constexpr int64_t strange[] = {0,       1,         -1,        2,         -2,        -3,        64,       1 << 20,
                                 1 << 24, 1LL << 31, 1LL << 32, 1LL << 40, 1LL << 62, INT64_MAX, INT64_MIN};
  for (unsigned n = 1 + random() % 3; n > 0; n--) {
    int64_t &word = words[any()];
    switch (random() % 5) {
      case 0:
        word = strange[random() % std::size(strange)];
        break;
      case 1:
        word = words[any()];
        break;
      case 2:
        std::swap(word, words[any()]);
        break;
      case 3:
        word = static_cast<int64_t>(static_cast<uint64_t>(word) + random() % 5 - 2);
        break;
      default:
        word = static_cast<int64_t>(static_cast<uint64_t>(word) ^ (uint64_t{1} << random() % 64));
    }
  }
  if (random() % 2 == 0 && words.size() > 3) {
    words[0] = table_magic;
    words[1] = table_version;
    words[3] = static_cast<int64_t>(words.size());
  }
  size = words.size() * sizeof(int64_t);
  std::memcpy(data, words.data(), size);
  return size;
}
