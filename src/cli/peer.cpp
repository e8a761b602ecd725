// The talk with a peer, a line each way (bench/peers/libtorch.cpp answers):
//   threads N        -> what it is: library, version, BLAS, threads
//   prepare FOLDER   -> "ready", after it has read case.json and in.safetensors there and written
//   out.safetensors; or "unsupported: why", where "component" in the words means: at any size run
//   CALLS        -> seconds per call
// case.json: component, mode, options. in.safetensors: x, parameters and buffers as "p.NAME",
// "gradient" of y; an optimizer's x is its parameter. out.safetensors: y; with backward also "g.x"
// and "g.NAME". Times count only when these agree with ours.
#include "cli/peer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "dropin/core/parallel.h"
#include "dropin/registry/registry.h"
#include "dropin/serialize/safetensors.h"
#include "evidence/cases.h"
#include "evidence/limits.h"
#include "evidence/pictures.h"

namespace dropin::cli {
namespace {

using namespace evidence;

constexpr double kAgreement =
    2e-3;  // of the greatest value: both compute in float32, in orders of their own

class Peer {
 public:
  explicit Peer(const std::string& program) : program_(program) {
    if (access(program.c_str(), X_OK) != 0 || std::filesystem::is_directory(program))
      fail<FileError>({"bench: there is no peer program ", program,
                       "; bench/peers/libtorch.cpp is built as peer_libtorch with "
                       "-DDROPIN_BUILD_BENCH=ON where LibTorch is found"});
    int to[2], from[2];
    if (pipe2(to, O_CLOEXEC) != 0 || pipe2(from, O_CLOEXEC) != 0)
      fail<Error>({"bench: no pipe to ", program});
    signal(SIGPIPE, SIG_IGN);
    child_ = fork();
    if (child_ == 0) {
      dup2(to[0], 0);
      dup2(from[1], 1);
      execl(program.c_str(), program.c_str(), static_cast<char*>(nullptr));
      _exit(127);
    }
    close(to[0]);
    close(from[1]);
    if (child_ < 0) fail<Error>({"bench: ", program, " cannot be started"});
    out_ = fdopen(to[1], "w");
    in_ = fdopen(from[0], "r");
  }
  ~Peer() {
    std::fclose(out_);
    std::fclose(in_);
    waitpid(child_, nullptr, 0);
  }
  Peer(const Peer&) = delete;
  std::string ask(const std::string& line) {
    std::fprintf(out_, "%s\n", line.c_str());
    std::fflush(out_);
    std::string answer;
    for (int c; (c = std::fgetc(in_)) != EOF && c != '\n';) answer += static_cast<char>(c);
    if (answer.empty())
      fail<Error>({"bench: ", program_, " ended at \"", line, "\"; is it a peer?"});
    return answer;
  }

 private:
  std::string program_;
  pid_t child_ = -1;
  std::FILE *in_ = nullptr, *out_ = nullptr;
};

class Folder {
 public:
  Folder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "dropin_peer_XXXXXX").string();
    if (!mkdtemp(pattern.data()))
      fail<FileError>({"bench: no temporary folder can be made in ",
                       std::filesystem::temp_directory_path().string()});
    path_ = pattern;
  }
  ~Folder() {
    std::error_code e;
    std::filesystem::remove_all(path_, e);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// What ours gives for the same: y, and the gradients.
NamedTensors ours(const ComponentInfo& c, const Case& k, bool both) {
  if (c.kind == ComponentKind::Optimizer) {
    const Tensor p = k.input.clone().requires_grad_();
    p.set_grad(k.gradient);
    c.make_optimizer({p}, k.options)->step();
    return {{"y", p.detach()}};
  }
  k.module->train(both);
  if (!both) {
    no_grad guard;
    return {{"y", k.module->call({{"x", k.input}}).get("y", c.name)}};
  }
  NamedTensors r;
  if (k.input.requires_grad()) k.input.set_grad({});
  k.module->zero_grad();
  const Tensor y = k.module->call({{"x", k.input}}).get("y", c.name);
  y.backward(k.gradient);
  r.set("y", y.detach());
  if (k.input.requires_grad()) r.set("g.x", k.input.grad());
  for (const auto& [name, p] : k.module->named_parameters())
    if (p.grad().defined()) r.set("g." + name, p.grad());
  return r;
}

// The greatest difference of any tensor, as a share of its greatest value; says which.
double disagreement(const NamedTensors& mine, const SafetensorsFile& theirs, std::string& where) {
  double worst = 0;
  for (const auto& [name, t] : mine) {
    const auto at = std::find_if(theirs.tensors.begin(), theirs.tensors.end(),
                                 [&, n = name](const auto& e) { return e.first == n; });
    if (at == theirs.tensors.end() || !(at->second.sizes() == t.sizes())) {
      where = name + " (missing, or of another shape)";
      return INFINITY;
    }
    if (!t.numel()) continue;
    const double top = std::max(1e-6, amax(abs(t)).item()),
                 d = amax(abs(t - at->second)).item() / top;
    if (!(d <= worst)) worst = std::isnan(d) ? INFINITY : d, where = name;
  }
  return worst;
}

// One component at one size, forward or with backward.
struct Row {
  const ComponentInfo& component;
  const Case& k;
  bool both;
  std::string mode() const { return both ? "forward+backward" : k.forward_name; }
  std::string name() const { return component.name + "/" + k.size + "/" + mode(); }
};

class PeerBench {
 public:
  explicit PeerBench(const PeerSettings& s)
      : s_(s), peer_(s.program), name_(peer_.ask(fmt::format("threads {}", get_num_threads()))) {
    fmt::print(
        "beside {}; ours on {} threads; same inputs, outputs compared first\n{:<44} {:>11} {:>11}  "
        " "
        "ratio\n",
        name_, get_num_threads(), "row", "ours ms", "peer ms");
  }

  void run(const ComponentInfo& c) {
    if (c.kind == ComponentKind::Function) return;
    for (int i = 0; i < registry().family(c).peer_sizes; ++i) {
      Case k;
      try {
        k = make_case(c, i, nullptr, Json::object(), kCPU);
      } catch (const Error&) {
        return;
      }
      if (!run(Row{c, k, false}) || (k.both && !run(Row{c, k, true}))) return;
    }
  }

  /// OptionError when the peer answered to nothing.
  Json results() const {
    if (!supported_)
      fail<OptionError>({"bench: the peer ", name_, " has none of these components"});
    Json out = Json::object(), machine = Json::object();
    for (const auto& [key, value] : describe_machine()) machine.set(key, value);
    out.set("peer", name_);
    out.set("machine", machine);
    out.set("rows", rows_);
    return out;
  }

 private:
  /// False when the peer does not have the component at any size.
  bool run(const Row& row) {
    const std::string name = row.name();
    if (!s_.filter.empty() && name.find(s_.filter) == std::string::npos) return true;
    const std::string ready = prepare(row);
    if (ready != "ready") {
      if (!s_.names.empty()) fmt::print("{:<44} {}\n", name, ready);
      return ready.find("component") == std::string::npos;  // else only this size is not
    }
    supported_ = true;
    Json r = Json::object();
    r.set("row", name);
    if (agrees(row, r)) race(row, r);
    rows_.push_back(r);
    return true;
  }

  /// Hands the case over; the peer's answer.
  std::string prepare(const Row& row) {
    Json j = Json::object();
    j.set("component", row.component.name);
    j.set("mode", row.mode());
    j.set("options", row.k.options);
    write_text(folder_.path() + "/case.json", j.dump());
    std::vector<std::pair<std::string, Tensor>> in{{"x", row.k.input.detach()},
                                                   {"gradient", row.k.gradient}};
    if (row.k.module)
      for (const auto& [n, t] : row.k.module->state_dict())
        if (t.dtype() == kFloat32) in.emplace_back("p." + n, t.detach());
    save_safetensors(folder_.path() + "/in.safetensors", in);
    return peer_.ask("prepare " + folder_.path());
  }

  bool agrees(const Row& row, Json& r) {
    std::string where;
    const double off = disagreement(ours(row.component, row.k, row.both),
                                    load_safetensors(folder_.path() + "/out.safetensors"), where);
    r.set("disagreement", std::isfinite(off) ? Json(off) : Json());
    if (off <= kAgreement) return true;
    fmt::print("{:<44} disqualified: {} differs by {:.2g} of its greatest value\n", row.name(),
               where, off);
    r.set("disqualified", where);
    return false;
  }

  /// Both in turn, the one that begins changing each round.
  void race(const Row& row, Json& r) {
    const Call& f = row.both ? row.k.both : row.k.forward;
    auto mine = [&](int64_t n) {
      const double t = now();
      for (int64_t q = 0; q < n; ++q) f();
      return (now() - t) / static_cast<double>(n);
    };
    auto theirs = [&](int64_t n) {
      return std::strtod(peer_.ask(fmt::format("run {}", n)).c_str(), nullptr);
    };
    auto fill = [&](double once) {
      return std::clamp<int64_t>(static_cast<int64_t>(s_.min_time / std::max(once, 1e-8)), 1,
                                 100'000);
    };
    f();
    const int64_t a = fill(mine(1)), b = fill(std::min(theirs(1), theirs(1)));
    std::vector<double> x, y, ratios;
    for (int64_t round = 0; round < s_.rounds; ++round) {
      if (round % 2 == 0) x.push_back(mine(a));
      y.push_back(theirs(b));
      if (round % 2 != 0) x.push_back(mine(a));
      ratios.push_back(y.back() / x.back());
    }
    report(row, x, y, ratios, r);
  }

  void report(const Row& row, const std::vector<double>& x, const std::vector<double>& y,
              std::vector<double> ratios, Json& r) {
    Contest v;
    v.ratio = spread_of(ratios);
    std::sort(ratios.begin(), ratios.end());
    const std::size_t n = ratios.size();
    v.noise = n < 3 ? 0 : (ratios[n - 1 - n / 4] - ratios[n / 4]) / v.ratio.middle;
    fmt::print("{:<44} {:>11.4f} {:>11.4f}   {}\n", row.name(), 1e3 * median(x), 1e3 * median(y),
               verdict(v));
    std::fflush(stdout);
    r.set("ours_ms", 1e3 * median(x));
    r.set("peer_ms", 1e3 * median(y));
    r.set("ratio", v.ratio.middle);
    r.set("low", v.ratio.low);
    r.set("high", v.ratio.high);
    r.set("noise", v.noise);
    r.set("rounds", s_.rounds);
    r.set("threads", static_cast<int64_t>(get_num_threads()));
  }

  const PeerSettings& s_;
  Peer peer_;
  std::string name_;
  Folder folder_;
  Json rows_ = Json::array();
  bool supported_ = false;
};

}  // namespace

int bench_peer(const PeerSettings& s) {
  PeerBench bench(s);
  if (s.names.empty())
    for (const ComponentInfo& c : registry().all()) bench.run(c);
  for (const std::string& n : s.names) bench.run(registry().find(n));
  const Json out = bench.results();
  if (!s.json.empty()) write_text(s.json, out.dump(1) + "\n");
  if (!s.plot.empty())
    for (const std::string& path : draw(out, s.plot)) fmt::print("{}\n", path);
  return 0;
}

}  // namespace dropin::cli
