// dropin bench: every component beside its family's standard member. The rows are made from the
// registry; results are written in Google Benchmark's schema.
#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <memory>

#include "cli/bench_rows.h"
#include "cli/command_line.h"
#include "cli/peer.h"
#include "dropin/core/parallel.h"
#include "dropin/dispatch/dispatch.h"
#include "evidence/limits.h"
#include "evidence/pictures.h"
#include "evidence/timing.h"
#include "kernels/elementwise/kernel.h"

namespace dropin::cli {
namespace {

using namespace evidence;

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

void check_settings(const BenchSettings& s) {
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
}

void print_limits(const Limits& limits) {
  fmt::print("{} thread{}: {:.4g} GFLOP/s of multiply-adds; triad", limits.threads,
             limits.threads == 1 ? "" : "s", limits.flops / 1e9);
  for (const auto& t : limits.triads)
    fmt::print(" {:.4g} GB/s in {:.4g} KiB,", t.rate / 1e9, t.bytes / 1024);
  fmt::print(
      " first touch {:.3g} GB/s\nshare: of the least time for the arithmetic and the bytes that "
      "must move (above 100 %: caches kept some)\n",
      limits.first_touch / 1e9);
}

int run(const BenchSettings& s) {
  if (!s.compare.empty()) return compare_results(s.compare);
  check_settings(s);
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
  print_limits(limits);
  const Json rows = bench_rows(s, limits, chosen);
  Json out = Json::object();
  out.set("context", context_of(limits));
  out.set("benchmarks", rows);
  if (!rows.size())
    fail<OptionError>({"bench: no benchmark matches \"", s.filter,
                       "\"; names are NAME/size/mode, as in LongformerAttention/L:1024/forward"});
  if (!s.json.empty()) write_text(s.json, out.dump(1) + "\n");
  if (!s.plot.empty())
    for (const std::string& path : draw(out, s.plot)) fmt::print("{}\n", path);
  return 0;
}

}  // namespace

void add_bench(CommandLine& line) {
  auto s = std::make_shared<BenchSettings>();
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
