// Maps, densities and draws: see engine.hpp.
#include <optional>
#include <stdexcept>
#include <string>

#include "engine/engine.hpp"
#include "engine/far_rows.hpp"
#include "engine/walk.hpp"

namespace penstock {
namespace {

void check_index(const Batch &batch) {
  for (int64_t r = 0; batch.index != nullptr && r < batch.rows; r++) {
    if (batch.index[r] < 0 || batch.index[r] >= batch.n_rows) {
      throw std::invalid_argument("index must lie within the " + std::to_string(batch.n_rows) + " rows of x");
    }
  }
}

// The rows of a tile whose bits are set.
struct CoarseRows {
  int64_t index[tile_rows];
  int count = 0;
  CoarseRows(uint64_t bits, int64_t first) {
    for (int r = 0; r < tile_rows; r++) {
      if ((bits >> r & 1) != 0) {
        index[count++] = first + r;
      }
    }
  }
};

template <class T>
bool any_theta(const Plan &plan, const ExternalTheta<T> *thetas) {
  return std::any_of(thetas, thetas + plan.externals.size(),
                     [](const ExternalTheta<T> &theta) { return theta.data != nullptr; });
}

}  // namespace

void Components::check(const Plan &plan, int64_t n) const {
  if (data == nullptr) {
    return;
  }
  const int64_t *at = data;
  for (const BaseBlock &block : plan.base_blocks()) {
    if (block.kind != base_gaussian_mixture) {
      continue;
    }
    for (const int64_t *end = at + n; at != end; at++) {
      if (*at < 0 || *at >= block.components) {
        throw std::invalid_argument("components must lie within the " + std::to_string(block.components) +
                                    " of each mixture");
      }
    }
  }
}

template <class T>
void Engine<T>::refuse_external_theta(const char *what) const {
  if (!plan_.externals.empty()) {
    throw std::invalid_argument(std::string(what) + " needs a plan without external theta");
  }
}

template <class T>
void Engine<T>::evaluate(const Packed<T> &packed, const Range &range, const Batch &batch,
                         const ExternalTheta<T> *thetas, const RowsOut<T> &out, RowValues values, Poll poll) const {
  check_index(batch);
  Walk<T> walk(plan_, packed, range, Keep::nothing, batch.context, batch.rows, false);
  if (batch.rows == 1 && !any_theta(plan_, thetas)) {
    walk.set_single();
  }
  const FarRows<T> far(plan_, packed, range, batch);
  const Tiling tiles = batch.index == nullptr ? walk.tile(batch.rows) : Tiling{batch.rows, batch.rows};
  parallel(tiles.n(), useful_threads(plan_, batch.rows, plan_.flops), poll, [&](int64_t t) {
    Tile<T> tile = lend<T>(plan_, Keep::nothing).tile;
    TileRows rows = tiles[t];
    rows.index = batch.index != nullptr ? batch.index + rows.first : nullptr;
    walk.forward(
        rows, from_row(out, rows.first), values.data != nullptr, tile,
        [&](Tile<T> &to) {
          walk.load(batch.x, rows, to);
          walk.load_thetas(thetas, rows.first, to);
        },
        [&](Tile<T> &from) {
          if (values.data != nullptr) {
            far.mend_values(rows, from.log_det);
            put_values(values, rows.first, from);
          }
        });
  });
}

template <class T>
void Engine<T>::sample(const Packed<T> &packed, const Draws &draws, const Context &context, int64_t rows,
                       const RowsOut<T> &out, RowValues log_prob, Poll poll) const {
  refuse_external_theta("sample");
  Walk<T> walk(plan_, packed, {0, plan_.n_steps, true, true}, Keep::nothing, context, rows, false);
  if (rows == 1) {
    walk.set_single();
  }
  const int64_t block = plan_.context_dim == 0 || context.shared ? rows : context.block;
  const Tiling tiles = walk.tile(rows);
  // Where rounding has moved a row within its support, the density is that of the row as it is stored.
  const Range back{0, plan_.n_steps, false, true};
  constexpr auto size = static_cast<int64_t>(sizeof(T));
  const Batch stored{{reinterpret_cast<const char *>(out.data), out.stride * size, size, sizeof(T)}, rows, context};
  const FarRows<T> far(plan_, packed, back, stored);
  std::optional<Walk<T>> again;
  if (log_prob.data != nullptr && !plan_.mapped().empty()) {
    again.emplace(plan_, packed, back, Keep::nothing, context, rows, false);
  }
  parallel(tiles.n(), useful_threads(plan_, rows, plan_.flops), poll, [&](int64_t t) {
    Tile<T> tile = lend<T>(plan_, Keep::nothing).tile;
    const TileRows some = tiles[t];
    walk.forward(
        some, from_row(out, some.first), log_prob.data != nullptr, tile,
        [&](Tile<T> &to) { walk.draw(DrawsOfTile(draws, {}, block, some.first).of, to); },
        [&](const Tile<T> &from) {
          if (log_prob.data == nullptr) {
            return;
          }
          put_values(log_prob, some.first, from);
          if (from.coarse != 0) {
            const CoarseRows coarse(from.coarse, some.first);
            const TileRows these{coarse.count, 0, coarse.index};
            Tile<T> space =
                lend<T>(plan_, Keep::nothing).tile;  // the same memory: nothing of `from` is needed any more
            again->forward(
                these, RowsOut<T>{}, true, space, [&](Tile<T> &to) { again->load(stored.x, these, to); },
                [&](Tile<T> &found) {
                  far.mend_values(these, found.log_det);
                  for (int r = 0; r < these.count; r++) {
                    log_prob.put(these[r], found.log_det[r]);
                  }
                });
          }
        });
  });
}

template <class T>
void Engine<T>::latents(const Packed<T> &packed, const Draws &draws, const Components &components,
                        const Context &context, int64_t rows, const RowsOut<T> &out, double *log_weight,
                        Poll poll) const {
  components.check(plan_, rows);
  Walk<T> walk(plan_, packed, {0, 0, true, false}, Keep::nothing, context, rows, false);
  const int64_t block = plan_.context_dim == 0 || context.shared ? rows : context.block;
  const Tiling tiles = walk.tile(rows);
  parallel(tiles.n(), useful_threads(plan_, rows, plan_.flops), poll, [&](int64_t t) {
    Tile<T> tile = lend<T>(plan_, Keep::nothing).tile;
    const TileRows some = tiles[t];
    DrawsOfTile numbers(draws, components, block, some.first);
    double weight[tile_rows] = {};
    numbers.of.log_weight = weight;
    walk.forward(
        some, from_row(out, some.first), false, tile, [&](Tile<T> &to) { walk.draw(numbers.of, to); },
        [&](const Tile<T> &from) {
          if (log_weight != nullptr) {
            std::copy_n(weight, from.rows, log_weight + some.first);
          }
        });
  });
}

template <class T>
std::unique_ptr<Aligned<T>> Engine<T>::context_part(const Packed<T> &packed, const RowsView &context) const {
  return Walk<T>::make_context_part(plan_, packed.view(), context);
}

// NOLINTBEGIN(bugprone-macro-parentheses): T is a type
#define PENSTOCK_INSTANTIATE(T)                                                                                    \
  template void Engine<T>::refuse_external_theta(const char *) const;                                              \
  template void Engine<T>::evaluate(const Packed<T> &, const Range &, const Batch &, const ExternalTheta<T> *,     \
                                    const RowsOut<T> &, RowValues, Poll) const;                                    \
  template std::unique_ptr<Aligned<T>> Engine<T>::context_part(const Packed<T> &, const RowsView &) const;         \
  template void Engine<T>::latents(const Packed<T> &, const Draws &, const Components &, const Context &, int64_t, \
                                   const RowsOut<T> &, double *, Poll) const;                                      \
  template void Engine<T>::sample(const Packed<T> &, const Draws &, const Context &, int64_t, const RowsOut<T> &,  \
                                  RowValues, Poll) const;
// NOLINTEND(bugprone-macro-parentheses)
PENSTOCK_INSTANTIATE(float)
PENSTOCK_INSTANTIATE(double)
#undef PENSTOCK_INSTANTIATE

}  // namespace penstock
