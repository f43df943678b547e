// Checks networks of a plan table: see check_networks.hpp.
#include "engine/check_networks.hpp"

#include <algorithm>
#include <string>
#include <utility>

namespace penstock {

void NetworkChecker::check_network(const Network &network, Role role, int64_t n_read, int64_t n_out,
                                   const Degrees *degrees) {
  network.is(&NetworkRecord::role, role);
  network.is(&NetworkRecord::masked, degrees != nullptr);
  const int64_t n_context = network[&NetworkRecord::n_context];
  const int64_t features = role == role_embedding ? n_features_ : n_context_;
  if (n_context != 0 && n_context != features) {
    network.fault(&NetworkRecord::n_context,
                  "is " + std::to_string(n_context) + ", expected 0 or " + std::to_string(features));
  }
  network.is(&NetworkRecord::n_in, n_context + n_read);
  network.need(n_context + n_read > 0 || degrees != nullptr, &NetworkRecord::n_in, "is 0");
  network.is(&NetworkRecord::n_out, n_out);
  network.within(&NetworkRecord::n_out, 1, output_most);
  const int64_t n_linears = network.within(&NetworkRecord::n_linears, 1, size_of(table_.linears));
  const int64_t first = network.is(&NetworkRecord::linear, n_linears_);
  network.need(n_linears <= size_of(table_.linears) - first, &NetworkRecord::n_linears, "goes beyond LINEARS");
  n_linears_ += n_linears;
  check_linears(network, degrees);
}

// Linear layers of a network: widths, sources, parameters, and in a masked one degrees.
void NetworkChecker::check_linears(const Network &network, const Degrees *degrees) {
  const int64_t n = network[&NetworkRecord::n_linears];
  Readable readable{network[&NetworkRecord::n_in],
                    network[&NetworkRecord::n_context],
                    network[&NetworkRecord::linear],
                    degrees,
                    {},
                    {},
                    {}};
  if (degrees != nullptr) {
    readable.context_degrees.resize(static_cast<size_t>(readable.n_context));
    readable.input_degrees = readable.context_degrees;
    readable.input_degrees.insert(readable.input_degrees.end(), degrees->inputs.begin(), degrees->inputs.end());
  }
  std::vector<Slice> params;
  int64_t n_params = 0;
  for (int64_t i = 0; i < n; i++) {
    const Linear linear(table_.linears, readable.first + i);
    check_linear(linear, i, i + 1 == n, network, readable);
    if (degrees != nullptr) {
      check_degrees(linear, i + 1 == n, readable);
    } else {
      linear.is(&LinearRecord::in_degrees, no_index);
      linear.is(&LinearRecord::out_degrees, no_index);
    }
    const int64_t columns = linear[&LinearRecord::n_out], weights = linear[&LinearRecord::n_in] * columns;
    params.push_back({linear.within(&LinearRecord::weight, 0, count_most), weights});
    n_params += weights;
    if (linear.within(&LinearRecord::bias, no_index, count_most) != no_index) {
      params.push_back({linear[&LinearRecord::bias], columns});
      n_params += columns;
    }
    if (n_params > count_most) {
      network.fault(&NetworkRecord::n_params, "is more than any flow has");
    }
  }
  const int64_t first = network.within(&NetworkRecord::params, 0, count_most);
  for (Slice &slice : params) {
    slice.start -= first;
  }
  network.need(covers(std::move(params), n_params), &NetworkRecord::params, "are not filled by its linear layers");
  network.is(&NetworkRecord::n_params, n_params);
}

// A field that names what layer number i of a network reads.
int64_t NetworkChecker::source_of(const Linear &linear, int64_t LinearRecord::*field, int64_t i,
                                  const Readable &readable) {
  const int64_t value = linear[field];
  if ((value < 0 || value >= i) && value != from_input && value != from_context) {
    linear.fault(field, "is " + std::to_string(value) + ", which is nothing before it");
  }
  linear.need(value != from_context || readable.n_context > 0, field, "is a context that the network does not read");
  return value;
}

int64_t NetworkChecker::width_of(int64_t source, const Readable &readable) const {
  return source == from_input     ? readable.n_in
         : source == from_context ? readable.n_context
                                  : table_.linears[static_cast<size_t>(readable.first + source)].n_out;
}

List NetworkChecker::degrees_of(int64_t source, const Readable &readable) {
  const auto whole = [](const std::vector<int64_t> &list) { return List{list.data(), size_of(list)}; };
  return source == from_input     ? whole(readable.input_degrees)
         : source == from_context ? whole(readable.context_degrees)
                                  : readable.degrees[static_cast<size_t>(source)];
}

// Widths and sources of layer number i of a network.
void NetworkChecker::check_linear(const Linear &linear, int64_t i, bool last, const Network &network,
                                  const Readable &readable) const {
  linear.within(&LinearRecord::n_in, readable.n_in == 0 && i == 0 ? 0 : 1, width_most);
  const int64_t columns = linear.within(&LinearRecord::n_out, 1, last ? output_most : width_most);
  linear.is(&LinearRecord::n_in, width_of(source_of(linear, &LinearRecord::source, i, readable), readable));
  linear.code(&LinearRecord::activation_before, activation_names);
  linear.code(&LinearRecord::activation, activation_names);
  if (linear.code(&LinearRecord::skip, skip_names) != skip_none) {
    check_width(linear, &LinearRecord::skip_source, columns, i, readable);
  } else {
    linear.is(&LinearRecord::skip_source, no_index);
  }
  if (linear.within(&LinearRecord::gate, no_index, i - 1) != no_index) {
    check_width(linear, &LinearRecord::gate, columns, i, readable);
  }
  if (last) {
    linear.is(&LinearRecord::n_out, network[&NetworkRecord::n_out]);
    linear.is(&LinearRecord::activation, act_none);
  }
}

// What enters the output of a layer number by number is as wide.
void NetworkChecker::check_width(const Linear &linear, int64_t LinearRecord::*field, int64_t columns, int64_t i,
                                 const Readable &readable) const {
  const int64_t width = width_of(source_of(linear, field, i, readable), readable);
  if (width != columns) {
    linear.fault(field, "has width " + std::to_string(width) + ", not " + std::to_string(columns));
  }
}

// Degrees of a layer of a masked network: no number reads one of a higher degree.
void NetworkChecker::check_degrees(const Linear &linear, bool last, Readable &readable) const {
  const int64_t highest = readable.own->highest;
  const List inputs = list_of(table_.ints, linear, &LinearRecord::in_degrees, linear[&LinearRecord::n_in]);
  const List outputs = list_of(table_.ints, linear, &LinearRecord::out_degrees, linear[&LinearRecord::n_out]);
  linear.need(inputs == degrees_of(linear[&LinearRecord::source], readable), &LinearRecord::in_degrees,
              "are not those of its source");
  if (!outputs.lies_within(0, highest)) {
    linear.fault(&LinearRecord::out_degrees, "must lie within 0 to " + std::to_string(highest));
  }
  const std::vector<int64_t> &theta = readable.own->outputs;
  linear.need(!last || outputs == List{theta.data(), size_of(theta)}, &LinearRecord::out_degrees,
              "are not those of theta");
  const auto enters = [&](int64_t LinearRecord::*field) {
    const List other = degrees_of(linear[field], readable);
    for (int64_t j = 0; j < outputs.size; j++) {
      linear.need(other[j] <= outputs[j], field, "has degrees above those of the outputs");
    }
  };
  if (linear[&LinearRecord::skip] != skip_none) {
    enters(&LinearRecord::skip_source);
  }
  if (linear[&LinearRecord::gate] != no_index) {
    enters(&LinearRecord::gate);
  }
  readable.degrees.push_back(outputs);
}

}  // namespace penstock
