// The walk of engine/walk.hpp for a thread of a device, which has one row: all threads of a block take the same way at the same
// time, since they compute the products of whole layers together. Threads beyond the last row repeat it, and write nothing.
#pragma once

#include "cuda/job.hpp"
#include "isa/steps.hpp"

namespace penstock::PENSTOCK_ISA {

// The arrays of a thread's row, cut from the room of its block.
template <class T>
struct Space {
  Tile<T> tile;
  TileGradient<T> gradient;
};

// log_det and d_log_det stay variables of the kernel: the compiler keeps in memory what points into itself.
template <class T>
PENSTOCK_INLINE void lend(const cuda::Walk<T> &walk, double &log_det, T &d_log_det, Space<T> &space) {
  const cuda::Room &room = walk.room;
  T *const memory = (walk.rooms != nullptr ? walk.rooms + cuda::block() * room.features * tile_stride
                                           : reinterpret_cast<T *>(cuda::shared_memory()) + slots_size) +
                    cuda::thread();
  space.tile.state = memory;
  space.tile.log_det = &log_det;
  space.tile.theta = memory + room.theta * tile_stride;
  space.tile.context.rows = memory + room.context * tile_stride;
  space.tile.context.own_part = nullptr;
  space.tile.kept = memory + room.kept * tile_stride;
  space.gradient.state = memory + room.d_state * tile_stride;
  space.gradient.log_det = &d_log_det;
  space.gradient.theta = memory + room.d_theta * tile_stride;
  space.gradient.external = memory + room.d_external * tile_stride;
  space.gradient.context = memory + room.d_context * tile_stride;
  space.gradient.hidden[0] = memory + room.hidden[0] * tile_stride;
  space.gradient.hidden[1] = memory + room.hidden[1] * tile_stride;
  space.gradient.transposed = memory + room.powers * tile_stride;  // what splines keep of an element
}

template <class T>
PENSTOCK_INLINE bool maps(const cuda::Walk<T> &walk, const End &end) {
  return end.data && walk.packed.n_mapped > 0;
}

template <class T>
PENSTOCK_INLINE int64_t context_of(const cuda::Walk<T> &walk, int64_t row) {
  return walk.context_shared ? 0 : row / walk.context_block;
}

// Rows of an array as a source.
template <class T>
PENSTOCK_INLINE void load_row(const cuda::Walk<T> &walk, const RowsView &x, int64_t row, Tile<T> &tile) {
  tile.outside = columns_in(walk.plan, walk.packed, walk.in, x, nullptr, row, 1, tile_stride, tile.state, tile.log_det);
}

template <class T>
PENSTOCK_INLINE void load_thetas(const cuda::Walk<T> &walk, int64_t row, Tile<T> &tile) {
  for (int i = 0; i < walk.n_thetas; i++) {
    const cuda::Theta<T> &theta = walk.thetas[i];
    const T *from = theta.data + (theta.shared ? 0 : row * theta.n);
    for (int64_t j = 0; theta.data != nullptr && j < theta.n; j++) {
      tile.theta[(theta.offset + j) * tile_stride] = from[j];
    }
  }
}

// What decides a draw, row r of the batch; numbers of it are put aside.
PENSTOCK_INLINE TileDraws draw_of(const cuda::Drawing &drawing, int64_t row, uint64_t &context_row, uint64_t &number) {
  context_row = drawing.context_row + static_cast<uint64_t>(row / drawing.block);
  number = drawing.first_draw + static_cast<uint64_t>(row % drawing.block);
  return {drawing.seed,          &context_row, &number, drawing.chosen != nullptr ? drawing.chosen + row : nullptr,
          drawing.chosen_stride, nullptr};
}

template <class T>
PENSTOCK_INLINE void bring_context(const cuda::Walk<T> &walk, int64_t row, Tile<T> &tile) {
  tile.context.kind = walk.context_kind;
  tile.context.part = walk.context_part;
  if (has_rows(walk.context_kind)) {
    const int64_t index = context_of(walk, row);
    context_in(walk.plan, walk.packed, walk.context, &index, tile_stride, walk.pass.keep, tile);
  }
}

// Walk::forward. source(tile) fills the state; the value of the row stands in tile.log_det, and the row goes to `out` if that is
// not null. A thread that only repeats a row has nothing to write to.
template <class T, class Source>
PENSTOCK_INLINE void walk_forward(const cuda::Walk<T> &walk, int64_t row, const RowsOut<T> &out, bool want_value,
                                  Tile<T> &tile, Source &&source) {
  tile.rows = 1;
  tile.outside = tile.coarse = 0;
  begin_log_det(walk.packed, walk.in, walk.out, tile.log_det);
  bring_context(walk, row, tile);
  source(tile);
  const bool log_density = walk.base && want_value;
  double log_p = 0;
  if (log_density && walk.pass.to_data) {
    base_log_density(walk.plan, walk.packed, tile, tile_stride, &log_p);
  }
  forward(walk.plan, walk.packed, walk.pass, tile);
  if (out.data != nullptr || (want_value && maps(walk, walk.out))) {
    tile.coarse = columns_out(walk.plan, walk.packed, walk.out, tile.state, 1, tile_stride, out, tile.log_det);
  }
  if (tile.outside != 0 && !walk.base) {  // a row outside a support has no image
    *tile.log_det = __builtin_nan("");
    for (int i = 0; out.data != nullptr && i < walk.plan.dim; i++) {
      out.data[i] = static_cast<T>(__builtin_nan(""));
    }
  }
  if (log_density && walk.pass.to_data) {
    *tile.log_det = log_p - *tile.log_det;
  } else if (log_density) {
    base_log_density(walk.plan, walk.packed, tile, tile_stride, tile.log_det);
  }
}

// Walk::backward, from the cotangent of the value and of the row, d_out, which is null for zero.
template <class T>
PENSTOCK_INLINE void walk_backward(const cuda::Walk<T> &walk, const RowsView &x, int64_t row, const T *d_out, T d_value,
                                   const RowsOut<T> &d_x, bool want_input, const RowsOut<T> &d_context, Tile<T> &tile,
                                   const TileGradient<T> &gradient) {
  const PlanView &plan = walk.plan;
  d_value = tile.outside != 0 ? T{0} : d_value;
  *gradient.log_det = walk.base && walk.pass.to_data ? -d_value : d_value;
  for (int i = 0; d_out == nullptr && i < plan.dim; i++) {
    gradient.state[i * tile_stride] = T{0};
  }
  if (d_out != nullptr || maps(walk, walk.out)) {
    cotangents_in(plan, walk.packed, walk.out, d_out, tile.state, gradient.log_det, 1, gradient.state);
  }
  for (int i = 0; tile.outside != 0 && i < plan.dim; i++) {
    gradient.state[i * tile_stride] = T{0};
  }
  for (int i = 0; gradient.of_context != Gradient::ignore && i < plan.n_context; i++) {
    gradient.context[i * tile_stride] = T{0};
  }
  if (walk.base && !walk.pass.to_data) {
    base_backward(plan, walk.packed, &d_value, tile, gradient);
  }
  backward(plan, walk.packed, walk.pass, want_input, tile, gradient);
  if (walk.base && walk.pass.to_data) {
    base_backward(plan, walk.packed, &d_value, tile, gradient);
  }
  if (gradient.of_context != Gradient::ignore) {
    const int64_t index = context_of(walk, row);
    context_backward(plan, walk.packed, walk.context, &index, tile, gradient, d_context);
  }
  if (d_x.data != nullptr) {
    cotangents_out(plan, walk.packed, walk.in, x, nullptr, row, gradient.state, gradient.log_det, 1, d_x);
  }
}

// Walk::draw_backward.
template <class T>
PENSTOCK_INLINE void draw_backward(const cuda::Walk<T> &walk, int64_t row, const TileDraws &draws, const T *d_out,
                                   T d_log_weight, Tile<T> &tile, const TileGradient<T> &gradient) {
  const PlanView &plan = walk.plan;
  for (int i = 0; i < plan.dim; i++) {
    gradient.state[i * tile_stride] = T{0};
  }
  *gradient.log_det = d_log_weight;
  if (d_out != nullptr) {
    cotangents_in(plan, walk.packed, walk.out, d_out, tile.state, gradient.log_det, 1, gradient.state);
  }
  for (int i = 0; gradient.of_context != Gradient::ignore && i < plan.n_context; i++) {
    gradient.context[i * tile_stride] = T{0};
  }
  base_draw_backward(plan, walk.packed, draws, gradient.log_det, tile, gradient);
  if (gradient.of_context != Gradient::ignore) {
    const int64_t index = context_of(walk, row);
    context_backward(plan, walk.packed, walk.context, &index, tile, gradient, {});
  }
}

// Whether a row is so far out that log p which is no number stands for -inf: FarRows of engine/far_rows.hpp.
template <class T>
PENSTOCK_FUNCTION bool is_far(const cuda::Walk<T> &walk, const RowsView &x, int64_t row) {
  const PackedView<T> &packed = walk.packed;
  const auto number = [&](const RowsView &of, int64_t r, int64_t column) {
    const char *at = of.data + r * of.row_stride + column * of.column_stride;
    return of.item_size == 4 ? static_cast<double>(load<float>(at)) : load<double>(at);
  };
  const double none = __builtin_nan("");
  double largest = 0;
  for (int64_t i = 0; i < walk.plan.dim; i++) {
    double u = number(x, row, i);
    if (walk.in.data) {
      double on_line = u;
      for (int m = 0; m < packed.n_mapped; m++) {
        const MappedColumn &c = packed.mapped[m];
        if (c.column != i) {
          continue;
        }
        if (c.map == map_positive) {
          on_line = u != u ? u : c.mirrored ? (u - c.hi) / c.scale : (u - c.lo) / c.scale;
        } else if (c.shape == member_half_line) {
          on_line = (u - (c.opens ? (c.mirrored ? c.hi : c.lo) : number(x, row, c.before))) / c.scale;
        } else if (!(c.opens && c.shape == member_real)) {
          const bool lost = u != u || (c.map == map_wrap && (u - u != 0));
          on_line = lost ? none : packed.loc[i];
        }
        break;
      }
      u = (on_line - packed.loc[i]) * packed.inverse[i];
    }
    if (u != u) {
      return false;
    }
    const double size = u < 0 ? -u : u;
    largest = size > largest ? size : largest;
  }
  const int64_t given = walk.plan.context_dim == 0 ? 0 : context_of(walk, row);
  for (int64_t i = 0; i < walk.plan.context_dim; i++) {
    const double c = number(walk.context, given, i);
    if (c != c) {
      return false;
    }
  }
  for (int m = 0; m < packed.n_context_mapped; m++) {
    const MappedColumn &c = packed.context_mapped[m];
    const double v = number(walk.context, given, c.column);
    if (v < c.first[0] || v > c.last[0] || (c.map == map_wrap && v - v != 0)) {
      return false;
    }
  }
  return largest >= (sizeof(T) == 4 ? 0x1p50 : 0x1p400);
}

template <class T>
PENSTOCK_INLINE void put_value(const cuda::Values &values, int64_t row, double value) {
  if (values.item_size == 4) {
    static_cast<float *>(values.data)[row] = static_cast<float>(value);
  } else {
    static_cast<double *>(values.data)[row] = value;
  }
}

// --- kernels -----------------------------------------------------------------------------------------------------------------

template <class T>
PENSTOCK_FUNCTION void evaluate(const cuda::Evaluate<T> &job) {
  Space<T> space;
  double log_det = 0;
  T d_log_det{};
  lend(job.walk, log_det, d_log_det, space);
  for (int64_t tile = cuda::block(); tile * block_rows < job.rows; tile += cuda::blocks()) {
    const int64_t mine = tile * block_rows + cuda::thread(), last = job.rows - 1;
    const bool active = mine <= last;
    const int64_t row = job.first + (active ? mine : last);
    const int64_t from = job.index != nullptr ? job.index[row] : row;
    const RowsOut<T> out{active && job.out.data != nullptr ? job.out.data + row * job.out.stride : nullptr,
                         job.out.stride};
    const bool want_value = job.values.data != nullptr;
    double log_weight = 0;
    walk_forward(job.walk, job.by_number ? row : from, out, want_value, space.tile, [&](Tile<T> &to) {
      if (job.draws) {
        uint64_t context_row, number;
        TileDraws draw = draw_of(job.drawing, from, context_row, number);
        draw.log_weight = &log_weight;
        base_draw(job.walk.plan, job.walk.packed, draw, tile_stride, to);
      } else {
        load_row(job.walk, job.x, from, to);
        load_thetas(job.walk, row, to);
      }
    });
    if (want_value && !job.draws && job.walk.base && log_det != log_det && is_far(job.walk, job.x, from)) {
      log_det = -__builtin_inf();
    }
    if (want_value && active) {
      put_value<T>(job.values, row, log_det);
    }
    if (job.log_weight != nullptr && active) {
      job.log_weight[row] = log_weight;
    }
    if (job.coarse != nullptr && active) {
      job.coarse[row] = space.tile.coarse != 0 ? 1 : 0;
    }
  }
}

template <class T>
PENSTOCK_FUNCTION void vjp(const cuda::Vjp<T> &job) {
  Space<T> space;
  double log_det = 0;
  T d_log_det{};
  lend(job.walk, log_det, d_log_det, space);
  const PlanView &plan = job.walk.plan;
  TileGradient<T> &gradient = space.gradient;
  gradient.of_params = job.want_params ? Gradient::overwrite : Gradient::ignore;
  gradient.of_context = job.want_context ? Gradient::accumulate : Gradient::ignore;
  gradient.record_stride = job.records.stride;
  for (int64_t tile = cuda::block(); tile * block_rows < job.rows; tile += cuda::blocks()) {
    const int64_t mine = tile * block_rows + cuda::thread(), last = job.rows - 1;
    const bool active = mine <= last;
    const int64_t row = job.first + (active ? mine : last);
    gradient.params = job.records.data + mine;  // which has room for whole blocks
    const auto own = [&](const RowsOut<T> &rows) {
      return RowsOut<T>{active && rows.data != nullptr ? rows.data + row * rows.stride : nullptr, rows.stride};
    };
    const bool want_value = job.values.data != nullptr;
    if (job.draws) {
      uint64_t context_row, number;
      const TileDraws draw = draw_of(job.drawing, row, context_row, number);
      walk_forward(job.walk, row, RowsOut<T>{}, false, space.tile,
                   [&](Tile<T> &to) { base_draw(plan, job.walk.packed, draw, tile_stride, to); });
      draw_backward(job.walk, row, draw, job.d_out != nullptr ? job.d_out + row * plan.dim : nullptr,
                    job.d_value != nullptr ? job.d_value[row] : T{0}, space.tile, gradient);
      continue;
    }
    walk_forward(job.walk, row, RowsOut<T>{}, want_value, space.tile, [&](Tile<T> &to) {
      load_row(job.walk, job.x, row, to);
      load_thetas(job.walk, row, to);
    });
    if (want_value && job.walk.base && log_det != log_det && is_far(job.walk, job.x, row)) {
      log_det = -__builtin_inf();
    }
    if (want_value && active) {
      put_value<T>(job.values, row, log_det);
    }
    load_thetas(job.walk, row, space.tile);  // over which splines have kept what they needed
    // threads that only repeat a row go the same way
    const RowsOut<T> d_context = active || job.d_context.data == nullptr
                                     ? own(job.d_context)
                                     : RowsOut<T>{job.spare + cuda::thread() * plan.context_dim, plan.context_dim};
    walk_backward(job.walk, job.x, row, job.d_out != nullptr ? job.d_out + row * plan.dim : nullptr,
                  job.d_value != nullptr ? job.d_value[row] : T{0}, own(job.d_x), job.d_x.data != nullptr, d_context,
                  space.tile, gradient);
    if (job.bad != nullptr && active) {
      bool finite = true;
      for (int i = 0; job.d_x.data != nullptr && i < plan.dim; i++) {
        const T d = job.d_x.data[row * job.d_x.stride + i];
        finite = finite && d - d == 0;
      }
      for (int i = 0; job.d_context.data != nullptr && i < plan.context_dim; i++) {
        const T d = job.d_context.data[row * job.d_context.stride + i];
        finite = finite && d - d == 0;
      }
      job.bad[row] = !finite && is_far(job.walk, job.x, row) ? 1 : 0;
    }
    for (int i = 0; i < job.walk.n_thetas; i++) {
      const cuda::Theta<T> &theta = job.walk.thetas[i];
      for (int64_t j = 0; theta.d_rows != nullptr && active && j < theta.n; j++) {
        theta.d_rows[row * theta.n + j] = gradient.external[(theta.offset + j) * tile_stride];
      }
    }
  }
}

// A step of training: the rows of a batch, as order_rows has put them into tiles of the processor's size.
template <class T>
PENSTOCK_FUNCTION void train(const cuda::Train<T> &job) {
  if (*job.stop != 0) {
    return;
  }
  Space<T> space;
  double log_det = 0;
  T d_log_det{};
  lend(job.walk, log_det, d_log_det, space);
  constexpr int64_t host_tile = penstock::tile_rows;
  TileGradient<T> &gradient = space.gradient;
  gradient.of_params = Gradient::overwrite;
  gradient.of_context =
      has<part_embedding> && job.walk.plan.embedding != nullptr ? Gradient::accumulate : Gradient::ignore;
  gradient.record_stride = job.records.stride;
  for (int64_t tile = cuda::block(); tile * block_rows < job.rows; tile += cuda::blocks()) {
    const int64_t mine = tile * block_rows + cuda::thread();
    const int64_t at = job.first + mine, last_tile = (job.first + job.rows - 1) / host_tile;
    int64_t of = at / host_tile;
    of = of < last_tile ? of : last_tile;
    const int count = job.batch.count[of];
    const bool active = at / host_tile == of && at % host_tile < count;
    // those beyond repeat a row of their tile, or of the table where that has none
    const int64_t place = active ? at : of * host_tile + (count > 0 ? count - 1 : 0);
    const int64_t row = count > 0 ? job.batch.index[place] : 0;
    const double weight = count > 0 ? job.batch.weight[place] : 0;
    gradient.params = job.records.data + mine;
    walk_forward(job.walk, row, RowsOut<T>{}, true, space.tile,
                 [&](Tile<T> &to) { load_row(job.walk, job.x, row, to); });
    if (active) {
      job.batch.loss[place] = -weight * log_det;
    }
    walk_backward(job.walk, job.x, row, static_cast<const T *>(nullptr), static_cast<T>(-weight), RowsOut<T>{}, false,
                  RowsOut<T>{}, space.tile, gradient);
  }
}

}  // namespace penstock::PENSTOCK_ISA
