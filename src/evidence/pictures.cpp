#include "evidence/pictures.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "dropin/core/error.h"
#include "dropin/serialize/atomic_file.h"
#include "evidence/svg.h"
#include "evidence/timing.h"

namespace dropin::evidence {
namespace {

double number(const Json& row, const char* key) {
  const Json* v = row.find(key);
  return v && v->is_number() ? v->as_double() : NAN;
}
std::string text(const Json& row, const char* key) {
  const Json* v = row.find(key);
  return v && v->is_string() ? v->as_string() : std::string();
}
double seconds(const Json& row) {
  const std::string unit = text(row, "time_unit");
  return number(row, "real_time") * (unit == "ns"   ? 1e-9
                                     : unit == "us" ? 1e-6
                                     : unit == "ms" ? 1e-3
                                                    : 1);
}

// Lines in order of appearance.
struct Lines {
  std::vector<Series> all;
  void add(const std::string& name, double x, double y, bool limit = false) {
    if (!std::isfinite(x) || !std::isfinite(y) || y <= 0) return;
    auto at = std::find_if(all.begin(), all.end(), [&](const Series& s) { return s.name == name; });
    if (at == all.end()) at = all.insert(at, {name, {}, limit});
    at->points.emplace_back(x, y);
  }
  std::vector<Series> sorted() const {
    std::vector<Series> r = all;
    for (Series& s : r) std::sort(s.points.begin(), s.points.end());
    return r;
  }
};

class Pictures {
 public:
  Pictures(const std::string& folder, const std::string& prefix)
      : folder_(folder), prefix_(prefix) {}
  void write(const std::string& name, const std::string& svg) {
    const std::string path = folder_ + "/" + prefix_ + name + ".svg";
    write_text(path, svg);
    written.push_back(path);
  }
  std::vector<std::string> written;

 private:
  std::string folder_, prefix_;
};

void draw_bench(const Json& results, Pictures& out) {
  const Json& rows = *results.find("benchmarks");
  const Json* const context = results.find("context");
  const std::string threads =
      context ? fmt::format("{:.0f} threads", std::isfinite(number(*context, "threads"))
                                                  ? number(*context, "threads")
                                                  : 1)
              : "";
  Lines forward, both, memory, window_time;
  std::vector<Bar> optimizer_ms, optimizer_bytes;
  std::map<std::string, std::pair<int, Bar>> best;  // per component the row of most work
  std::vector<std::string> order;
  std::string leader;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const Json& r = rows[i];
    const std::string component = text(r, "component"), mode = text(r, "mode");
    const double length = number(r, "L"), window = number(r, "window");
    if (std::isfinite(window)) {
      window_time.add(component + ", " + mode, window, 1e3 * seconds(r));
      window_time.add("least, " + mode + " (limit)", window, 1e3 * number(r, "least_seconds"),
                      true);
    } else if (std::isfinite(length)) {
      if (leader.empty()) leader = component;  // the standard member comes first
      if (mode == "forward") {
        forward.add(component, length, 1e3 * seconds(r));
        if (component == leader)
          forward.add(leader + " at the multiply-add limit", length,
                      1e3 * number(r, "least_seconds"), true);
      } else {
        both.add(component, length, 1e3 * seconds(r));
        memory.add(component, length, number(r, "peak_MB"));
        if (component == leader)
          both.add(leader + " at the multiply-add limit", length, 1e3 * number(r, "least_seconds"),
                   true);
      }
    }
    if (mode == "step" && number(r, "size_index") == 2) {  // "n:16777216"
      const double n = std::strtod(text(r, "size").c_str() + 2, nullptr);
      optimizer_ms.push_back({component, 1e3 * seconds(r)});
      optimizer_bytes.push_back({component, number(r, "kept_bytes") / n});
    }
    const double ratio = number(r, "ratio");
    if (std::isfinite(ratio) && !text(r, "standard").empty() && !std::isfinite(window)) {
      const int rank =
          (mode == "forward+backward" ? 0 : 1) +
          (std::isfinite(length) ? (length <= 4096 ? 2 * static_cast<int>(std::log2(length)) : 0)
                                 : 2 * static_cast<int>(number(r, "size_index")));
      auto [at, fresh] = best.try_emplace(component, -1, Bar{});
      if (fresh) order.push_back(component);
      if (rank > at->second.first)
        at->second = {rank,
                      {fmt::format("{} / {}, {}{}", component, text(r, "standard"), text(r, "size"),
                                   mode == "forward+backward" ? ", both" : ""),
                       ratio, number(r, "ratio_low"), number(r, "ratio_high"),
                       number(r, "noise") > kNoiseLimit}};
    }
  }
  if (!forward.all.empty())
    out.write(
        "sequence_mixers",
        svg_lines(
            {{"forward, D = 256, B = 1, " + threads, {"length L"}, {"time, ms"}, forward.sorted()},
             {"forward and backward", {"length L"}, {"time, ms"}, both.sorted()},
             {"forward and backward", {"length L"}, {"peak memory, MB"}, memory.sorted()}}));
  if (!window_time.all.empty())
    out.write("window", svg_lines({{"L = 4096, D = 256, " + threads,
                                    {"window (keys on each side)"},
                                    {"time, ms"},
                                    window_time.sorted()}}));
  if (!optimizer_ms.empty()) {
    out.write("optimizer_time",
              svg_bars("a step of 16M parameters, " + threads, "time, ms", optimizer_ms));
    out.write("optimizer_bytes", svg_bars("state kept per parameter", "bytes", optimizer_bytes));
  }
  std::vector<Bar> bars;
  for (const std::string& name : order) bars.push_back(best[name].second);
  if (!bars.empty())
    out.write("ratios",
              svg_ratios("beside the standard member, in turn, " + threads,
                         "standard member's time over ours; forward unless it says both", bars));
}

// Rows NAME/LENGTH of a Google Benchmark file (bench/*.cpp).
void draw_lengths(const Json& results, Pictures& out) {
  const Json& rows = *results.find("benchmarks");
  Lines time, memory;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const std::string name = text(rows[i], "name");
    const std::size_t slash = name.find('/'),
                      end = name.find('/', slash == std::string::npos ? slash : slash + 1);
    if (!text(rows[i], "component").empty() || slash == std::string::npos) continue;
    const std::string length =
        name.substr(slash + 1, end == std::string::npos ? end : end - slash - 1);
    if (length.empty() || length.find_first_not_of("0123456789") != std::string::npos) continue;
    time.add(name.substr(0, slash), std::stod(length), 1e3 * seconds(rows[i]));
    memory.add(name.substr(0, slash), std::stod(length), number(rows[i], "peak MB"));
  }
  std::vector<LineChart> charts;
  if (!time.all.empty())
    charts.push_back({"against the length", {"length L"}, {"time, ms"}, time.sorted()});
  if (!memory.all.empty())
    charts.push_back({"against the length", {"length L"}, {"peak memory, MB"}, memory.sorted()});
  if (!charts.empty()) out.write("lengths", svg_lines(charts));
}

void draw_peers(const Json& results, Pictures& out) {
  std::vector<Bar> bars;
  const Json& rows = *results.find("rows");
  for (std::size_t i = 0; i < rows.size(); ++i)
    if (std::isfinite(number(rows[i], "ratio")))
      bars.push_back({text(rows[i], "row"), number(rows[i], "ratio"), number(rows[i], "low"),
                      number(rows[i], "high"), number(rows[i], "noise") > kNoiseLimit});
  const std::string peer =
      results.find("peer") ? text(results, "peer") : "torch " + text(results, "torch");
  if (!bars.empty())
    out.write("peers", svg_ratios("beside " + peer, "peer's time over ours", bars));
}

void draw_train(const Json& results, Pictures& out) {
  Lines curve;
  const Json& runs = *results.find("runs");
  for (std::size_t i = 0; i < runs.size(); ++i)
    if (const Json* c = runs[i].find("curve"))
      for (std::size_t k = 0; k < c->size(); ++k)
        if ((*c)[k].is_number())
          curve.add(text(runs[i], "name"),
                    number(results, "steps") * static_cast<double>(k + 1) /
                        static_cast<double>(c->size()),
                    (*c)[k].as_double());
  if (!curve.all.empty())
    out.write("loss", svg_lines({{"training loss, task " + text(results, "task"),
                                  {"step", false},
                                  {"loss, nats", false},
                                  curve.sorted()}}));
}

}  // namespace

void check_target(const std::string& who, const std::string& path) {
  AtomicFile trial(path);  // never committed: the target stays as it was
  if (std::filesystem::is_directory(path)) fail<FileError>({who, ": ", path, " is a folder"});
}
void check_folder(const std::string& who, const std::string& folder) {
  std::error_code e;
  std::filesystem::create_directories(folder, e);
  if (e || !std::filesystem::is_directory(folder))
    fail<FileError>({who, ": the folder ", folder, " cannot be made: ",
                     e ? e.message() : std::string("something else is there")});
  check_target(who, folder + "/.trial");
}
Json read_json(const std::string& who, const std::string& path) {
  std::ifstream f(path, std::ios::binary);
  if (!f || std::filesystem::is_directory(path))
    fail<FileError>({who, ": ", path, " cannot be read"});
  std::ostringstream s;
  s << f.rdbuf();
  try {
    return Json::parse(s.str());
  } catch (const OptionError& e) {
    fail<FileError>({who, ": ", path, ": ", e.what()});
  }
}
void write_text(const std::string& path, const std::string& text) {
  AtomicFile f(path);
  f.write(text);
  f.commit();
}

std::vector<std::string> draw(const Json& results, const std::string& folder,
                              const std::string& prefix) {
  Pictures out(folder, prefix);
  auto list = [&](const char* key) {
    const Json* v = results.is_object() ? results.find(key) : nullptr;
    return v && v->is_array();
  };
  if (list("benchmarks")) draw_bench(results, out), draw_lengths(results, out);
  if (list("rows")) draw_peers(results, out);
  if (list("runs")) draw_train(results, out);
  if (out.written.empty())
    fail<FileError>(
        {"bench: nothing to draw in these results; expected those of dropin bench --json, dropin "
         "train --json or bench/peers"});
  return out.written;
}

}  // namespace dropin::evidence
