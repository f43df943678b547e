// Times calls of the C library: see c_calls.py, which compiles and runs it.
//
// c_calls MODEL ROWS THREADS: seconds a call, each the least of nine parts of a run, as "name value" lines.
//   one_row    penstock_log_prob of one row           bare_row  the engine's own call of the same row (with BARE)
//   rows       penstock_log_prob of ROWS rows         load      penstock_load, the hash included
//   crowd_N    one row a call, N host threads: rows a second of all
#include <penstock/penstock.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#ifdef BARE
#  include "engine/engine.hpp"
#  include "engine/file_io.hpp"
#endif

namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Seconds a call: the least of nine parts, each as long as a fiftieth of a second needs.
template <class Body>
double seconds(Body &&body) {
  int64_t n = 1;
  for (;;) {
    const double start = now();
    for (int64_t i = 0; i < n; i++) {
      body();
    }
    if (now() - start > 0.02) {
      break;
    }
    n *= 2;
  }
  double least = 1e9;
  for (int part = 0; part < 9; part++) {
    const double start = now();
    for (int64_t i = 0; i < n; i++) {
      body();
    }
    least = std::min(least, (now() - start) / static_cast<double>(n));
  }
  return least;
}

void need(penstock_status status) {
  if (status != PENSTOCK_OK) {
    std::fprintf(stderr, "%s\n", penstock_last_error());
    std::exit(1);
  }
}

// Rows a second of so many threads, each with calls of one row.
double crowd(const penstock_flow *flow, const std::vector<float> &x, int dim, int threads) {
  std::atomic<bool> stop{false};
  std::atomic<int64_t> rows{0};
  std::vector<std::thread> all;
  const double start = now();
  for (int t = 0; t < threads; t++) {
    all.emplace_back([&] {
      float value;
      int64_t done = 0;
      while (!stop.load(std::memory_order_relaxed)) {
        need(penstock_log_prob_f32(flow, 1, x.data() + done % 64 * dim, dim, nullptr, 0, &value));
        done++;
      }
      rows += done;
    });
  }
  std::this_thread::sleep_for(std::chrono::seconds(1));
  stop = true;
  for (std::thread &one : all) {
    one.join();
  }
  return static_cast<double>(rows) / (now() - start);
}

}  // namespace

int main(int, char **arguments) {
  const std::string path = arguments[1];
  const int64_t n = std::atoll(arguments[2]);
  const int threads = std::atoi(arguments[3]);
  penstock_flow *flow;
  need(penstock_load(path.c_str(), &flow));
  const auto dim = static_cast<int>(penstock_dim(flow));
  std::vector<float> x(static_cast<size_t>(n * dim)), log_p(static_cast<size_t>(n));
  need(penstock_sample_f32(flow, penstock_key_from_seed(0), 0, 0, n, nullptr, 0, x.data(), dim, nullptr));
  std::printf("one_row %.9g\n",
              seconds([&] { need(penstock_log_prob_f32(flow, 1, x.data(), dim, nullptr, 0, log_p.data())); }));
#ifdef BARE
  const penstock::Model model = penstock::load_model(path);
  const penstock::FileMember &member = model.members.front();
  const penstock::Engine<float> engine(member.table);
  const auto &params = std::get<std::vector<float>>(member.params);
  const penstock::Packed<float> packed(engine.plan(), params.data(), member.buffers.data());
  const penstock::RowsView view{reinterpret_cast<const char *>(x.data()), dim * 4, 4, 4};
  const penstock::Range range{0, engine.plan().n_steps, false, true};
  std::printf("bare_row %.9g\n",
              seconds([&] { engine.evaluate(packed, range, {view, 1}, nullptr, {}, {log_p.data(), 4}, nullptr); }));
#endif
  need(penstock_set_num_threads(threads));
  std::printf("rows %.9g\n",
              seconds([&] { need(penstock_log_prob_f32(flow, n, x.data(), dim, nullptr, 0, log_p.data())); }));
  need(penstock_set_num_threads(1));
  std::printf("load %.9g\n", seconds([&] {
                penstock_flow *other;
                need(penstock_load(path.c_str(), &other));
                penstock_free(other);
              }));
  for (const int crowds : {1, 2, 32}) {
    std::printf("crowd_%d %.9g\n", crowds, crowd(flow, x, dim, crowds));
  }
  penstock_free(flow);
}
