// The one walk of a tile: a source fills it, the context is brought, the steps go forward, the base is asked, a sink takes
// the results; in training the way back follows. Sources and sinks are lambdas of evaluate.cpp and gradient.cpp.
#pragma once

#include <algorithm>
#include <limits>
#include <memory>

#include "engine/engine.hpp"
#include "engine/floating_point.hpp"

namespace penstock {

// How many threads are worth waking for so many rows with so many operations each.
inline int useful_threads(const Plan &plan, int64_t rows, double flops) {
  constexpr double flops_worth_a_thread = 2e5;
  const double work = static_cast<double>(rows) * (flops + 20.0 * plan.dim);
  return static_cast<int>(std::clamp(work / flops_worth_a_thread, 1.0, 256.0));
}

// Cuts one thread's workspace into arrays; without memory it only measures.
class Carver {
 public:
  explicit Carver(char *memory) : memory_(memory) {}
  template <class T>
  T *take(int64_t n) {
    const int64_t at = used_;
    used_ += (n * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
    return memory_ != nullptr ? reinterpret_cast<T *>(memory_ + at) : nullptr;
  }
  int64_t used() const { return used_; }

 private:
  char *memory_;
  int64_t used_ = 0;
};

template <class T>
struct TileSpace {
  Tile<T> tile{};
  TileGradient<T> gradient{};
  T *d_context = nullptr;  // (tile, context_dim), by row
};

template <class T>
void carve(Carver &carver, const Plan &plan, Keep keep, TileSpace<T> &space) {
  const auto features = [&](int64_t n) { return n > 0 ? carver.take<T>(n * tile_stride) : nullptr; };
  Tile<T> &tile = space.tile;
  tile.state = features(plan.dim);
  tile.log_det = carver.take<double>(tile_rows);
  tile.theta = features(plan.external_features);
  tile.context.rows = plan.context_dim > 0 ? features(plan.n_context) : nullptr;
  tile.context.own_part = keep == Keep::nothing ? carver.take<T>(plan.starts_size) : nullptr;
  tile.kept = carver.take<T>(keep == Keep::nothing       ? plan.evaluation_area
                             : keep == Keep::activations ? plan.training_kept
                                                         : plan.recompute_kept);
  if (keep == Keep::nothing) {
    return;
  }
  TileGradient<T> &gradient = space.gradient;
  const int64_t widest = padded(std::max(plan.layer_widest, int64_t{1}));
  gradient.state = features(plan.dim);
  gradient.log_det = carver.take<T>(tile_rows);
  gradient.theta = features(padded(std::max(plan.theta_widest, int64_t{1})));
  gradient.hidden[0] = features(std::max(widest, plan.masked_widest));
  gradient.hidden[1] = features(widest);
  gradient.context = plan.context_dim > 0 ? features(plan.n_context) : nullptr;
  gradient.external = features(plan.external_features);
  gradient.transposed = carver.take<T>((widest + pad_columns) * tile_rows);
  space.d_context = carver.take<T>(plan.context_dim * tile_rows);
}

// The calling thread's workspace, cut for a plan.
template <class T>
TileSpace<T> lend(const Plan &plan, Keep keep) {
  TileSpace<T> space;
  Carver measure(nullptr);
  carve(measure, plan, keep, space);
  Carver carver(static_cast<char *>(workspace(measure.used())));
  carve(carver, plan, keep, space);
  return space;
}

// Numbers of the rows of a tile in the batch: by index, or consecutive.
struct TileRows {
  int count;
  int64_t first = 0;
  const int64_t *index = nullptr;
  int64_t operator[](int r) const { return index != nullptr ? index[r] : first + r; }
};

// Tiles of a batch, in the order of its rows: tile_rows each, with what is left at the end of every block.
struct Tiling {
  int64_t rows, block;  // block divides rows
  int64_t in_block() const { return tiles_of(block); }
  int64_t n() const { return block > 0 ? rows / block * in_block() : 0; }
  TileRows operator[](int64_t t) const {
    const int64_t within = t % in_block() * tile_rows;
    return {static_cast<int>(std::min<int64_t>(tile_rows, block - within)), t / in_block() * block + within};
  }
};

// The values of a tile's rows, rounded to the type of the array.
template <class T>
void put_values(const RowValues &out, int64_t first_row, const Tile<T> &tile) {
  for (int r = 0; r < tile.rows; r++) {
    out.put(first_row + r, tile.log_det[r]);
  }
}

// Numbers of the draws of a tile whose first row is number `first` of the call; `block` rows share a context.
struct DrawsOfTile {
  uint64_t context_rows[tile_rows], numbers[tile_rows];
  TileDraws of;

  DrawsOfTile(const Draws &draws, const Components &components, int64_t block, int64_t first)
      : of{draws.seed, context_rows, numbers} {
    for (int64_t r = 0; r < tile_rows; r++) {
      context_rows[r] = draws.context_row + static_cast<uint64_t>((first + r) / block);
      numbers[r] = draws.first_draw + static_cast<uint64_t>((first + r) % block);
    }
    if (components.data != nullptr) {
      of.chosen = components.data + first;
      of.chosen_stride = components.rows;
    }
  }
  DrawsOfTile(const DrawsOfTile &) = delete;
  DrawsOfTile &operator=(const DrawsOfTile &) = delete;
};

template <class T>
class Walk {
 public:
  // need_context: whether a gradient needs the context of each row, also where all rows share one.
  Walk(const Plan &plan, const Packed<T> &packed, const Range &range, Keep keep, const Context &context, int64_t rows,
       bool need_context)
      : plan_(plan),
        view_(keep == Keep::nothing ? plan.evaluation() : plan.training(keep == Keep::old_values)),
        packed_(packed.view()),
        pass_{range.first, range.last, range.to_data, keep},
        base_(range.base),
        context_(context) {
    const End low{plan.boundary(range.first), false},
        high{plan.boundary(range.last), range.first < range.last && range.last == plan.n_steps};
    in_ = range.to_data ? low : high;
    out_ = range.to_data ? high : low;
    context_part_ = static_cast<const T *>(context.part);
    if (plan.context_dim == 0) {
      context_kind_ = ContextKind::none;
    } else if (context_part_ == nullptr && (!context.shared || rows < 2)) {
      context_kind_ = ContextKind::rows;
    } else {
      context_kind_ = need_context ? ContextKind::rows_and_part : ContextKind::part;
      if (context_part_ == nullptr) {
        own_part_ = make_context_part(plan, packed_, context.rows);
        context_part_ = own_part_->data();
      }
    }
  }

  // What a row of context contributes to each conditioner.
  static std::unique_ptr<Aligned<T>> make_context_part(const Plan &plan, const PackedView<T> &packed,
                                                       const RowsView &context) {
    const DefaultFloatingPoint environment;
    auto part = std::make_unique<Aligned<T>>(plan.starts_size);
    make_context_part(plan, packed, context, 0, lend<T>(plan, Keep::nothing).tile, part->data());
    return part;
  }

  // One row, with lanes over outputs instead of rows.
  void set_single() { stride_ = 1; }

  // How consecutive rows are cut into tiles. Where enough of them share a context, no tile has rows of two, and what the
  // context contributes to each conditioner is computed once a tile.
  Tiling tile(int64_t rows) {
    constexpr int64_t enough = tile_rows / 2;
    part_by_tile_ = context_kind_ == ContextKind::rows && context_.block >= enough && pass_.keep == Keep::nothing;
    return {rows, part_by_tile_ ? context_.block : rows};
  }

  // The rows of an array as a source.
  void load(const RowsView &x, const TileRows &rows, Tile<T> &tile) const {
    tile.outside = kernels<T>().columns_in(view_, packed_, in_, x, rows.index, rows.first, rows.count, stride_,
                                           tile.state, tile.log_det);
  }
  void load_thetas(const ExternalTheta<T> *thetas, int64_t first_row, Tile<T> &tile) const {
    for (size_t i = 0; i < plan_.externals.size(); i++) {
      const auto &[data, shared] = thetas[i];
      const int64_t n = plan_.externals[i].n;
      T *to = tile.theta + plan_.externals[i].offset * tile_stride;
      if (data != nullptr && !shared) {
        kernels<T>().features_in(data + first_row * n, n, tile.rows, to);
      }
      for (int64_t j = 0; data != nullptr && shared && j < n; j++) {
        std::fill_n(to + j * tile_stride, tile_rows, data[j]);
      }
    }
  }
  // Draws of the base as a source.
  void draw(const TileDraws &draws, Tile<T> &tile) const {
    kernels<T>().base_draw(view_, packed_, draws, stride_, tile);
  }

  // The way back of draws that forward has left in the state, from cotangents of them, (rows, dim), and of the weights of
  // their components, (rows): each null for zero.
  void draw_backward(const TileDraws &draws, const T *d_out, const T *d_log_weight, Tile<T> &tile,
                     const TileGradient<T> &gradient) const {
    const Kernels<T> &kernel = kernels<T>();
    std::fill_n(gradient.state, view_.dim * tile_stride, T{0});
    for (int r = 0; r < tile_rows; r++) {
      gradient.log_det[r] = d_log_weight != nullptr && r < tile.rows ? d_log_weight[r] : T{0};
    }
    if (d_out != nullptr) {
      kernel.cotangents_in(view_, packed_, out_, d_out, tile.state, gradient.log_det, tile.rows, gradient.state);
    }
    if (gradient.of_context != Gradient::ignore) {
      std::fill_n(gradient.context, view_.n_context * tile_stride, T{0});
    }
    kernel.base_draw_backward(view_, packed_, draws, gradient.log_det, tile, gradient);
    if (gradient.of_context != Gradient::ignore) {
      kernel.context_backward(view_, packed_, context_.rows, nullptr, tile, gradient, {});
    }
  }

  // Forward: source(tile) fills the state, rows go to `out` unless it is null, and sink(tile) finds the value of each row in
  // tile.log_det if it is wanted: log_det, with base log p.
  template <class Source, class Sink>
  void forward(const TileRows &rows, const RowsOut<T> &out, bool want_value, Tile<T> &tile, Source &&source,
               Sink &&sink) const {
    const Kernels<T> &kernel = kernels<T>();
    tile.rows = rows.count;
    tile.outside = tile.coarse = 0;
    kernel.begin_log_det(packed_, in_, out_, tile.log_det);
    bring_context(rows, tile);
    source(tile);
    const bool log_density = base_ && want_value;
    double log_p[tile_rows] = {};
    if (log_density && pass_.to_data) {
      kernel.base_log_density(view_, packed_, tile, stride_, log_p);
    }
    if (stride_ == 1) {
      kernel.row(view_, packed_, pass_, tile);
    } else {
      in_pieces([&](const Pass &some) { kernel.forward(view_, packed_, some, tile); });
    }
    if (out.data != nullptr || (want_value && maps(out_))) {
      tile.coarse = kernel.columns_out(view_, packed_, out_, tile.state, tile.rows, stride_, out, tile.log_det);
    }
    if (tile.outside != 0 && !base_) {
      tell_outside(out, tile);
    }
    if (log_density && pass_.to_data) {
      for (int r = 0; r < tile.rows; r++) {
        tile.log_det[r] = log_p[r] - tile.log_det[r];
      }
    } else if (log_density) {
      kernel.base_log_density(view_, packed_, tile, stride_, tile.log_det);
    }
    sink(tile);
  }

  // The way back. d_out: (rows, dim), or null for zero; d_value (tile): cotangents of what forward left in tile.log_det, which
  // become zero where a row lies outside a support; x, rows: what load was given. d_x and d_context are overwritten, or
  // null; gradients of parameters and the context as the intents of `gradient` say.
  void backward(const RowsView &x, const TileRows &rows, const T *d_out, T *d_value, const RowsOut<T> &d_x,
                const RowsOut<T> &d_context, Tile<T> &tile, const TileGradient<T> &gradient) const {
    const Kernels<T> &kernel = kernels<T>();
    for (int r = 0; tile.outside != 0 && r < tile_rows; r++) {
      d_value[r] = lies_outside(tile, r) ? T{0} : d_value[r];
    }
    for (int r = 0; r < tile_rows; r++) {
      gradient.log_det[r] = base_ && pass_.to_data ? -d_value[r] : d_value[r];
    }
    if (d_out == nullptr) {
      std::fill_n(gradient.state, view_.dim * tile_stride, T{0});
    }
    if (d_out != nullptr || maps(out_)) {
      kernel.cotangents_in(view_, packed_, out_, d_out, tile.state, gradient.log_det, tile.rows, gradient.state);
    }
    for (int64_t i = 0; tile.outside != 0 && i < view_.dim * tile_stride; i++) {
      const auto r = static_cast<int>(i % tile_stride);
      gradient.state[i] = lies_outside(tile, r) ? T{0} : gradient.state[i];
    }
    if (gradient.of_context != Gradient::ignore) {
      std::fill_n(gradient.context, view_.n_context * tile_stride, T{0});
    }
    if (base_ && !pass_.to_data) {
      kernel.base_backward(view_, packed_, d_value, tile, gradient);
    }
    in_pieces_backward(
        [&](const Pass &some, bool want) { kernel.backward(view_, packed_, some, want, tile, gradient); },
        d_x.data != nullptr);
    if (base_ && pass_.to_data) {
      kernel.base_backward(view_, packed_, d_value, tile, gradient);
    }
    if (gradient.of_context != Gradient::ignore) {
      int64_t index[tile_rows];
      number_context(rows, index);
      kernel.context_backward(view_, packed_, context_.rows, index, tile, gradient, d_context);
    }
    if (d_x.data != nullptr) {
      kernel.cotangents_out(view_, packed_, in_, x, rows.index, rows.first, gradient.state, gradient.log_det, tile.rows,
                            d_x);
    }
  }

 private:
  // Whether bijections of columns lie at an end.
  bool maps(const End &end) const { return end.data && packed_.n_mapped > 0; }

  // Lanes beyond the last row repeat it.
  static bool lies_outside(const Tile<T> &tile, int r) { return (tile.outside >> std::min(r, tile.rows - 1) & 1) != 0; }

  // A row outside a support has no image.
  void tell_outside(const RowsOut<T> &out, const Tile<T> &tile) const {
    constexpr T none = std::numeric_limits<T>::quiet_NaN();
    for (int r = 0; r < tile.rows; r++) {
      if (lies_outside(tile, r)) {
        tile.log_det[r] = static_cast<double>(none);
        if (out.data != nullptr) {
          std::fill_n(from_row(out, r).data, view_.dim, none);
        }
      }
    }
  }

  // The same of row number `row` of an array. The tile, of an evaluation, is room to work in.
  static void make_context_part(const Plan &plan, const PackedView<T> &packed, const RowsView &context, int64_t row,
                                Tile<T> tile, T *part) {
    const PlanView view = plan.evaluation();
    tile.rows = 1;
    tile.context.kind = ContextKind::rows;
    kernels<T>().context_in(view, packed, context, &row, 1, Keep::nothing, tile);
    kernels<T>().make_context_part(view, packed, tile, part);
  }

  // The row of context of each row.
  void number_context(const TileRows &rows, int64_t *index) const {
    for (int r = 0; r < rows.count; r++) {
      index[r] = context_.shared ? 0 : rows[r] / context_.block;
    }
  }

  void bring_context(const TileRows &rows, Tile<T> &tile) const {
    tile.context.kind = part_by_tile_ ? ContextKind::part : context_kind_;
    tile.context.part = part_by_tile_ ? tile.context.own_part : context_part_;
    if (part_by_tile_) {
      make_context_part(plan_, packed_, context_.rows, rows[0] / context_.block, tile, tile.context.own_part);
    }
    if (tile.context.kind == ContextKind::none || tile.context.kind == ContextKind::part) {
      return;
    }
    int64_t index[tile_rows];
    number_context(rows, index);
    kernels<T>().context_in(view_, packed_, context_.rows, index, stride_, pass_.keep, tile);
  }

  // A pass, step by step where a tile takes so long that a call could not be stopped in time otherwise; and the way back,
  // where a step is told whether the gradient of its input is wanted.
  template <class Body>
  void in_pieces(Body &&body) const {
    if (!long_tile()) {
      return body(pass_);
    }
    for (int i = 0; i < pass_.last - pass_.first && keep_going(); i++) {
      body(piece(i));
    }
  }
  template <class Body>
  void in_pieces_backward(Body &&body, bool want) const {
    if (!long_tile()) {
      return body(pass_, want);
    }
    int first_moving = 0;
    const auto moves = [&](int k) {
      return view_.steps[k].kind != step_permutation && view_.steps[k].kind != step_columns;
    };
    while (first_moving < pass_.last - pass_.first && !moves(piece(first_moving).first)) {
      first_moving++;
    }
    for (int i = pass_.last - pass_.first - 1; i >= first_moving && keep_going(); i--) {
      body(piece(i), want || i > first_moving);
    }
  }
  bool long_tile() const {
    constexpr double flops_of_a_long_tile = 1e9;
    return plan_.flops * tile_rows > flops_of_a_long_tile;
  }
  Pass piece(int i) const {
    const int k = pass_.to_data ? pass_.first + i : pass_.last - 1 - i;
    return {k, k + 1, pass_.to_data, pass_.keep};
  }

  const Plan &plan_;
  PlanView view_;
  PackedView<T> packed_;
  Pass pass_;
  End in_{}, out_{};
  bool base_;
  int stride_ = tile_stride;
  const Context &context_;
  ContextKind context_kind_;
  bool part_by_tile_ = false;
  const T *context_part_;
  std::unique_ptr<Aligned<T>> own_part_;
};

}  // namespace penstock
