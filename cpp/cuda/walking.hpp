// A call on its way to a device: the plan, the packed numbers and the context that all its launches have, and what each chunk of
// rows brings.
#pragma once

#include <cstring>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "cuda/kernels.hpp"
#include "cuda/placed.hpp"
#include "cuda/staging.hpp"

namespace penstock::cuda {

// Between either side and the host.
void copy_to_host(void *to, const void *from, int64_t bytes);

// A copy on the device in use of an array that may lie on the host; none of one that does not.
template <class S>
class Uploaded {
 public:
  Uploaded(const S *from, int64_t n) : data_(from) {
    if (from != nullptr && n > 0 && !is_device(from)) {
      memory_ = Memory<S>(n);
      copy(memory_.data(), from, n * static_cast<int64_t>(sizeof(S)));
      data_ = memory_.data();
    }
  }
  const S *data() const { return data_; }

 private:
  const S *data_;
  Memory<S> memory_;
};

// An array that is added to, as the host can: where it lies on the device, a copy, which goes back in the end.
template <class S>
class OnHost {
 public:
  OnHost(S *array, int64_t n) : array_(array), data_(array) {
    if (is_device(array)) {
      copy_.resize(static_cast<size_t>(n));
      data_ = copy_.data();
      copy_to_host(data_, array, n * static_cast<int64_t>(sizeof(S)));
    }
  }
  OnHost(const OnHost &) = delete;
  OnHost &operator=(const OnHost &) = delete;
  S *data() const { return data_; }
  void give_back() const {
    if (data_ != array_) {
      copy(array_, data_, static_cast<int64_t>(copy_.size() * sizeof(S)));
    }
  }

 private:
  S *array_, *data_;
  std::vector<S> copy_;
};

// Rows of an array, on the host.
struct RowsOnHost {
  RowsView view;
  std::vector<char> numbers;
  RowsOnHost(const RowsView &rows, int64_t columns, int64_t n);
};

// Which rows of a batch a launch has, in chunks of whole blocks: PENSTOCK_CUDA_CHUNK of them, if that is set.
int64_t chunk_rows(int64_t most);

// Shared memory of a block that walks, in bytes, and whether its room is there or in the device's memory.
struct Shared {
  int64_t bytes;
  bool has_room;
};
template <class T>
Shared shared_of(const Walks<T> &walks, const PlanOf &of) {
  const int64_t room = of.room.features * block_rows * static_cast<int64_t>(sizeof(T));
  const bool has_room = walks.slots_bytes + room <= limits(cuda::device()).shared_per_block;
  return {walks.slots_bytes + (has_room ? room : 0), has_room};
}

template <class T>
class Walking {
 public:
  // keep: nothing, or old values for the way back.
  Walking(const Engine<T> &engine, const Packed<T> &packed, const Range &range, Keep keep, const Context &context,
          int64_t rows)
      : engine(engine),
        plan(engine.plan()),
        device(device_plan(engine)),
        walks(cuda::walks<T>(device.parts)),
        of_(keep == Keep::nothing ? device.evaluation : device.gradient),
        view_(device_packed(plan, packed).view()),
        range_(range),
        keep_(keep),
        context_(context) {
    if (plan.context_dim == 0) {
      kind = ContextKind::none;
      return;
    }
    kind = ContextKind::rows;
    if (keep == Keep::nothing && (context.part != nullptr || (context.shared && rows >= 2))) {
      kind = ContextKind::part;
      part_ = Memory<T>(std::max<int64_t>(plan.starts_size, 1));
      if (context.part != nullptr) {
        copy(part_.data(), context.part, plan.starts_size * static_cast<int64_t>(sizeof(T)));
      } else {
        std::vector<char> row(static_cast<size_t>(plan.context_dim * context.rows.item_size));
        RowsView here = context.rows;
        if (is_device(here.data)) {
          for (int64_t i = 0; i < plan.context_dim; i++) {
            copy_to_host(row.data() + i * here.item_size, here.data + i * here.column_stride, here.item_size);
          }
          here = {row.data(), 0, here.item_size, here.item_size};
        }
        const auto part = engine.context_part(packed, here);
        copy(part_.data(), part->data(), plan.starts_size * static_cast<int64_t>(sizeof(T)));
      }
    }
  }
  Walking(const Walking &) = delete;
  Walking &operator=(const Walking &) = delete;

  const Engine<T> &engine;
  const Plan &plan;
  const DevicePlan &device;
  const Walks<T> &walks;
  ContextKind kind;

  int64_t chunk() const {
    constexpr int64_t most_record_bytes = int64_t{512} << 20;
    const Limits &of = limits(cuda::device());
    int64_t rows = of.multiprocessors * 3 * int64_t{block_rows};
    if (keep_ != Keep::nothing) {
      const int64_t bytes = std::max<int64_t>(of_.record_features, 1) * static_cast<int64_t>(sizeof(T));
      rows = std::clamp(most_record_bytes / bytes / block_rows * block_rows, int64_t{block_rows}, rows);
    }
    return chunk_rows(rows);
  }

  // What kernels on this stream are told of the walk; rows of context are still to be named. The numbers of an older view stay.
  Walk<T> walk(const Stream &on) const { return walk(on, view_, context_); }
  Walk<T> walk(const Stream &on, const PackedView<T> &view, const Context &context) const {
    Walk<T> walk{};
    walk.plan = of_.view;
    walk.packed = view;
    walk.pass = {range_.first, range_.last, range_.to_data, keep_};
    const int64_t dim = plan.dim;
    const End low{device.boundary + range_.first * dim, false},
        high{device.boundary + range_.last * dim, range_.first < range_.last && range_.last == plan.n_steps};
    walk.in = range_.to_data ? low : high;
    walk.out = range_.to_data ? high : low;
    walk.base = range_.base;
    walk.room = of_.room;
    if (!in_shared()) {
      walk.rooms = rooms(on);
    }
    walk.context_kind = kind;
    walk.context = context.rows;
    walk.context_block = context.block;
    walk.context_shared = context.shared;
    walk.context_part = part_.data();
    return walk;
  }

  Grid grid(int64_t rows) const {
    const int64_t tiles = (rows + block_rows - 1) / block_rows;
    return {std::min(tiles, most_blocks()), shared_bytes()};
  }

  // Room for what threads beyond the last row write.
  T *spare() const {
    if (spare_.size() == 0) {
      spare_ = Memory<T>(std::max<int64_t>(plan.context_dim, 1) * block_rows);
    }
    return spare_.data();
  }

 private:
  bool in_shared() const { return shared_of(walks, of_).has_room; }
  int64_t shared_bytes() const { return shared_of(walks, of_).bytes; }
  int64_t most_blocks() const {
    const Limits &of = limits(cuda::device());
    const int64_t at_once = of.shared_per_multiprocessor / (shared_bytes() + of.shared_reserved_per_block);
    return of.multiprocessors * std::clamp<int64_t>(at_once, 1, 3);
  }
  T *rooms(const Stream &on) const {
    for (const auto &[handle, memory] : rooms_) {
      if (handle == on.handle()) {
        return memory.data();
      }
    }
    rooms_.emplace_back(on.handle(), Memory<T>(most_blocks() * of_.room.features * block_rows));
    return rooms_.back().second.data();
  }

  const PlanOf &of_;
  const PackedView<T> &view_;
  Range range_;
  Keep keep_;
  const Context &context_;
  Memory<T> part_;
  mutable Memory<T> spare_;
  mutable std::deque<std::pair<uintptr_t, Memory<T>>> rooms_;
};

// Theta of external steps of a chunk.
template <class T>
class ThetasOfChunk {
 public:
  ThetasOfChunk(const Plan &plan, const ExternalTheta<T> *thetas, int64_t rows, Slot &slot) : plan_(plan) {
    if (thetas == nullptr || plan.externals.empty()) {
      return;
    }
    table_ = slot.input<Theta<T>>(static_cast<int64_t>(plan.externals.size()));
    for (size_t k = 0; k < plan.externals.size(); k++) {
      at_.push_back(slot.input<T>(thetas[k].data == nullptr ? 0 : (thetas[k].shared ? 1 : rows) * plan.externals[k].n));
    }
  }
  void bring(const ExternalTheta<T> *thetas, int64_t first, int64_t rows, Slot &slot, Walk<T> &walk) const {
    for (size_t k = 0; k < at_.size(); k++) {
      const int64_t n = plan_.externals[k].n, skipped = thetas[k].shared ? 0 : first * n;
      if (thetas[k].data != nullptr) {
        copy_to_host(slot.here<T>(at_[k]), thetas[k].data + skipped,
                     (thetas[k].shared ? 1 : rows) * n * static_cast<int64_t>(sizeof(T)));
      }
      slot.here<Theta<T>>(table_)[k] = {thetas[k].data != nullptr ? slot.there<T>(at_[k]) - skipped : nullptr,
                                        thetas[k].shared, n, plan_.externals[k].offset, nullptr};
    }
    walk.thetas = at_.empty() ? nullptr : slot.there<Theta<T>>(table_);
    walk.n_thetas = static_cast<int>(at_.size());
  }
  // Gradients of each go to `d` on, (rows, n) one after the other.
  void gradients(T *d, int64_t first, int64_t rows, Slot &slot) const {
    for (size_t k = 0; k < at_.size(); k++) {
      const External &external = plan_.externals[k];
      slot.here<Theta<T>>(table_)[k].d_rows = d + external.offset * rows - first * external.n;
    }
  }
  // Where number f of all of row r lies there.
  int64_t place(int64_t f, int64_t r, int64_t rows) const {
    for (const External &external : plan_.externals) {
      if (f < external.offset + external.n) {
        return external.offset * rows + r * external.n + f - external.offset;
      }
    }
    return 0;
  }

 private:
  const Plan &plan_;
  int64_t table_ = 0;
  std::vector<int64_t> at_;
};

// What a launch over arrays of the device needs beside them: rows of context and theta, there already or brought.
template <class T>
class OnDevice {
 public:
  OnDevice(const Walking<T> &walking, const Context &context, const ExternalTheta<T> *thetas, int64_t rows,
           Walk<T> &walk) {
    const Plan &plan = walking.plan;
    walk = walking.walk(stream());
    if (plan.context_dim > 0 && context.rows.data != nullptr && !is_device(context.rows.data) &&
        walking.kind == ContextKind::rows) {
      const int64_t n = context.shared ? 1 : (rows + context.block - 1) / context.block;
      const int64_t size = context.rows.item_size, stride = plan.context_dim * size;
      std::vector<char> gathered(static_cast<size_t>(n * stride));
      gather_rows(context.rows, plan.context_dim, n, [](int64_t i) { return i; }, gathered.data());
      context_ = Memory<char>(n * stride);
      copy(context_.data(), gathered.data(), n * stride);
      walk.context = {context_.data(), stride, size, context.rows.item_size};
    }
    if (thetas == nullptr || plan.externals.empty()) {
      return;
    }
    std::vector<Theta<T>> table;
    for (size_t k = 0; k < plan.externals.size(); k++) {
      const External &external = plan.externals[k];
      thetas_.emplace_back(thetas[k].data, (thetas[k].shared ? 1 : rows) * external.n);
      table.push_back({thetas_.back().data(), thetas[k].shared, external.n, external.offset, nullptr});
    }
    table_ = Memory<Theta<T>>(static_cast<int64_t>(table.size()));
    copy(table_.data(), table.data(), static_cast<int64_t>(table.size() * sizeof(Theta<T>)));
    walk.thetas = table_.data();
    walk.n_thetas = static_cast<int>(table.size());
  }

 private:
  Memory<char> context_;
  std::deque<Uploaded<T>> thetas_;
  Memory<Theta<T>> table_;
};

// Gradients of parameters, from what walks record: slice by slice, chunk after chunk.
template <class T>
class ParamSums {
 public:
  // whole: whether walks go through all that has parameters.
  ParamSums(const DevicePlan &device, const Plan &plan, const Slices &slices, bool wanted, bool whole)
      : device_(device), plan_(plan), slices_(slices), wanted_(wanted), whole_(whole) {
    if (wanted) {
      gradients_ = Memory<T>(slices.n * std::max<int64_t>(plan.n_params, 1));
    }
  }
  // Rows [first, first + rows) of the batch, of whole tiles but for the end, walk on a stream; where they record.
  Records<T> begin(int64_t first, int64_t rows, const Stream &on) {
    if (!wanted_) {
      return {};
    }
    if (!any_) {  // slices may have no rows
      cuda::clear(gradients_.data(), gradients_.size() * static_cast<int64_t>(sizeof(T)), on);
    }
    first_ = first;
    rows_ = rows;
    const int64_t stride = (rows + block_rows - 1) / block_rows * block_rows;
    const int64_t size = std::max<int64_t>(device_.gradient.record_features, 1) * stride;
    Memory<T> &memory = records_of(on);
    if (memory.size() < size) {
      memory = Memory<T>(size);
    }
    if (!whole_) {  // what the walk leaves out has gradients of zero
      cuda::clear(memory.data(), size * static_cast<int64_t>(sizeof(T)), on);
    }
    return of_ = {memory.data(), stride};
  }
  // Adds them up, behind those of the chunk before. count: rows of each tile of the batch, or null: all.
  void add(const Stream &on, const int32_t *count = nullptr, const int32_t *stop = nullptr) {
    if (!wanted_) {
      return;
    }
    if (any_) {
      on.wait(last_);
    }
    const SlicesOf slices{slices_.rows, slices_.tiles, slices_.n, first_ / tile_rows, tiles_of(first_ + rows_), count};
    const auto &kernels = sums<T>();
    if (device_.n_linear > 0) {
      constexpr int64_t shared = 16 * (linear_inputs + linear_outputs) * static_cast<int64_t>(sizeof(T));
      kernels.linear({device_.gradient.linear_blocks * slices.n, shared}, on,
                     {slices, of_, device_.linear_jobs, static_cast<int>(device_.n_linear), gradients_.data(),
                      plan_.n_params, stop});
    }
    if (device_.n_free > 0) {
      kernels.free({(device_.n_free * slices.n + common_threads - 1) / common_threads, 0}, on,
                   {slices, of_, device_.free_jobs, device_.n_free, gradients_.data(), plan_.n_params, stop});
    }
    last_.record(on);
    any_ = true;
  }
  // The sum of all slices, on the device, behind them.
  T *combine(const Stream &on, const int32_t *stop = nullptr) {
    if (any_) {
      on.wait(last_);
    }
    sums<T>().combine({(plan_.n_params + common_threads - 1) / common_threads, 0}, on,
                      {gradients_.data(), plan_.n_params, slices_.n, stop});
    return gradients_.data();
  }
  // For another batch of the same kind.
  void again() { any_ = false; }
  T *gradients() const { return gradients_.data(); }

 private:
  Memory<T> &records_of(const Stream &on) {
    for (auto &[handle, memory] : records_) {
      if (handle == on.handle()) {
        return memory;
      }
    }
    return records_.emplace_back(on.handle(), Memory<T>()).second;
  }

  const DevicePlan &device_;
  const Plan &plan_;
  Slices slices_;
  bool wanted_, whole_;
  Memory<T> gradients_;
  std::deque<std::pair<uintptr_t, Memory<T>>> records_;
  Records<T> of_{};
  int64_t first_ = 0, rows_ = 0;
  Event last_;  // when the sums so far are there
  bool any_ = false;
};

}  // namespace penstock::cuda
