// Plans and packed numbers as kernels read them: the same structs in memory of a device, their pointers and offsets those of the
// device.
#pragma once

#include <cstring>
#include <memory>
#include <vector>

#include "cuda/device.hpp"
#include "cuda/job.hpp"
#include "engine/packed.hpp"

namespace penstock::cuda {

// Arrays side by side in one piece of memory, for a device; addresses are known while it is filled. Filled twice: once to measure.
class Image {
 public:
  explicit Image(char *base) : base_(base) {}
  // Appends n things; where they will lie.
  template <class S>
  S *add(const S *from, int64_t n) {
    if (from == nullptr || n <= 0) {
      return nullptr;
    }
    bytes_.resize((bytes_.size() + alignment - 1) / alignment * alignment);
    const size_t at = bytes_.size(), size = static_cast<size_t>(n) * sizeof(S);
    bytes_.resize(at + size);
    std::memcpy(bytes_.data() + at, from, size);
    return reinterpret_cast<S *>(reinterpret_cast<uintptr_t>(base_) + at);
  }
  template <class S>
  S *add(const std::vector<S> &from) {
    return add(from.data(), static_cast<int64_t>(from.size()));
  }
  const std::vector<char> &bytes() const { return bytes_; }

 private:
  static constexpr size_t alignment = 16;
  char *base_;
  std::vector<char> bytes_;
};

// Fills an image with what `fill` adds to it, and copies it to the device in use.
template <class Fill>
Memory<char> upload(const Fill &fill) {
  Image measure(nullptr);
  fill(measure);
  Memory<char> memory(static_cast<int64_t>(measure.bytes().size()));
  Image image(memory.data());
  fill(image);
  copy(memory.data(), image.bytes().data(), static_cast<int64_t>(image.bytes().size()));
  return memory;
}

// What a plan is on a device, for evaluation or for gradients.
struct PlanOf {
  PlanView view{};
  Room room{};
  int64_t record_features = 0;
  std::vector<LinearJob> linear;  // their `first` are of the device
  std::vector<FreeJob> free;
  int64_t linear_blocks = 0;  // of one slice
};

// A plan and what kernels read of it, on the device where the engine was made.
class DevicePlan {
 public:
  explicit DevicePlan(const Plan &plan);

  uint32_t parts;
  PlanOf evaluation, gradient;
  const LinearJob *linear_jobs = nullptr;
  const FreeJob *free_jobs = nullptr;
  int64_t n_linear = 0, n_free = 0;
  const int64_t *boundary = nullptr;
  const int64_t *panel_source = nullptr;  // (panels_size)
  const Step *lu = nullptr;
  int n_lu = 0;

 private:
  PlanOf build(const Plan &plan, const PlanView &host, bool for_gradient, Image &image) const;
  Memory<char> memory_;
};

// Packed numbers on a device.
template <class T>
class DevicePacked {
 public:
  DevicePacked(const Plan &plan, const Packed<T> &packed);
  const PackedView<T> &view() const { return view_; }

 private:
  Memory<char> memory_;
  PackedView<T> view_{};
};

}  // namespace penstock::cuda
