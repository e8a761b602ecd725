// dropin list, describe, devices.
#include <fmt/format.h>

#include <memory>

#include "cli/command_line.h"
#include "dropin/core/parallel.h"
#include "dropin/dispatch/devices.h"
#include "dropin/registry/registry.h"

namespace dropin::cli {
namespace {

const char* kind_name(ComponentKind k) {
  return k == ComponentKind::Module     ? "module"
         : k == ComponentKind::Function ? "function"
                                        : "optimizer";
}

const std::string& call_of(const ComponentInfo& c) {
  return c.call_text.empty() ? registry().family(c).call : c.call_text;
}

// Where components run, found out once.
const char* devices() {
  static const char* const found = device_count(DeviceType::CUDA) > 0 ? "cpu,cuda" : "cpu";
  return found;
}

// Parameters and buffers with their sizes, of one made by the sample options; empty for what is not
// a module.
std::vector<std::pair<std::string, std::string>> state_of(const ComponentInfo& c) {
  std::vector<std::pair<std::string, std::string>> r;
  if (c.kind != ComponentKind::Module) return r;
  const Box<Module> m = c.make_module(sample_options(c));
  for (const auto& [name, t] : m->named_parameters()) r.emplace_back(name, t.sizes().str());
  for (const auto& [name, t] : m->named_buffers())
    r.emplace_back(name, t.sizes().str() + " buffer");
  return r;
}

Json to_json(const ComponentInfo& c, bool with_options) {
  Json j = Json::object();
  j.set("name", c.name);
  j.set("family", c.family);
  j.set("kind", kind_name(c.kind));
  j.set("replaces", c.replaces.empty() ? Json() : Json(c.replaces));
  j.set("devices", devices());
  j.set("summary", c.summary);
  if (!with_options) return j;
  j.set("paper", c.paper.empty() ? Json() : Json(c.paper));
  j.set("call", call_of(c));
  Json options = Json::array();
  for (const FieldInfo& f : c.options) {
    Json o = Json::object();
    o.set("name", f.name);
    o.set("type", f.type);
    o.set("default", f.value);
    o.set("doc", f.doc);
    options.push_back(o);
  }
  j.set("options", options);
  if (c.kind == ComponentKind::Module) {
    Json parameters = Json::object();
    for (const auto& [name, sizes] : state_of(c)) parameters.set(name, sizes);
    j.set("sample_options", sample_options(c));
    j.set("parameters", parameters);
  }
  return j;
}

}  // namespace

void add_list(CommandLine& line) {
  struct Settings {
    std::string family;
    bool json = false;
  };
  auto s = std::make_shared<Settings>();
  line.add("list", "every component: name, family, what it replaces, devices, one line",
           [s] {
             Json out = Json::array();
             if (!s->family.empty()) registry().family(s->family);  // named, when there is none
             for (const ComponentInfo& c : registry().all()) {
               if (!s->family.empty() && c.family != s->family) continue;
               if (s->json)
                 out.push_back(to_json(c, false));
               else
                 fmt::print("{:<24} {:<16} {:<20} {:<9} {}\n", c.name, c.family,
                            c.replaces.empty() ? "-" : c.replaces, devices(), c.summary);
             }
             if (s->json) fmt::print("{}\n", out.dump(2));
             return 0;
           })
      .option("--family", s->family, "only members of this family")
      .flag("--json", s->json, "as JSON");
}

void add_describe(CommandLine& line) {
  struct Settings {
    std::string name;
    bool json = false;
  };
  auto s = std::make_shared<Settings>();
  line.add("describe", "options with types and defaults, parameters, call, paper",
           [s] {
             const ComponentInfo& c = registry().find(s->name);
             if (s->json) {
               fmt::print("{}\n", to_json(c, true).dump(2));
               return 0;
             }
             fmt::print("{}: {}\n  {} of the family {}{}\n", c.name, c.summary, kind_name(c.kind),
                        c.family, c.replaces.empty() ? "" : ", replaces " + c.replaces);
             if (!c.paper.empty()) fmt::print("  paper: {}\n", c.paper);
             fmt::print("  call: {}\n", call_of(c));
             fmt::print("  options:{}\n", c.options.empty() ? " none" : "");
             for (const FieldInfo& f : c.options)
               fmt::print("    {:<22} {:<28} default {:<10} {}\n", f.name, f.type, f.value.dump(),
                          f.doc);
             const auto state = state_of(c);
             if (!state.empty()) fmt::print("  parameters, with {}:\n", sample_options(c).dump());
             for (const auto& [path, sizes] : state) fmt::print("    {:<40} {}\n", path, sizes);
             return 0;
           })
      .option("NAME", s->name, "a component of dropin list", true)
      .flag("--json", s->json, "as JSON");
}

void add_devices(CommandLine& line) {
  line.add("devices", "what was found, what was tried, and why not", [] {
    fmt::print("cpu: {} thread{}\n", get_num_threads(), get_num_threads() == 1 ? "" : "s");
    const CudaReport& r = cuda_report();
    if (r.count == 0) fmt::print("cuda: none: {}\n", r.why);
    for (const std::string& d : r.devices) fmt::print("{}\n", d);
    if (!r.plugin.empty()) fmt::print("  plugin: {}\n", r.plugin);
    for (const PluginPlace& p : r.tried) fmt::print("  tried {}: {}\n", p.path, p.outcome);
    return 0;
  });
}

}  // namespace dropin::cli
