// Engines and packed numbers that belong to a device: the one that was in use where they were made. What kernels read of them is
// copied there when it is first asked for.
#pragma once

#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "cuda/device.hpp"
#include "cuda/image.hpp"
#include "engine/engine.hpp"
#include "engine/mixture.hpp"
#include "engine/trainer.hpp"

namespace penstock::cuda {

// Every Engine of a module with devices is one.
template <class T>
class Placed : public Engine<T> {
 public:
  explicit Placed(Table table) : Engine<T>(std::move(table)), device(cuda::device()) {}
  const int device;
  const DevicePlan &device_plan() const {
    std::call_once(made_, [&] { device_plan_ = std::make_unique<DevicePlan>(this->plan()); });
    return *device_plan_;
  }

 private:
  mutable std::once_flag made_;
  mutable std::unique_ptr<DevicePlan> device_plan_;
};
template <class T>
const DevicePlan &device_plan(const Engine<T> &engine) {
  return static_cast<const Placed<T> &>(engine).device_plan();
}

// And so is every Packed.
template <class T>
class PlacedPacked : public Packed<T> {
 public:
  PlacedPacked(const Plan &plan, const T *params, const double *buffers) : Packed<T>(plan, params, buffers) {}
  const DevicePacked<T> &device_packed(const Plan &plan) const {
    std::call_once(made_, [&] { device_packed_ = std::make_unique<DevicePacked<T>>(plan, *this); });
    return *device_packed_;
  }

 private:
  mutable std::once_flag made_;
  mutable std::unique_ptr<DevicePacked<T>> device_packed_;
};
template <class T>
const DevicePacked<T> &device_packed(const Plan &plan, const Packed<T> &packed) {
  return static_cast<const PlacedPacked<T> &>(packed).device_packed(plan);
}

// The device of what a call is about.
template <class T>
int place_of(const Engine<T> &engine) {
  return static_cast<const Placed<T> &>(engine).device;
}
template <class T>
int place_of(const std::shared_ptr<const Engine<T>> &engine) {
  return place_of(*engine);
}
template <class T>
int place_of(const Trainer<T> &trainer) {
  return place_of(trainer.engine());
}
template <class T>
int place_of(const std::vector<Member<T>> &members) {
  return place_of(*members.front().engine);
}

}  // namespace penstock::cuda
