// penstock.hpp: trained normalizing flows for programs in C++17 and later. Header only, over the C calls of penstock.h, whose
// rules hold here too: what is said there of numbers, draws, threads and fork is not said again.
//
//     const auto flow = penstock::Flow::load("galaxies.safetensors");
//     std::vector<double> x = {0.5, -1.0, 0.3, 2.0};              // two rows of a flow of two dimensions
//     std::vector<double> log_p = flow.log_prob(x);               // on memory of its own
//     flow.log_prob(x, penstock::none, log_p);                    // on yours: nothing is allocated
//     flow.sample({penstock::key_from_seed(1)}, penstock::none, x);
//
// Types. Each verb takes float and double, told apart by the arrays: one call has one type.
//
// Arrays. Rows<T> is rows of numbers and Span<T> numbers, T const where they are read. Both are made from whatever has data() and
// size() (std::vector, std::array, std::span), from C arrays, and from a pointer and a size, and own nothing. A container in
// the place of Rows is rows one behind the other, as many as there are; Rows(numbers, n, stride) has distances. All sizes must fit.
// penstock::none, or {}, is no context, or an output that is not wanted; an empty container is not: it is 0 rows, or 0 numbers.
//
// Context. No rows (none), one row for all, or a row for each.
//
// Errors. Whatever fails throws penstock::Error with a status and a sentence; sizes that do not fit are PENSTOCK_ERROR_ARGUMENT.
// Objects are as they were. Verbs allocate nothing, but where they return a std::vector.
#ifndef PENSTOCK_PENSTOCK_HPP
#define PENSTOCK_PENSTOCK_HPP

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "penstock/penstock.h"

namespace penstock {
inline namespace v0 {

// The one class of exceptions.
class Error : public std::runtime_error {
 public:
  Error(penstock_status status, const std::string &what) : std::runtime_error(what), status_(status) {}
  penstock_status status() const noexcept { return status_; }

 private:
  penstock_status status_;
};

// No context, or an output that is not wanted.
struct None {};
inline constexpr None none{};

template <class T>
class Span;

namespace detail {

template <class C>
inline constexpr bool is_span = false;
template <class T>
inline constexpr bool is_span<Span<T>> = true;

// Where numbers of U are numbers of T: the same but for a const.
template <class U, class T>
using IfSame = std::enable_if_t<std::is_convertible_v<U (*)[], T (*)[]>>;

// What has data() and size(), or is a C array. A span is converted as what it is, since it may be none.
template <class C>
using IfContainer = std::enable_if_t<!is_span<std::remove_cv_t<std::remove_reference_t<C>>>>;
template <class C>
using NumbersOf = std::remove_pointer_t<decltype(std::data(std::declval<C &>()))>;

template <class T>
struct Calls;  // the C calls of a type
template <class Self, class T>
class Verbs;

[[noreturn]] inline void fail(penstock_status status) { throw Error(status, penstock_last_error()); }

inline void check(penstock_status status) {
  if (status != PENSTOCK_OK) {
    fail(status);
  }
}

[[noreturn]] inline void refuse(const char *name, const std::string &what) {
  throw Error(PENSTOCK_ERROR_ARGUMENT, name + (" must hold " + what));
}

// "rows of 3 numbers"
inline std::string rows_of(std::int64_t dim) { return "rows of " + std::to_string(dim) + " numbers"; }

}  // namespace detail

// Numbers of somebody else: a pointer and a size. One type in all versions of the language, which std::span becomes by itself.
template <class T>
class Span {
 public:
  constexpr Span() noexcept = default;
  constexpr Span(None) noexcept {}
  constexpr Span(T *data, std::size_t size) noexcept : data_(data), size_(size), given_(true) {}
  template <class U, class = detail::IfSame<U, T>>
  constexpr Span(const Span<U> &other) noexcept : data_(other.data()), size_(other.size()), given_(other.given()) {}
  template <class C, class = detail::IfContainer<C>, class = detail::IfSame<detail::NumbersOf<C>, T>>
  constexpr Span(C &&numbers) noexcept : Span(std::data(numbers), static_cast<std::size_t>(std::size(numbers))) {}

  constexpr T *data() const noexcept { return data_; }
  constexpr std::size_t size() const noexcept { return size_; }
  // Whether this is not none.
  constexpr bool given() const noexcept { return given_; }

 private:
  T *data_ = nullptr;
  std::size_t size_ = 0;
  bool given_ = false;
};

// Rows of somebody else's numbers.
template <class T>
class Rows {
 public:
  constexpr Rows() noexcept = default;
  constexpr Rows(None) noexcept {}
  // As many rows as the numbers are, one behind the other.
  template <class U, class = detail::IfSame<U, T>>
  constexpr Rows(const Span<U> &numbers) noexcept : numbers_(numbers) {}
  constexpr Rows(T *data, std::size_t size) noexcept : numbers_(data, size) {}
  template <class C, class = detail::IfContainer<C>, class = detail::IfSame<detail::NumbersOf<C>, T>>
  constexpr Rows(C &&numbers) noexcept : numbers_(numbers) {}
  // n rows whose beginnings are `stride` numbers apart. The last one may end where the numbers do.
  constexpr Rows(Span<T> numbers, std::size_t n, std::size_t stride) noexcept
      : numbers_(numbers), n_(n), stride_(stride), strided_(true) {}

  template <class U, class = detail::IfSame<U, T>>
  constexpr Rows(const Rows<U> &other) noexcept
      : numbers_(other.numbers_), n_(other.n_), stride_(other.stride_), strided_(other.strided_) {}

  constexpr bool given() const noexcept { return numbers_.given(); }

 private:
  template <class>
  friend class Rows;
  template <class, class>
  friend class detail::Verbs;
  friend class Trainer;

  // The C call's view of rows that have `dim` numbers each.
  struct Lent {
    T *data;
    std::int64_t n, stride;
  };
  Lent lent(std::int64_t dim, const char *name) const {
    const std::size_t width = static_cast<std::size_t>(dim), size = numbers_.size();
    if (!given()) {
      return {nullptr, 0, 0};
    }
    if (!strided_) {
      if (width == 0 ? size != 0 : size % width != 0) {
        detail::refuse(name, detail::rows_of(dim) + ", got " + std::to_string(size) + " numbers");
      }
      return {numbers_.data(), static_cast<std::int64_t>(width == 0 ? 0 : size / width), dim};
    }
    constexpr auto most = static_cast<std::size_t>(std::numeric_limits<std::int64_t>::max());
    const bool fits = n_ == 0 || (size >= width && (n_ == 1 || stride_ == 0 || n_ - 1 <= (size - width) / stride_));
    if (!fits || n_ > most || stride_ > most) {
      detail::refuse(name, std::to_string(n_) + " " + detail::rows_of(dim) + ", " + std::to_string(stride_) +
                               " apart, got " + std::to_string(size) + " numbers");
    }
    return {numbers_.data(), static_cast<std::int64_t>(n_), static_cast<std::int64_t>(stride_)};
  }
  // The same of as many rows as others are.
  Lent lent(std::int64_t dim, std::int64_t n, const char *name) const {
    const Lent rows = lent(dim, name);
    if (given() && rows.n != n) {
      detail::refuse(name, std::to_string(n) + " " + detail::rows_of(dim) + ", got " + std::to_string(rows.n));
    }
    return rows;
  }
  // The same of a context for n rows: one row for all has stride 0.
  Lent lent_context(std::int64_t dim, std::int64_t n) const {
    Lent rows = lent(dim, "context");
    if (given() && rows.n != n && rows.n != 1) {
      detail::refuse("context", "one row, or " + std::to_string(n) + ", got " + std::to_string(rows.n));
    }
    rows.stride = rows.n == 1 ? 0 : rows.stride;
    return rows;
  }

  Span<T> numbers_;
  std::size_t n_ = 0, stride_ = 0;
  bool strided_ = false;
};

// Which draws a call of sample makes: see penstock_sample_f64. {key_from_seed(seed)} are those of Python's rng=seed.
struct Draws {
  std::uint64_t key;
  std::uint64_t first_draw = 0;
  std::uint64_t first_context_row = 0;
};

enum class Dtype { float32 = PENSTOCK_FLOAT32, float64 = PENSTOCK_FLOAT64 };

namespace detail {

template <>
struct Calls<double> {
  static constexpr auto log_prob = penstock_log_prob_f64;
  static constexpr auto log_prob_and_grad = penstock_log_prob_and_grad_f64;
  static constexpr auto sample = penstock_sample_f64;
  static constexpr auto to_latent = penstock_to_latent_f64;
  static constexpr auto to_data = penstock_to_data_f64;
  static constexpr auto trainer_step = penstock_trainer_step_f64;
};

template <>
struct Calls<float> {
  static constexpr auto log_prob = penstock_log_prob_f32;
  static constexpr auto log_prob_and_grad = penstock_log_prob_and_grad_f32;
  static constexpr auto sample = penstock_sample_f32;
  static constexpr auto to_latent = penstock_to_latent_f32;
  static constexpr auto to_data = penstock_to_data_f32;
  static constexpr auto trainer_step = penstock_trainer_step_f32;
};

// One number for each of n rows.
template <class T>
T *column(Span<T> numbers, std::int64_t n, const char *name) {
  if (numbers.given() && numbers.size() != static_cast<std::size_t>(n)) {
    refuse(name, std::to_string(n) + " numbers, got " + std::to_string(numbers.size()));
  }
  return numbers.data();
}

// A size that keeps n rows of dim numbers countable.
inline std::size_t size_of(std::size_t n, std::int64_t dim) {
  const auto width = static_cast<std::size_t>(dim);
  if (width != 0 && n > static_cast<std::size_t>(std::numeric_limits<std::int64_t>::max()) / width) {
    throw Error(PENSTOCK_ERROR_ARGUMENT, "n rows are more than can be counted");
  }
  return n * width;
}

// The verbs of a flow for one type of numbers.
template <class Self, class T>
class Verbs {
  using In = Rows<const T>;
  using Out = Rows<T>;
  using Numbers = Span<T>;

 public:
  // The log-density of each row of x.
  void log_prob(In x, In context, Numbers log_prob) const {
    const auto rows = x.lent(dim(), "x");
    const auto given = context.lent_context(context_dim(), rows.n);
    check(Calls<T>::log_prob(flow(), rows.n, rows.data, rows.stride, given.data, given.stride,
                             column(log_prob, rows.n, "log_prob")));
  }
  std::vector<T> log_prob(In x, In context = {}) const {
    std::vector<T> values(static_cast<std::size_t>(x.lent(dim(), "x").n));
    log_prob(x, context, values);
    return values;
  }

  // The log-density of one row.
  T log_prob_of(Span<const T> row, Span<const T> context = {}) const {
    T value;
    log_prob(In(row), In(context), Numbers(&value, 1));
    return value;
  }

  // The same and its gradient with respect to each row, and to the context of each row, or to the one that all rows
  // share: the sum over all of them. Outputs may be none.
  void log_prob_and_grad(In x, In context, Numbers log_prob, Out grad, Out grad_context = {}) const {
    const auto rows = x.lent(dim(), "x");
    const auto given = context.lent_context(context_dim(), rows.n);
    const auto rows_grad = grad.lent(dim(), rows.n, "grad");
    const bool shared = context.given() && given.n == 1;
    const auto context_grad = grad_context.lent(context_dim(), shared ? 1 : rows.n, "grad_context");
    check(Calls<T>::log_prob_and_grad(flow(), rows.n, rows.data, rows.stride, given.data, given.stride,
                                      column(log_prob, rows.n, "log_prob"), rows_grad.data, rows_grad.stride,
                                      context_grad.data, context_grad.stride));
  }

  // Fills the rows of x with draws, and log_prob with their log-densities.
  void sample(Draws draws, In context, Out x, Numbers log_prob = {}) const {
    const auto rows = x.lent(dim(), "x");
    const auto given = context.lent_context(context_dim(), rows.n);
    check(Calls<T>::sample(flow(), draws.key, draws.first_context_row, draws.first_draw, rows.n, given.data,
                           given.stride, rows.data, rows.stride, column(log_prob, rows.n, "log_prob")));
  }

  // Rows of data to the latent side, and the way back, with the logarithm of the determinant of the Jacobian of the map that
  // is made. An output may be its input, rows and all.
  void to_latent(In x, In context, Out z, Numbers log_det = {}) const {
    map(Calls<T>::to_latent, x, "x", context, z, "z", log_det);
  }
  std::vector<T> to_latent(In x, In context = {}) const {
    std::vector<T> z(size_of(static_cast<std::size_t>(x.lent(dim(), "x").n), dim()));
    to_latent(x, context, z);
    return z;
  }
  void to_data(In z, In context, Out x, Numbers log_det = {}) const {
    map(Calls<T>::to_data, z, "z", context, x, "x", log_det);
  }
  std::vector<T> to_data(In z, In context = {}) const {
    std::vector<T> x(size_of(static_cast<std::size_t>(z.lent(dim(), "z").n), dim()));
    to_data(z, context, x);
    return x;
  }

 private:
  template <class Map>
  void map(Map call, In from, const char *from_name, In context, Out to, const char *to_name, Numbers log_det) const {
    const auto rows = from.lent(dim(), from_name);
    const auto given = context.lent_context(context_dim(), rows.n);
    const auto mapped = to.lent(dim(), rows.n, to_name);
    check(call(flow(), rows.n, rows.data, rows.stride, given.data, given.stride, mapped.data, mapped.stride,
               column(log_det, rows.n, "log_det")));
  }

  const penstock_flow *flow() const noexcept { return static_cast<const Self *>(this)->get(); }
  std::int64_t dim() const noexcept { return static_cast<const Self *>(this)->dim(); }
  std::int64_t context_dim() const noexcept { return static_cast<const Self *>(this)->context_dim(); }
};

}  // namespace detail

// A trained flow, or an ensemble of them, which never changes. Copies are handles of the same one, which the last frees; any
// number of threads may use it, through copies or not.
class Flow : public detail::Verbs<Flow, double>, public detail::Verbs<Flow, float> {
  using Doubles = detail::Verbs<Flow, double>;
  using Floats = detail::Verbs<Flow, float>;

 public:
  // A model from its file, or from the bytes of one.
  static Flow load(const std::string &path) {
    penstock_flow *flow;
    detail::check(penstock_load(path.c_str(), &flow));
    return Flow(flow);
  }
  static Flow load(const void *data, std::size_t size) {
    penstock_flow *flow;
    detail::check(penstock_load_bytes(data, size, &flow));
    return Flow(flow);
  }
  static Flow load(Span<const std::byte> bytes) { return load(bytes.data(), bytes.size()); }
  static Flow load(Span<const unsigned char> bytes) { return load(bytes.data(), bytes.size()); }

  // Takes over a flow of the C interface.
  explicit Flow(penstock_flow *flow)
      : flow_(flow, penstock_free), dim_(penstock_dim(flow)), context_dim_(penstock_context_dim(flow)) {}

  // The model as a file, or as the bytes of one.
  void save(const std::string &path) const { detail::check(penstock_save(get(), path.c_str())); }
  std::vector<std::byte> bytes() const {
    std::size_t size = 0;
    detail::check(penstock_save_bytes(get(), nullptr, 0, &size));
    std::vector<std::byte> bytes(size);
    detail::check(penstock_save_bytes(get(), bytes.data(), size, &size));
    bytes.resize(size);
    return bytes;
  }

  // Numbers a row, and numbers of context a row, 0 without.
  std::int64_t dim() const noexcept { return dim_; }
  std::int64_t context_dim() const noexcept { return context_dim_; }
  // In which type the flow computes.
  Dtype dtype() const noexcept { return static_cast<Dtype>(penstock_dtype(get())); }
  // Members of an ensemble, 1 for a single flow.
  std::int64_t n_members() const noexcept { return penstock_n_members(get()); }
  // Names of columns, none where the file has none.
  std::vector<std::string> column_names() const { return names(penstock_column_name, dim()); }
  std::vector<std::string> context_column_names() const { return names(penstock_context_column_name, context_dim()); }

  // The verbs, documented above, each for float and double.
  using Doubles::log_prob;
  using Doubles::log_prob_and_grad;
  using Doubles::log_prob_of;
  using Doubles::sample;
  using Doubles::to_data;
  using Doubles::to_latent;
  using Floats::log_prob;
  using Floats::log_prob_and_grad;
  using Floats::log_prob_of;
  using Floats::sample;
  using Floats::to_data;
  using Floats::to_latent;

  // n draws one behind the other: flow.sample(draws, n), or flow.sample<float>(draws, n). With a context a row, n of those.
  template <class T = double>
  std::vector<T> sample(Draws draws, std::size_t n, std::common_type_t<Rows<const T>> context = {}) const {
    std::vector<T> x(detail::size_of(n, dim()));
    sample(draws, context, x);
    return x;
  }

  // For calls of the C interface.
  const penstock_flow *get() const noexcept { return flow_.get(); }

 private:
  template <class Name>
  std::vector<std::string> names(Name name_of, std::int64_t n) const {
    std::vector<std::string> found;
    for (std::int64_t i = 0; i < n; i++) {
      if (const char *name = name_of(get(), i)) {
        found.emplace_back(name);
      }
    }
    return found;
  }

  std::shared_ptr<penstock_flow> flow_;
  std::int64_t dim_, context_dim_;
};

// The options of a trainer, at their defaults: see penstock_trainer_options.
struct TrainerOptions : penstock_trainer_options {
  TrainerOptions() : penstock_trainer_options() {
    detail::check(penstock_trainer_options_init(this, sizeof(penstock_trainer_options)));
  }
};

// The parameters of a flow and the state of their optimiser. Can be moved, not copied; takes one call at a time.
class Trainer {
 public:
  explicit Trainer(const Flow &flow, const TrainerOptions &options = {})
      : trainer_(nullptr, penstock_trainer_free), dim_(flow.dim()), context_dim_(flow.context_dim()) {
    penstock_trainer *trainer;
    detail::check(penstock_trainer_new(flow.get(), &options, &trainer));
    trainer_.reset(trainer);
  }

  struct Step {
    double loss, norm;  // the mean -log p before the step, weighted, and the norm of its gradient before clipping
  };
  // One step of maximum likelihood on the rows of x with weights of at least 0, none: all 1.
  Step step(double learning_rate, Rows<const double> x, Rows<const double> context = {},
            Span<const double> weight = {}) {
    return take(learning_rate, x, context, weight);
  }
  Step step(double learning_rate, Rows<const float> x, Rows<const float> context = {}, Span<const float> weight = {}) {
    return take(learning_rate, x, context, weight);
  }

  // Steps taken.
  std::int64_t steps() const noexcept { return penstock_trainer_steps(trainer_.get()); }

  // A flow of the present parameters, which later steps do not change.
  Flow flow() {
    penstock_flow *flow;
    detail::check(penstock_trainer_flow(trainer_.get(), &flow));
    return Flow(flow);
  }

  // For calls of the C interface.
  penstock_trainer *get() noexcept { return trainer_.get(); }

 private:
  template <class T>
  Step take(double learning_rate, Rows<const T> x, Rows<const T> context, Span<const T> weight) {
    const auto rows = x.lent(dim_, "x");
    const auto given = context.lent_context(context_dim_, rows.n);
    Step step{};
    detail::check(detail::Calls<T>::trainer_step(trainer_.get(), learning_rate, rows.n, rows.data, rows.stride,
                                                 given.data, given.stride, detail::column(weight, rows.n, "weight"),
                                                 &step.loss, &step.norm));
    return step;
  }

  std::unique_ptr<penstock_trainer, void (*)(penstock_trainer *)> trainer_;
  std::int64_t dim_, context_dim_;
};

// The key of an integer seed, which gives the draws of Python's rng=seed.
inline std::uint64_t key_from_seed(std::uint64_t seed) noexcept { return penstock_key_from_seed(seed); }

// How many threads a call may use: for the process, 1 at first; for calls from this thread, 0 to follow the process; and what
// holds here.
inline void set_num_threads(int n) { detail::check(penstock_set_num_threads(n)); }
inline void set_local_num_threads(int n) { detail::check(penstock_set_local_num_threads(n)); }
inline int num_threads() noexcept { return penstock_num_threads(); }

// Gives back this thread's workspace and the library's threads; and, before dlclose, all there is.
inline void trim() { detail::check(penstock_trim()); }
inline void shutdown() { detail::check(penstock_shutdown()); }

// The version of the library, of its binary interface, and the instruction set that it runs with.
inline std::string version() { return penstock_version(); }
inline int abi() noexcept { return penstock_abi(); }
inline std::string isa() {
  const char *name = penstock_isa();
  if (name == nullptr) {
    detail::fail(PENSTOCK_ERROR_UNSUPPORTED);
  }
  return name;
}

}  // namespace v0
}  // namespace penstock

#endif
