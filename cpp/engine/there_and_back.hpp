// A tile of an array forward and back, as gradients of one flow need it, and far rows once more where their gradients
// overflowed.
#pragma once

#include <algorithm>
#include <vector>

#include "engine/engine.hpp"
#include "engine/far_rows.hpp"
#include "engine/walk.hpp"

namespace penstock {

template <class T>
class ThereAndBack {
 public:
  // need_context: as Walk has it. thetas: of the rows of the batch.
  ThereAndBack(const Plan &plan, const Packed<T> &packed, const Range &range, Keep keep, const Batch &batch,
               const ExternalTheta<T> *thetas, bool need_context)
      : plan_(plan),
        keep_(keep),
        batch_(batch),
        thetas_(thetas),
        walk_(plan, packed, range, keep, batch.context, batch.rows, need_context),
        far_(plan, packed, range, batch) {}
  ThereAndBack(const ThereAndBack &) = delete;
  ThereAndBack &operator=(const ThereAndBack &) = delete;

  // d_value_of(r) is the cotangent of the value of row r of the tile; results as Walk::backward has them.
  template <class ValueOf>
  void run(const TileRows &rows, const RowValues &values, const T *d_out, const ValueOf &d_value_of,
           const RowsOut<T> &d_x, const RowsOut<T> &d_context, TileSpace<T> &space) const {
    walk_.forward(
        rows, RowsOut<T>{}, values.data != nullptr, space.tile,
        [&](Tile<T> &tile) {
          walk_.load(batch_.x, rows, tile);
          walk_.load_thetas(thetas_, rows.first, tile);
        },
        [&](Tile<T> &tile) {
          if (values.data != nullptr) {
            far_.mend_values(rows, tile.log_det);
            put_values(values, rows.first, tile);
          }
          T d_value[tile_rows];
          for (int r = 0; r < tile_rows; r++) {
            d_value[r] = d_value_of(std::min(r, tile.rows - 1));
          }
          walk_.backward(batch_.x, rows, d_out, d_value, d_x, d_context, tile, space.gradient);
        });
  }

  // Gradients of far rows that overflowed, of rows and of contexts of their own. The workspace is used again.
  template <class ValueOf>
  void mend(const TileRows &rows, const T *d_out, const ValueOf &d_value_of, const RowsOut<T> &d_x,
            const RowsOut<T> &d_context) const {
    if (all_finite(d_x, rows.count, plan_.dim) && all_finite(d_context, rows.count, plan_.context_dim)) {
      return;
    }
    const ScaledGradients<T> scaled(far_, rows);
    if (!scaled.needed(d_x, plan_.dim) && !scaled.needed(d_context, plan_.context_dim)) {
      return;
    }
    std::vector<T> out(d_out != nullptr ? static_cast<size_t>(rows.count * plan_.dim) : 0);
    for (int64_t i = 0; i < static_cast<int64_t>(out.size()); i++) {
      out[static_cast<size_t>(i)] = scaled.scaled(static_cast<int>(i / plan_.dim), d_out[i]);
    }
    std::vector<T> x(static_cast<size_t>(rows.count * plan_.dim));
    std::vector<T> context(d_context.data != nullptr ? static_cast<size_t>(rows.count * plan_.context_dim) : 0);
    TileSpace<T> space = lend<T>(plan_, keep_);
    space.gradient.of_params = Gradient::ignore;
    space.gradient.of_context = d_context.data != nullptr ? Gradient::accumulate : Gradient::ignore;
    run(
        rows, {}, d_out != nullptr ? out.data() : nullptr, [&](int r) { return scaled.scaled(r, d_value_of(r)); },
        {x.data(), plan_.dim}, {d_context.data != nullptr ? context.data() : nullptr, plan_.context_dim}, space);
    scaled.take(x.data(), plan_.dim, d_x);
    scaled.take(context.data(), plan_.context_dim, d_context);
  }

 private:
  const Plan &plan_;
  Keep keep_;
  const Batch &batch_;
  const ExternalTheta<T> *thetas_;
  Walk<T> walk_;
  FarRows<T> far_;
};

}  // namespace penstock
