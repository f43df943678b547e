// What follows the walks of a training step: sums over rows of what they recorded, the same slices, tiles and trees as on the
// processor, then the norm, Adam, and the packing of what it changed. Nothing here is atomic.
#pragma once

#include "cuda/block.hpp"
#include "cuda/job.hpp"
#include "cuda/kernels.hpp"
#include "isa/training.hpp"

namespace penstock::PENSTOCK_ISA {

// Rows of a tile of the processor.
inline constexpr int64_t host_tile = penstock::tile_rows;

// The tiles of slice s that the chunk has.
struct TilesOf {
  int64_t begin, end;
  bool first;  // whether the sums of the slice begin here
};
PENSTOCK_INLINE TilesOf tiles_of(const cuda::SlicesOf &slices, int64_t s) {
  const int64_t begin = s * slices.tiles / slices.n, end = (s + 1) * slices.tiles / slices.n;
  return {begin > slices.first_tile ? begin : slices.first_tile, end < slices.end_tile ? end : slices.end_tile,
          begin >= slices.first_tile};
}
PENSTOCK_INLINE int64_t rows_of(const cuda::SlicesOf &slices, int64_t tile) {
  if (slices.count != nullptr) {
    return slices.count[tile];
  }
  const int64_t left = slices.rows - tile * host_tile;
  return left < host_tile ? left : host_tile;
}

// A block has a piece of one W, linear_inputs x linear_outputs, in one slice; a thread 4 x 4 numbers of it.
template <class T>
PENSTOCK_FUNCTION void linear_sums(const cuda::LinearSums<T> &job) {
  constexpr int K = cuda::linear_inputs, N = cuda::linear_outputs, at_once = 16;
  if (job.stop != nullptr && *job.stop != 0) {
    return;
  }
  const int64_t slice = cuda::block() % job.slices.n, piece = cuda::block() / job.slices.n;
  int j = 0;
  while (j + 1 < job.n_jobs && job.jobs[j + 1].begin <= piece) {
    j++;
  }
  const cuda::LinearJob &of = job.jobs[j];
  const int64_t wide = (of.n_out + N - 1) / N, number = piece - of.begin;
  const int64_t k0 = number / wide * K, n0 = number % wide * N;
  const TilesOf tiles = tiles_of(job.slices, slice);
  if (tiles.begin >= tiles.end) {
    return;
  }
  T *const x = reinterpret_cast<T *>(cuda::shared_memory()), *const d = x + at_once * K;
  const int me = cuda::thread(), mine_k = me / (N / 4) * 4, mine_n = me % (N / 4) * 4;
  T *const gradient = job.gradients + slice * job.n_params;
  const bool biased = of.bias >= 0 && k0 == 0 && mine_k == 0;
  T sum[4][4], bias[4];
  const auto inside = [&](int64_t k, int64_t n) {
    return k < of.n_in && n < of.n_out && (of.first == nullptr || n >= of.first[k]) &&
           (of.side == 0 || (of.side > 0 ? n > k : n < k));
  };
  for (int a = 0; a < 4; a++) {
    for (int b = 0; b < 4; b++) {
      const int64_t k = k0 + mine_k + a, n = n0 + mine_n + b;
      sum[a][b] = !tiles.first && inside(k, n) ? gradient[of.weight + k * of.stride + n] : T{0};
    }
  }
  for (int b = 0; b < 4; b++) {
    bias[b] = !tiles.first && biased && n0 + mine_n + b < of.n_out ? gradient[of.bias + n0 + mine_n + b] : T{0};
  }
  for (int64_t tile = tiles.begin; tile < tiles.end; tile++) {
    const int64_t rows = rows_of(job.slices, tile), base = (tile - job.slices.first_tile) * host_tile;
    for (int64_t r0 = 0; r0 < rows; r0 += at_once) {
      const int64_t some = rows - r0 < at_once ? rows - r0 : at_once;
      cuda::sync();
      for (int i = me; i < at_once * (K + N); i += cuda::linear_threads) {
        const int r = i % at_once, f = i / at_once;
        const bool input = f < K;
        const int64_t feature = input ? k0 + f : n0 + f - K;
        if (r < some && feature < (input ? of.n_in : of.n_out)) {
          (input ? x + r * K + f : d + r * N + (f - K))[0] =
              job.records.data[((input ? of.in : of.d) + feature) * job.records.stride + base + r0 + r];
        }
      }
      cuda::sync();
      for (int r = 0; r < some; r++) {
        T p[4], q[4];
        PENSTOCK_UNROLL(4)
        for (int a = 0; a < 4; a++) {
          p[a] = k0 + mine_k + a < of.n_in ? x[r * K + mine_k + a] : T{0};
          q[a] = n0 + mine_n + a < of.n_out ? d[r * N + mine_n + a] : T{0};
        }
        PENSTOCK_UNROLL(4)
        for (int a = 0; a < 4; a++) {
          PENSTOCK_UNROLL(4)
          for (int b = 0; b < 4; b++) {
            sum[a][b] = fma<T>(p[a], q[b], sum[a][b]);
          }
        }
        PENSTOCK_UNROLL(4)
        for (int b = 0; b < 4; b++) {
          bias[b] = bias[b] + q[b];
        }
      }
    }
  }
  for (int a = 0; a < 4; a++) {
    for (int b = 0; b < 4; b++) {
      const int64_t k = k0 + mine_k + a, n = n0 + mine_n + b;
      if (inside(k, n)) {
        gradient[of.weight + k * of.stride + n] = sum[a][b];
      } else if (k < of.n_in && n < of.n_out && of.side == 0) {
        gradient[of.weight + k * of.stride + n] = T{0};
      }
    }
  }
  for (int b = 0; b < 4; b++) {
    if (biased && n0 + mine_n + b < of.n_out) {
      gradient[of.bias + n0 + mine_n + b] = bias[b];
    }
  }
}

// A thread has one number in one slice.
template <class T>
PENSTOCK_FUNCTION void free_sums(const cuda::FreeSums<T> &job) {
  if (job.stop != nullptr && *job.stop != 0) {
    return;
  }
  const int64_t mine = cuda::block() * cuda::common_threads + cuda::thread();
  if (mine >= job.n_jobs * job.slices.n) {
    return;
  }
  const int64_t slice = mine % job.slices.n;
  const cuda::FreeJob &of = job.jobs[mine / job.slices.n];
  const TilesOf tiles = tiles_of(job.slices, slice);
  T *const to = job.gradients + slice * job.n_params + of.param;
  bool first = tiles.first;
  T sum = first ? T{0} : *to;
  for (int64_t tile = tiles.begin; tile < tiles.end; tile++) {
    const int64_t rows = rows_of(job.slices, tile);
    if (rows == 0) {
      continue;
    }
    const T more =
        sum_rows(job.records.data + of.feature * job.records.stride + (tile - job.slices.first_tile) * host_tile, rows);
    sum = first ? more : sum + more;
    first = false;
  }
  if (tiles.begin < tiles.end) {
    *to = sum;
  }
}

template <class T>
PENSTOCK_FUNCTION void combine_slices(const cuda::Combine<T> &job) {
  if (job.stop != nullptr && *job.stop != 0) {
    return;
  }
  const int64_t i = cuda::block() * cuda::common_threads + cuda::thread();
  if (i >= job.n_params) {
    return;
  }
  for (int step = 1; step < job.n; step *= 2) {
    for (int s = 0; s + step < job.n; s += 2 * step) {
      T &a = job.gradients[s * job.n_params + i];
      a = a + job.gradients[(s + step) * job.n_params + i];
    }
  }
}

// A block has a tile of the processor's.
inline PENSTOCK_FUNCTION void order_rows(const cuda::OrderRows &job) {
  auto *const weights = reinterpret_cast<double *>(cuda::shared_memory());
  const int64_t tile = cuda::block(), i = tile * host_tile + cuda::thread();
  const int me = cuda::thread();
  int64_t row = 0;
  double weight = 0;
  if (i < job.rows) {
    row = job.ordered ? job.split(job.shuffle(job.begin + i)) : i;
    weight = 1.0;
    if (job.weights != nullptr) {
      const char *at = job.weights + row * job.weight_stride;
      weight = job.weight_size == 4 ? static_cast<double>(load<float>(at)) : load<double>(at);
      weight = weight * job.weight_factors[0] * job.weight_factors[1];
    }
  }
  weights[me] = weight;
  cuda::sync();
  int before = 0, all = 0;
  for (int j = 0; j < static_cast<int>(host_tile); j++) {
    const bool counts = weights[j] != 0;
    before += counts && j < me ? 1 : 0;
    all += counts ? 1 : 0;
  }
  if (weight != 0) {
    job.out.index[tile * host_tile + before] = row;
    job.out.weight[tile * host_tile + before] = weight;
  }
  if (me == 0) {
    job.out.count[tile] = all;
  }
}

// One block. Slices are summed in order, then by the tree.
inline PENSTOCK_FUNCTION void sum_losses(const cuda::Losses &job) {
  if (job.stop != nullptr && *job.stop != 0) {
    return;
  }
  const int n = job.slices.n;
  for (int s = cuda::thread(); s < n; s += cuda::common_threads) {
    double loss = 0, weight = 0;
    for (int64_t tile = s * job.slices.tiles / n; tile < (s + 1) * job.slices.tiles / n; tile++) {
      const int64_t rows = rows_of(job.slices, tile);
      if (rows > 0) {
        loss += sum_rows(static_cast<const double *>(job.batch.loss) + tile * host_tile, rows);
        weight += sum_rows(static_cast<const double *>(job.batch.weight) + tile * host_tile, rows);
      }
    }
    job.sums[s] = loss;
    job.sums[n + s] = weight;
  }
  cuda::sync();
  if (cuda::thread() < 2) {
    double *const x = job.sums + cuda::thread() * n;
    for (int step = 1; step < n; step *= 2) {
      for (int i = 0; i + step < n; i += 2 * step) {
        x[i] += x[i + step];
      }
    }
  }
}

PENSTOCK_INLINE double gradient_scale(double weight_scale, double weight, double rows) {
  return weight_scale == 0 ? 1 / weight : weight_scale / rows;
}

// 16 threads have the partial sums of a piece: see sum_squares.
template <class T>
PENSTOCK_FUNCTION void squares(const cuda::Squares<T> &job) {
  if (*job.stop != 0) {
    return;
  }
  auto *const partial = reinterpret_cast<double *>(cuda::shared_memory());
  const int me = cuda::thread(), lane = me % 16;
  const int64_t mine = cuda::block() * (cuda::common_threads / 16) + me / 16;
  const double scale = gradient_scale(job.weight_scale, job.sums[job.weight_at], job.rows);
  double sum = 0;
  if (mine < job.n_pieces) {
    const cuda::PieceOf &piece = job.pieces[mine];
    for (int64_t i = lane; i < piece.n; i += 16) {
      const double v = static_cast<double>(job.gradient[piece.at + i]) * scale;
      sum = sum + v * v;
    }
  }
  partial[me] = sum;
  cuda::sync();
  if (mine < job.n_pieces && lane == 0) {
    double own[16];
    for (int i = 0; i < 16; i++) {
      own[i] = partial[me + i];
    }
    job.squares[mine] = sum_partials(own);
  }
}

// One thread.
inline PENSTOCK_FUNCTION void decide(const cuda::Decide &job) {
  if (*job.stop != 0) {
    return;
  }
  const double weight = job.sums[job.weight_at];
  if (weight == 0) {
    *job.loss = __builtin_nan("");
    *job.norm = 0;
    *job.taken = 2;
    return;
  }
  double square = 0;
  for (int64_t i = 0; i < job.n_pieces;) {  // of each segment, then of all
    const int32_t segment = job.pieces[i].segment;
    double own = 0;
    for (; i < job.n_pieces && job.pieces[i].segment == segment; i++) {
      own += job.squares[i];
    }
    square += own;
  }
  const double loss = job.sums[0] / weight, norm = sqrt<double>(square);
  const double scale = gradient_scale(job.weight_scale, weight, job.rows);
  *job.loss = loss;
  *job.norm = norm;
  const bool finite = loss - loss == 0 && norm - norm == 0;
  *job.taken = finite ? 1 : 0;
  *job.stop = finite ? 0 : 1;
  *job.number = *job.done;
  *job.done += finite ? 1 : 0;
  *job.scale = scale * (norm > job.clip_norm ? job.clip_norm / norm : 1.0);
}

template <class T>
PENSTOCK_FUNCTION void adam_step(const cuda::Adam<T> &job) {
  const int64_t i = cuda::block() * cuda::common_threads + cuda::thread();
  if (*job.taken != 1 || i >= job.n_numbers) {
    return;
  }
  int64_t low = 0, high = job.n_pieces - 1;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (job.ends[middle] > i) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  const cuda::PieceOf &piece = job.pieces[low];
  const int64_t at = piece.at + piece.n - (job.ends[low] - i);
  AdamSettings settings = job.settings;
  settings.correction1 = job.corrections[2 * *job.number];
  settings.correction2 = job.corrections[2 * *job.number + 1];
  adam_lanes<T>(settings, piece.decay != 0, job.gradient + at, *job.scale, job.params + at, job.m + at, job.v + at);
}

// The panels, then a thread for each triangle that training reads.
template <class T>
PENSTOCK_FUNCTION void pack_all(const cuda::Pack<T> &job) {
  if (*job.taken != 1) {
    return;
  }
  const int64_t i = cuda::block() * cuda::common_threads + cuda::thread();
  if (i < job.n) {
    if (job.source[i] >= 0) {
      job.panels[i] = job.params[job.source[i]];
    }
    return;
  }
  const int64_t triangle = i - job.n;
  if (triangle < 4 * job.n_lu) {
    const Step &lu = job.lu[triangle / 4];
    pack_lu(lu, (lu.explicit_to_data != 0 ? lu_triangles / 2 : 0) + static_cast<int>(triangle % 4), job.params,
            job.panels);
  }
}

}  // namespace penstock::PENSTOCK_ISA
