// Columns of a table of events from two flows, p(x | truth) as a detector was and as it might have been:
//   x          a draw of the first, whose numbers are those of the event: the same bits in any order, on any thread, in any part
//   log_ratio  log p2(x | truth) - log p1(x | truth), with which events of the first become events of the second
//
// As a macro
//   export ROOT_INCLUDE_PATH=$(penstock config --includedir)
//   root -l -b -q -e "gSystem->Load(\"$(penstock config --libdir)/libpenstock.so.0\")" 'event_weights.C("FOLDER")'
// or as a program, see CMakeLists.txt. train.py FOLDER makes the flows, check.py FOLDER has the answers.
#include <ROOT/RDataFrame.hxx>
#include <ROOT/RVec.hxx>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <penstock/penstock.hpp>
#include <string>
#include <vector>

struct Row {
  double event, truth, x[2], log_ratio;
};

// The columns, in the order of events, from an event loop on so many threads.
std::vector<Row> columns(const std::string &table, const penstock::Flow &nominal, const penstock::Flow &varied,
                         std::uint64_t run, unsigned threads) {
  if (threads > 1) ROOT::EnableImplicitMT(threads);
  const std::uint64_t key = penstock::key_from_seed(run);
  // Flows never change: one object serves all threads of the loop. The event's own number is in the table;
  // rdfentry_ would be another one where several files make a table.
  auto draw = [&nominal, key](ULong64_t event, double truth) {
    ROOT::RVecD x(2);
    nominal.sample({key, 0, event}, {&truth, 1}, x);
    return x;
  };
  auto log_ratio = [&nominal, &varied](const ROOT::RVecD &x, double truth) {
    return varied.log_prob_of(x, {&truth, 1}) - nominal.log_prob_of(x, {&truth, 1});
  };
  auto frame = ROOT::RDataFrame("events", table)
                   .Define("x", draw, {"event", "truth"})
                   .Define("log_ratio", log_ratio, {"x", "truth"});
  auto event = frame.Take<ULong64_t>("event");
  auto truth = frame.Take<double>("truth");
  auto x = frame.Take<ROOT::RVecD>("x");
  auto ratio = frame.Take<double>("log_ratio");

  std::vector<Row> rows;
  for (std::size_t i = 0; i < event->size(); ++i)
    rows.push_back({double((*event)[i]), (*truth)[i], {(*x)[i][0], (*x)[i][1]}, (*ratio)[i]});
  // Threads take clusters of the table as they come.
  std::sort(rows.begin(), rows.end(), [](const Row &a, const Row &b) { return a.event < b.event; });
  if (threads > 1) ROOT::DisableImplicitMT();
  return rows;
}

void event_weights(const char *folder) {
  const std::string at = std::string(folder) + "/";
  // Once, before the event loop.
  const auto nominal = penstock::Flow::load(at + "nominal.safetensors");
  const auto varied = penstock::Flow::load(at + "varied.safetensors");

  // A table of events: their numbers begin anywhere.
  constexpr ULong64_t events = 20000, first = 1000000;
  ROOT::RDF::RSnapshotOptions clusters;
  clusters.fAutoFlush = 500;  // entries a cluster, which is what one thread takes at a time
  ROOT::RDataFrame(events)
      .Define("event", [](ULong64_t entry) { return first + entry; }, {"rdfentry_"})
      .Define("truth", [](ULong64_t entry) { return 1.0 + 9.0 * double(entry) / double(events); }, {"rdfentry_"})
      .Snapshot("events", at + "events.root", {"event", "truth"}, clusters);

  const std::uint64_t run = 42;
  const auto rows = columns(at + "events.root", nominal, varied, run, 1);
  const auto again = columns(at + "events.root", nominal, varied, run, 4);
  const bool same =
      rows.size() == again.size() && std::memcmp(rows.data(), again.data(), rows.size() * sizeof(Row)) == 0;

  double sum = 0.0;
  for (const Row &row : rows) sum += std::exp(row.log_ratio);
  std::printf("%zu events, on one thread and on four: %s\n", rows.size(), same ? "the same bits" : "DIFFERENT");
  std::printf("mean weight %.4f, which should be 1\n", sum / double(rows.size()));
  std::ofstream(at + "rows.bin", std::ios::binary)
      .write(reinterpret_cast<const char *>(rows.data()), std::streamsize(rows.size() * sizeof(Row)));
}

#ifndef __CLING__
int main(int n_args, char **args) {
  if (n_args != 2) return 2;
  try {
    event_weights(args[1]);
  } catch (const std::exception &error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
#endif
