// A transform over a tile: theta free, external, or from a conditioner; forward, and the gradient of either direction.
// The elementwise layer is this with free or external theta; coupling.hpp puts a network in front of it.
#pragma once

#include "conditioners/linear.hpp"
#include "transforms/parts.hpp"

namespace penstock::PENSTOCK_ISA {

// Ways to read theta: a tile's (one vector a number), or one value for every row. Number i of the element.
template <class V>
struct TileTheta {
  const Element<V> *p;
  PENSTOCK_INLINE V operator()(int i) const { return load<V>(p + i * tile_stride); }
};
#if defined(PENSTOCK_DEVICE)
// A thread of a device has no room for arrays that it indexes: what a spline keeps of an element goes to the row's memory, which
// may be that of theta itself.
template <class V>
struct KeepingTheta {
  const V *p;
  V *kept_at;
  PENSTOCK_INLINE V operator()(int i) const { return p[i * tile_stride]; }
  PENSTOCK_INLINE void put(int i, V v) const { kept_at[i * tile_stride] = v; }
  PENSTOCK_INLINE V kept(int i) const { return kept_at[i * tile_stride]; }
};
#endif
template <class V>
struct FreeTheta {
  const Element<V> *p;
  PENSTOCK_INLINE V operator()(int i) const { return splat<V>(p[i]); }
};
template <class V>
struct TileThetaGradient {
  Element<V> *p;
  PENSTOCK_INLINE void operator()(int i, V v) const { store(p + i * tile_stride, v); }
};

template <class T>
struct Options {
  T values[max_options];
  PENSTOCK_FUNCTION explicit Options(const Run &run) {
    for (int i = 0; i < max_options; i++) {
      values[i] = static_cast<T>(run.options[i]);
    }
  }
};

// Some of the dimensions of B.
struct Dimensions {
  int from, to;
};
PENSTOCK_INLINE Dimensions all_of(const Step &step) { return {0, step.n_b}; }

// body(run, those of the dimensions that it has), for every run that has some, in order.
template <class Body>
PENSTOCK_INLINE void each_run(const Step &step, Dimensions dims, Body &&body) {
  int first = 0;  // by bisection: an autoregressive step asks for one dimension after the other
  for (int end = step.n_runs - 1; first < end;) {
    const int middle = (first + end) / 2;
    if (step.runs[middle].to > dims.from) {
      end = middle;
    } else {
      first = middle + 1;
    }
  }
  for (int i = first; i < step.n_runs && step.runs[i].from < dims.to; i++) {
    const Run &run = step.runs[i];
    body(run, Dimensions{dims.from > run.from ? dims.from : run.from, dims.to < run.to ? dims.to : run.to});
  }
}

// The place of theta of a dimension among those of the step.
PENSTOCK_INLINE int64_t theta_of(const Run &run, int64_t d) { return run.theta + (d - run.from) * run.n_theta; }

// The numbers x of one dimension from a lane on; theta begins with that of the dimension.
template <class Transform, class V, bool free, bool inverse>
PENSTOCK_INLINE void transform_lanes(const Element<V> *options, const Element<V> *__restrict theta, int lane,
                                     Element<V> *x, double *log_det, Element<V> *kept) {
  const V old = load<V>(x + lane);
  V now, log_slope, slope;
  const auto apply = [&](auto read) __attribute__((always_inline)) {
    if constexpr (inverse) {
      Transform::template inverse<V>(old, read, options, now, log_slope);
    } else {
      Transform::template forward<V>(old, read, options, now, log_slope, slope);
    }
  };
  if constexpr (free) {
    apply(FreeTheta<V>{theta});
  } else {
#if defined(PENSTOCK_DEVICE)
    // nobody reads this theta again
    apply(KeepingTheta<V>{theta + lane, const_cast<Element<V> *>(theta) + lane});
#else
    apply(TileTheta<V>{theta + lane});
#endif
  }
  if (kept != nullptr) {
    store(kept + lane, old);
  }
  store(x + lane, now);
  accumulate<V>(log_det + lane, log_slope);
}

// theta: (n_theta, tile) of the tile, or (n_theta) free, of the step; it overlaps nothing that is written, so that what free
// theta alone decides is computed once a dimension. Changes the state, adds to log_det; old values of B go to kept if it is
// not null.
template <class Transform, class V, bool free, bool inverse>
PENSTOCK_FUNCTION void transform_forward(const Step &step, const Run &run, Dimensions dims, int n_vectors,
                                         const Element<V> *__restrict theta, Element<V> *state, double *log_det,
                                         Element<V> *kept) {
  using T = Element<V>;
  const Options<T> options(run);
  for (int64_t d = dims.from; d < dims.to; d++) {
    T *x = state + step.b[d] * tile_stride;
    const T *own = theta + theta_of(run, d) * (free ? 1 : tile_stride);
    T *keep = kept != nullptr ? kept + d * tile_stride : nullptr;
    int lane = 0;
    for (; lane + lanes<Wide<V>> <= n_vectors * lanes<V>; lane += lanes<Wide<V>>) {
      transform_lanes<Transform, Wide<V>, free, inverse>(options.values, own, lane, x, log_det, keep);
    }
    for (; lane < n_vectors * lanes<V>; lane += lanes<V>) {
      transform_lanes<Transform, V, free, inverse>(options.values, own, lane, x, log_det, keep);
    }
  }
}

// The way back through either direction. tile.state is put back from the output of the step to its input; gradient.state
// of B and d_theta (n_theta, tile) are overwritten. The gradient of the inverse direction comes from the
// pair (x, y), y = g(x):  with upstream dx and l,  a = backward(dy = 0, dlog_det = -l).dx,  v = (dx + a) / g',
// dy = v,  dtheta = backward(dy = -v, dlog_det = -l).dtheta.
template <class Transform, class V, bool free>
PENSTOCK_FUNCTION void transform_backward(const Step &step, const Run &run, Dimensions dims, bool inverse,
                                          int n_vectors, const Element<V> *theta, const Tile<Element<V>> &tile,
                                          const TileGradient<Element<V>> &gradient, const Element<V> *kept,
                                          Element<V> *d_theta) {
  using T = Element<V>;
  const Options<T> options(run);
  for (int64_t d = dims.from; d < dims.to; d++) {
    T *state = tile.state + step.b[d] * tile_stride;
    T *d_state = gradient.state + step.b[d] * tile_stride;
    for (int v = 0; v < n_vectors; v++) {
      const int lane = v * lanes<V>;
      const V old = load<V>(kept + d * tile_stride + lane);
      const V upstream = load<V>(d_state + lane);
      const V bar = load<V>(gradient.log_det + lane);
      const TileThetaGradient<V> write{d_theta + theta_of(run, d) * tile_stride + lane};
      V down;
      const auto apply = [&](auto read) __attribute__((always_inline)) {
        if (inverse) {
          const V x = load<V>(state + lane);
          V y, log_det, slope, a;
          Transform::template forward<V>(x, read, options.values, y, log_det, slope);
          Transform::template backward<V>(x, read, options.values, V{}, -bar, a, write);
          down = (upstream + a) / slope;
          V unused;
          Transform::template backward<V>(x, read, options.values, -down, -bar, unused, write);
        } else {
          Transform::template backward<V>(old, read, options.values, upstream, bar, down, write);
        }
      };
      if constexpr (free) {
        apply(FreeTheta<V>{theta + theta_of(run, d)});
      } else {
        const Element<V> *own = theta + theta_of(run, d) * tile_stride + lane;
#if defined(PENSTOCK_DEVICE)
        apply(KeepingTheta<V>{own, gradient.transposed});
#else
        apply(TileTheta<V>{own});
#endif
      }
      store(d_state + lane, down);
      store(state + lane, old);
    }
  }
}

// One row: the state is one number a slot.
template <class Transform, class T>
PENSTOCK_FUNCTION void transform_row(const Step &step, const Run &run, Dimensions dims, bool inverse, const T *theta,
                                     T *state, double *log_det) {
  const Options<T> options(run);
  for (int64_t d = dims.from; d < dims.to; d++) {
    T *x = state + step.b[d];
    T now, log_slope, slope;
    const FreeTheta<T> read{theta + theta_of(run, d)};
    if (inverse) {
      Transform::template inverse<T>(*x, read, options.values, now, log_slope);
    } else {
      Transform::template forward<T>(*x, read, options.values, now, log_slope, slope);
    }
    *x = now;
    accumulate<T>(log_det, log_slope);
  }
}

// By the transforms' codes.
template <class V, bool free>
PENSTOCK_FUNCTION void transform_forward(const Step &step, Dimensions dims, bool inverse, int n_vectors,
                                         const Element<V> *theta, Element<V> *state, double *log_det,
                                         Element<V> *kept) {
  each_run(step, dims, [&](const Run &run, Dimensions some) {
#define PENSTOCK_CASE(name, ...)                                                                                \
  if constexpr (has<1u << transform_##name>) {                                                                  \
    if (run.transform == transform_##name) {                                                                    \
      if (inverse) {                                                                                            \
        return transform_forward<name, V, free, true>(step, run, some, n_vectors, theta, state, log_det, kept); \
      }                                                                                                         \
      return transform_forward<name, V, free, false>(step, run, some, n_vectors, theta, state, log_det, kept);  \
    }                                                                                                           \
  }
    PENSTOCK_TRANSFORMS(PENSTOCK_CASE)
#undef PENSTOCK_CASE
  });
}

template <class V, bool free>
PENSTOCK_FUNCTION void transform_backward(const Step &step, Dimensions dims, bool inverse, int n_vectors,
                                          const Element<V> *theta, const Tile<Element<V>> &tile,
                                          const TileGradient<Element<V>> &gradient, const Element<V> *kept,
                                          Element<V> *d_theta) {
  each_run(step, dims, [&](const Run &run, Dimensions some) {
#define PENSTOCK_CASE(name, ...)                                                                                 \
  if constexpr (has<1u << transform_##name>) {                                                                   \
    if (run.transform == transform_##name) {                                                                     \
      return transform_backward<name, V, free>(step, run, some, inverse, n_vectors, theta, tile, gradient, kept, \
                                               d_theta);                                                         \
    }                                                                                                            \
  }
    PENSTOCK_TRANSFORMS(PENSTOCK_CASE)
#undef PENSTOCK_CASE
  });
}

template <class T>
PENSTOCK_FUNCTION void transform_row(const Step &step, Dimensions dims, bool inverse, const T *theta, T *state,
                                     double *log_det) {
  each_run(step, dims, [&](const Run &run, Dimensions some) {
#define PENSTOCK_CASE(name, ...)                                                      \
  if constexpr (has<1u << transform_##name>) {                                        \
    if (run.transform == transform_##name) {                                          \
      return transform_row<name, T>(step, run, some, inverse, theta, state, log_det); \
    }                                                                                 \
  }
    PENSTOCK_TRANSFORMS(PENSTOCK_CASE)
#undef PENSTOCK_CASE
  });
}

// The elementwise layer: theta free, or external where the tile brings one.
template <class V>
PENSTOCK_FUNCTION void elementwise_forward(const Step &step, const PackedView<Element<V>> &packed, bool inverse,
                                           int n_vectors, const Tile<Element<V>> &tile, Element<V> *kept) {
  if (has<part_external> && step.conditioner == conditioner_external) {
    transform_forward<V, false>(step, all_of(step), inverse, n_vectors, tile.theta + step.external, tile.state,
                                tile.log_det, kept);
  } else {
    transform_forward<V, true>(step, all_of(step), inverse, n_vectors, packed.params + step.params, tile.state,
                               tile.log_det, kept);
  }
}

template <class V>
PENSTOCK_FUNCTION void elementwise_backward(const Step &step, const PackedView<Element<V>> &packed, bool inverse,
                                            int n_vectors, const Tile<Element<V>> &tile,
                                            const TileGradient<Element<V>> &gradient, const Element<V> *kept) {
  if (has<part_external> && step.conditioner == conditioner_external) {
    return transform_backward<V, false>(step, all_of(step), inverse, n_vectors, tile.theta + step.external, tile,
                                        gradient, kept, gradient.external + step.external);
  }
  transform_backward<V, true>(step, all_of(step), inverse, n_vectors, packed.params + step.params, tile, gradient, kept,
                              gradient.theta);
  if (gradient.of_params != Gradient::ignore) {
    free_gradient(gradient, step.grad, step.n_theta, gradient.theta, tile.rows);
  }
}

}  // namespace penstock::PENSTOCK_ISA
