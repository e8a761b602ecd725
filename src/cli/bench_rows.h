// The rows of dropin bench.
#pragma once
#include <string>
#include <vector>

#include "dropin/registry/registry.h"
#include "evidence/limits.h"

namespace dropin::cli {

/// The command's options.
struct BenchSettings {
  std::vector<std::string> names, compare;
  std::string json, plot, filter, from, peer, device = "cpu";
  int64_t threads = 0, rounds = 5;
  double min_time = 0.02;
};

/// Times components at each size of their family, beside the family's standard member, and prints
/// each row; the rows in Google Benchmark's schema.
Json bench_rows(const BenchSettings& s, const evidence::Limits& limits,
                const std::vector<const ComponentInfo*>& chosen);
std::string time_text(double seconds);
/// Prints the rows that two files of results share; 0, the program's answer.
int compare_results(const std::vector<std::string>& files);

}  // namespace dropin::cli
