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

/// The row of most work per component, in order of appearance.
class Ratios {
 public:
  void add(const Json& r) {
    const double ratio = number(r, "ratio"), length = number(r, "L");
    if (!std::isfinite(ratio) || text(r, "standard").empty() || std::isfinite(number(r, "window")))
      return;
    const std::string component = text(r, "component"), mode = text(r, "mode");
    const int rank =
        (mode == "forward+backward" ? 0 : 1) +
        (std::isfinite(length) ? (length <= 4096 ? 2 * static_cast<int>(std::log2(length)) : 0)
                               : 2 * static_cast<int>(number(r, "size_index")));
    auto [at, fresh] = best_.try_emplace(component, -1, Bar{});
    if (fresh) order_.push_back(component);
    if (rank > at->second.first)
      at->second = {rank,
                    {fmt::format("{} / {}, {}{}", component, text(r, "standard"), text(r, "size"),
                                 mode == "forward+backward" ? ", both" : ""),
                     ratio, number(r, "ratio_low"), number(r, "ratio_high"),
                     number(r, "noise") > kNoiseLimit}};
  }
  std::vector<Bar> bars() const {
    std::vector<Bar> r;
    for (const std::string& name : order_) r.push_back(best_.at(name).second);
    return r;
  }

 private:
  std::map<std::string, std::pair<int, Bar>> best_;
  std::vector<std::string> order_;
};

/// What the pictures of dropin bench are drawn from.
struct BenchPictures {
  Lines forward, both, memory, window_time;
  std::vector<Bar> optimizer_ms, optimizer_bytes;
  Ratios ratios;
  std::string leader;  ///< the standard member, which comes first

  void add(const Json& r) {
    const std::string component = text(r, "component"), mode = text(r, "mode");
    if (std::isfinite(number(r, "window")))
      add_window(r, mode);
    else if (std::isfinite(number(r, "L")))
      add_length(r, component, mode);
    if (mode == "step" && number(r, "size_index") == 2) {  // "n:16777216"
      const double n = std::strtod(text(r, "size").c_str() + 2, nullptr);
      optimizer_ms.push_back({component, 1e3 * seconds(r)});
      optimizer_bytes.push_back({component, number(r, "kept_bytes") / n});
    }
    ratios.add(r);
  }

 private:
  void add_window(const Json& r, const std::string& mode) {
    const double window = number(r, "window");
    window_time.add(text(r, "component") + ", " + mode, window, 1e3 * seconds(r));
    window_time.add("least, " + mode + " (limit)", window, 1e3 * number(r, "least_seconds"), true);
  }
  void add_length(const Json& r, const std::string& component, const std::string& mode) {
    const double length = number(r, "L");
    if (leader.empty()) leader = component;
    Lines& times = mode == "forward" ? forward : both;
    times.add(component, length, 1e3 * seconds(r));
    if (mode != "forward") memory.add(component, length, number(r, "peak_MB"));
    if (component == leader)
      times.add(leader + " at the multiply-add limit", length, 1e3 * number(r, "least_seconds"),
                true);
  }
};

void draw_bench(const Json& results, Pictures& out) {
  const Json& rows = *results.find("benchmarks");
  const Json* const context = results.find("context");
  const std::string threads =
      context ? fmt::format("{:.0f} threads", std::isfinite(number(*context, "threads"))
                                                  ? number(*context, "threads")
                                                  : 1)
              : "";
  BenchPictures p;
  for (std::size_t i = 0; i < rows.size(); ++i) p.add(rows[i]);
  if (!p.forward.all.empty())
    out.write(
        "sequence_mixers",
        svg_lines(
            {{"forward, D = 256, B = 1, " + threads,
              {"length L"},
              {"time, ms"},
              p.forward.sorted()},
             {"forward and backward", {"length L"}, {"time, ms"}, p.both.sorted()},
             {"forward and backward", {"length L"}, {"peak memory, MB"}, p.memory.sorted()}}));
  if (!p.window_time.all.empty())
    out.write("window", svg_lines({{"L = 4096, D = 256, " + threads,
                                    {"window (keys on each side)"},
                                    {"time, ms"},
                                    p.window_time.sorted()}}));
  if (!p.optimizer_ms.empty()) {
    out.write("optimizer_time",
              svg_bars("a step of 16M parameters, " + threads, "time, ms", p.optimizer_ms));
    out.write("optimizer_bytes", svg_bars("state kept per parameter", "bytes", p.optimizer_bytes));
  }
  const std::vector<Bar> bars = p.ratios.bars();
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
