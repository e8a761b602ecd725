// dropin conform: golden cases, a line each.
#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <memory>

#include "cli/command_line.h"
#include "dropin/registry/conform.h"

namespace dropin::cli {
namespace {

Json to_json(const CaseResult& r) {
  Json j = Json::object();
  j.set("path", r.path);
  j.set("component", r.component);
  j.set("result", r.skipped ? "skipped" : r.passed ? "passed" : "failed");
  if (!r.error.empty()) j.set("error", r.error);
  Json checks = Json::array();
  for (const TensorCheck& t : r.checks) {
    Json c = Json::object();
    c.set("tensor", t.name);
    c.set("passed", t.passed);
    c.set("max_error", std::isfinite(t.max_error) ? Json(t.max_error) : Json());
    c.set("share_of_tolerance", std::isfinite(t.worst) ? Json(t.worst) : Json());
    if (!t.detail.empty()) c.set("detail", t.detail);
    checks.push_back(c);
  }
  j.set("tensors", checks);
  return j;
}

void print(const CaseResult& r) {
  if (r.skipped) {
    fmt::print("skip  {}: {}\n", r.path, r.error);
    return;
  }
  double worst = 0;
  std::string where;
  for (const TensorCheck& t : r.checks)
    if (where.empty() || t.worst > worst) {
      worst = t.worst;
      where = t.name;
    }
  fmt::print("{}  {}: {}", r.passed ? "ok  " : "FAIL", r.path, r.component);
  if (!r.checks.empty())
    fmt::print(", {} tensors, at most {:.3g} of the tolerance ({})", r.checks.size(), worst, where);
  fmt::print("\n");
  if (!r.error.empty()) fmt::print("      {}\n", r.error);
  for (const TensorCheck& t : r.checks)
    if (!t.passed) fmt::print("      {}: {} (max error {:.3g})\n", t.name, t.detail, t.max_error);
}

// The golden cases that lie where the program was installed.
std::string installed_cases() {
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  const fs::path cases = program.parent_path().parent_path() / "share" / "dropin" / "golden";
  if (!fs::is_directory(cases, error))
    fail<OptionError>({"conform: PATH is required: no cases are installed (", cases.string(), ")"});
  return cases.string();
}

}  // namespace

void add_conform(CommandLine& line) {
  struct Settings {
    std::vector<std::string> paths;
    std::string device = "cpu";
    bool json = false;
  };
  auto s = std::make_shared<Settings>();
  line.add("conform", "runs golden cases: files, or folders of them",
           [s] {
             const Device where(s->device);
             int passed = 0, failed = 0, skipped = 0;
             bool bad_file = false;
             Json all = Json::array();
             if (s->paths.empty()) s->paths.push_back(installed_cases());
             for (const std::string& path : s->paths) {
               const bool folder = std::filesystem::is_directory(path);
               for (const std::string& file : golden_files(path)) {
                 CaseResult r;
                 try {
                   r = conform(file, where, folder);
                 } catch (const FileError& e) {
                   if (!folder) throw;
                   r.path = file;
                   r.error = e.what();
                   bad_file = true;
                 }
                 ++(r.skipped ? skipped : r.passed ? passed : failed);
                 if (s->json)
                   all.push_back(to_json(r));
                 else
                   print(r);
               }
             }
             if (s->json)
               fmt::print("{}\n", all.dump(2));
             else
               fmt::print("{} passed, {} failed, {} skipped (no such component)\n", passed, failed,
                          skipped);
             return bad_file ? 2 : failed || (!passed && skipped) ? 1 : 0;
           })
      .option("PATH", s->paths, "golden files or folders; none: those installed with the program")
      .option("--device", s->device, "cpu or cuda")
      .flag("--json", s->json, "as JSON");
}

}  // namespace dropin::cli
