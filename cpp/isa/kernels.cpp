// The instruction sets' room. Think before adding code here: all of it is compiled several times, for machines that may
// not be this one. Everything lies in a namespace of the instruction set, nothing of the standard library is touched, and
// only the two tables at the end are visible outside (tests/test_house.py looks at the symbols).

#include "isa/kernels.hpp"

#include "isa/contexts.hpp"
#include "isa/ends.hpp"
#include "isa/mixtures.hpp"
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

// Rows of the context lie where the embedding reads them, or else conditioners.
template <class T>
void context_in(const PlanView &plan, const PackedView<T> &packed, const RowsView &in, const int64_t *index, int stride,
                Keep keep, Tile<T> &tile) {
  const Step *embedding = plan.embedding;
  const int64_t scale = tile_stride / stride;
  T *area = embedding != nullptr ? tile.kept + embedding->area : nullptr;
  T *to = embedding != nullptr ? area + embedding->input / scale : tile.context.rows;
  const Columns columns{plan.context_dim, plan.context_slots, packed.context_loc, packed.context_inverse};
  load_from(columns, in, index, 0, tile.rows, stride, to);
  if (packed.n_context_mapped > 0) {
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
void make_context_part(const PlanView &plan, const PackedView<T> &packed, const Tile<T> &tile, T *part) {
  for (int k = 0; k < plan.n_all_steps; k++) {
    const Step &step = plan.steps[k];
    if (step.n_context > 0) {
      make_step_part<Native<T>>(step, packed, tile.context, tile.kept + step.area, part);
    }
  }
}

template <class T>
void context_backward(const PlanView &plan, const PackedView<T> &packed, const RowsView &in, const int64_t *index,
                      const Tile<T> &tile, const TileGradient<T> &gradient, const RowsOut<T> &d_context) {
  const T *d = gradient.context;
  if (plan.embedding != nullptr) {
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
  if (d_context.data != nullptr && packed.n_context_mapped > 0) {
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
void forward(const PlanView &plan, const PackedView<T> &packed, const Pass &pass, Tile<T> &tile) {
  using V = Native<T>;
  const int n = vectors<T>(tile.rows);
  const bool activations = pass.keep == Keep::activations;
  for (int i = 0; i < pass.last - pass.first; i++) {
    const Step &step = step_of(plan, pass, i);
    const bool inverse = is_inverse(step, pass);
    T *area = tile.kept + step.area, *old = kept(step, pass, tile);
    if (step.kind == step_coupling) {
      coupling_forward<V>(step, packed, inverse, activations, n, tile, area, old);
    } else if (step.kind == step_elementwise) {
      elementwise_forward<V>(step, packed, inverse, n, tile, old);
    } else if (step.kind == step_lu_linear) {
      lu_forward<V>(step, packed, inverse, n, tile_stride, tile.state, tile.log_det, area, old);
    } else if (step.kind == step_autoregressive) {
      autoregressive_forward<V>(step, packed, inverse, activations, n, tile, area, old);
    }
  }
}

template <class T>
void backward(const PlanView &plan, const PackedView<T> &packed, const Pass &pass, bool want_input, Tile<T> &tile,
              const TileGradient<T> &gradient) {
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
    if (step.kind == step_coupling) {
      coupling_backward<V>(step, packed, inverse, recompute, want, n, tile, gradient, area, old);
    } else if (step.kind == step_elementwise) {
      elementwise_backward<V>(step, packed, inverse, n, tile, gradient, old);
    } else if (step.kind == step_lu_linear) {
      lu_backward<V>(step, packed, inverse, recompute, n, tile, gradient, area, old);
    } else if (step.kind == step_autoregressive) {
      autoregressive_backward<V>(step, packed, inverse, recompute, want, n, tile, gradient, area, old);
    }
  }
}

template <class T>
void row(const PlanView &plan, const PackedView<T> &packed, const Pass &pass, Tile<T> &tile) {
  using V = Native<T>;
  T *state = tile.state, *area = tile.kept;  // areas of all steps begin there
  for (int i = 0; i < pass.last - pass.first; i++) {
    const Step &step = step_of(plan, pass, i);
    const bool inverse = is_inverse(step, pass);
    if (step.kind == step_coupling) {
      coupling_row<V>(step, packed, inverse, tile.context, state, tile.log_det, area);
    } else if (step.kind == step_elementwise) {
      transform_row(step, all_of(step), inverse, packed.params + step.params, state, tile.log_det);
    } else if (step.kind == step_lu_linear) {
      lu_forward<T>(step, packed, inverse, 1, 1, state, tile.log_det, area, static_cast<T *>(nullptr));
    } else if (step.kind == step_autoregressive) {
      autoregressive_row<V>(step, packed, inverse, tile.context, state, tile.log_det, area);
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

// A moment, or 0 if it is negligible: decay alone would end at a denormal, where a product rounds to itself, and denormals
// are slow.
template <class V>
PENSTOCK_INLINE V flushed(V moment) {
  const V least = splat<V>(static_cast<Element<V>>(1e-30));
  return select((moment < least) & (moment > -least), V{}, moment);
}

// Kingma, Ba, "Adam" (2015), algorithm 1; decoupled decay as in Loshchilov, Hutter (2019), added to the step, since a factor
// 1 - rate * decay may round to 1.
template <class V>
PENSTOCK_INLINE void adam_lanes(const AdamSettings &a, bool decay, const Element<V> *gradient, double scale,
                                Element<V> *params, Element<V> *m, Element<V> *v) {
  using T = Element<V>;
  const auto constant = [](double x) __attribute__((always_inline)) { return splat<V>(static_cast<T>(x)); };
  const V p = load<V>(params);
  V g = load<V>(gradient) * constant(scale);
  if (decay && !a.decoupled) {
    g = fma<V>(constant(a.weight_decay), p, g);
  }
  const V mean = flushed<V>(fma<V>(constant(a.beta1), load<V>(m), constant(1 - a.beta1) * g));
  const V square = flushed<V>(fma<V>(constant(a.beta2), load<V>(v), constant(1 - a.beta2) * (g * g)));
  store(m, mean);
  store(v, square);
  const V denominator = sqrt<V>(square * constant(1 / a.correction2)) + constant(a.epsilon);
  const V step = constant(a.learning_rate / a.correction1) * mean / denominator;
  store(params, p - (decay && a.decoupled ? fma<V>(constant(a.learning_rate * a.weight_decay), p, step) : step));
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
  return {lanes_native<T>,
          begin_log_det<T>,
          columns_in<T>,
          columns_out<T>,
          cotangents_in<T>,
          cotangents_out<T>,
          features_in<T>,
          features_out<T>,
          base_draw<T>,
          base_log_density<T>,
          base_backward<T>,
          base_draw_backward<T>,
          context_in<T>,
          make_context_part<T>,
          context_backward<T>,
          forward<T>,
          backward<T>,
          row<T>,
          pack<T>,
          pack_lu<T>,
          combine<T>,
          mix<Native<double>>,
          sum_rows_double,
          sum_squares<T>,
          adam<T>};
}

}  // namespace

__attribute__((visibility("hidden"))) extern const Kernels<float> kernels_float = table<float>();
__attribute__((visibility("hidden"))) extern const Kernels<double> kernels_double = table<double>();

}  // namespace penstock::PENSTOCK_ISA
