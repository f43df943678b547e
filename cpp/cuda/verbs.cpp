// Verbs on a device: see verbs.hpp.
#include "cuda/verbs.hpp"

#include <cmath>
#include <cstring>
#include <deque>
#include <optional>
#include <string>

#include "cuda/kernels.hpp"
#include "cuda/staging.hpp"
#include "cuda/training.hpp"
#include "cuda/walking.hpp"
#include "engine/far_rows.hpp"
#include "engine/floating_point.hpp"
#include "engine/row_sums.hpp"
#include "engine/there_and_back.hpp"
#include "isa/dispatch.hpp"

namespace penstock::cuda {
namespace {

void check_index(const Batch &batch, const int64_t *index) {
  for (int64_t r = 0; index != nullptr && r < batch.rows; r++) {
    if (index[r] < 0 || index[r] >= batch.n_rows) {
      throw std::invalid_argument("index must lie within the " + std::to_string(batch.n_rows) + " rows of x");
    }
  }
}

// Rows of a context of a chunk, [first, first + rows) of the batch, or those that an index names, as inputs of a slot.
struct ContextOfChunk {
  int64_t at = -1, begin = 0, count = 0;

  ContextOfChunk(const Context &context, int context_dim, ContextKind kind, bool by_row, int64_t first, int64_t rows,
                 Slot &slot) {
    if (kind == ContextKind::rows && !is_device(context.rows.data)) {
      begin = context.shared ? 0 : by_row ? first : first / context.block;
      count = context.shared ? 1 : by_row ? rows : (first + rows - 1) / context.block - begin + 1;
      at = slot.input<char>(count * context_dim * context.rows.item_size);
    }
  }
  // row_of(i): the row of the batch that number i of the chunk is, where each has a row of context for itself.
  template <class T, class RowOf>
  void bring(const Context &context, int context_dim, bool by_row, const RowOf &row_of, Slot &slot,
             Walk<T> &walk) const {
    if (at < 0) {
      return;
    }
    gather_rows(
        context.rows, context_dim, count,
        [&](int64_t i) { return context.shared ? 0
                                : by_row       ? row_of(i) / context.block
                                               : begin + i; },
        slot.here<char>(at));
    const int64_t size = context.rows.item_size, stride = context_dim * size;
    walk.context = {slot.there<char>(at) - begin * stride, stride, size, context.rows.item_size};
    if (by_row) {
      walk.context_block = 1;
    }
  }
};

// Columns of given components, (mixtures, rows), of a chunk.
struct ComponentsOfChunk {
  int64_t at = -1, mixtures = 0;
  ComponentsOfChunk(const Components &components, const Plan &plan, int64_t rows, Slot &slot) {
    if (components.data != nullptr) {
      mixtures = std::count_if(plan.base_blocks().begin(), plan.base_blocks().end(),
                               [](const BaseBlock &block) { return block.kind == base_gaussian_mixture; });
      at = slot.input<int64_t>(mixtures * rows);
    }
  }
  void bring(const Components &components, int64_t first, int64_t rows, Slot &slot, Drawing &drawing) const {
    for (int64_t m = 0; m < mixtures; m++) {
      std::copy_n(components.data + m * components.rows + first, rows, slot.here<int64_t>(at) + m * rows);
    }
    drawing.chosen = at >= 0 ? slot.there<int64_t>(at) - first : nullptr;
    drawing.chosen_stride = rows;
  }
};

Drawing drawing_of(const Draws &draws, int64_t block) {
  return {draws.seed, draws.context_row, draws.first_draw, block, nullptr, 0};
}

// Adds the sum of all slices to gradients of the host.
template <class T>
void give_gradient(const Plan &plan, ParamSums<T> &sums, double *params) {
  if (params == nullptr) {
    return;
  }
  const T *sum = sums.combine(stream());
  std::vector<T> here(static_cast<size_t>(plan.n_params));
  copy_to_host(here.data(), sum, plan.n_params * static_cast<int64_t>(sizeof(T)));
  for (int64_t i = 0; i < plan.n_params; i++) {
    params[i] += static_cast<double>(here[static_cast<size_t>(i)]);
  }
}

// Gradients of far rows that overflowed, which the processor finds again: see ScaledGradients.
template <class T>
class FarGradients {
 public:
  FarGradients(const Plan &plan, const Packed<T> &packed, const Range &range, const Batch &batch,
               const ExternalTheta<T> *thetas, bool need_context)
      : plan_(plan), packed_(packed), range_(range), batch_(batch), thetas_(thetas), need_context_(need_context) {}

  // Of one row of the batch.
  void mend(int64_t row, const Cotangents<T> &cotangents) {
    begin();
    const TileRows rows{1, row};
    const auto copied = [&](const T *array, int64_t n) {
      std::vector<T> here(array != nullptr ? static_cast<size_t>(n) : 0);
      if (array != nullptr) {
        read(here.data(), array + row * n, n);
      }
      return here;
    };
    const std::vector<T> d_out = copied(cotangents.out, plan_.dim), d_value = copied(cotangents.value, 1);
    std::vector<T> x = copied(cotangents.x.data, plan_.dim),
                   context = copied(cotangents.context.data, plan_.context_dim);
    const auto rows_of = [](std::vector<T> &numbers) {
      return RowsOut<T>{numbers.empty() ? nullptr : numbers.data(), static_cast<int64_t>(numbers.size())};
    };
    host_->mend(
        rows, d_out.empty() ? nullptr : d_out.data(), [&](int) { return d_value.empty() ? T{0} : d_value[0]; },
        rows_of(x), rows_of(context));
    copy(from_row(cotangents.x, row).data, x.data(), static_cast<int64_t>(x.size() * sizeof(T)));
    copy(from_row(cotangents.context, row).data, context.data(), static_cast<int64_t>(context.size() * sizeof(T)));
  }

 private:
  static void read(T *to, const T *from, int64_t n) { copy_to_host(to, from, n * static_cast<int64_t>(sizeof(T))); }
  void begin() {
    if (host_) {
      return;
    }
    on_host_ = batch_;
    x_.emplace(batch_.x, plan_.dim, batch_.rows);
    on_host_.x = x_->view;
    if (plan_.context_dim > 0) {
      const Context &context = batch_.context;
      context_.emplace(context.rows, plan_.context_dim, context.shared ? 1 : batch_.rows / context.block);
      on_host_.context.rows = context_->view;
    }
    for (size_t k = 0; thetas_ != nullptr && k < plan_.externals.size(); k++) {
      theta_.push_back(thetas_[k]);
      if (is_device(thetas_[k].data)) {
        const int64_t n = plan_.externals[k].n * (thetas_[k].shared ? 1 : batch_.rows);
        numbers_.emplace_back(static_cast<size_t>(n));
        read(numbers_.back().data(), thetas_[k].data, n);
        theta_.back().data = numbers_.back().data();
      }
    }
    host_.emplace(plan_, packed_, range_, Keep::old_values, on_host_, theta_.data(), need_context_);
  }

  const Plan &plan_;
  const Packed<T> &packed_;
  const Range &range_;
  const Batch &batch_;
  const ExternalTheta<T> *thetas_;
  bool need_context_;
  Batch on_host_{};
  std::optional<RowsOnHost> x_, context_;
  std::vector<ExternalTheta<T>> theta_;
  std::deque<std::vector<T>> numbers_;
  std::optional<ThereAndBack<T>> host_;
};

template <class T>
int64_t block_of(const Plan &plan, const Context &context, int64_t rows) {
  return plan.context_dim == 0 || context.shared ? rows : context.block;
}

template <class T>
void launch_evaluate(const Walking<T> &walking, const Stream &on, const Evaluate<T> &job) {
  walking.walks.evaluate(walking.grid(job.rows), on, job);
}

// --- evaluation ----------------------------------------------------------------------------------------------------------------

// Draws, or rows of x, of the host.
template <class T>
struct Rows {
  const Batch *batch = nullptr;  // null: draws
  const ExternalTheta<T> *thetas = nullptr;
  Drawing drawing{};
  Components components{};
  const int64_t *numbers = nullptr;  // of draws, or null: they follow each other
};

// To arrays of the host, of which each may be null.
template <class T>
void evaluate_chunks(const Walking<T> &walking, const Context &context, const Rows<T> &source, int64_t n,
                     const RowsOut<T> &out, RowValues values, double *log_weight, uint8_t *coarse, Poll poll) {
  const Plan &plan = walking.plan;
  const Batch *batch = source.batch;
  const int64_t *index = batch != nullptr ? batch->index : source.numbers;
  const bool by_row = index != nullptr;
  in_chunks(n, walking.chunk(), poll, [&](Slot &slot, int64_t first, int64_t rows) {
    const auto row_of = [&](int64_t i) { return index != nullptr ? index[first + i] : first + i; };
    const int64_t x_at = batch != nullptr ? slot.input<char>(rows * plan.dim * batch->x.item_size) : 0;
    const ContextOfChunk contexts(context, plan.context_dim, walking.kind, by_row, first, rows, slot);
    const ThetasOfChunk<T> thetas(plan, source.thetas, rows, slot);
    const ComponentsOfChunk components(source.components, plan, rows, slot);
    const int64_t numbers_at = source.numbers != nullptr ? slot.input<int64_t>(rows) : 0;
    const int64_t out_at = slot.output<T>(out.data != nullptr ? rows * plan.dim : 0);
    const int64_t values_at = slot.output<char>(values.data != nullptr ? rows * values.item_size : 0);
    const int64_t weight_at = slot.output<double>(log_weight != nullptr ? rows : 0);
    const int64_t coarse_at = slot.output<uint8_t>(coarse != nullptr ? rows : 0);
    slot.make_room();

    Evaluate<T> job{};
    job.walk = walking.walk(slot.stream());
    job.first = first;
    job.rows = rows;
    contexts.bring(context, plan.context_dim, by_row, row_of, slot, job.walk);
    thetas.bring(source.thetas, first, rows, slot, job.walk);
    if (batch != nullptr) {
      gather_rows(batch->x, plan.dim, rows, row_of, slot.here<char>(x_at));
      const int64_t size = batch->x.item_size, stride = plan.dim * size;
      job.x = {slot.there<char>(x_at) - first * stride, stride, size, batch->x.item_size};
    } else {
      job.draws = true;
      job.drawing = source.drawing;
      components.bring(source.components, first, rows, slot, job.drawing);
      if (source.numbers != nullptr) {
        std::copy_n(source.numbers + first, rows, slot.here<int64_t>(numbers_at));
        job.index = slot.there<int64_t>(numbers_at) - first;
        job.by_number = true;
      }
    }
    job.out = {out.data != nullptr ? slot.there<T>(out_at) - first * plan.dim : nullptr, plan.dim};
    job.values = {values.data != nullptr ? slot.there<char>(values_at) - first * values.item_size : nullptr,
                  values.item_size};
    job.log_weight = log_weight != nullptr ? slot.there<double>(weight_at) - first : nullptr;
    job.coarse = coarse != nullptr ? slot.there<uint8_t>(coarse_at) - first : nullptr;
    slot.send();
    launch_evaluate(walking, slot.stream(), job);
    slot.fetch([=, &slot, &out, &plan] {
      if (out.data != nullptr) {
        scatter_rows(slot.here<T>(out_at), plan.dim, rows, from_row(out, first));
      }
      if (values.data != nullptr) {
        std::memcpy(static_cast<char *>(values.data) + first * values.item_size, slot.here<char>(values_at),
                    static_cast<size_t>(rows * values.item_size));
      }
      if (log_weight != nullptr) {
        std::copy_n(slot.here<double>(weight_at), rows, log_weight + first);
      }
      if (coarse != nullptr) {
        std::copy_n(slot.here<uint8_t>(coarse_at), rows, coarse + first);
      }
    });
  });
}

}  // namespace

template <class T>
std::shared_ptr<Packed<T>> packed(const Engine<T> &engine, const T *params, const double *buffers) {
  return std::make_shared<PlacedPacked<T>>(engine.plan(), params, buffers);
}

template <class T>
void evaluate(const Engine<T> &engine, const Packed<T> &packed, const Range &range, const Batch &batch,
              const ExternalTheta<T> *thetas, const RowsOut<T> &out, RowValues values, Poll poll) {
  const DefaultFloatingPoint environment;
  const Walking<T> walking(engine, packed, range, Keep::nothing, batch.context, batch.rows);
  if (batch.rows == 0) {
    return;
  }
  if (!is_device(batch.x.data)) {
    check_index(batch, batch.index);
    Rows<T> source;
    source.batch = &batch;
    source.thetas = thetas;
    return evaluate_chunks(walking, batch.context, source, batch.rows, out, values, nullptr, nullptr, poll);
  }
  Evaluate<T> job{};
  const OnDevice<T> there(walking, batch.context, thetas, batch.rows, job.walk);
  const Uploaded<int64_t> index(batch.index, batch.rows);
  job.rows = batch.rows;
  job.x = batch.x;
  job.index = index.data();
  job.out = out;
  job.values = {values.data, values.item_size};
  launch_evaluate(walking, stream(), job);
}

template <class T>
void sample(const Engine<T> &engine, const Packed<T> &packed, const Draws &draws, const Context &context, int64_t rows,
            const RowsOut<T> &out, RowValues log_prob, Poll poll) {
  const DefaultFloatingPoint environment;
  engine.refuse_external_theta("sample");
  const Plan &plan = engine.plan();
  const Walking<T> walking(engine, packed, {0, plan.n_steps, true, true}, Keep::nothing, context, rows);
  if (rows == 0) {
    return;
  }
  const bool again = log_prob.data != nullptr && !plan.mapped().empty();
  std::vector<uint8_t> coarse(again ? static_cast<size_t>(rows) : 0);
  const Drawing drawing = drawing_of(draws, block_of<T>(plan, context, rows));
  const bool on_device = is_device(out.data);
  if (!on_device) {
    Rows<T> source;
    source.drawing = drawing;
    evaluate_chunks(walking, context, source, rows, out, log_prob, nullptr, again ? coarse.data() : nullptr, poll);
  } else {
    Evaluate<T> job{};
    const OnDevice<T> there(walking, context, nullptr, rows, job.walk);
    const Memory<uint8_t> marks(again ? rows : 0);
    job.rows = rows;
    job.draws = true;
    job.drawing = drawing;
    job.out = out;
    job.values = {log_prob.data, log_prob.item_size};
    job.coarse = again ? marks.data() : nullptr;
    launch_evaluate(walking, stream(), job);
    if (again) {
      copy(coarse.data(), marks.data(), rows);
    }
  }
  // Where rounding has moved a row within its support, the density is that of the row as it is stored.
  std::vector<int64_t> index;
  for (int64_t r = 0; again && r < rows; r++) {
    if (coarse[static_cast<size_t>(r)] != 0) {
      index.push_back(r);
    }
  }
  if (index.empty()) {
    return;
  }
  constexpr auto size = static_cast<int64_t>(sizeof(T));
  const auto n = static_cast<int64_t>(index.size());
  const Batch stored{
      {reinterpret_cast<const char *>(out.data), out.stride * size, size, sizeof(T)}, n, context, index.data(), rows};
  std::vector<double> found(index.size());
  Memory<double> found_there(on_device ? n : 0);
  evaluate<T>(engine, packed, {0, plan.n_steps, false, true}, stored, nullptr, {},
              {on_device ? found_there.data() : found.data(), sizeof(double)}, poll);
  if (!on_device) {
    for (int64_t i = 0; i < n; i++) {
      log_prob.put(index[static_cast<size_t>(i)], found[static_cast<size_t>(i)]);
    }
    return;
  }
  copy(found.data(), found_there.data(), n * static_cast<int64_t>(sizeof(double)));
  for (int64_t i = 0; i < n; i++) {
    alignas(8) char number[8];
    const RowValues one{number, log_prob.item_size};
    one.put(0, found[static_cast<size_t>(i)]);
    copy(static_cast<char *>(log_prob.data) + index[static_cast<size_t>(i)] * log_prob.item_size, number,
         log_prob.item_size);
  }
}

template <class T>
void latents(const Engine<T> &engine, const Packed<T> &packed, const Draws &draws, const Components &components,
             const Context &context, int64_t rows, const RowsOut<T> &out, double *log_weight, Poll poll) {
  const DefaultFloatingPoint environment;
  const Plan &plan = engine.plan();
  components.check(plan, rows);
  const Walking<T> walking(engine, packed, {0, 0, true, false}, Keep::nothing, context, rows);
  if (rows == 0) {
    return;
  }
  Rows<T> source;
  source.drawing = drawing_of(draws, block_of<T>(plan, context, rows));
  source.components = components;
  evaluate_chunks(walking, context, source, rows, out, {}, log_weight, nullptr, poll);
}

// --- gradients -----------------------------------------------------------------------------------------------------------------

template <class T>
void vjp(const Engine<T> &engine, const Packed<T> &packed, const Range &range, const Batch &batch,
         const ExternalTheta<T> *thetas, RowValues values, const Cotangents<T> &cotangents, Poll poll) {
  const DefaultFloatingPoint environment;
  const Plan &plan = engine.plan();
  const bool want_params = cotangents.params != nullptr, sums_context = cotangents.context_sum != nullptr;
  const bool want_context = cotangents.context.data != nullptr || sums_context || (plan.embeds && want_params);
  const Slices slices(batch.rows);
  const Walking<T> walking(engine, packed, range, Keep::old_values, batch.context, batch.rows);
  if (batch.rows == 0) {
    return;
  }
  const int64_t n_contexts = plan.context_dim == 0  ? 0
                             : batch.context.shared ? 1
                                                    : (batch.rows + batch.context.block - 1) / batch.context.block;
  const OnHost<double> context_sum(cotangents.context_sum, n_contexts * plan.context_dim);
  ContextSums<T> context_sums(plan, batch.context, slices, context_sum.data());
  ExternalSums<T> external_sums(plan, slices, cotangents.thetas);
  const bool whole = range.first == 0 && range.last == plan.n_steps && (range.base || !plan.base_learns);
  ParamSums<T> sums(walking.device, plan, slices, want_params, whole);
  FarGradients<T> far(plan, packed, range, batch, thetas, want_context || want_params);

  in_chunks(batch.rows, walking.chunk(), poll, [&](Slot &slot, int64_t first, int64_t rows) {
    const auto row_of = [&](int64_t i) { return first + i; };
    // Arrays of the device are read and written where they are.
    const auto comes = [](const auto *array, int64_t n) { return array != nullptr && !is_device(array) ? n : 0; };
    const bool d_context_by_row = cotangents.context.data != nullptr || sums_context;
    const int64_t x_at = slot.input<char>(comes(batch.x.data, rows * plan.dim * batch.x.item_size));
    const ContextOfChunk contexts(batch.context, plan.context_dim, walking.kind, false, first, rows, slot);
    const ThetasOfChunk<T> theta(plan, thetas, rows, slot);
    const int64_t d_out_at = slot.input<T>(comes(cotangents.out, rows * plan.dim));
    const int64_t d_value_at = slot.input<T>(comes(cotangents.value, rows));
    const int64_t values_at = slot.output<char>(comes(static_cast<char *>(values.data), rows * values.item_size));
    const int64_t d_x_at = slot.output<T>(comes(cotangents.x.data, rows * plan.dim));
    const bool d_context_there = is_device(cotangents.context.data);
    const int64_t d_context_at = slot.output<T>(d_context_by_row && !d_context_there ? rows * plan.context_dim : 0);
    const int64_t d_theta_at = slot.output<T>(cotangents.thetas != nullptr ? rows * plan.external_features : 0);
    const bool may_be_far = cotangents.x.data != nullptr || cotangents.context.data != nullptr;
    const int64_t bad_at = slot.output<uint8_t>(may_be_far ? rows : 0);
    slot.make_room();

    Vjp<T> job{};
    job.walk = walking.walk(slot.stream());
    job.first = first;
    job.rows = rows;
    job.x = batch.x;
    if (!is_device(batch.x.data)) {
      gather_rows(batch.x, plan.dim, rows, row_of, slot.here<char>(x_at));
      const int64_t size = batch.x.item_size, stride = plan.dim * size;
      job.x = {slot.there<char>(x_at) - first * stride, stride, size, batch.x.item_size};
    }
    contexts.bring(batch.context, plan.context_dim, false, row_of, slot, job.walk);
    theta.bring(thetas, first, rows, slot, job.walk);
    const auto in = [&](const T *array, int64_t columns, int64_t at) -> const T * {
      if (array == nullptr || is_device(array)) {
        return array;
      }
      std::copy_n(array + first * columns, rows * columns, slot.here<T>(at));
      return slot.there<T>(at) - first * columns;
    };
    job.d_out = in(cotangents.out, plan.dim, d_out_at);
    job.d_value = in(cotangents.value, 1, d_value_at);
    const bool x_here = cotangents.x.data != nullptr && !is_device(cotangents.x.data);
    job.d_x = x_here ? RowsOut<T>{slot.there<T>(d_x_at) - first * plan.dim, plan.dim} : cotangents.x;
    job.d_context = d_context_there ? cotangents.context
                    : d_context_by_row
                        ? RowsOut<T>{slot.there<T>(d_context_at) - first * plan.context_dim, plan.context_dim}
                        : RowsOut<T>{};
    const bool values_here = values.data != nullptr && !is_device(values.data);
    job.values = {
        values_here ? slot.there<char>(values_at) - first * values.item_size : static_cast<char *>(values.data),
        values.item_size};
    job.bad = may_be_far ? slot.there<uint8_t>(bad_at) - first : nullptr;
    job.spare = walking.spare();
    job.want_params = want_params;
    job.want_context = want_context;
    if (cotangents.thetas != nullptr) {
      theta.gradients(slot.there<T>(d_theta_at), first, rows, slot);
    }
    slot.send();
    job.records = sums.begin(first, rows, slot.stream());
    walking.walks.vjp(walking.grid(rows), slot.stream(), job);
    sums.add(slot.stream());
    slot.fetch([=, &slot, &plan, &cotangents, &context_sums, &external_sums, &far, &slices, &range, &values, &batch] {
      if (values_here) {
        std::memcpy(static_cast<char *>(values.data) + first * values.item_size, slot.here<char>(values_at),
                    static_cast<size_t>(rows * values.item_size));
      }
      const T *const d_context = slot.here<T>(d_context_at);
      for (int64_t t = first / tile_rows, s = 0;
           (sums_context || cotangents.thetas != nullptr) && t * tile_rows < first + rows; t++) {
        const int64_t begin = t * tile_rows, count = std::min<int64_t>(tile_rows, batch.rows - begin);
        const TileRows tile{static_cast<int>(count), begin};
        while (slices.first_tile(s + 1) <= t) {
          s++;
        }
        if (sums_context) {
          context_sums.add(s, tile, d_context + (begin - first) * plan.context_dim);
        }
        if (cotangents.thetas != nullptr) {
          std::vector<T> by_feature(static_cast<size_t>(plan.external_features * tile_stride));
          for (int64_t f = 0; f < plan.external_features; f++) {
            for (int64_t r = 0; r < count; r++) {
              by_feature[static_cast<size_t>(f * tile_stride + r)] =
                  slot.here<T>(d_theta_at)[theta.place(f, begin - first + r, rows)];
            }
          }
          external_sums.take(s, tile, range, by_feature.data());
        }
      }
      if (x_here) {
        scatter_rows(slot.here<T>(d_x_at), plan.dim, rows, from_row(cotangents.x, first));
      }
      if (cotangents.context.data != nullptr && !d_context_there) {
        scatter_rows(d_context, plan.context_dim, rows, from_row(cotangents.context, first));
      }
      for (int64_t r = 0; may_be_far && r < rows; r++) {
        if (slot.here<uint8_t>(bad_at)[r] != 0) {
          far.mend(first + r, cotangents);
        }
      }
    });
  });
  const OnHost<double> gradient(cotangents.params, plan.n_params);
  give_gradient(plan, sums, gradient.data());
  gradient.give_back();
  context_sums.finish();
  context_sum.give_back();
  external_sums.finish();
}

template <class T>
void latents_vjp(const Engine<T> &engine, const Packed<T> &packed, const Draws &draws, const Components &components,
                 const Context &context, int64_t rows, const T *d_out, const T *d_log_weight, double *params,
                 Poll poll) {
  const DefaultFloatingPoint environment;
  const Plan &plan = engine.plan();
  components.check(plan, rows);
  const Slices slices(rows);
  if (slices.n == 0) {
    return;
  }
  const Walking<T> walking(engine, packed, {0, 0, true, false}, Keep::old_values, context, rows);
  ParamSums<T> sums(walking.device, plan, slices, true, false);
  const Drawing drawing = drawing_of(draws, block_of<T>(plan, context, rows));
  in_chunks(rows, walking.chunk(), poll, [&](Slot &slot, int64_t first, int64_t n) {
    const auto row_of = [&](int64_t i) { return first + i; };
    const ContextOfChunk contexts(context, plan.context_dim, walking.kind, false, first, n, slot);
    const ComponentsOfChunk chosen(components, plan, n, slot);
    const int64_t d_out_at = slot.input<T>(d_out != nullptr ? n * plan.dim : 0);
    const int64_t d_value_at = slot.input<T>(d_log_weight != nullptr ? n : 0);
    slot.output<char>(1);
    slot.make_room();
    Vjp<T> job{};
    job.walk = walking.walk(slot.stream());
    contexts.bring(context, plan.context_dim, false, row_of, slot, job.walk);
    job.first = first;
    job.rows = n;
    job.draws = true;
    job.drawing = drawing;
    chosen.bring(components, first, n, slot, job.drawing);
    if (d_out != nullptr) {
      std::copy_n(d_out + first * plan.dim, n * plan.dim, slot.here<T>(d_out_at));
      job.d_out = slot.there<T>(d_out_at) - first * plan.dim;
    }
    if (d_log_weight != nullptr) {
      std::copy_n(d_log_weight + first, n, slot.here<T>(d_value_at));
      job.d_value = slot.there<T>(d_value_at) - first;
    }
    job.spare = walking.spare();
    job.want_params = true;
    job.want_context = plan.embeds;
    slot.send();
    job.records = sums.begin(first, n, slot.stream());
    walking.walks.vjp(walking.grid(n), slot.stream(), job);
    sums.add(slot.stream());
    slot.fetch([] {});
  });
  give_gradient(plan, sums, params);
}

template <class T>
LossSums loss_and_grad(const Engine<T> &engine, const Packed<T> &packed, const Batch &batch,
                       const SampleWeights &weights, double *params, Poll) {
  const DefaultFloatingPoint environment;
  engine.refuse_external_theta("loss_and_grad");
  if (batch.rows == 0) {
    return {};
  }
  const Plan &plan = engine.plan();
  std::vector<char> weights_here;
  const SampleWeights known = on_host(weights, batch.rows, weights_here);
  const int exponent = known.exponent(batch.rows);
  const OnHost<double> gradient(params, plan.n_params);
  const Stream on = stream();
  Training<T> training(engine, packed, device_packed(plan, packed).view(), batch, known.scaled(-exponent), batch.rows,
                       on);
  const Memory<int32_t> stop(1);
  clear(stop.data(), sizeof(int32_t), on);
  training.gradient(nullptr, nullptr, 0, batch.rows, stop.data());
  std::vector<T> sum(static_cast<size_t>(plan.n_params));
  double loss = 0, weight = 0;
  copy_to_host(sum.data(), training.gradients(), plan.n_params * static_cast<int64_t>(sizeof(T)));
  copy_to_host(&loss, training.loss_sums(), sizeof(double));
  copy_to_host(&weight, training.loss_sums() + training.slices(), sizeof(double));
  const auto scaled = [exponent](double x) {
    return x * std::ldexp(1.0, exponent / 2) * std::ldexp(1.0, exponent - exponent / 2);
  };
  for (int64_t i = 0; i < plan.n_params; i++) {
    gradient.data()[i] += scaled(static_cast<double>(sum[static_cast<size_t>(i)]));
  }
  gradient.give_back();
  return {scaled(loss), scaled(weight)};
}

// --- mixtures ------------------------------------------------------------------------------------------------------------------

template <class T>
void evaluate_many(const std::vector<Member<T>> &members, const Batch &batch, const MixtureValues &out, Poll poll) {
  const std::vector<int64_t> numbers = counting(members, out.each != nullptr);
  const auto n = static_cast<int64_t>(numbers.size());
  std::vector<double> log_weights;
  std::vector<double> values(static_cast<size_t>(n * batch.rows)), log_p(static_cast<size_t>(batch.rows));
  const bool on_device = is_device(batch.x.data);
  const Memory<double> there(on_device ? n * batch.rows : 0);
  for (int64_t i = 0; i < n; i++) {
    const Member<T> &member = members[static_cast<size_t>(numbers[static_cast<size_t>(i)])];
    member.engine->refuse_external_theta("a mixture");
    log_weights.push_back(member.log_weight);
    evaluate<T>(*member.engine, *member.packed, {0, member.engine->plan().n_steps, false, true},
                for_member(member, batch), nullptr, {},
                {(on_device ? there.data() : values.data()) + i * batch.rows, sizeof(double)}, poll);
  }
  copy_to_host(values.data(), there.data(), there.size() * static_cast<int64_t>(sizeof(double)));
  const auto all = static_cast<int64_t>(members.size()) * batch.rows;
  const OnHost<double> each(out.each, all), shares(out.shares, all);
  const OnHost<char> mixed_p(static_cast<char *>(out.log_p.data), batch.rows * out.log_p.item_size);
  if (shares.data() != nullptr) {
    std::fill_n(shares.data(), all, 0.0);
  }
  const auto put = [&](double *to) {
    for (int64_t i = 0; to != nullptr && i < n; i++) {
      std::copy_n(values.data() + i * batch.rows, batch.rows, to + numbers[static_cast<size_t>(i)] * batch.rows);
    }
  };
  put(each.data());
  constexpr int64_t piece = 512;
  parallel((batch.rows + piece - 1) / piece, batch.rows > 8 * piece ? 256 : 1, poll, [&](int64_t p) {
    const int64_t from = p * piece, some = std::min(piece, batch.rows - from);
    std::vector<double> aside(static_cast<size_t>(n * piece)), mixed(piece);
    for (int64_t i = 0; i < n; i++) {
      std::copy_n(values.data() + i * batch.rows + from, some, aside.data() + i * piece);
    }
    kernels<T>().mix(aside.data(), piece, n, log_weights.data(), some, mixed.data());
    for (int64_t i = 0; i < n; i++) {
      std::copy_n(aside.data() + i * piece, some, values.data() + i * batch.rows + from);
    }
    std::copy_n(mixed.data(), some, log_p.data() + from);
  });
  put(shares.data());
  const RowValues result{mixed_p.data(), out.log_p.item_size};
  for (int64_t r = 0; result.data != nullptr && r < batch.rows; r++) {
    result.put(r, log_p[static_cast<size_t>(r)]);
  }
  each.give_back();
  shares.give_back();
  mixed_p.give_back();
}

template <class T>
void sample_many(const std::vector<Member<T>> &members, const Draws &draws, const Context &context, int64_t rows,
                 const RowsOut<T> &out, Poll poll) {
  const std::vector<int64_t> numbers = counting(members, false);
  const std::vector<std::vector<int64_t>> own = rows_of_members(members, draws, context, rows, poll);
  for (size_t k = 0; k < numbers.size(); k++) {
    const auto n = static_cast<int64_t>(own[k].size());
    if (n == 0) {
      continue;
    }
    const Member<T> &member = members[static_cast<size_t>(numbers[k])];
    const Plan &plan = member.engine->plan();
    member.engine->refuse_external_theta("a mixture");
    const Context of_member = for_member(member, Batch{{}, rows, context}).context;
    const Walking<T> walking(*member.engine, *member.packed, {0, plan.n_steps, true, true}, Keep::nothing, of_member,
                             rows);
    Rows<T> source;
    source.drawing = drawing_of(draws, block_of<T>(plan, context, rows));
    source.numbers = own[k].data();
    std::vector<T> x(static_cast<size_t>(n * plan.dim));
    evaluate_chunks(walking, of_member, source, n, {x.data(), plan.dim}, {}, nullptr, nullptr, poll);
    for (int64_t i = 0; i < n; i++) {
      T *const to = from_row(out, own[k][static_cast<size_t>(i)]).data;
      if (is_device(out.data)) {
        copy(to, x.data() + i * plan.dim, plan.dim * static_cast<int64_t>(sizeof(T)));
      } else {
        std::copy_n(x.data() + i * plan.dim, plan.dim, to);
      }
    }
  }
}

// NOLINTBEGIN(bugprone-macro-parentheses): T is a type
#define PENSTOCK_INSTANTIATE(T)                                                                                        \
  template std::shared_ptr<Packed<T>> packed(const Engine<T> &, const T *, const double *);                            \
  template void evaluate(const Engine<T> &, const Packed<T> &, const Range &, const Batch &, const ExternalTheta<T> *, \
                         const RowsOut<T> &, RowValues, Poll);                                                         \
  template void sample(const Engine<T> &, const Packed<T> &, const Draws &, const Context &, int64_t,                  \
                       const RowsOut<T> &, RowValues, Poll);                                                           \
  template void latents(const Engine<T> &, const Packed<T> &, const Draws &, const Components &, const Context &,      \
                        int64_t, const RowsOut<T> &, double *, Poll);                                                  \
  template void latents_vjp(const Engine<T> &, const Packed<T> &, const Draws &, const Components &, const Context &,  \
                            int64_t, const T *, const T *, double *, Poll);                                            \
  template void vjp(const Engine<T> &, const Packed<T> &, const Range &, const Batch &, const ExternalTheta<T> *,      \
                    RowValues, const Cotangents<T> &, Poll);                                                           \
  template LossSums loss_and_grad(const Engine<T> &, const Packed<T> &, const Batch &, const SampleWeights &,          \
                                  double *, Poll);                                                                     \
  template void evaluate_many(const std::vector<Member<T>> &, const Batch &, const MixtureValues &, Poll);             \
  template void sample_many(const std::vector<Member<T>> &, const Draws &, const Context &, int64_t,                   \
                            const RowsOut<T> &, Poll);
// NOLINTEND(bugprone-macro-parentheses)
PENSTOCK_INSTANTIATE(float)
PENSTOCK_INSTANTIATE(double)
#undef PENSTOCK_INSTANTIATE

}  // namespace penstock::cuda
