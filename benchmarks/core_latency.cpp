// How long a number takes from one core to another and back, in nanoseconds: c++ -O2 -pthread core_latency.cpp
// On a virtual machine it tells whether two processors share a cache at the moment: see NOTES.md.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <thread>

int main() {
  constexpr int trips = 300000;
  std::atomic<int> word{0};
  const auto start = std::chrono::steady_clock::now();
  std::thread other([&] {
    for (int i = 0; i < trips; i++) {
      while (word.load() != 2 * i + 1) {
      }
      word.store(2 * i + 2);
    }
  });
  for (int i = 0; i < trips; i++) {
    word.store(2 * i + 1);
    while (word.load() != 2 * i + 2) {
    }
  }
  other.join();
  const std::chrono::duration<double, std::nano> taken = std::chrono::steady_clock::now() - start;
  std::printf("%.0f\n", taken.count() / trips);
}
