// Mixtures of flows: see mixture.hpp.
#include "engine/mixture.hpp"

#include <algorithm>
#include <deque>
#include <limits>
#include <memory>

#include "core/stream.hpp"
#include "engine/far_rows.hpp"
#include "engine/row_sums.hpp"
#include "engine/there_and_back.hpp"
#include "engine/walk.hpp"

namespace penstock {
namespace {

constexpr int64_t most_values = int64_t{1} << 20;  // log-densities of members that are held together
constexpr int64_t piece = 16 * tile_rows;          // rows that are mixed, or dealt out, in one item

// One member over a batch. It is where it was made: the walk refers to its context.
template <class T>
struct Evaluation {
  Batch batch;
  Walk<T> walk;
  FarRows<T> far;
  Tiling tiles;

  // by_block: tiles may be those of blocks that share a context.
  Evaluation(const Member<T> &member, const Batch &all, bool by_block)
      : batch(for_member(member, all)),
        walk(member.engine->plan(), *member.packed, whole(member), Keep::nothing, batch.context, batch.rows, false),
        far(member.engine->plan(), *member.packed, whole(member), batch),
        tiles(by_block ? walk.tile(batch.rows) : Tiling{batch.rows, batch.rows}),
        plan_(member.engine->plan()) {
    if (batch.rows == 1) {
      walk.set_single();
    }
  }
  Evaluation(const Evaluation &) = delete;
  Evaluation &operator=(const Evaluation &) = delete;

  void log_density(const TileRows &rows, double *to) const {
    Tile<T> tile = lend<T>(plan_, Keep::nothing).tile;
    walk.forward(
        rows, RowsOut<T>{}, true, tile, [&](Tile<T> &into) { walk.load(batch.x, rows, into); },
        [&](Tile<T> &from) {
          far.mend_values(rows, from.log_det);
          std::copy_n(from.log_det, rows.count, to);
        });
  }

 private:
  static Range whole(const Member<T> &member) { return {0, member.engine->plan().n_steps, false, true}; }
  const Plan &plan_;
};

template <class T>
double flops_of(const std::vector<Member<T>> &members) {
  double flops = 0;
  for (const Member<T> &member : members) {
    flops += member.engine->plan().flops;
  }
  return flops;
}

// The way back of one member over a batch, and its sums over the rows of a context that they share.
template <class T>
struct Derivation {
  Batch batch;
  const Plan &plan;
  Keep keep;
  ThereAndBack<T> flow;
  std::vector<double> sum;
  ContextSums<T> sums;

  Derivation(const Member<T> &member, const Batch &all, const Slices &slices, const MixtureGradients<T> &out)
      : batch(for_member(member, all)),
        plan(member.engine->plan()),
        keep(member.engine->keep()),
        flow(plan, *member.packed, {0, plan.n_steps, false, true}, keep, batch, nullptr,
             out.context.data != nullptr || out.context_sum != nullptr),
        sum(out.context_sum != nullptr ? static_cast<size_t>(plan.context_dim) : 0),
        sums(plan, batch.context, slices, out.context_sum != nullptr ? sum.data() : nullptr) {}
  Derivation(const Derivation &) = delete;
  Derivation &operator=(const Derivation &) = delete;

  // From cotangents of the values of a tile of slice s: gradients (tile, dim) and, if contexts have some, (tile, context_dim).
  void run(int64_t s, const TileRows &rows, const T *d_value, T *d_x, T *d_context) {
    TileSpace<T> space = lend<T>(plan, keep);
    space.gradient.of_params = Gradient::ignore;
    space.gradient.of_context = d_context != nullptr ? Gradient::accumulate : Gradient::ignore;
    const auto d_value_of = [&](int r) { return d_value[r]; };
    const RowsOut<T> x{d_x, plan.dim}, context{d_context, plan.context_dim};
    flow.run(rows, {}, nullptr, d_value_of, x, context, space);
    if (!sum.empty()) {
      sums.add(s, rows, d_context);
    }
    flow.mend(rows, nullptr, d_value_of, x, sum.empty() ? context : RowsOut<T>{});
  }
};

// Sums over members of numbers of a tile's rows, in float64.
template <class T>
class TileSums {
 public:
  TileSums(const RowsOut<T> &out, int64_t n)
      : out_(out), n_(n), sums_(out.data != nullptr ? static_cast<size_t>(tile_rows * n) : 0) {}
  void add(const std::vector<T> &x) {
    for (size_t i = 0; i < sums_.size(); i++) {
      sums_[i] += static_cast<double>(x[i]);
    }
  }
  void put(const TileRows &rows) const {
    for (int r = 0; !sums_.empty() && r < rows.count; r++) {
      T *to = from_row(out_, rows[r]).data;
      for (int64_t i = 0; i < n_; i++) {
        to[i] = static_cast<T>(sums_[static_cast<size_t>(r * n_ + i)]);
      }
    }
  }

 private:
  const RowsOut<T> &out_;
  int64_t n_;
  std::vector<double> sums_;
};

// The number in [0, 1) that chooses the member of a draw, of 53 bits.
double chance(const Draws &draws, uint64_t context_row, uint64_t draw) {
  const uint32_t counter[4] = {static_cast<uint32_t>(draw), static_cast<uint32_t>(context_row),
                               static_cast<uint32_t>(context_row >> 32) << 24,
                               stream_member | static_cast<uint32_t>(draw >> 32) << 8};
  uint32_t words[4];
  philox(draws.seed, counter, words);
  return static_cast<double>(static_cast<uint64_t>(words[0]) << 21 | words[1] >> 11) * 0x1p-53;
}

}  // namespace

template <class T>
void evaluate_many(const std::vector<Member<T>> &members, const Batch &batch, const MixtureValues &out, Poll poll) {
  const std::vector<int64_t> numbers = counting(members, out.each != nullptr);
  const auto n = static_cast<int64_t>(numbers.size());
  std::deque<Evaluation<T>> parts;  // each stays where it was made
  std::vector<double> log_weights;
  log_weights.reserve(numbers.size());
  for (const int64_t k : numbers) {
    members[k].engine->refuse_external_theta("a mixture");
    parts.emplace_back(members[k], batch, true);
    log_weights.push_back(members[k].log_weight);
  }
  const Tiling tiles = parts.front().tiles;  // of all members, which see the same context
  // A row of each of several members is worth a thread sooner than the rows of one are.
  const int threads = useful_threads(members.front().engine->plan(), batch.rows, 2 * flops_of(members));
  const int64_t together = std::max<int64_t>(1, most_values / (n * tile_rows));
  const int64_t stride = std::min(together, tiles.n()) * tile_rows;
  std::vector<double> values(static_cast<size_t>(n * stride));
  if (out.shares != nullptr) {
    std::fill_n(out.shares, static_cast<int64_t>(members.size()) * batch.rows, 0.0);
  }
  for (int64_t begin = 0; begin < tiles.n(); begin += together) {
    const int64_t count = std::min(together, tiles.n() - begin), first = tiles[begin].first;
    const auto evaluate = [&](int64_t item) {
      const TileRows rows = tiles[begin + item % count];
      parts[item / count].log_density(rows, values.data() + item / count * stride + rows.first - first);
    };
    const TileRows last = tiles[begin + count - 1];
    const int64_t rows = last.first + last.count - first, pieces = (rows + piece - 1) / piece;
    const auto mix = [&](int64_t p) {
      const int64_t from = p * piece, some = std::min(piece, rows - from), row = first + from;
      double log_p[piece];
      const auto put = [&](double *to) {
        for (int64_t i = 0; to != nullptr && i < n; i++) {
          std::copy_n(values.data() + i * stride + from, some, to + numbers[i] * batch.rows + row);
        }
      };
      put(out.each);
      kernels<T>().mix(values.data() + from, stride, n, log_weights.data(), some, log_p);
      put(out.shares);
      for (int64_t r = 0; out.log_p.data != nullptr && r < some; r++) {
        out.log_p.put(row + r, log_p[r]);
      }
    };
    if (count == 1 && std::min(threads, num_threads()) == 1) {
      parallel(1, 1, poll, [&](int64_t) {
        for (int64_t item = 0; item < n && keep_going(); item++) {
          evaluate(item);
        }
        mix(0);
      });
    } else {
      parallel(n * count, threads, poll, evaluate);
      parallel(pieces, threads, poll, mix);
    }
  }
}

template <class T>
void gradients_many(const std::vector<Member<T>> &members, const Batch &batch, const MixtureGradients<T> &out,
                    Poll poll) {
  const DefaultFloatingPoint environment;
  const Slices slices(batch.rows);
  const Tiling tiles{batch.rows, batch.rows};
  const std::vector<int64_t> numbers = counting(members, false);
  std::deque<Evaluation<T>> evaluations;  // each stays where it was made; of those that count
  std::deque<Derivation<T>> derivations;  // of all
  std::vector<double> log_weights;
  for (const Member<T> &member : members) {
    member.engine->refuse_external_theta("a mixture");
    derivations.emplace_back(member, batch, slices, out);
  }
  for (const int64_t k : numbers) {
    evaluations.emplace_back(members[k], batch, false);
    log_weights.push_back(members[k].log_weight);
  }
  const auto n = static_cast<int64_t>(members.size()), n_counting = static_cast<int64_t>(numbers.size());
  const Plan &first = members.front().engine->plan();
  const bool of_context = out.context.data != nullptr || out.context_sum != nullptr;

  const auto run_tile = [&](int64_t s, int64_t t) {
    const TileRows rows = tiles[t];
    std::vector<double> values(static_cast<size_t>(n_counting * tile_rows)), shares(static_cast<size_t>(n * tile_rows));
    for (int64_t i = 0; i < n_counting && keep_going(); i++) {
      evaluations[i].log_density(rows, values.data() + i * tile_rows);
    }
    double log_p[tile_rows];
    kernels<T>().mix(values.data(), tile_rows, n_counting, log_weights.data(), rows.count, log_p);
    for (int64_t i = 0; i < n_counting; i++) {
      std::copy_n(values.data() + i * tile_rows, tile_rows, shares.data() + numbers[i] * tile_rows);
    }
    TileSums<T> d_x(out.x, first.dim), d_context(out.context, first.context_dim);
    std::vector<T> x(out.x.data != nullptr ? static_cast<size_t>(tile_rows * first.dim) : 0),
        context(of_context ? static_cast<size_t>(tile_rows * first.context_dim) : 0);
    for (int64_t k = 0; k < n && keep_going(); k++) {
      T d_value[tile_rows];
      for (int r = 0; r < rows.count; r++) {
        d_value[r] = static_cast<T>(shares[static_cast<size_t>(k * tile_rows + r)]);
      }
      derivations[k].run(s, rows, d_value, out.x.data != nullptr ? x.data() : nullptr,
                         of_context ? context.data() : nullptr);
      d_x.add(x);
      d_context.add(context);
    }
    for (int r = 0; out.log_p.data != nullptr && r < rows.count; r++) {
      out.log_p.put(rows[r], log_p[r]);
    }
    d_x.put(rows);
    d_context.put(rows);
  };

  const int threads = useful_threads(first, batch.rows, 4 * flops_of(members));
  if (out.context_sum == nullptr) {
    return parallel(slices.tiles, threads, poll, [&](int64_t t) { run_tile(0, t); });
  }
  parallel(slices.n, threads, poll, [&](int64_t s) {
    for (int64_t t = slices.first_tile(s); t < slices.first_tile(s + 1) && keep_going(); t++) {
      run_tile(s, t);
    }
  });
  std::vector<double> sum(static_cast<size_t>(first.context_dim));
  for (Derivation<T> &own : derivations) {
    own.sums.finish();
    for (size_t i = 0; i < sum.size(); i++) {
      sum[i] += own.sum[i];
    }
  }
  for (size_t i = 0; i < sum.size(); i++) {
    out.context_sum[i] += sum[i];
  }
}

template <class T>
std::vector<std::vector<int64_t>> rows_of_members(const std::vector<Member<T>> &members, const Draws &draws,
                                                  const Context &context, int64_t rows, Poll poll) {
  const int64_t block =
      members.front().engine->plan().context_dim == 0 || context.shared ? rows : std::max<int64_t>(context.block, 1);
  const std::vector<int64_t> numbers = counting(members, false);
  std::vector<double> ends;
  ends.reserve(numbers.size());
  for (const int64_t k : numbers) {
    ends.push_back((ends.empty() ? 0.0 : ends.back()) + members[k].weight);
  }
  ends.back() = 1.0;
  const int threads = useful_threads(members.front().engine->plan(), rows, flops_of(members) / 2);
  std::vector<uint16_t> chosen(static_cast<size_t>(rows));
  parallel((rows + piece - 1) / piece, threads, poll, [&](int64_t p) {
    for (int64_t r = p * piece; r < std::min(rows, (p + 1) * piece); r++) {
      const double u = chance(draws, draws.context_row + static_cast<uint64_t>(r / block),
                              draws.first_draw + static_cast<uint64_t>(r % block));
      chosen[r] = static_cast<uint16_t>(std::upper_bound(ends.begin(), ends.end(), u) - ends.begin());
    }
  });
  std::vector<std::vector<int64_t>> own(numbers.size());
  for (int64_t r = 0; r < rows; r++) {
    own[chosen[r]].push_back(r);
  }
  return own;
}

template <class T>
void sample_many(const std::vector<Member<T>> &members, const Draws &draws, const Context &context, int64_t rows,
                 const RowsOut<T> &out, Poll poll) {
  const int dim = members.front().engine->plan().dim;
  const int64_t block =
      members.front().engine->plan().context_dim == 0 || context.shared ? rows : std::max<int64_t>(context.block, 1);
  const auto number_of_draw = [&](int64_t r) { return draws.first_draw + static_cast<uint64_t>(r % block); };
  const auto context_row = [&](int64_t r) { return draws.context_row + static_cast<uint64_t>(r / block); };
  const std::vector<int64_t> numbers = counting(members, false);
  const int threads = useful_threads(members.front().engine->plan(), rows, flops_of(members) / 2);
  const std::vector<std::vector<int64_t>> own = rows_of_members(members, draws, context, rows, poll);
  struct Item {
    size_t member;
    TileRows rows;
  };
  std::vector<Item> items;
  std::vector<Context> contexts(numbers.size(), context);
  std::vector<std::unique_ptr<Walk<T>>> walks;
  for (size_t i = 0; i < numbers.size(); i++) {
    const Member<T> &member = members[numbers[i]];
    const Plan &plan = member.engine->plan();
    member.engine->refuse_external_theta("a mixture");
    contexts[i] = for_member(member, Batch{{}, rows, context}).context;
    walks.push_back(std::make_unique<Walk<T>>(plan, *member.packed, Range{0, plan.n_steps, true, true}, Keep::nothing,
                                              contexts[i], rows, false));
    if (rows == 1) {
      walks.back()->set_single();
    }
    const auto count = static_cast<int64_t>(own[i].size());
    for (int64_t from = 0; from < count; from += tile_rows) {
      items.push_back({i, {static_cast<int>(std::min<int64_t>(tile_rows, count - from)), 0, own[i].data() + from}});
    }
  }
  parallel(static_cast<int64_t>(items.size()), threads, poll, [&](int64_t item) {
    const auto &[i, some] = items[item];
    std::vector<T> x(static_cast<size_t>(some.count) * dim);
    Tile<T> tile = lend<T>(members[numbers[i]].engine->plan(), Keep::nothing).tile;
    const Walk<T> &walk = *walks[i];
    walk.forward(
        some, {x.data(), dim}, false, tile,
        [&](Tile<T> &to) {
          uint64_t context_rows[tile_rows], draw_numbers[tile_rows];
          for (int r = 0; r < tile_rows; r++) {
            const int64_t row = some[std::min(r, some.count - 1)];
            context_rows[r] = context_row(row);
            draw_numbers[r] = number_of_draw(row);
          }
          walk.draw(TileDraws{draws.seed, context_rows, draw_numbers}, to);
        },
        [](const Tile<T> &) {});
    for (int r = 0; r < some.count; r++) {
      std::copy_n(x.data() + static_cast<int64_t>(r) * dim, dim, from_row(out, some[r]).data);
    }
  });
}

// NOLINTBEGIN(bugprone-macro-parentheses): T is a type
#define PENSTOCK_INSTANTIATE(T)                                                                                   \
  template void evaluate_many(const std::vector<Member<T>> &, const Batch &, const MixtureValues &, Poll);        \
  template void gradients_many(const std::vector<Member<T>> &, const Batch &, const MixtureGradients<T> &, Poll); \
  template std::vector<std::vector<int64_t>> rows_of_members(const std::vector<Member<T>> &, const Draws &,       \
                                                             const Context &, int64_t, Poll);                     \
  template void sample_many(const std::vector<Member<T>> &, const Draws &, const Context &, int64_t,              \
                            const RowsOut<T> &, Poll);
// NOLINTEND(bugprone-macro-parentheses)
PENSTOCK_INSTANTIATE(float)
PENSTOCK_INSTANTIATE(double)
#undef PENSTOCK_INSTANTIATE

}  // namespace penstock
