// What agree.c does, through penstock.hpp: see there for the files.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "penstock/penstock.hpp"

namespace {

using Word = std::int64_t;
enum Verb : Word { log_prob, log_prob_and_grad, sample, to_latent, to_data, train, describe, save };
enum Wanted : Word { values = 1, rows = 2, grad_context = 4, weights = 1 };

// The words of a call.
struct Call {
  Word model, verb, type, n, x_stride, x_numbers, context_stride, context_numbers, out_stride, grad_context_stride,
      wanted;
  Word key, context_row, draw, zero[2];
};
static_assert(sizeof(Call) == 16 * sizeof(Word), "a call is 16 words");

std::size_t size(Word n) { return static_cast<std::size_t>(n); }

template <class T>
std::size_t padding(std::size_t n) {
  return (8 - n * sizeof(T) % 8) % 8;
}

template <class T>
std::vector<T> read(std::ifstream &file, Word n) {
  std::vector<T> array(size(n));
  char unused[8];
  file.read(reinterpret_cast<char *>(array.data()), static_cast<std::streamsize>(array.size() * sizeof(T)));
  file.read(unused, static_cast<std::streamsize>(padding<T>(array.size())));
  if (!file) {
    throw std::runtime_error("calls.bin ends early");
  }
  return array;
}

template <class T>
void write(std::ofstream &file, const std::vector<T> &array) {
  const char zero[8] = {};
  file.write(reinterpret_cast<const char *>(array.data()), static_cast<std::streamsize>(array.size() * sizeof(T)));
  file.write(zero, static_cast<std::streamsize>(padding<T>(array.size())));
}

// What `compute` says, as a status: that of the error that it ends with.
template <class Body>
Word status_of(Body &&body) {
  try {
    body();
    return PENSTOCK_OK;
  } catch (const penstock::Error &error) {
    return error.status();
  }
}

std::string path_of(const std::string &folder, const char *name, Word number) {
  return folder + "/" + name + std::to_string(number) + ".safetensors";
}

template <class T>
class Answer {
 public:
  Answer(const penstock::Flow &flow, const Call &call, std::string folder, std::ifstream &calls, std::ofstream &results)
      : flow_(flow),
        call_(call),
        folder_(std::move(folder)),
        calls_(calls),
        results_(results),
        x_(read<T>(calls, call.x_numbers)),
        context_(read<T>(calls, call.context_numbers)) {}

  void give() {
    switch (call_.verb) {
      case train:
        return take_steps();
      case describe:
        return write(results_, std::vector<Word>{PENSTOCK_OK, flow_.dim(), flow_.context_dim(),
                                                 static_cast<Word>(flow_.dtype()), flow_.n_members()});
      case save:
        return write(results_,
                     std::vector<Word>{status_of([&] { flow_.save(path_of(folder_, "saved_", call_.model)); })});
      default:
        return compute();
    }
  }

 private:
  using In = penstock::Rows<const T>;

  // Rows first ... first + n - 1 of an array whose rows are `stride` apart.
  static In part(const std::vector<T> &array, Word first, Word n, Word stride) {
    const std::size_t begin = size(first * stride);
    return {penstock::Span<const T>(array.data() + begin, array.size() - begin), size(n), size(stride)};
  }
  // The same of the context: none, all that there is where all rows share it, or a row for each.
  In context(Word first, Word n) const {
    if (call_.context_numbers == 0) {
      return call_.n == 0 && flow_.context_dim() != 0 ? In(context_) : In();
    }
    return call_.context_stride == 0 ? In(context_) : part(context_, first, n, call_.context_stride);
  }

  void compute() {
    const Word n = call_.n, dim_context = flow_.context_dim();
    const bool shared = call_.context_stride == 0 && n > 0;
    std::vector<T> column = filled(values, n), out = filled(rows, n * call_.out_stride);
    std::vector<T> slope = filled(grad_context, shared ? dim_context : n * call_.grad_context_stride);
    const auto column_or_none = wanted(values) ? penstock::Span<T>(column) : penstock::none;
    const auto out_or_none = wanted(rows) ? penstock::Rows<T>(out, size(n), size(call_.out_stride)) : penstock::none;
    const auto slope_rows =
        shared ? penstock::Rows<T>(slope) : penstock::Rows<T>(slope, size(n), size(call_.grad_context_stride));
    const auto slope_or_none = wanted(grad_context) ? slope_rows : penstock::none;
    const auto x = part(x_, 0, n, call_.x_stride);
    const penstock::Draws draws{static_cast<std::uint64_t>(call_.key), static_cast<std::uint64_t>(call_.draw),
                                static_cast<std::uint64_t>(call_.context_row)};
    const Word status = status_of([&] {
      switch (call_.verb) {
        case log_prob:
          return flow_.log_prob(x, context(0, n), column_or_none);
        case log_prob_and_grad:
          return flow_.log_prob_and_grad(x, context(0, n), column_or_none, out_or_none, slope_or_none);
        case sample:
          return flow_.sample(draws, context(0, n), out_or_none, column_or_none);
        case to_latent:
          return flow_.to_latent(x, context(0, n), out_or_none, column_or_none);
        default:
          return flow_.to_data(x, context(0, n), out_or_none, column_or_none);
      }
    });
    write(results_, std::vector<Word>{status});
    write(results_, column);
    write(results_, out);
    write(results_, slope);
  }

  // Steps on consecutive batches, which the words of sample count.
  void take_steps() {
    const auto numbers = read<double>(calls_, 4);
    const auto weight = read<T>(calls_, (call_.wanted & weights) != 0 ? call_.n : 0);
    penstock::TrainerOptions options;
    options.weight_decay = numbers[1];
    options.clip_norm = numbers[2];
    options.weight_scale = numbers[3];
    penstock::Trainer trainer(flow_, options);
    std::vector<double> told(2 * size((call_.n + call_.key - 1) / call_.key));
    const Word status = status_of([&] {
      for (Word first = 0, done = 0; first < call_.n; first += call_.key, done++) {
        const Word n = std::min(call_.key, call_.n - first);
        const auto own =
            weight.empty() ? penstock::Span<const T>() : penstock::Span<const T>(&weight[size(first)], size(n));
        const auto step = trainer.step(numbers[0], part(x_, first, n, call_.x_stride), context(first, n), own);
        told[size(2 * done)] = step.loss;
        told[size(2 * done + 1)] = step.norm;
      }
    });
    trainer.flow().save(path_of(folder_, "trained_", call_.context_row));
    write(results_, std::vector<Word>{status});
    write(results_, told);
  }

  bool wanted(Word what) const { return (call_.wanted & what) != 0; }
  std::vector<T> filled(Word what, Word n) const { return std::vector<T>(wanted(what) ? size(n) : 0, T(-12345.5)); }

  const penstock::Flow &flow_;
  const Call &call_;
  std::string folder_;
  std::ifstream &calls_;
  std::ofstream &results_;
  std::vector<T> x_, context_;
};

void answer_all(const std::string &folder) {
  std::ifstream calls(folder + "/calls.bin", std::ios::binary);
  std::ofstream results(folder + "/results.bin", std::ios::binary);
  std::optional<penstock::Flow> flow;
  Word model = -1;
  if (!calls || !results) {
    throw std::runtime_error("the files of the folder cannot be opened");
  }
  for (Call call; calls.read(reinterpret_cast<char *>(&call), sizeof call);) {
    if (call.model != model) {
      model = call.model;
      flow = penstock::Flow::load(path_of(folder, "model_", model));
    }
    if (call.type == 64) {
      Answer<double>(*flow, call, folder, calls, results).give();
    } else {
      Answer<float>(*flow, call, folder, calls, results).give();
    }
  }
  if (!results.flush()) {
    throw std::runtime_error("results.bin cannot be written");
  }
}

}  // namespace

int main(int n_arguments, char **arguments) {
  if (n_arguments != 2) {
    std::fprintf(stderr, "usage: agree FOLDER\n");
    return 2;
  }
  try {
    answer_all(arguments[1]);
  } catch (const std::exception &error) {
    std::fprintf(stderr, "agree: %s\n", error.what());
    return 1;
  }
  return 0;
}
