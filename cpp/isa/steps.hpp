// The steps of a flow over a tile, one after the other, in either direction, and the context before them.
#pragma once

#include "isa/contexts.hpp"
#include "isa/ends.hpp"
#include "layers/autoregressive.hpp"
#include "layers/coupling.hpp"
#include "layers/elementwise.hpp"
#include "layers/lu_linear.hpp"

namespace penstock::PENSTOCK_ISA {

template <class T>
PENSTOCK_INLINE int vectors(int rows) {
  return whole_vectors<T>(rows) / lanes_native<T>;
}

// Rows of the context lie where the embedding reads them, or else conditioners.
template <class T>
PENSTOCK_FUNCTION void context_in(const PlanView &plan, const PackedView<T> &packed, const RowsView &in,
                                  const int64_t *index, int stride, Keep keep, Tile<T> &tile) {
  const Step *embedding = has<part_embedding> ? plan.embedding : nullptr;
  const int64_t scale = tile_stride / stride;
  T *area = embedding != nullptr ? tile.kept + embedding->area : nullptr;
  T *to = embedding != nullptr ? area + embedding->input / scale : tile.context.rows;
  const Columns columns{plan.context_dim, plan.context_slots, packed.context_loc, packed.context_inverse};
  load_from(columns, in, index, 0, tile.rows, stride, to);
  if (has<part_supports> && packed.n_context_mapped > 0) {
    const RowPointers pointers{in, index, 0, tile.rows};
    (stride == 1 ? mapped_context_in<double, T> : mapped_context_in<Native<double>, T>)(plan, packed, pointers, stride,
                                                                                        to);
  }
  if (embedding == nullptr) {
    return;
  }
  if (stride == 1) {
    mlp_row<Native<T>>(*embedding, packed.params, nullptr, area);
  } else {
    mlp_forward<Native<T>>(*embedding, packed, nullptr, vectors<T>(tile.rows), keep != Keep::nothing, area);
  }
  tile.context.rows = area + embedding->theta / scale;
}

template <class T>
PENSTOCK_FUNCTION void make_context_part(const PlanView &plan, const PackedView<T> &packed, const Tile<T> &tile,
                                         T *part) {
  for (int k = 0; k < plan.n_all_steps; k++) {
    const Step &step = plan.steps[k];
    if (step.n_context > 0) {
      make_step_part<Native<T>>(step, packed, tile.context, tile.kept + step.area, part);
    }
  }
}

template <class T>
PENSTOCK_FUNCTION void context_backward(const PlanView &plan, const PackedView<T> &packed, const RowsView &in,
                                        const int64_t *index, const Tile<T> &tile, const TileGradient<T> &gradient,
                                        const RowsOut<T> &d_context) {
  const T *d = gradient.context;
  if (has<part_embedding> && plan.embedding != nullptr) {
    const Step &step = *plan.embedding;
    const int n = vectors<T>(tile.rows);
    copy_features<Native<T>>(plan.n_context, n, d, gradient.theta);
    const int from = d_context.data != nullptr ? 0 : step.n_u;
    d = mlp_backward<Native<T>>(step, packed, tile.rows, n, from, gradient, tile.kept + step.area);
  }
  for (int64_t r = 0; d_context.data != nullptr && r < tile.rows; r++) {
    for (int64_t i = 0; i < plan.context_dim; i++) {
      d_context.data[r * d_context.stride + i] =
          static_cast<T>(static_cast<double>(d[first_feature(plan, i) * tile_stride + r]) * packed.context_inverse[i]);
    }
  }
  if (has<part_supports> && d_context.data != nullptr && packed.n_context_mapped > 0) {
    mapped_context_backward<Native<double>>(plan, packed, RowPointers{in, index, 0, tile.rows}, d, d_context);
  }
}

// Whether a step does anything to numbers (Walk asks the same).
PENSTOCK_INLINE bool moves(const Step &step) { return step.kind != step_permutation && step.kind != step_columns; }

template <class T>
PENSTOCK_INLINE T *kept(const Step &step, const Pass &pass, const Tile<T> &tile) {
  return pass.keep != Keep::nothing ? tile.kept + step.kept : nullptr;
}

// Step number i of a pass, and whether it runs against its explicit direction.
PENSTOCK_INLINE const Step &step_of(const PlanView &plan, const Pass &pass, int i) {
  return plan.steps[pass.to_data ? pass.first + i : pass.last - 1 - i];
}
PENSTOCK_INLINE bool is_inverse(const Step &step, const Pass &pass) {
  return pass.to_data != (step.explicit_to_data != 0);
}

template <class T>
PENSTOCK_FUNCTION void forward(const PlanView &plan, const PackedView<T> &packed, const Pass &pass, Tile<T> &tile) {
  using V = Native<T>;
  const int n = vectors<T>(tile.rows);
  const bool activations = pass.keep == Keep::activations;
  for (int i = 0; i < pass.last - pass.first; i++) {
    const Step &step = step_of(plan, pass, i);
    const bool inverse = is_inverse(step, pass);
    T *area = tile.kept + step.area, *old = kept(step, pass, tile);
    if (has<part_coupling> && step.kind == step_coupling) {
      coupling_forward<V>(step, packed, inverse, activations, n, tile, area, old);
    } else if (has<part_free> && step.kind == step_elementwise) {
      elementwise_forward<V>(step, packed, inverse, n, tile, old);
    } else if (has<part_lu_linear> && step.kind == step_lu_linear) {
      lu_forward<V>(step, packed, inverse, n, tile_stride, tile.state, tile.log_det, area, old);
    } else if (has<part_autoregressive> && step.kind == step_autoregressive) {
      autoregressive_forward<V>(step, packed, inverse, activations, n, tile, area, old);
    }
  }
}

template <class T>
PENSTOCK_FUNCTION void backward(const PlanView &plan, const PackedView<T> &packed, const Pass &pass, bool want_input,
                                Tile<T> &tile, const TileGradient<T> &gradient) {
  using V = Native<T>;
  const int n = vectors<T>(tile.rows), n_steps = pass.last - pass.first;
  const bool recompute = pass.keep == Keep::old_values;
  int first_moving = 0;  // before it there is nothing to do on the way back
  while (first_moving < n_steps && !moves(step_of(plan, pass, first_moving))) {
    first_moving++;
  }
  for (int i = n_steps - 1; i >= first_moving; i--) {
    const Step &step = step_of(plan, pass, i);
    const bool inverse = is_inverse(step, pass), want = want_input || i > first_moving;
    T *area = tile.kept + step.area;
    const T *old = tile.kept + step.kept;
    if (has<part_coupling> && step.kind == step_coupling) {
      coupling_backward<V>(step, packed, inverse, recompute, want, n, tile, gradient, area, old);
    } else if (has<part_free> && step.kind == step_elementwise) {
      elementwise_backward<V>(step, packed, inverse, n, tile, gradient, old);
    } else if (has<part_lu_linear> && step.kind == step_lu_linear) {
      lu_backward<V>(step, packed, inverse, recompute, n, tile, gradient, area, old);
    } else if (has<part_autoregressive> && step.kind == step_autoregressive) {
      autoregressive_backward<V>(step, packed, inverse, recompute, want, n, tile, gradient, area, old);
    }
  }
}

template <class T>
PENSTOCK_FUNCTION void row(const PlanView &plan, const PackedView<T> &packed, const Pass &pass, Tile<T> &tile) {
  using V = Native<T>;
  T *state = tile.state, *area = tile.kept;  // areas of all steps begin there
  for (int i = 0; i < pass.last - pass.first; i++) {
    const Step &step = step_of(plan, pass, i);
    const bool inverse = is_inverse(step, pass);
    if (has<part_coupling> && step.kind == step_coupling) {
      coupling_row<V>(step, packed, inverse, tile.context, state, tile.log_det, area);
    } else if (has<part_free> && step.kind == step_elementwise) {
      transform_row(step, all_of(step), inverse, packed.params + step.params, state, tile.log_det);
    } else if (has<part_lu_linear> && step.kind == step_lu_linear) {
      lu_forward<T>(step, packed, inverse, 1, 1, state, tile.log_det, area, static_cast<T *>(nullptr));
    } else if (has<part_autoregressive> && step.kind == step_autoregressive) {
      autoregressive_row<V>(step, packed, inverse, tile.context, state, tile.log_det, area);
    }
  }
}

}  // namespace penstock::PENSTOCK_ISA
