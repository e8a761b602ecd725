// Times one component after the other, each beside its family's standard member.
#include "cli/bench_rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>
#include <set>

#include "evidence/cases.h"
#include "evidence/timing.h"

namespace dropin::cli {
namespace {

using namespace evidence;

constexpr double kLongCall = 3;  // seconds; longer calls are run once, and not in turn

class Bench {
 public:
  Bench(const BenchSettings& s, const Limits& l) : s_(s), limits_(l), device_(s.device) {}
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

  const BenchSettings& s_;
  const Limits& limits_;
  Device device_;
  Json rows_ = Json::array();
  std::string standard_family_;
  std::map<std::pair<std::string, int>, std::shared_ptr<Case>> standards_;
  std::map<std::tuple<std::string, bool, int>, double> long_;
  std::set<std::pair<std::string, int>> too_long_;
};

}  // namespace

Json bench_rows(const BenchSettings& s, const Limits& limits,
                const std::vector<const ComponentInfo*>& chosen) {
  Bench bench(s, limits);
  for (const ComponentInfo* c : chosen) bench.run(*c);
  return bench.rows();
}

}  // namespace dropin::cli
