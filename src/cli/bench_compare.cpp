// dropin bench --compare: the rows that two files of results share.
#include <fmt/format.h>

#include "cli/bench_rows.h"
#include "evidence/pictures.h"
#include "evidence/timing.h"

namespace dropin::cli {

std::string time_text(double s) {
  return s < 1e-3 ? fmt::format("{:.4g} us", 1e6 * s)
         : s < 1  ? fmt::format("{:.4g} ms", 1e3 * s)
                  : fmt::format("{:.4g} s", s);
}

namespace {

/// Name and seconds of each row of a file.
std::vector<std::pair<std::string, double>> read_rows(const std::string& path) {
  const Json j = evidence::read_json("bench", path);
  const Json* rows = j.is_object() ? j.find("benchmarks") : nullptr;
  if (!rows || !rows->is_array())
    fail<FileError>({"bench: ", path, " holds no benchmarks; expected a file of --json"});
  std::vector<std::pair<std::string, double>> r;
  for (std::size_t i = 0; i < rows->size(); ++i) {
    const Json *name = (*rows)[i].find("name"), *t = (*rows)[i].find("real_time"),
               *unit = (*rows)[i].find("time_unit");
    if (!name || !name->is_string() || !t || !t->is_number()) continue;
    const std::string u = unit && unit->is_string() ? unit->as_string() : "ns";
    r.emplace_back(name->as_string(), t->as_double() * (u == "us"   ? 1e-6
                                                        : u == "ms" ? 1e-3
                                                        : u == "s"  ? 1
                                                                    : 1e-9));
  }
  return r;
}

}  // namespace

int compare_results(const std::vector<std::string>& files) {
  const auto a = read_rows(files[0]), b = read_rows(files[1]);
  std::size_t both = 0;
  std::vector<double> ratios;
  for (const auto& [name, before] : a)
    for (const auto& [other, after] : b)
      if (name == other) {
        if (!both++) fmt::print("{:<52} {:>12} {:>12} {:>8}\n", "", "first", "second", "ratio");
        fmt::print("{:<52} {:>12} {:>12} {:>7.3f}x\n", name, time_text(before), time_text(after),
                   before / after);
        ratios.push_back(before / after);
      }
  if (!both) fail<FileError>({"bench: ", files[0], " and ", files[1], " have no row in common"});
  fmt::print(
      "{} rows in common; middle ratio {:.3f}x. Times of different runs carry each run's noise: "
      "ratios within a run say more.\n",
      both, evidence::median(ratios));
  return 0;
}

}  // namespace dropin::cli
