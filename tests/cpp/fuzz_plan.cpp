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
  int n_base = 0;
  for (int i = 0; i < views[0].n_base; i++) {
    const BaseBlock &block = views[0].base[i];
    n_base += block.n;
    for (int j = 0; j < block.n; j++) {
      demand(block.dims[j] >= 0 && block.dims[j] < plan.dim && (j == 0 || block.dims[j] > block.dims[j - 1]));
      demand(block.kind != base_standard_normal || block.dims[j] < views[0].n_normals);
    }
  }
  demand(n_base == plan.dim && views[0].n_normals <= plan.dim);
  for (int v = 0; v < 3; v++) {
    for (int k = 0; k < plan.n_steps; k++) {
      const Step &step = views[v].steps[k];
      demand(step.area >= 0 && step.area + step.area_size <= sizes[v]);
      demand(v == 0 || step.kept + step.n_b * tile_stride <= sizes[v]);
      demand(step.external == -1 || step.external / tile_stride + step.n_theta <= plan.external_features);
      demand(step.n_theta <= plan.theta_widest);
      int at = 0;
      int64_t n_theta = 0;
      for (int i = 0; i < step.n_runs; i++) {
        const Run &run = step.runs[i];
        demand(run.from == at && run.to > run.from && run.theta >= 0);
        demand(run.theta + int64_t{run.to - run.from} * run.n_theta <= step.n_theta);
        at = run.to;
        n_theta += int64_t{run.to - run.from} * run.n_theta;
      }
      demand(step.n_runs == 0 || (at == step.n_b && n_theta == step.n_theta));
      const int n_read = step.kind == step_autoregressive ? step.n_b - 1 : step.n_a;
      demand(step.features == nullptr || step.features[n_read] == step.n_u - step.n_context);
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
