// What penstock.hpp adds to the C calls: `objects MODELS`, the folder of models that write_models.py wrote.
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <new>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>
#if __cplusplus >= 202002L
#  include <span>
#endif

#include "penstock/penstock.hpp"

#define CHECK(fine)                                                             \
  do {                                                                          \
    if (!(fine)) {                                                              \
      std::fprintf(stderr, "%s:%d: %s is not so\n", __FILE__, __LINE__, #fine); \
      std::exit(1);                                                             \
    }                                                                           \
  } while (false)

static long taken;

void *operator new(std::size_t size) {
  taken++;
  if (void *memory = std::malloc(size > 0 ? size : 1)) {
    return memory;
  }
  throw std::bad_alloc();
}
void operator delete(void *memory) noexcept { std::free(memory); }
void operator delete(void *memory, std::size_t) noexcept { std::free(memory); }

namespace {

using penstock::Flow;
using penstock::none;
using penstock::Rows;
using penstock::Span;

static_assert(std::is_copy_constructible_v<Flow> && std::is_nothrow_move_constructible_v<Flow>);
static_assert(!std::is_copy_constructible_v<penstock::Trainer> &&
              std::is_nothrow_move_constructible_v<penstock::Trainer>);
static_assert(std::is_convertible_v<Span<double>, Span<const double>> &&
              !std::is_convertible_v<Span<const double>, Span<double>>);
static_assert(std::is_convertible_v<Rows<double>, Rows<const double>> &&
              !std::is_convertible_v<Rows<const double>, Rows<double>>);
static_assert(!std::is_convertible_v<std::vector<float> &, Span<const double>>);
static_assert(!std::is_convertible_v<const std::vector<double> &, Span<double>>);

// Whether body throws an error of that status, whose sentence begins so.
template <class Body>
bool refused(penstock_status status, const std::string &begin, Body &&body) {
  try {
    body();
  } catch (const penstock::Error &error) {
    const bool fine = error.status() == status && std::string(error.what()).substr(0, begin.size()) == begin;
    if (!fine) {
      std::fprintf(stderr, "status %d: %s\n", static_cast<int>(error.status()), error.what());
    }
    return fine;
  }
  return false;
}

template <class T>
std::vector<T> numbers(std::size_t n) {
  std::vector<T> made(n);
  for (std::size_t i = 0; i < n; i++) {
    made[i] = static_cast<T>(static_cast<double>(i * 7 % 11) / 8 - 0.5);
  }
  return made;
}

// Numbers of somebody else in every guise, which all give the same.
template <class T>
void spans(const Flow &flow) {
  const auto dim = static_cast<std::size_t>(flow.dim());
  std::vector<T> x = numbers<T>(5 * dim), values(5), spread(5 * (dim + 3), T(1e30));
  const std::vector<T> wanted = flow.log_prob(x);
  CHECK(wanted.size() == 5 && wanted[0] != wanted[1]);
  CHECK(flow.log_prob(Span<T>(x)) == wanted);
  CHECK(flow.log_prob({x.data(), x.size()}) == wanted);
  for (std::size_t i = 0; i < 5; i++) {
    std::copy_n(&x[i * dim], dim, &spread[i * (dim + 3)]);
  }
  spread.resize(spread.size() - 3);  // the last row may end where the numbers do
  CHECK(flow.log_prob(Rows<const T>(spread, 5, dim + 3)) == wanted);
  flow.log_prob(x, none, values);
  CHECK(values == wanted);
#if __cplusplus >= 202002L
  values.assign(5, T(0));
  flow.log_prob(std::span<const T>(x), none, std::span<T>(values));
  CHECK(values == wanted);
#endif
  CHECK(flow.log_prob_of({x.data() + dim, dim}) == wanted[1]);

  std::vector<T> z(5 * dim), grad(5 * dim), back;
  flow.log_prob_and_grad(x, none, none, grad);
  flow.log_prob_and_grad(x, {}, values, none);
  CHECK(values == wanted && grad[0] != 0);
  flow.to_latent(x, none, z);
  CHECK(flow.to_latent(x) == z && flow.to_data(z).size() == 5 * dim);
  back = x;
  flow.to_latent(back, none, back);
  CHECK(back == z);
  const penstock::Draws draws{penstock::key_from_seed(7), 3};
  flow.sample(draws, none, x, values);
  CHECK(flow.sample<T>(draws, 5) == x);
  const std::vector<T> again = flow.log_prob(x);  // which the flow's type, float32, rounds in draws
  CHECK(std::equal(again.begin(), again.end(), values.begin(), [](T a, T b) { return float(a) == float(b); }));
  CHECK(flow.sample<T>({draws.key, 4}, 1) == std::vector<T>(x.begin() + flow.dim(), x.begin() + 2 * flow.dim()));
}

// One row: nothing is allocated after the first call.
template <class T>
void one_row(const Flow &flow, const Flow &given) {
  std::vector<T> x = numbers<T>(static_cast<std::size_t>(flow.dim())), grad(x), value(1);
  std::vector<T> y = numbers<T>(static_cast<std::size_t>(given.dim()));
  const std::vector<T> context = numbers<T>(static_cast<std::size_t>(given.context_dim()));
  T sum = 0;
  for (std::uint64_t i = 0; i < 3; i++) {
    const long before = taken;
    flow.log_prob(x, none, value);
    flow.log_prob_and_grad(x, none, value, grad);
    flow.sample({1, i}, none, x, value);
    flow.to_latent(x, none, x);
    flow.to_data(x, none, x);
    sum += given.log_prob_of(y, context);
    CHECK(i == 0 || taken == before);
  }
  CHECK(sum != 0);
}

void sizes(const Flow &flow, const Flow &given) {
  const auto bad = PENSTOCK_ERROR_ARGUMENT;
  const auto dim = static_cast<std::size_t>(flow.dim()), width = static_cast<std::size_t>(given.dim());
  const auto of_context = static_cast<std::size_t>(given.context_dim());
  std::vector<double> x = numbers<double>(4 * dim), more(4 * dim + 1), values(4), few(3), empty;
  std::vector<double> y = numbers<double>(4 * width), context = numbers<double>(4 * of_context), slope(4 * of_context);
  const std::string rows = " must hold rows of " + std::to_string(dim) + " numbers, got ";
  CHECK(refused(bad, "x" + rows + std::to_string(more.size()) + " numbers", [&] { flow.log_prob(more); }));
  CHECK(refused(bad, "log_prob must hold 4 numbers, got 3", [&] { flow.log_prob(x, none, few); }));
  CHECK(refused(bad, "log_prob must hold 4 numbers, got 0", [&] { flow.log_prob(x, none, empty); }));
  CHECK(refused(bad, "grad must hold 4 rows",
                [&] { flow.log_prob_and_grad(x, none, none, Rows<double>(more, 3, dim)); }));
  CHECK(refused(bad, "grad must hold 4 rows", [&] { flow.log_prob_and_grad(x, none, none, empty); }));
  CHECK(refused(bad, "x must hold 5 rows", [&] { flow.log_prob(Rows<const double>(x, 5, dim)); }));
  CHECK(refused(bad, "x must hold 4 rows", [&] { flow.log_prob(Rows<const double>(x, 4, dim + 1)); }));
  CHECK(refused(bad, "x must hold 1 rows", [&] { flow.log_prob(Rows<const double>({x.data(), dim - 1}, 1, 0)); }));
  CHECK(refused(bad, "x must hold ", [&] { flow.log_prob(Rows<const double>(x, std::size_t(-1), std::size_t(-1))); }));
  CHECK(refused(bad, "x must hold 184467",
                [&] { flow.log_prob(Rows<const double>(x, std::size_t(-1), 0), none, none); }));
  CHECK(refused(bad, "x must hold 1 rows", [&] { flow.log_prob(Rows<const double>(x, 1, std::size_t(-1))); }));
  CHECK(refused(bad, "z must hold 4 rows", [&] { flow.to_latent(x, none, Span<double>(more.data(), dim)); }));
  CHECK(refused(bad, "log_det must hold", [&] { flow.to_data(x, none, x, few); }));
  CHECK(refused(bad, "n rows are more", [&] { (void)flow.sample({1}, std::size_t(-1)); }));
  CHECK(refused(bad, "", [&] { flow.log_prob(x, Span<const double>(values.data(), 1)); }));  // it has no context
  CHECK(refused(bad, "", [&] { given.log_prob(y); }));                                       // it needs one
  CHECK(refused(bad, "context must hold one row, or 4, got 3",
                [&] { given.log_prob(y, Span<const double>(context.data(), 3 * of_context)); }));
  CHECK(refused(bad, "grad_context must hold 1 rows", [&] {
    given.log_prob_and_grad(y, Span<const double>(context.data(), of_context), none, none, slope);
  }));
  CHECK(flow.log_prob(empty).empty() && given.log_prob(empty, empty).empty() &&
        given.log_prob(empty, Rows<const double>(context, 1, 0)).empty());
  // One context for all, and the same for each.
  for (std::size_t i = 0; i < context.size(); i++) {
    context[i] = context[i % of_context];
  }
  const Span<const double> shared(context.data(), of_context);
  CHECK(given.log_prob(y, shared) == given.log_prob(y, context));
  CHECK(refused(bad, "weight must hold", [&] { penstock::Trainer(flow).step(1e-3, x, none, few); }));
  CHECK(refused(bad, "x must hold", [&] { penstock::Trainer(flow).step(1e-3, more); }));
}

void objects(const std::string &folder) {
  Flow flow = Flow::load(folder + "/flow.safetensors");
  const Flow copy = flow, given = Flow::load(folder + "/given.safetensors");
  const Flow ensemble = Flow::load(folder + "/ensemble.safetensors");
  const std::vector<double> x = numbers<double>(3 * static_cast<std::size_t>(flow.dim()));
  const std::vector<double> wanted = flow.log_prob(x);
  CHECK(copy.get() == flow.get() && flow.n_members() == 1 && ensemble.n_members() > 1 && given.context_dim() > 0);
  CHECK(static_cast<int>(flow.dtype()) == penstock_dtype(flow.get()));
  const std::vector<std::string> names = flow.column_names();
  CHECK(names.empty() == (penstock_column_name(flow.get(), 0) == nullptr));
  CHECK(names.empty() ||
        (names.size() == static_cast<std::size_t>(flow.dim()) && names[0] == penstock_column_name(flow.get(), 0)));

  const std::vector<std::byte> bytes = flow.bytes();
  std::ifstream file(folder + "/flow.safetensors", std::ios::binary);
  const std::vector<char> read((std::istreambuf_iterator<char>(file)), {});
  CHECK(Flow::load(bytes).log_prob(x) == wanted);
  CHECK(Flow::load(read.data(), read.size()).log_prob(x) == wanted);
  flow = given;
  CHECK(copy.log_prob(x) == wanted);
  CHECK(refused(PENSTOCK_ERROR_FILE, "", [&] { Flow::load(folder + "/none.safetensors"); }));
  CHECK(refused(PENSTOCK_ERROR_FORMAT, "", [&] { Flow::load(bytes.data(), bytes.size() / 2); }));
  CHECK(refused(PENSTOCK_ERROR_UNSUPPORTED, "",
                [&] { ensemble.to_latent(numbers<double>(static_cast<std::size_t>(ensemble.dim()))); }));
  CHECK(refused(PENSTOCK_ERROR_FILE, "", [&] { copy.save(folder + "/none/none.safetensors"); }));

  penstock::TrainerOptions options;
  CHECK(options.size == sizeof(penstock_trainer_options) && options.clip_norm == 5 && options.beta2 == 0.999);
  options.clip_norm = 0;
  CHECK(refused(PENSTOCK_ERROR_ARGUMENT, "", [&] { penstock::Trainer(copy, options); }));
  penstock::Trainer first(copy), trainer = std::move(first);
  const Flow before = trainer.flow();
  const auto step = trainer.step(1e-2, x);
  CHECK(trainer.steps() == 1 && step.norm > 0);
  CHECK(before.log_prob(x) == wanted && trainer.flow().log_prob(x) != wanted);
  CHECK(refused(PENSTOCK_ERROR_UNSUPPORTED, "", [&] { penstock::Trainer(ensemble, penstock::TrainerOptions()); }));

  spans<double>(copy);
  spans<float>(copy);
  one_row<double>(copy, given);
  one_row<float>(copy, given);
  sizes(copy, given);
  penstock::set_num_threads(2);
  penstock::set_local_num_threads(1);
  CHECK(penstock::num_threads() == 1);
  penstock::set_local_num_threads(0);
  CHECK(penstock::num_threads() == 2);
  CHECK(refused(PENSTOCK_ERROR_ARGUMENT, "", [] { penstock::set_num_threads(0); }));
  CHECK(penstock::version() == penstock_version() && penstock::abi() == PENSTOCK_ABI && !penstock::isa().empty());
  penstock::trim();
  penstock::shutdown();
  CHECK(copy.log_prob(x) == wanted);
}

}  // namespace

int main(int n_arguments, char **arguments) {
  CHECK(n_arguments == 2);
  objects(arguments[1]);
  return 0;
}
