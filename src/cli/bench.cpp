// dropin bench: every component beside its family's standard member. The rows are made from the
// registry; results are written in Google Benchmark's schema.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <filesystem>
#include <map>
#include <memory>
#include <set>

#include "cli/command_line.h"
#include "cli/peer.h"
#include "dropin/core/parallel.h"
#include "dropin/dispatch/dispatch.h"
#include "evidence/cases.h"
#include "evidence/limits.h"
#include "evidence/pictures.h"
#include "kernels/elementwise/kernel.h"

namespace dropin::cli {
namespace {

using namespace evidence;

struct Settings {
  std::vector<std::string> names, compare;
  std::string json, plot, filter, from, peer, device = "cpu";
  int64_t threads = 0, rounds = 5;
  double min_time = 0.02;
};

constexpr double kLongCall = 3;  // seconds; longer calls are run once, and not in turn

std::string time_text(double s) {
  return s < 1e-3 ? fmt::format("{:.4g} us", 1e6 * s)
         : s < 1  ? fmt::format("{:.4g} ms", 1e3 * s)
                  : fmt::format("{:.4g} s", s);
}

Json context_of(const Limits& l) {
  char date[32];
  const std::time_t t = std::time(nullptr);
  std::strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S+00:00", std::gmtime(&t));
  Json c = Json::object();
  c.set("date", date);
  c.set("executable", "dropin bench");
  c.set("num_cpus", static_cast<int64_t>(std::max(1, l.threads)));
  c.set("library_build_type", "release");
  c.set("threads", static_cast<int64_t>(l.threads));
  for (const auto& [name, value] : describe_machine()) c.set(name, value);
  c.set("limit_flops", l.flops);
  c.set("limit_first_touch_bytes_per_second", l.first_touch);
  for (const auto& t : l.triads)
    c.set(fmt::format("limit_triad_{:.0f}KiB_bytes_per_second", t.bytes / 1024), t.rate);
  return c;
}

class Bench {
 public:
  Bench(const Settings& s, const Limits& l) : s_(s), limits_(l), device_(s.device) {}
  void run(const ComponentInfo& c) {
    const ComponentInfo* standard = standard_of(c);
    const FamilyInfo& family = registry().family(c);
    double last[2] = {0, 0}, before[2] = {0, 0};  // forward, and with backward
    for (int i = 0; i < sizes_of(c); ++i) {
      bool longer = false;  // sizes grow fourfold: as it grew, it would take too long
      for (int k = 0; k < 2 && family.growing; ++k)
        longer = longer || (before[k] > 0 && last[k] * last[k] / before[k] > 3 * kLongCall);
      if (longer) {
        for (int k = i; k < sizes_of(c); ++k) too_long_.insert({c.name, k});
        fmt::print("{:<52} left out: longer than {:.0f} s a call\n",
                   fmt::format("{}, larger sizes", c.name), 3 * kLongCall);
        break;
      }
      std::copy(last, last + 2, before);
      if (!one(c, standard, i, Json::object(), last)) return;
    }
    for (const Sweep& sweep : family.sweeps)
      for (const FieldInfo& f : c.options)
        for (const int64_t v : sweep.values) {
          if (f.name != sweep.option || f.type != "int") continue;
          Json o = Json::object();
          o.set(f.name, v);
          one(c, nullptr, sweep.size - 1, o, last);
        }
  }
  Json rows() const { return rows_; }

 private:
  bool wanted(const std::string& name) const {
    return s_.filter.empty() || name.find(s_.filter) != std::string::npos;
  }

  // False when the component cannot be made from its line; says why. `swept`: an option and the
  // value it has here.
  bool one(const ComponentInfo& c, const ComponentInfo* standard, int i, const Json& swept,
           double* last) {
    std::string variant;
    for (const auto& [name, v] : swept.items()) variant += "/" + name + ":" + v.dump();
    if (const std::string size = label_of(c, i); !size.empty()) {  // known before it is made
      const std::string stem = c.name + "/" + size + variant;
      if (!wanted(stem + "/forward") && !wanted(stem + "/forward+backward")) return true;
    }
    Case mine;
    std::shared_ptr<Case> theirs;
    try {
      mine = make_case(c, i, standard, swept, device_);
      if (standard && !too_long_.count({standard->name, i})) theirs = standard_case(*standard, i);
    } catch (const Error& e) {
      fmt::print("{:<44} left out: {}\n", c.name, e.what());
      return false;
    }
    if (theirs && theirs->bytes == 0)
      theirs = nullptr;  // nothing to be held against: it hands its input on
    if (theirs && theirs->x.size() && mine.x.size() && !(theirs->x == mine.x)) theirs = nullptr;
    const std::string stem = c.name + "/" + mine.size + variant;
    measure({c, standard, i, mine, theirs.get(), stem, swept}, last[0]);
    if (mine.both) measure({c, standard, i, mine, theirs.get(), stem, swept, true}, last[1]);
    return true;
  }

  std::shared_ptr<Case> standard_case(const ComponentInfo& c, int i) {
    const auto key = std::make_pair(c.name, i);
    if (const auto at = standards_.find(key); at != standards_.end()) return at->second;
    if (standard_family_ != c.family) standards_.clear();
    standard_family_ = c.family;
    return standards_[key] =
               std::make_shared<Case>(make_case(c, i, nullptr, Json::object(), device_));
  }

  // A row: one component at one size, forward (or step, call) or with backward.
  struct Row {
    const ComponentInfo& component;
    const ComponentInfo* standard;
    int size;
    const Case& mine;
    const Case* theirs;
    std::string stem;
    Json swept;
    bool both = false;
    std::string mode() const { return both ? "forward+backward" : mine.forward_name; }
    std::string name() const { return stem + "/" + mode(); }
    const Call& ours() const { return both ? mine.both : mine.forward; }
    const Call* others() const {
      if (!theirs) return nullptr;
      return both ? (theirs->both ? &theirs->both : nullptr) : &theirs->forward;
    }
    double flops() const { return both ? mine.both_flops : mine.flops; }
    double bytes() const { return both ? mine.both_bytes : mine.bytes; }
  };

  static double once(const Call& call) {
    const double t = now();
    call();
    return now() - t;
  }

  void measure(const Row& row, double& last) {
    if (!wanted(row.name())) return;
    const Call* other = row.others();
    Rounds rounds{s_.rounds, s_.min_time};
    if (once(row.ours()) > kLongCall) {
      rounds.rounds = 1;
      other = nullptr;
    }
    if (other) {
      auto [at, fresh] = long_.try_emplace({row.standard->name, row.both, row.size}, 0.0);
      if (fresh) at->second = once(*other);
      if (at->second > kLongCall) other = nullptr;
    }
    Contest k;
    if (other)
      k = contest(row.ours(), *other, rounds);
    else
      k.ours = time_call(row.ours(), rounds);
    last = k.ours.seconds;
    Json r = result(row, rounds, k);
    if (other) add_contest(row, k, r);
    rows_.push_back(r);
    print(row, k, other != nullptr);
  }

  Json result(const Row& row, const Rounds& rounds, const Contest& k) const {
    const double s = k.ours.seconds, least = limits_.least(row.flops(), row.bytes());
    Json r = Json::object();
    r.set("name", row.name());
    r.set("run_name", row.name());
    r.set("run_type", "iteration");
    r.set("repetitions", rounds.rounds);
    r.set("repetition_index", 0);
    r.set("threads", static_cast<int64_t>(limits_.threads));
    r.set("iterations", k.ours.calls);
    r.set("real_time", 1e9 * s);
    r.set("cpu_time", 1e9 * k.ours.cpu_seconds);
    r.set("time_unit", "ns");
    r.set("component", row.component.name);
    r.set("family", row.component.family);
    r.set("mode", row.mode());
    r.set("size", row.mine.size);
    r.set("size_index", static_cast<int64_t>(row.size));
    const std::size_t colon = row.mine.size.find(':');
    if (registry().family(row.component).growing)  // "L:1024"
      r.set(row.mine.size.substr(0, colon), Json::parse(row.mine.size.substr(colon + 1)));
    for (const auto& [name, v] : row.swept.items()) r.set(name, v);
    if (row.flops() > 0) r.set("flops_per_second", row.flops() / s);
    if (row.bytes() > 0) r.set("bytes_per_second", row.bytes() / s);
    r.set("least_seconds", least);
    r.set("share_of_limit", least / s);
    r.set("peak_MB", k.ours.peak_bytes / 1e6);
    r.set("kept_bytes", row.mine.kept_bytes);
    return r;
  }

  static void add_contest(const Row& row, const Contest& k, Json& r) {
    r.set("standard", row.standard->name);
    r.set("standard_time", 1e9 * k.theirs.seconds);
    r.set("standard_peak_MB", k.theirs.peak_bytes / 1e6);
    r.set("ratio", k.ratio.middle);
    r.set("ratio_low", k.ratio.low);
    r.set("ratio_high", k.ratio.high);
    r.set("noise", k.noise);
    r.set("verdict", k.noise > kNoiseLimit ? "too noisy"
                     : k.ratio.low > 1     ? "faster"
                     : k.ratio.high < 1    ? "slower"
                                           : "even");
  }

  void print(const Row& row, const Contest& k, bool contested) const {
    const double flops = row.flops(), bytes = row.bytes(), s = k.ours.seconds;
    const bool arithmetic =
        flops > 0 && flops / limits_.flops > bytes / std::max(1.0, limits_.bandwidth(bytes));
    const std::string rate = arithmetic ? fmt::format("{:.3g} GFLOP/s", flops / s / 1e9)
                                        : fmt::format("{:.3g} GB/s", bytes / s / 1e9);
    fmt::print("{:<52} {:>10} {:>14} {:>4.0f} % {:>9.2f} MB{}\n", row.name(), time_text(s), rate,
               100 * limits_.least(flops, bytes) / s, k.ours.peak_bytes / 1e6,
               contested ? "  " + evidence::verdict(k) + " of " + row.standard->name : "");
    std::fflush(stdout);
  }

  const Settings& s_;
  const Limits& limits_;
  Device device_;
  Json rows_ = Json::array();
  std::string standard_family_;
  std::map<std::pair<std::string, int>, std::shared_ptr<Case>> standards_;
  std::map<std::tuple<std::string, bool, int>, double> long_;
  std::set<std::pair<std::string, int>> too_long_;
};

int compare(const std::vector<std::string>& files) {
  auto read = [](const std::string& path) {
    const Json j = read_json("bench", path);
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
  };
  const auto a = read(files[0]), b = read(files[1]);
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
      both, median(ratios));
  return 0;
}

int run(const Settings& s) {
  if (!s.compare.empty()) return compare(s.compare);
  if (s.rounds < 1 || s.rounds > 1000)
    fail<OptionError>({"bench: --rounds is ", s.rounds, ", expected 1 to 1000"});
  if (!(s.min_time >= 0 && s.min_time <= 60))
    fail<OptionError>({"bench: --min-time is ", s.min_time, ", expected 0 to 60 seconds"});
  if (s.threads < 0 || s.threads > 1024)
    fail<OptionError>({"bench: --threads is ", s.threads, ", expected 1 to 1024; 0: all cores"});
  const Device device(s.device);
  if (!(device == kCPU) && !has_kernels<kernels::fill>(device))
    fail<DeviceError>(
        {"bench: no usable device ", s.device, "; dropin devices says what was found"});
  std::vector<const ComponentInfo*> chosen;
  for (const std::string& name : s.names) chosen.push_back(&registry().find(name));
  if (chosen.empty())
    for (const ComponentInfo& c : registry().all()) chosen.push_back(&c);
  if (!s.plot.empty()) check_folder("bench", s.plot);
  if (!s.from.empty()) {
    if (s.plot.empty())
      fail<OptionError>({"bench: --from draws results again; say where with --plot DIR"});
    for (const std::string& path : draw(read_json("bench", s.from), s.plot,
                                        std::filesystem::path(s.from).stem().string() + "_"))
      fmt::print("{}\n", path);
    return 0;
  }
  if (!s.json.empty()) check_target("bench", s.json);
  std::unique_ptr<Threads> threads;
  if (s.threads) threads = std::make_unique<Threads>(static_cast<int>(s.threads));
  if (!s.peer.empty())
    return bench_peer({.program = s.peer,
                       .names = s.names,
                       .json = s.json,
                       .plot = s.plot,
                       .filter = s.filter,
                       .rounds = s.rounds,
                       .min_time = s.min_time});
  const Limits limits = measure_limits();
  fmt::print("{} thread{}: {:.4g} GFLOP/s of multiply-adds; triad", limits.threads,
             limits.threads == 1 ? "" : "s", limits.flops / 1e9);
  for (const auto& t : limits.triads)
    fmt::print(" {:.4g} GB/s in {:.4g} KiB,", t.rate / 1e9, t.bytes / 1024);
  fmt::print(
      " first touch {:.3g} GB/s\nshare: of the least time for the arithmetic and the bytes that "
      "must move (above 100 %: caches kept some)\n",
      limits.first_touch / 1e9);
  Bench bench(s, limits);
  for (const ComponentInfo* c : chosen) bench.run(*c);
  Json out = Json::object();
  out.set("context", context_of(limits));
  out.set("benchmarks", bench.rows());
  if (!bench.rows().size())
    fail<OptionError>({"bench: no benchmark matches \"", s.filter,
                       "\"; names are NAME/size/mode, as in LongformerAttention/L:1024/forward"});
  if (!s.json.empty()) write_text(s.json, out.dump(1) + "\n");
  if (!s.plot.empty())
    for (const std::string& path : draw(out, s.plot)) fmt::print("{}\n", path);
  return 0;
}

}  // namespace

void add_bench(CommandLine& line) {
  auto s = std::make_shared<Settings>();
  line.add("bench",
           "times components beside their family's standard member, and what the machine could do",
           [s] { return run(*s); })
      .option("NAME", s->names, "components of dropin list; none: all")
      .option("--json", s->json, "writes the results in Google Benchmark's schema")
      .option("--plot", s->plot, "folder for pictures (SVG)")
      .pair("--compare", s->compare, "two files of --json: the rows they share")
      .option(
          "--from", s->from,
          "draws a file of --json again, or one of dropin train --json, into the folder of --plot")
      .option("--peer", s->peer,
              "a peer program (bench/peers): the same inputs in its own process, in turn")
      .option("--threads", s->threads, "threads; 0: all cores")
      .option("--filter", s->filter, "only rows whose name holds this")
      .option("--rounds", s->rounds, "measurements of each row, in turn with the standard member's")
      .option("--min-time", s->min_time, "seconds of each measurement")
      .option("--device", s->device, "cpu or cuda");
}

}  // namespace dropin::cli
