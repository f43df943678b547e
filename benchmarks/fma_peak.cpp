// The processor's peak of fused multiply-adds in float32: many independent accumulators in registers, nothing else.
//
//     c++ -O3 -pthread -DBYTES=32 -mavx2 -mfma fma_peak.cpp      (BYTES=64 -mavx512f for AVX-512)
//     ./a.out THREADS                                            prints GFLOP/s
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

typedef float Vector __attribute__((vector_size(BYTES)));
constexpr int accumulators = 12;  // more than latency times throughput needs, fewer than there are registers
constexpr long rounds = 20'000'000;

#if BYTES == 64
#  define REGISTER "v"
#else
#  define REGISTER "x"
#endif

void burn(float *sink) {
  Vector sum[accumulators];  // in registers only if every loop over it is unrolled
  const Vector a = Vector{} + 1.0000001F, b = Vector{} + 1e-9F;
#pragma GCC unroll 12
  for (int i = 0; i < accumulators; i++) sum[i] = Vector{} + 1.0F;
  for (long k = 0; k < rounds; k++) {
#pragma GCC unroll 12
    for (int i = 0; i < accumulators; i++) {
      asm volatile("vfmadd213ps %2, %1, %0" : "+" REGISTER(sum[i]) : REGISTER(a), REGISTER(b));
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < accumulators; i++) *sink += sum[i][0];
}

int main(int, char **arguments) {
  const int n = std::atoi(arguments[1]);
  std::vector<float> sinks(16 * n);
  std::vector<std::thread> threads;
  const auto start = std::chrono::steady_clock::now();
  for (int t = 0; t < n; t++) threads.emplace_back(burn, &sinks[16 * t]);
  for (auto &thread : threads) thread.join();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::printf("%.3f\n", n * rounds * accumulators * 2.0 * (BYTES / 4) / seconds / 1e9);
}
