// Mixtures of flows as Python has them: members checked once, when one is made, and lent to the engine in every call.
#pragma once

#include <utility>
#include <variant>
#include <vector>

#include "bindings/engine.hpp"
#include "engine/mixture.hpp"

namespace penstock::inline PENSTOCK_MODULE {

class MixtureHandle {
 public:
  // A plan, its numbers and a weight with its logarithm for each member; weights are at least 0, and some are above it.
  MixtureHandle(std::vector<EngineHandle> engines, std::vector<PackedHandle> packed, const std::vector<double> &weights,
                const std::vector<double> &log_weights)
      : engines_(std::move(engines)), packed_(std::move(packed)) {
    const size_t n = engines_.size();
    if (n == 0 || n > most_members || packed_.size() != n || weights.size() != n || log_weights.size() != n) {
      wrong("engines, packed, weights and log_weights", "have an entry for each of 1 to 65535 members");
    }
    bool some = false;
    for (size_t k = 0; k < n; k++) {
      const Plan &plan = engines_[k].plan();
      if (plan.dim != this->plan().dim || plan.context_dim != this->plan().context_dim) {
        wrong("engines", "agree in dimensions");
      }
      if ((packed_[k].given == nullptr) != (packed_[0].given == nullptr)) {
        wrong("packed", "all have a context of their own, or none of them");
      }
      if (!(weights[k] >= 0)) {
        wrong("weights", "be at least 0");
      }
      some = some || weights[k] > 0;
    }
    if (!some) {
      wrong("weights", "have a positive sum");
    }
    engines_[0].visit([&]<class T>(const std::shared_ptr<Engine<T>> &) {
      std::vector<Member<T>> members;
      for (size_t k = 0; k < n; k++) {
        const auto *part = packed_[k].given != nullptr ? packed_[k].given->part.get() : nullptr;
        engines_[k].with(packed_[k], [&]<class U>(const Engine<U> &engine, const Packed<U> &numbers) {
          if constexpr (std::is_same_v<T, U>) {
            members.push_back({&engine, &numbers, part, weights[k], log_weights[k]});
          } else {
            wrong("engines", "agree in dtype");
          }
        });
      }
      members_ = std::move(members);
    });
  }

  void evaluate(const py::array &x, const py::object &context, const py::object &log_prob, const py::object &each,
                const py::object &shares) const {
    visit([&]<class T>(const std::vector<Member<T>> &members) {
      int64_t rows = 0;
      const RowsView view = rows_view(x, plan().dim, rows);
      const Batch batch{view, rows, engines_[0].context_of(packed_[0], context, rows)};
      const auto n = static_cast<int64_t>(members.size());
      const MixtureValues values{values_view<T>(log_prob, "log_prob", rows),
                                 lent<double, true>(each, "each", {n, rows}),
                                 lent<double, true>(shares, "shares", {n, rows})};
      without_gil([&] { cross(library()->of<T>().evaluate_many, members, batch, values, poll_signals); });
    });
  }

  void sample(uint64_t seed, int64_t context_row, int64_t first_draw, const py::object &context,
              const py::array &out) const {
    visit([&]<class T>(const std::vector<Member<T>> &members) {
      const int64_t rows = out.ndim() == 2 ? out.shape(0) : 0;
      const Context given = engines_[0].context_of(packed_[0], context, rows);
      const Draws numbers = draws(seed, context_row, first_draw, given, rows);
      const RowsOut<T> x = rows_out<T>(out, "out", rows, plan().dim);
      without_gil([&] { cross(library()->of<T>().sample_many, members, numbers, given, rows, x, poll_signals); });
    });
  }

 private:
  static constexpr size_t most_members = 65535;
  const Plan &plan() const { return engines_[0].plan(); }
  template <class Body>
  void visit(Body &&body) const {
    std::visit(std::forward<Body>(body), members_);
  }

  std::vector<EngineHandle> engines_;
  std::vector<PackedHandle> packed_;
  std::variant<std::vector<Member<float>>, std::vector<Member<double>>> members_;
};

}  // namespace penstock::inline PENSTOCK_MODULE
