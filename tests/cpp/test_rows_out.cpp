// Rows of results with something between them: the same bits as rows one behind the other, and nothing between them touched,
// for every verb, on lines, circles, boxes, in a simplex and with a context, far rows and rows outside a support among them.
#include <cmath>
#include <limits>

#include "engines.hpp"

namespace {

using namespace penstock;

// Columns 0 and 1 of a table become a simplex.
std::vector<int64_t> with_simplex(std::vector<int64_t> words) {
  const int64_t entry = table_header_size + section_columns * table_entry_size;
  const auto at = static_cast<size_t>(words[static_cast<size_t>(entry + 2)]);
  constexpr size_t fields = sizeof(ColumnRecord) / sizeof(int64_t), map = 2, group = 9;
  words[at + map] = words[at + fields + map] = map_simplex;
  words[at + fields + group] = 0;
  return words;
}

// Rows `between` numbers apart, inside guard bands; in the midst of the gaps stand numbers that nobody may touch.
template <class T>
class Spread {
 public:
  Spread(int64_t rows, int64_t n, int64_t between)
      : rows_(rows), n_(n), stride_(n + between), all_(std::max<int64_t>(rows, 1) * stride_, untouched) {}
  RowsOut<T> out() { return {all_.data(), stride_}; }
  // The rows, without what lies between them, which is whole.
  std::vector<T> numbers() const {
    all_.check();
    std::vector<T> result;
    for (int64_t r = 0; r < rows_; r++) {
      const T *row = all_.data() + r * stride_;
      result.insert(result.end(), row, row + n_);
      for (int64_t i = n_; i < stride_; i++) {
        CHECK(row[i] == untouched);
      }
    }
    return result;
  }

 private:
  static constexpr T untouched{-77};
  int64_t rows_, n_, stride_;
  Guarded<T> all_;
};

// Rows of which some are far out or lie outside a support.
template <class T>
std::vector<T> some_rows(const Plan &plan, int64_t rows) {
  std::vector<T> x = numbers<T>(rows * plan.dim, 2);
  for (T &v : x) {
    v = std::fabs(v) / 4;  // within a simplex
  }
  for (int64_t r = 3; r < rows; r += 7) {
    x[static_cast<size_t>(r * plan.dim + r % plan.dim)] = r % 2 == 0 ? T{-9} : std::numeric_limits<T>::max() / 2;
  }
  return x;
}

// Draws in a simplex come so near its sides that rounding shows in their density, which is that of the rows as stored.
template <class T>
Packed<T> packed_for(const Plan &plan) {
  std::vector<double> buffers = buffers_of(plan);
  for (const MappedColumn &column : plan.mapped()) {
    if (column.map == map_simplex) {
      buffers[static_cast<size_t>(plan.dim + plan.context_dim + column.column)] = 6;
    }
  }
  return {plan, numbers<T>(plan.n_params, 1, 0.7).data(), buffers.data()};
}

// All results of all verbs, with so many numbers between rows.
template <class T>
uint64_t everything(const Engine<T> &engine, int64_t rows, const Context &given, int64_t between) {
  const Plan &plan = engine.plan();
  const Packed<T> packed = packed_for<T>(plan);
  const std::vector<T> x = some_rows<T>(plan, rows), bar = numbers<T>(rows * plan.dim, 4), value = numbers<T>(rows, 5);
  const Batch batch{rows_of(x, plan.dim).x, rows, given};
  Hash all;
  const auto take = [&](const auto &array) {
    for (const auto v : array.numbers()) {
      all.add(v);
    }
  };
  for (const bool to_data : {false, true}) {
    Spread<T> out(rows, plan.dim, between), d_x(rows, plan.dim, between), d_context(rows, plan.context_dim, between);
    Guarded<T> log_det(rows);
    const Range range{0, plan.n_steps, to_data, false};
    engine.evaluate(packed, range, batch, nullptr, out.out(), {log_det.data(), sizeof(T)}, nullptr);
    Cotangents<T> cotangents;
    cotangents.out = bar.data();
    cotangents.value = value.data();
    cotangents.x = d_x.out();
    cotangents.context = plan.context_dim > 0 ? d_context.out() : RowsOut<T>{};
    engine.vjp(packed, range, batch, nullptr, {}, cotangents, nullptr);
    log_det.check();
    take(out), take(log_det), take(d_x), take(d_context);
  }
  {
    Spread<T> d_x(rows, plan.dim, between);
    Cotangents<T> cotangents;
    cotangents.value = value.data();
    cotangents.x = d_x.out();
    engine.vjp(packed, {0, plan.n_steps, false, true}, batch, nullptr, {}, cotangents, nullptr);
    take(d_x);
  }
  Spread<T> draws(rows, plan.dim, between), latents(rows, plan.dim, between);
  Guarded<T> log_p(rows);
  Guarded<double> wide(rows);
  engine.sample(packed, {9, 0, 0}, given, rows, draws.out(), {log_p.data(), sizeof(T)}, nullptr);
  engine.sample(packed, {9, 0, 0}, given, rows, draws.out(), {wide.data(), sizeof(double)}, nullptr);
  engine.latents(packed, {9, 0, 0}, {}, given, rows, latents.out(), nullptr, nullptr);
  log_p.check(), wide.check();
  for (int64_t r = 0; r < rows; r++) {
    const T narrowed = static_cast<T>(wide.data()[r]);
    CHECK(log_p.data()[r] == narrowed || (std::isnan(narrowed) && std::isnan(log_p.data()[r])));
  }
  take(draws), take(wide), take(latents);
  return all.value;
}

template <class T>
void strides() {
  for (const std::vector<int64_t> &words :
       {table(sizeof(T)), conditional_table(sizeof(T)), table_of_kinds(sizeof(T)), with_simplex(table(sizeof(T)))}) {
    const Engine<T> engine(table_from(words));
    for (const int64_t rows : {0, 1, 2, 63, 130, 1000}) {
      const std::vector<T> context = numbers<T>(rows * engine.plan().context_dim, 6);
      for (const bool shared : {false, true}) {
        const Context given{rows_of(context, engine.plan().context_dim).x, shared ? rows : 1, shared};
        for (const int n : {1, 3}) {
          set_num_threads(n);
          const uint64_t wanted = everything(engine, rows, given, 0);
          for (const int64_t between : {1, 5, 64}) {
            CHECK(everything(engine, rows, given, between) == wanted);
          }
        }
      }
    }
  }
}

}  // namespace

int main() {
  strides<float>();
  strides<double>();
  return 0;
}
