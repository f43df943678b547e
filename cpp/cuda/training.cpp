// Training on a device: see training.hpp.
#include "cuda/training.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/floating_point.hpp"

namespace penstock::cuda {
namespace {

// Rows of an array of the host on the device, side by side; or where they are, if they are there.
RowsView brought(const RowsView &rows, int64_t columns, int64_t n, Memory<char> &memory) {
  if (rows.data == nullptr || is_device(rows.data)) {
    return rows;
  }
  const int64_t size = rows.item_size, stride = columns * size;
  std::vector<char> gathered(static_cast<size_t>(n * stride));
  gather_rows(rows, columns, n, [](int64_t i) { return i; }, gathered.data());
  memory = Memory<char>(std::max<int64_t>(n * stride, 1));
  copy(memory.data(), gathered.data(), n * stride);
  return {memory.data(), stride, size, rows.item_size};
}

template <class S>
int64_t bytes(int64_t n) {
  return n * static_cast<int64_t>(sizeof(S));
}

}  // namespace

SampleWeights on_host(const SampleWeights &weights, int64_t rows, std::vector<char> &memory) {
  if (!weights.given() || !is_device(weights.data())) {
    return weights;
  }
  RowsOnHost here({weights.data(), weights.stride(), weights.item_size(), weights.item_size()}, 1, rows);
  memory = std::move(here.numbers);
  return weights.moved(memory.data(), here.view.row_stride);
}

template <class T>
Training<T>::Training(const Engine<T> &engine, const Packed<T> &packed, const PackedView<T> &view, const Batch &table,
                      const SampleWeights &weights, int64_t most_rows, const Stream &on)
    : plan_(engine.plan()),
      on_(on),
      context_(table.context),
      walking_(engine, packed, {0, plan_.n_steps, false, true}, Keep::old_values, table.context, table.rows),
      view_(view) {
  x_ = brought(table.x, plan_.dim, table.rows, x_there_);
  if (plan_.context_dim > 0) {
    const int64_t n = context_.shared ? 1 : table.rows / context_.block;
    context_.rows = brought(context_.rows, plan_.context_dim, n, context_there_);
  }
  if (weights.given()) {
    std::vector<char> memory;
    const SampleWeights known = on_host(weights, table.rows, memory);
    std::vector<double> here(static_cast<size_t>(table.rows));
    for (int64_t r = 0; r < table.rows; r++) {
      here[static_cast<size_t>(r)] = known.at(r);
    }
    weights_there_ = Memory<double>(table.rows);
    copy(weights_there_.data(), here.data(), bytes<double>(table.rows));
  }
  const int64_t most = penstock::tiles_of(most_rows) * tile_rows;
  index_there_ = Memory<int64_t>(most);
  weight_there_ = Memory<double>(most);
  loss_there_ = Memory<double>(most);
  count_there_ = Memory<int32_t>(most / tile_rows);
  sums_there_ = Memory<double>(2 * Slices::most);
}

template <class T>
void Training<T>::gradient(const Order *split, const Order *shuffle, int64_t begin, int64_t rows, const int32_t *stop) {
  const Slices slices(rows);
  n_slices_ = slices.n;
  if (sums_of_ != rows) {
    sums_ = std::make_unique<ParamSums<T>>(walking_.device, plan_, slices, true, true);
    sums_of_ = rows;
  }
  sums_->again();
  const BatchRows of{index_there_.data(), weight_there_.data(), count_there_.data(), loss_there_.data()};
  const bool ordered = split != nullptr;
  const Order none(0, 0, 1);
  OrderRows order{ordered ? *split : none, ordered ? *shuffle : none, ordered, begin, rows, nullptr, 0, 0, {1, 1}, of};
  if (weights_there_.size() > 0) {
    order.weights = reinterpret_cast<const char *>(weights_there_.data());
    order.weight_stride = order.weight_size = sizeof(double);
  }
  const auto &kernels = sums<T>();
  kernels.order({slices.tiles, common_threads * static_cast<int64_t>(sizeof(double))}, on_, order);
  const int64_t chunk = walking_.chunk();
  for (int64_t first = 0; first < rows; first += chunk) {
    const int64_t n = std::min(chunk, rows - first);
    Train<T> job{};
    job.walk = walking_.walk(on_, view_, context_);
    job.first = first;
    job.rows = n;
    job.x = x_;
    job.batch = of;
    job.records = sums_->begin(first, n, on_);
    job.stop = stop;
    walking_.walks.train(walking_.grid(n), on_, job);
    sums_->add(on_, of.count, stop);
  }
  sum_ = sums_->combine(on_, stop);
  kernels.losses({1, 0}, on_,
                 {{slices.rows, slices.tiles, slices.n, 0, slices.tiles, of.count}, of, sums_there_.data(), stop});
}

template <class T>
int64_t DeviceTrainer<T>::run_there(const Batch &data, const SampleWeights &weights, double weight_scale,
                                    const typename Trainer<T>::Epoch &epoch, int64_t n, const double *learning_rates,
                                    double *losses, double *norms, Poll poll) {
  if (n == 0) {
    return 0;
  }
  const DefaultFloatingPoint environment;
  const Plan &plan = this->engine().plan();
  const DevicePlan &device = device_plan(this->engine());
  const auto &kernels = sums<T>();
  const Stream on = stream();
  const PlacedPacked<T> numbers(plan, this->params(), this->buffers_.data());
  const auto &packed = numbers.device_packed(plan);
  T *const params = const_cast<T *>(packed.view().params), *const panels = const_cast<T *>(packed.view().panels);
  const int64_t n_params = plan.n_params;
  const Memory<T> m(std::max<int64_t>(n_params, 1)), v(std::max<int64_t>(n_params, 1));
  copy(m.data(), this->m(), bytes<T>(n_params));
  copy(v.data(), this->v(), bytes<T>(n_params));

  std::vector<PieceOf> pieces;
  std::vector<int64_t> ends;
  int64_t n_numbers = 0;
  for (size_t s = 0; s < plan.segments.size(); s++) {
    for (size_t k = this->first_piece_[s]; k < this->first_piece_[s + 1]; k++) {
      const auto &piece = this->pieces_[k];
      pieces.push_back({piece.flat, piece.n, plan.segments[s].decay ? 1 : 0, static_cast<int32_t>(s)});
      ends.push_back(n_numbers += piece.n);
    }
  }
  const auto n_pieces = static_cast<int64_t>(pieces.size());
  const int64_t first_step = this->step();
  const auto corrections_of = [&](int64_t step) {
    return adam_settings(0, this->settings_.beta1, this->settings_.beta2, this->settings_.epsilon,
                         this->settings_.weight_decay, this->settings_.decoupled, step);
  };
  std::vector<double> corrections;
  for (int64_t k = 0; k < n; k++) {
    const AdamSettings of = corrections_of(first_step + 1 + k);
    corrections.push_back(of.correction1);
    corrections.push_back(of.correction2);
  }
  const Uploaded<PieceOf> pieces_there(pieces.data(), n_pieces);
  const Uploaded<int64_t> ends_there(ends.data(), n_pieces);
  const Uploaded<double> corrections_there(corrections.data(), 2 * n);
  // Of each step loss, norm and whether it was taken; then the scale of the gradient, squares, counters.
  const Memory<double> results(2 * n), scale(1), squares(std::max<int64_t>(n_pieces, 1));
  const Memory<int32_t> taken(n), stop(1);
  const Memory<int64_t> counters(2);
  clear(taken.data(), bytes<int32_t>(n), on);
  clear(stop.data(), bytes<int32_t>(1), on);
  clear(counters.data(), bytes<int64_t>(2), on);

  const Order split(epoch.seed, 0, data.rows), shuffle(epoch.seed, epoch.number, epoch.n_train);
  Training<T> training(this->engine(), numbers, packed.view(), data, weights, epoch.batch_size, on);
  PacedPoll paced(poll);
  std::vector<int32_t> taken_here(static_cast<size_t>(n));
  constexpr int64_t look = 16;  // steps after which the host looks whether to go on
  bool interrupted = false;
  int64_t given = 0;
  for (; given < n; given++) {
    if (given % look == look - 1) {
      copy_to_host(taken_here.data(), taken.data(), bytes<int32_t>(given));
      if (std::find(taken_here.begin(), taken_here.begin() + given, 0) != taken_here.begin() + given) {
        break;
      }
      if (paced.stops()) {
        interrupted = true;
        break;
      }
    }
    const int64_t begin = (epoch.first_step + given) * epoch.batch_size;
    const int64_t rows = std::min(epoch.batch_size, epoch.n_train - begin);
    training.gradient(&split, &shuffle, begin, rows, stop.data());
    const double *of_losses = training.loss_sums();
    const int64_t weight_at = training.slices();
    const auto n_rows = static_cast<double>(rows);
    if (n_pieces > 0) {
      constexpr int64_t at_once = common_threads / 16;
      kernels.squares({(n_pieces + at_once - 1) / at_once, common_threads * static_cast<int64_t>(sizeof(double))}, on,
                      {training.gradients(), pieces_there.data(), n_pieces, of_losses, weight_at, weight_scale, n_rows,
                       squares.data(), stop.data()});
    }
    kernels.decide({1, 0}, on,
                   {pieces_there.data(), n_pieces, squares.data(), of_losses, weight_at, weight_scale, n_rows,
                    this->settings_.clip_norm, results.data() + given, results.data() + n + given, taken.data() + given,
                    scale.data(), counters.data(), counters.data() + 1, stop.data()});
    if (n_pieces > 0) {
      AdamSettings adam = corrections_of(1);
      adam.learning_rate = learning_rates[given];
      kernels.adam(
          {(n_numbers + common_threads - 1) / common_threads, 0}, on,
          {adam, corrections_there.data(), counters.data() + 1, pieces_there.data(), ends_there.data(), n_pieces,
           n_numbers, training.gradients(), scale.data(), taken.data() + given, params, m.data(), v.data()});
      const int64_t n_packed = plan.panels_size + 4 * int64_t{device.n_lu};
      kernels.pack(
          {(n_packed + common_threads - 1) / common_threads, 0}, on,
          {device.panel_source, plan.panels_size, panels, params, device.lu, device.n_lu, taken.data() + given});
    }
  }
  std::vector<double> results_here(static_cast<size_t>(2 * n));
  int64_t done_in_all = 0;
  std::vector<T> params_here(static_cast<size_t>(n_params));
  copy_to_host(taken_here.data(), taken.data(), bytes<int32_t>(n));
  copy_to_host(results_here.data(), results.data(), bytes<double>(2 * n));
  copy_to_host(&done_in_all, counters.data(), bytes<int64_t>(1));
  copy_to_host(params_here.data(), params, bytes<T>(n_params));
  copy_to_host(this->m_.data(), m.data(), bytes<T>(n_params));
  copy_to_host(this->v_.data(), v.data(), bytes<T>(n_params));
  this->set_params(params_here.data());
  this->step_ = first_step + done_in_all;
  int64_t done = 0;
  for (; done < given; done++) {
    losses[done] = results_here[static_cast<size_t>(done)];
    norms[done] = results_here[static_cast<size_t>(n + done)];
    if (taken_here[static_cast<size_t>(done)] == 0) {
      return done;
    }
  }
  if (interrupted) {
    throw Interrupted{};
  }
  return done;
}

template <class T>
std::shared_ptr<Packed<T>> DeviceTrainer<T>::snapshot_there() const {
  return std::make_shared<PlacedPacked<T>>(this->engine().plan(), this->params(), this->buffers_.data());
}

template <class T>
std::shared_ptr<Trainer<T>> trainer(std::shared_ptr<const Engine<T>> engine, const T *params, const double *buffers,
                                    const typename Trainer<T>::Settings &settings,
                                    const std::vector<typename Trainer<T>::Run> &frozen) {
  return std::make_shared<DeviceTrainer<T>>(std::move(engine), params, buffers, settings, frozen);
}

template <class T>
int64_t run(Trainer<T> &trainer, const Batch &data, const SampleWeights &weights, double weight_scale,
            const typename Trainer<T>::Epoch &epoch, int64_t n, const double *learning_rates, double *losses,
            double *norms, Poll poll) {
  return static_cast<DeviceTrainer<T> &>(trainer).run_there(data, weights, weight_scale, epoch, n, learning_rates,
                                                            losses, norms, poll);
}

template <class T>
std::shared_ptr<Packed<T>> snapshot(const Trainer<T> &trainer) {
  return static_cast<const DeviceTrainer<T> &>(trainer).snapshot_there();
}

#define PENSTOCK_INSTANTIATE(T)                                                                                        \
  template class Training<T>;                                                                                          \
  template class DeviceTrainer<T>;                                                                                     \
  template std::shared_ptr<Trainer<T>> trainer(std::shared_ptr<const Engine<T>>, const T *, const double *,            \
                                               const typename Trainer<T>::Settings &,                                  \
                                               const std::vector<typename Trainer<T>::Run> &);                         \
  template int64_t run(Trainer<T> &, const Batch &, const SampleWeights &, double, const typename Trainer<T>::Epoch &, \
                       int64_t, const double *, double *, double *, Poll);                                             \
  template std::shared_ptr<Packed<T>> snapshot(const Trainer<T> &);
PENSTOCK_INSTANTIATE(float)
PENSTOCK_INSTANTIATE(double)
#undef PENSTOCK_INSTANTIATE

}  // namespace penstock::cuda
