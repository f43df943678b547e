// Mixtures of flows: see mixture.hpp.
#include "engine/mixture.hpp"

#include <algorithm>
#include <deque>
#include <limits>
#include <memory>

#include "core/stream.hpp"
#include "engine/far_rows.hpp"
#include "engine/walk.hpp"

namespace penstock {
namespace {

constexpr int64_t most_values = int64_t{1} << 20;  // log-densities of members that are held together
constexpr int64_t piece = 16 * tile_rows;          // rows that are mixed, or dealt out, in one item

template <class T>
Batch for_member(const Member<T> &member, Batch batch) {
  if (member.context_part != nullptr) {
    batch.context.part = member.context_part;
  }
  return batch;
}

// One member over a batch. It is where it was made: the walk refers to its context.
template <class T>
struct Evaluation {
  Batch batch;
  Walk<T> walk;
  FarRows<T> far;
  Tiling tiles;

  Evaluation(const Member<T> &member, const Batch &all)
      : batch(for_member(member, all)),
        walk(member.engine->plan(), *member.packed, whole(member), Keep::nothing, batch.context, batch.rows, false),
        far(member.engine->plan(), *member.packed, whole(member), batch),
        tiles(walk.tile(batch.rows)),
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

// Members that count: those of weight 0 do not, unless they are asked by themselves.
template <class T>
std::vector<int64_t> counting(const std::vector<Member<T>> &members, bool all) {
  std::vector<int64_t> numbers;
  for (size_t k = 0; k < members.size(); k++) {
    if (all || members[k].weight > 0) {
      numbers.push_back(static_cast<int64_t>(k));
    }
  }
  return numbers;
}

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
    parts.emplace_back(members[k], batch);
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
void sample_many(const std::vector<Member<T>> &members, const Draws &draws, const Context &context, int64_t rows,
                 const RowsOut<T> &out, Poll poll) {
  const int dim = members.front().engine->plan().dim;
  const int64_t block =
      members.front().engine->plan().context_dim == 0 || context.shared ? rows : std::max<int64_t>(context.block, 1);
  const auto number_of_draw = [&](int64_t r) { return draws.first_draw + static_cast<uint64_t>(r % block); };
  const auto context_row = [&](int64_t r) { return draws.context_row + static_cast<uint64_t>(r / block); };
  // A draw is that of the first member whose sum of weights lies above its chance.
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
      const double u = chance(draws, context_row(r), number_of_draw(r));
      chosen[r] = static_cast<uint16_t>(std::upper_bound(ends.begin(), ends.end(), u) - ends.begin());
    }
  });
  std::vector<std::vector<int64_t>> own(numbers.size());  // rows of each member
  for (int64_t r = 0; r < rows; r++) {
    own[chosen[r]].push_back(r);
  }
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
#define PENSTOCK_INSTANTIATE(T)                                                                            \
  template void evaluate_many(const std::vector<Member<T>> &, const Batch &, const MixtureValues &, Poll); \
  template void sample_many(const std::vector<Member<T>> &, const Draws &, const Context &, int64_t,       \
                            const RowsOut<T> &, Poll);
// NOLINTEND(bugprone-macro-parentheses)
PENSTOCK_INSTANTIATE(float)
PENSTOCK_INSTANTIATE(double)
#undef PENSTOCK_INSTANTIATE

}  // namespace penstock
