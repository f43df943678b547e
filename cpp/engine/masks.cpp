// Cuts masked linear layers into pieces: see masks.hpp.
#include "engine/masks.hpp"

#include <algorithm>

namespace penstock {

int64_t MaskTables::bytes(int64_t n_in, int64_t n_out, int64_t n_degrees) {
  const auto number = static_cast<int64_t>(sizeof(int)), piece = static_cast<int64_t>(sizeof(Piece));
  return 4 * number * (n_degrees + 1) + number * n_in + piece * (n_in + n_out);
}

MaskTables::MaskTables(const std::vector<int> &inputs, const std::vector<int> &outputs, int n_degrees) {
  const auto n_in = static_cast<int>(inputs.size()), n_out = static_cast<int>(outputs.size());
  const auto starts = [n_degrees](const auto &sorted, auto degree_of) {
    std::vector<int> start;
    for (int degree = 0; degree <= n_degrees; degree++) {
      start.push_back(static_cast<int>(
          std::partition_point(sorted.begin(), sorted.end(), [&](const auto &x) { return degree_of(x) < degree; }) -
          sorted.begin()));
    }
    return start;
  };
  const auto itself = [](int degree) { return degree; };
  input_start = starts(inputs, itself);
  output_start = starts(outputs, itself);
  // outputs from `to` to the end of their register block, each time that one of them reads more than the one before it
  const auto reach = [&](int n) { return input_start[static_cast<size_t>(outputs[static_cast<size_t>(n)]) + 1]; };
  for (int i = 0; i < block_count(n_out); i++) {
    const int n0 = block_start(n_out, i), n1 = block_start(n_out, i + 1);
    for (int to = n0, known = 0; to < n1; to++) {
      if (to == n0 || reach(to) > known) {
        forward.push_back({to, n1 - to, known, reach(to) - known, to == n0, n_weights});
        n_weights += static_cast<int64_t>(n1 - to) * (reach(to) - known);
        known = reach(to);
      }
    }
  }
  // inputs from the beginning of their register block to one that enters an output which the next one does not
  const auto entry = [&](int k) { return output_start[static_cast<size_t>(inputs[static_cast<size_t>(k)])]; };
  for (int k = 0; k < n_in; k++) {
    first_output.push_back(entry(k));
  }
  for (int i = 0; i < block_count(n_in); i++) {
    const int k0 = block_start(n_in, i), k1 = block_start(n_in, i + 1);
    for (int last = k1 - 1, done = n_out; last >= k0; last--) {
      if (last == k1 - 1 || entry(last) < done) {
        backward.push_back({k0, last + 1 - k0, entry(last), done - entry(last), last == k1 - 1,
                            static_cast<int64_t>(k0) * n_out + entry(last)});
        done = entry(last);
      }
    }
  }
  const auto degree_forward = [&](const Piece &piece) { return outputs[static_cast<size_t>(piece.to)]; };
  const auto degree_backward = [&](const Piece &piece) { return inputs[static_cast<size_t>(piece.to + piece.n - 1)]; };
  std::stable_sort(backward.begin(), backward.end(),
                   [&](const Piece &a, const Piece &b) { return degree_backward(a) < degree_backward(b); });
  forward_start = starts(forward, degree_forward);
  backward_start = starts(backward, degree_backward);
  mask = {n_degrees,          forward.data(),      backward.data(),    forward_start.data(), backward_start.data(),
          input_start.data(), output_start.data(), first_output.data()};
}

}  // namespace penstock
