// dropin claims: each paper's claim beside what this machine shows.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>

#include "cli/command_line.h"
#include "dropin/core/parallel.h"
#include "dropin/registry/registry.h"
#include "evidence/claims.h"
#include "evidence/limits.h"
#include "evidence/pictures.h"

namespace dropin::cli {
namespace {

using namespace evidence;

struct Settings {
  std::vector<std::string> names;
  std::string data, output;
  bool json = false;
};

const char* word(Check::Result r) {
  return r == Check::Holds       ? "holds"
         : r == Check::Fails     ? "does not hold here"
         : r == Check::Undecided ? "undecided: the machine is too noisy"
                                 : "reported";
}

std::string paper_of(const Claim& c) {
  if (!c.paper.empty()) return c.paper;
  return registry().contains(c.components[0]) ? registry().find(c.components[0]).paper : "";
}

// The text file and the folder of pictures that --data names: either of them, or a folder with
// both.
ClaimData find_data(const std::string& path) {
  namespace fs = std::filesystem;
  ClaimData d;
  if (path.empty()) return d;
  if (!fs::exists(path))
    fail<FileError>({"claims: --data ", path, ": there is no such file or folder"});
  if (!fs::is_directory(path)) {
    d.text = path;
    return d;
  }
  for (const char* p : {"/input.txt", "/tinyshakespeare/input.txt"})
    if (d.text.empty() && fs::is_regular_file(path + p)) d.text = path + p;
  for (const char* p : {"", "/fashion-mnist"})
    if (d.fashion_mnist.empty() && (fs::exists(path + p + "/sprite900-images-idx3-ubyte.gz") ||
                                    fs::exists(path + p + "/sprite900-images-idx3-ubyte")))
      d.fashion_mnist = path + p;
  if (d.text.empty() && d.fashion_mnist.empty())
    fail<FileError>({"claims: --data ", path,
                     ": expected input.txt or sprite900-images-idx3-ubyte.gz there, or in its "
                     "folders tinyshakespeare and fashion-mnist"});
  return d;
}

std::vector<const Claim*> choose(const std::vector<std::string>& names) {
  std::vector<const Claim*> chosen;
  std::vector<std::string> known;
  for (const Claim& c : all_claims())
    for (const std::string& n : c.components)
      if (std::find(known.begin(), known.end(), n) == known.end()) known.push_back(n);
  for (const std::string& name : names)
    if (std::find(known.begin(), known.end(), name) == known.end())
      fail<OptionError>({"claims: no claim for \"", name, "\"; the nearest name is \"",
                         nearest_name(name, known.data(), known.size()),
                         "\"; claims are made for: ", fmt::format("{}", fmt::join(known, ", "))});
  for (const Claim& c : all_claims()) {
    bool wanted = names.empty();
    for (const std::string& n : names)
      wanted =
          wanted || std::find(c.components.begin(), c.components.end(), n) != c.components.end();
    if (wanted) chosen.push_back(&c);
  }
  return chosen;
}

/// What all claims together gave.
struct Outcome {
  int counts[4] = {};  ///< by Check::Result
  Json list = Json::array();
};

/// Runs one claim and says what it found.
void show(const Claim& c, const ClaimData& data, bool json, Outcome& out) {
  Json j = Json::object();
  j.set("component", c.components[0]);
  j.set("paper", paper_of(c));
  j.set("claim", c.claim);
  j.set("figure", c.figure);
  if (!json) {
    fmt::print("{}: {}\n  paper: {} ({})\n", c.components[0], c.claim, c.figure, paper_of(c));
    std::fflush(stdout);
  }
  if (c.data == "fashion-mnist" && data.fashion_mnist.empty()) {
    j.set("verdict", "not run: needs --data with the Fashion-MNIST files");
    if (!json) fmt::print("  not run: needs --data with the Fashion-MNIST files\n\n");
    out.list.push_back(j);
    return;
  }
  Findings found;
  const double t = now();
  c.show(found, data);
  const double took = now() - t;
  const Check::Result verdict = found.verdict();
  ++out.counts[verdict];
  Json checks = Json::array();
  std::string why;
  for (const Check& k : found.checks()) {
    Json one = Json::object();
    one.set("text", k.text);
    one.set("result", word(k.result));
    checks.push_back(one);
    if (k.result == verdict && verdict != Check::Holds) why += (why.empty() ? "" : "; ") + k.text;
    if (!json) fmt::print("  here:  {}\n", k.text);
  }
  j.set("checks", checks);
  j.set("verdict", word(verdict));
  if (!why.empty()) j.set("why", why);
  j.set("seconds", took);
  out.list.push_back(j);
  if (!json)
    fmt::print("  {}{}  [{:.1f} s]\n\n", word(verdict), why.empty() ? "" : ": " + why, took);
  std::fflush(stdout);
}

int run(const Settings& s) {
  const std::vector<const Claim*> chosen = choose(s.names);
  const ClaimData data = find_data(s.data);
  if (!s.output.empty()) check_target("claims", s.output);
  const double start = now();
  Outcome all;
  for (const Claim* c : chosen) show(*c, data, s.json, all);
  Json out = Json::object(), machine = Json::object();
  for (const auto& [name, value] : describe_machine()) machine.set(name, value);
  machine.set("threads", static_cast<int64_t>(get_num_threads()));
  out.set("machine", machine);
  out.set("claims", all.list);
  if (s.json)
    fmt::print("{}\n", out.dump(2));
  else
    fmt::print("{} hold, {} do not hold here, {} undecided; {:.0f} s on {} threads\n",
               all.counts[Check::Holds], all.counts[Check::Fails], all.counts[Check::Undecided],
               now() - start, get_num_threads());
  if (!s.output.empty()) write_text(s.output, out.dump(1) + "\n");
  return all.counts[Check::Fails] ? 1 : 0;
}

}  // namespace

void add_claims(CommandLine& line) {
  auto s = std::make_shared<Settings>();
  line.add("claims", "each paper's claim beside what this machine shows", [s] { return run(*s); })
      .option("NAME", s->names, "components with a claim; none: all")
      .option("--data", s->data,
              "a text, a folder with Fashion-MNIST's files, or a folder with both; none: generated "
              "text")
      .option("--output", s->output, "writes the JSON to a file too")
      .flag("--json", s->json, "as JSON");
}

}  // namespace dropin::cli
