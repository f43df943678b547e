// The instruction sets' room. Think before adding code here: all of it is compiled several times, for machines that may
// not be this one. Everything lies in a namespace of the instruction set, nothing of the standard library is touched, and
// only the two tables at the end are visible outside (tests/test_house.py looks at the symbols).

#include "isa/kernels.hpp"

#include "core/philox.hpp"
#include "isa/rows.hpp"
#include "layers/autoregressive.hpp"
#include "layers/coupling.hpp"
#include "layers/elementwise.hpp"
#include "layers/lu_linear.hpp"

namespace penstock::PENSTOCK_ISA {
namespace {

template <class T>
PENSTOCK_INLINE int vectors(int rows) {
  return whole_vectors<T>(rows) / lanes_native<T>;
}

template <class T>
void load_tile(const PlanView &plan, const int64_t *slots, const PackedView<T> *packed, const RowsView &in,
               const int64_t *index, int64_t first_row, int rows, int stride, T *state) {
  const RowPointers pointers{in, index, first_row, rows};
  if (packed != nullptr) {
    const Columns columns{plan.dim, slots, packed->loc, packed->inverse};
    (in.item_size == 4 ? load_rows<T, float, true> : load_rows<T, double, true>)(columns, pointers, stride, state);
  } else {
    const Columns columns{plan.dim, slots, nullptr, nullptr};
    (in.item_size == 4 ? load_rows<T, float, false> : load_rows<T, double, false>)(columns, pointers, stride, state);
  }
}

template <class T>
void store_tile(const PlanView &plan, const int64_t *slots, const PackedView<T> *packed, const T *state, int rows,
                int stride, T *out) {
  if (packed != nullptr) {
    store_rows<T, true>({plan.dim, slots, packed->loc, packed->scale}, state, rows, stride, out);
  } else {
    store_rows<T, false>({plan.dim, slots, nullptr, nullptr}, state, rows, stride, out);
  }
}

template <class T>
void load_columns(const T *in, int64_t n, int rows, T *tile) {
  const RowsView view{reinterpret_cast<const char *>(in), n * static_cast<int64_t>(sizeof(T)), sizeof(T), sizeof(T)};
  load_rows<T, T, false>({n, nullptr, nullptr, nullptr}, {view, nullptr, 0, rows}, tile_stride, tile);
}

template <class T>
void store_columns(const T *tile, int64_t n, int rows, T *out) {
  store_rows<T, false>({n, nullptr, nullptr, nullptr}, tile, rows, tile_stride, out);
}

// Rows of the context lie where the embedding reads them, or else conditioners.
template <class T>
void load_context(const PlanView &plan, const PackedView<T> &packed, const RowsView &in, const int64_t *index,
                  int stride, bool keep, Tile<T> &tile) {
  const Step *embedding = plan.embedding;
  const int64_t scale = tile_stride / stride;
  T *area = embedding != nullptr ? tile.kept + embedding->area : nullptr;
  T *to = embedding != nullptr ? area + embedding->input / scale : tile.context;
  const RowPointers pointers{in, index, 0, tile.rows};
  const Columns columns{plan.context_dim, nullptr, packed.context_loc, packed.context_inverse};
  (in.item_size == 4 ? load_rows<T, float, true> : load_rows<T, double, true>)(columns, pointers, stride, to);
  if (embedding == nullptr) {
    return;
  }
  if (stride == 1) {
    mlp_row<Native<T>>(*embedding, packed.params, area);
  } else {
    mlp_forward<Native<T>>(*embedding, packed, nullptr, vectors<T>(tile.rows), keep, area);
  }
  tile.context = area + embedding->theta / scale;
}

template <class T>
void store_context(const PlanView &plan, const PackedView<T> &packed, const Tile<T> &tile, T *out) {
  const T *d = tile.d_context;
  if (plan.embedding != nullptr) {
    const Step &step = *plan.embedding;
    const int n = vectors<T>(tile.rows);
    copy_features<Native<T>>(plan.n_context, n, d, tile.d_theta);
    const int from = out != nullptr ? 0 : step.n_u;
    d = mlp_backward<Native<T>>(step, packed, n, from, tile, tile.kept + step.area);
  }
  for (int64_t r = 0; out != nullptr && r < tile.rows; r++) {
    for (int64_t i = 0; i < plan.context_dim; i++) {
      out[r * plan.context_dim + i] =
          static_cast<T>(static_cast<double>(d[i * tile_stride + r]) * packed.context_inverse[i]);
    }
  }
}

template <class T>
void share(const PlanView &plan, const PackedView<T> &packed, const Tile<T> &tile, T *starts) {
  for (int k = 0; k < plan.n_steps; k++) {
    if (plan.steps[k].n_context > 0) {
      start_shared<Native<T>>(plan.steps[k], packed, tile.context, tile.kept + plan.steps[k].area, starts);
    }
  }
}

template <class T>
void base_normals(const PlanView &plan, uint64_t seed, const uint64_t *context_row, const uint64_t *draw, int rows,
                  int stride, T *state) {
  (stride == 1 ? normals<T> : normals<Native<T>>)(seed, context_row, draw, rows, plan.dim, stride, state);
}

PENSTOCK_INLINE bool moves(const Step &step) { return step.kind != step_permutation && step.kind != step_columns; }

template <class T>
PENSTOCK_INLINE T *kept(const Step &step, const Pass &pass, const Tile<T> &tile) {
  return pass.keep ? tile.kept + step.kept : nullptr;
}

template <class T>
void forward(const PlanView &plan, const PackedView<T> &packed, const Pass &pass, Tile<T> &tile) {
  using V = Native<T>;
  const int n = vectors<T>(tile.rows);
  for (int i = 0; i < pass.last - pass.first; i++) {
    const Step &step = plan.steps[pass.to_data ? pass.first + i : pass.last - 1 - i];
    const bool inverse = pass.to_data != (step.explicit_to_data != 0);
    if (step.kind == step_coupling) {
      coupling_forward<V>(step, packed, inverse, pass.keep && !pass.recompute, n, tile, tile.kept + step.area,
                          kept(step, pass, tile));
    } else if (step.kind == step_elementwise) {
      elementwise_forward<V>(step, packed, inverse, n, tile, kept(step, pass, tile));
    } else if (step.kind == step_lu_linear) {
      lu_forward<V>(step, packed, inverse, n, tile_stride, tile.state, tile.log_det, tile.kept + step.area,
                    kept(step, pass, tile));
    } else if (step.kind == step_autoregressive) {
      autoregressive_forward<V>(step, packed, inverse, pass.keep && !pass.recompute, n, tile, tile.kept + step.area,
                                kept(step, pass, tile));
    }
  }
}

template <class T>
void backward(const PlanView &plan, const PackedView<T> &packed, const Pass &pass, bool want_input, Tile<T> &tile) {
  using V = Native<T>;
  const int n = vectors<T>(tile.rows);
  int end = pass.last - pass.first;  // the last step to do on the way back is the first that moved anything
  const auto step_of = [&](int i) -> const Step & {
    return plan.steps[pass.to_data ? pass.first + i : pass.last - 1 - i];
  };
  int first_moving = 0;
  while (first_moving < end && !moves(step_of(first_moving))) {
    first_moving++;
  }
  for (int i = end - 1; i >= first_moving; i--) {
    const Step &step = step_of(i);
    const bool inverse = pass.to_data != (step.explicit_to_data != 0);
    if (step.kind == step_coupling) {
      coupling_backward<V>(step, packed, inverse, pass.recompute, want_input || i > first_moving, n, tile,
                           tile.kept + step.area, tile.kept + step.kept);
    } else if (step.kind == step_elementwise) {
      elementwise_backward<V>(step, packed, inverse, n, tile, tile.kept + step.kept);
    } else if (step.kind == step_lu_linear) {
      lu_backward<V>(step, packed, inverse, pass.recompute, n, tile, tile.kept + step.area, tile.kept + step.kept);
    } else if (step.kind == step_autoregressive) {
      autoregressive_backward<V>(step, packed, inverse, pass.recompute, want_input || i > first_moving, n, tile,
                                 tile.kept + step.area, tile.kept + step.kept);
    }
  }
}

constexpr double half_log_2pi = 0.91893853320467274178;

// log p(z) = -|z|^2 / 2 - dim log(2 pi) / 2, summed over dimensions in order, in float64.
template <class T>
void base(const PlanView &plan, const T *state, int rows, int stride, double sign, double *log_det) {
  double sum[tile_rows];
  const int whole = stride == 1 ? 1 : vectors<T>(rows) * lanes_native<T>;
  for (int r = 0; r < whole; r++) {
    sum[r] = 0;
  }
  for (int64_t d = 0; d < plan.dim; d++) {
    const T *z = state + d * stride;
    if (stride == 1) {
      accumulate_product<T>(sum, *z, *z);
      continue;
    }
    for (int r = 0; r < whole; r += lanes_native<T>) {
      const Native<T> v = load<Native<T>>(z + r);
      accumulate_product<Native<T>>(sum + r, v, v);
    }
  }
  for (int r = 0; r < whole; r++) {
    log_det[r] = sign * log_det[r] - 0.5 * sum[r] - plan.dim * half_log_2pi;
  }
}

template <class T>
void base_backward(const PlanView &plan, const T *state, const T *bar, int rows, T *gradient) {
  const int whole = vectors<T>(rows) * lanes_native<T>;
  for (int64_t d = 0; d < plan.dim; d++) {
    for (int r = 0; r < whole; r++) {
      gradient[d * tile_stride + r] = gradient[d * tile_stride + r] - state[d * tile_stride + r] * bar[r];
    }
  }
}

template <class T>
void row(const PlanView &plan, const PackedView<T> &packed, const Pass &pass, const T *context, T *state,
         double *log_det, T *area) {
  for (int i = 0; i < pass.last - pass.first; i++) {
    const Step &step = plan.steps[pass.to_data ? pass.first + i : pass.last - 1 - i];
    const bool inverse = pass.to_data != (step.explicit_to_data != 0);
    if (step.kind == step_coupling) {
      coupling_row<Native<T>>(step, packed, inverse, context, state, log_det, area);
    } else if (step.kind == step_elementwise) {
      transform_row(step, all_of(step), inverse, packed.params + step.params, state, log_det);
    } else if (step.kind == step_lu_linear) {
      lu_forward<T>(step, packed, inverse, 1, 1, state, log_det, area, static_cast<T *>(nullptr));
    } else if (step.kind == step_autoregressive) {
      autoregressive_row<Native<T>>(step, packed, inverse, context, state, log_det, area);
    }
  }
}

template <class T>
void pack(const Linear &linear, int from, int to, const T *params, T *panels) {
  if (linear.mask != nullptr) {
    return pack_pieces(params + linear.weight, linear.n_out, *linear.mask, from, to, panels + linear.panels);
  }
  pack_panels(params + linear.weight, linear.n_in, linear.n_out, from, to, panels + linear.panels);
}

template <class T>
void combine(T *gradients, int64_t stride, int n, int64_t count) {
  for (int64_t begin = 0; begin < count; begin += 1024) {  // a piece of every gradient at a time stays in cache
    const int64_t end = begin + 1024 < count ? begin + 1024 : count;
    for (int step = 1; step < n; step *= 2) {
      for (int i = 0; i + step < n; i += 2 * step) {
        T *a = gradients + i * stride;
        const T *b = gradients + (i + step) * stride;
        for (int64_t j = begin; j < end; j++) {
          a[j] = a[j] + b[j];
        }
      }
    }
  }
}

double sum_rows_double(const double *x, int64_t rows) { return sum_rows(x, rows); }

template <class T>
double sum_squares(const T *x, int64_t n, double scale) {
  double partial[16] = {};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    for (int j = 0; j < 16; j++) {
      const double v = static_cast<double>(x[i + j]) * scale;
      partial[j] = partial[j] + v * v;
    }
  }
  for (int j = 0; i < n; i++, j++) {
    const double v = static_cast<double>(x[i]) * scale;
    partial[j] = partial[j] + v * v;
  }
  return sum_partials(partial);
}

// Kingma, Ba, "Adam" (2015), algorithm 1; decoupled decay as in Loshchilov, Hutter (2019).
template <class V>
PENSTOCK_INLINE void adam_lanes(const AdamSettings &a, bool decay, const Element<V> *gradient, double scale,
                                Element<V> *params, Element<V> *m, Element<V> *v) {
  using T = Element<V>;
  const auto constant = [](double x) __attribute__((always_inline)) { return splat<V>(static_cast<T>(x)); };
  V p = load<V>(params);
  V g = load<V>(gradient) * constant(scale);
  if (decay && !a.decoupled) {
    g = fma<V>(constant(a.weight_decay), p, g);
  }
  if (decay && a.decoupled) {
    p = p * constant(1 - a.learning_rate * a.weight_decay);
  }
  const V mean = fma<V>(constant(a.beta1), load<V>(m), constant(1 - a.beta1) * g);
  const V square = fma<V>(constant(a.beta2), load<V>(v), constant(1 - a.beta2) * (g * g));
  store(m, mean);
  store(v, square);
  const V denominator = sqrt<V>(square * constant(1 / a.correction2)) + constant(a.epsilon);
  store(params, p - constant(a.learning_rate / a.correction1) * mean / denominator);
}

template <class T>
void adam(const AdamSettings &settings, bool decay, int64_t n, const T *gradient, double scale, T *params, T *m, T *v) {
  int64_t i = 0;
  for (; i + lanes_native<T> <= n; i += lanes_native<T>) {
    adam_lanes<Native<T>>(settings, decay, gradient + i, scale, params + i, m + i, v + i);
  }
  for (; i < n; i++) {
    adam_lanes<T>(settings, decay, gradient + i, scale, params + i, m + i, v + i);
  }
}

template <class T>
constexpr Kernels<T> table() {
  return {lanes_native<T>, load_tile<T>,     store_tile<T>,    load_columns<T>, store_columns<T>,
          load_context<T>, store_context<T>, share<T>,         base_normals<T>, forward<T>,
          backward<T>,     base<T>,          base_backward<T>, row<T>,          pack<T>,
          pack_lu<T>,      combine<T>,       sum_rows_double,  sum_squares<T>,  adam<T>};
}

}  // namespace

__attribute__((visibility("hidden"))) extern const Kernels<float> kernels_float = table<float>();
__attribute__((visibility("hidden"))) extern const Kernels<double> kernels_double = table<double>();

}  // namespace penstock::PENSTOCK_ISA
