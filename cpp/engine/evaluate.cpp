// Maps, densities and draws: see engine.hpp.
#include "engine/engine.hpp"
#include "engine/walk.hpp"

namespace penstock {
namespace {

// The values of a tile's rows, rounded to the type of the array.
template <class T>
void put(const LogDetOut &out, int64_t first_row, const Tile<T> &tile) {
  for (int r = 0; r < tile.rows; r++) {
    if (out.item_size == 4) {
      static_cast<float *>(out.data)[first_row + r] = static_cast<float>(tile.log_det[r]);
    } else {
      static_cast<double *>(out.data)[first_row + r] = tile.log_det[r];
    }
  }
}

}  // namespace

template <class T>
void Engine<T>::evaluate(const Packed<T> &packed, const Range &range, const Batch &batch, const ExternalTheta<T> &theta,
                         T *out, LogDetOut log_det, Poll poll) const {
  Range wanted = range;
  wanted.base = range.base && log_det.data != nullptr;
  Walk<T> walk(plan_, packed, wanted, Keep::nothing, batch.context, batch.rows, false);
  if (batch.rows == 1 && theta.data == nullptr) {
    walk.set_single();
  }
  parallel(tiles_of(batch.rows), useful_threads(plan_, batch.rows, plan_.flops), poll, [&](int64_t t) {
    Tile<T> tile = lend<T>(plan_, Keep::nothing).tile;
    const TileRows rows = tile_rows_of(t, batch.rows);
    walk.forward(
        rows, out != nullptr ? out + rows.first * plan_.dim : nullptr, tile,
        [&](Tile<T> &to) {
          walk.load(batch.x, rows, to);
          walk.load_theta(theta, rows.first, to);
        },
        [&](const Tile<T> &from) {
          if (log_det.data != nullptr) {
            put(log_det, rows.first, from);
          }
        });
  });
}

template <class T>
void Engine<T>::sample(const Packed<T> &packed, const Draws &draws, const Context &context, int64_t rows, T *out,
                       T *log_prob, Poll poll) const {
  Walk<T> walk(plan_, packed, {0, plan_.n_steps, true, log_prob != nullptr}, Keep::nothing, context, rows, false);
  if (rows == 1) {
    walk.set_single();
  }
  const int64_t block = plan_.context_dim == 0 || context.shared ? rows : context.block;
  parallel(tiles_of(rows), useful_threads(plan_, rows, plan_.flops), poll, [&](int64_t t) {
    Tile<T> tile = lend<T>(plan_, Keep::nothing).tile;
    const TileRows some = tile_rows_of(t, rows);
    walk.forward(
        some, out + some.first * plan_.dim, tile,
        [&](Tile<T> &to) {
          uint64_t context_rows[tile_rows], numbers[tile_rows];
          for (int64_t r = 0; r < tile_rows; r++) {
            context_rows[r] = draws.context_row + static_cast<uint64_t>((some.first + r) / block);
            numbers[r] = draws.first_draw + static_cast<uint64_t>((some.first + r) % block);
          }
          walk.draw(draws.seed, context_rows, numbers, to);
        },
        [&](const Tile<T> &from) {
          if (log_prob != nullptr) {
            put({log_prob, sizeof(T)}, some.first, from);
          }
        });
  });
}

#define PENSTOCK_INSTANTIATE(T)                                                                                     \
  template void Engine<T>::evaluate(const Packed<T> &, const Range &, const Batch &, const ExternalTheta<T> &, T *, \
                                    LogDetOut, Poll) const;                                                         \
  template void Engine<T>::sample(const Packed<T> &, const Draws &, const Context &, int64_t, T *, T *, Poll) const;
PENSTOCK_INSTANTIATE(float)
PENSTOCK_INSTANTIATE(double)
#undef PENSTOCK_INSTANTIATE

}  // namespace penstock
