// dropin inspect, dropin convert: what is in a checkpoint, and the same in another format.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>

#include "cli/command_line.h"
#include "cli/output.h"
#include "dropin/registry/registry.h"
#include "dropin/serialize/name_map.h"
#include "dropin/serialize/save_state.h"

namespace dropin::cli {
namespace {

constexpr std::size_t kMetadataShown = 200;

std::uint64_t elements_of(const Shape& s) {
  std::uint64_t n = 1;
  for (const int64_t d : s) n *= static_cast<std::uint64_t>(d);
  return n;
}

std::string in_units(std::uint64_t bytes) {
  if (bytes < 10'000) return fmt::format("{} B", bytes);
  const char* const units[] = {"kB", "MB", "GB", "TB"};
  double v = static_cast<double>(bytes) / 1000;
  int u = 0;
  for (; v >= 1000 && u < 3; ++u) v /= 1000;
  return fmt::format("{:.1f} {}", v, units[u]);
}

/// A component's parameters and buffers: their names and numbers of dimensions.
struct ComponentShape {
  std::string name;
  std::map<std::string, std::size_t> ranks;
};

std::vector<ComponentShape> component_shapes() {
  std::vector<ComponentShape> r;
  for (const ComponentInfo& c : registry().all()) {
    if (c.kind != ComponentKind::Module) continue;
    ComponentShape s{c.name, {}};
    const Box<Module> m = c.make_module(sample_options(c));
    for (const auto& [name, t] : m->named_parameters()) s.ranks[name] = t.sizes().size();
    for (const auto& [name, t] : m->named_buffers()) s.ranks[name] = t.sizes().size();
    if (!s.ranks.empty() && s.ranks.size() <= 12) r.push_back(std::move(s));
  }
  return r;
}

/// Prefixes whose tensors are just those of a component, with the components that they fit.
std::vector<std::pair<std::string, std::string>> fitting(const StateFile& f) {
  std::map<std::string, std::map<std::string, std::size_t>> groups;
  for (const StoredTensor& t : f.tensors)
    for (std::size_t dot = t.name.rfind('.'), levels = 0; dot != t.name.npos && levels < 3;
         dot = dot ? t.name.rfind('.', dot - 1) : t.name.npos, ++levels)
      groups[t.name.substr(0, dot)][t.name.substr(dot + 1)] = t.shape.size();
  const std::vector<ComponentShape> known = component_shapes();
  std::vector<std::pair<std::string, std::string>> r;
  for (const auto& [prefix, ranks] : groups) {
    std::vector<std::string> names;
    for (const ComponentShape& c : known)
      if (c.ranks == ranks) names.push_back(c.name);
    if (names.empty()) continue;
    std::string text;
    for (std::size_t i = 0; i < names.size() && i < 4; ++i) text += (i ? ", " : "") + names[i];
    if (names.size() > 4) text += fmt::format(" and {} more", names.size() - 4);
    r.emplace_back(prefix, text);
  }
  return r;
}

Json described(const StateFile& f, const std::vector<std::pair<std::string, std::string>>& fits) {
  Json tensors = Json::array();
  for (const StoredTensor& t : f.tensors) {
    Json j = Json::object(), shape = Json::array();
    for (const int64_t n : t.shape) shape.push_back(Json(n));
    j.set("name", t.name);
    j.set("format", t.format);
    j.set("dtype", name(t.dtype));
    j.set("shape", shape);
    j.set("bytes", Json(static_cast<long>(t.bytes)));
    tensors.push_back(j);
  }
  std::vector<Json::Item> aliases, components;
  for (const auto& [n, kept] : f.aliases) aliases.emplace_back(n, kept);
  for (const auto& [prefix, names] : fits) components.emplace_back(prefix, names);
  Json r = Json::object();
  r.set("path", f.path);
  r.set("container", f.container);
  r.set("metadata", f.metadata);
  r.set("tensors", tensors);
  r.set("aliases", Json::object(aliases));
  r.set("components", Json::object(components));
  const NameMapChoice map = guess_name_map(f);
  r.set("map", map.name.empty() ? Json() : Json(map.name));
  return r;
}

void print_state(const StateFile& f, const std::vector<std::pair<std::string, std::string>>& fits) {
  std::uint64_t bytes = 0, elements = 0;
  std::size_t widest = 4, format = 6;
  for (const StoredTensor& t : f.tensors) {
    bytes += t.bytes;
    elements += elements_of(t.shape);
    widest = std::max(widest, std::min<std::size_t>(60, t.name.size()));
    format = std::max(format, t.format.size());
  }
  fmt::print("{}: {}, {} tensor{}, {} values, {}\n", f.path, f.container, f.tensors.size(),
             f.tensors.size() == 1 ? "" : "s", elements, in_units(bytes));
  for (const StoredTensor& t : f.tensors)
    fmt::print("  {:<{}}  {:<{}}  {:<8}  {:<20} {:>10}\n", t.name, widest, t.format, format,
               name(t.dtype), t.shape.str(), in_units(t.bytes));
  for (const auto& [n, kept] : f.aliases) fmt::print("  {} is {}\n", n, kept);
  if (f.metadata.size() > 0) fmt::print("metadata:\n");
  for (const auto& [k, v] : f.metadata.items()) {
    std::string text = v.is_string() ? v.as_string() : v.dump();
    if (text.size() > kMetadataShown)
      text = fmt::format("{}... ({} bytes)", text.substr(0, kMetadataShown), text.size());
    fmt::print("  {}: {}\n", k, text);
  }
  if (!fits.empty()) fmt::print("fits:\n");
  for (const auto& [prefix, names] : fits) fmt::print("  {:<{}}  {}\n", prefix, widest, names);
  if (const NameMapChoice map = guess_name_map(f); !map.name.empty())
    fmt::print("names: as {} ({} of {}); --map {} turns them into ours\n", map.name, map.matched,
               f.tensors.size(), map.name);
}

/// "5MB", "200KB", "1GB" or bytes; as elsewhere, 1 kB is 1000 bytes, 1 KiB 1024.
int64_t parse_bytes(const std::string& text) {
  if (text.empty()) return 0;
  std::size_t end = 0;
  while (end < text.size() &&
         (std::isdigit(static_cast<unsigned char>(text[end])) || text[end] == '.'))
    ++end;
  double v = 0;
  try {
    v = std::stod(text.substr(0, end));
  } catch (const std::exception&) {
    v = -1;
  }
  std::string unit = text.substr(end);
  for (char& c : unit) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  const std::pair<const char*, double> units[] = {
      {"", 1},    {"B", 1},    {"K", 1e3},    {"KB", 1e3},       {"M", 1e6},          {"MB", 1e6},
      {"G", 1e9}, {"GB", 1e9}, {"KIB", 1024}, {"MIB", 1048576.}, {"GIB", 1073741824.}};
  for (const auto& [name, size] : units)
    if (unit == name && v * size >= 1 && v * size < 9e18) return static_cast<int64_t>(v * size);
  fail<OptionError>(
      {"convert: --shard is \"", text, "\", expected a size like 5GB, 200MB or 1000000"});
}

struct ConvertSettings {
  std::string in, out, format, map, shard, conversion = "torch";
  bool as_stored = false;
};

/// The tensors as they are to be written, with what the file says beside them.
SaveStateOptions save_options(const ConvertSettings& s, const StateFile& f, bool quiet) {
  SaveStateOptions o;
  o.format = s.format;
  o.conversion = s.conversion;
  o.shard_size = parse_bytes(s.shard);
  const bool gguf = s.out.ends_with(".gguf");
  // A program's nested values (of .pt) are no metadata of the other containers.
  if (f.container == "safetensors" || (f.container == "gguf" && gguf)) o.metadata = f.metadata;
  if (const Json* a = f.metadata.find("general.alignment"); gguf && a && a->is_int())
    o.alignment = a->as_int();
  if (!quiet)
    o.progress = [](std::size_t done, std::size_t of, std::uint64_t bytes) {
      fmt::print(stderr, "\r{} of {} tensors, {}\033[K{}", done, of, in_units(bytes),
                 done == of ? "\n" : "");
      std::fflush(stderr);
    };
  return o;
}

int convert(const ConvertSettings& s) {
  std::error_code none;
  if (std::filesystem::equivalent(s.in, s.out, none))
    fail<OptionError>({"convert: ", s.out, " is the file that is read, expected another"});
  // Without a format, what safetensors can hold is copied part by part, packed or not.
  const bool parts = s.format.empty() && s.map.empty() && s.out.ends_with(".safetensors");
  StateFile f = load_state(s.in, {.unpack = !parts && !s.as_stored});
  if (!s.map.empty()) {
    const NameMapReport report = map_names(f, s.map);
    for (const auto& [from, to] : report.renamed)
      if (from != to) fmt::print("{} -> {}\n", from, to);
    for (const std::string& n : report.unused) fmt::print("{}: left as it is\n", n);
  }
  for (const auto& [n, kept] : f.aliases) fmt::print("{} is {}, which is written once\n", n, kept);
  SaveStateOptions o = save_options(s, f, isatty(2) == 0);
  for (const auto& [n, kept] : f.aliases)
    if (s.out.ends_with(".safetensors") && !o.metadata.find(n)) o.metadata.set(n, kept);
  for (const StoredTensor& t : f.tensors) {
    const std::string to = saved_format(t, s.out, o);
    if (to != t.format && s.format.empty()) fmt::print("{}: {} becomes {}\n", t.name, t.format, to);
  }
  for (const std::string& file : save_state(s.out, f.tensors, o)) fmt::print("wrote {}\n", file);
  finish_output("what was converted");
  return 0;
}

}  // namespace

void add_inspect(CommandLine& line) {
  struct Settings {
    std::string file;
    bool json = false, as_stored = false;
  };
  auto s = std::make_shared<Settings>();
  line.add("inspect", "what is in a checkpoint: safetensors, GGUF, .pt, .npz",
           [s] {
             const StateFile f = load_state(s->file, {.unpack = !s->as_stored});
             const auto fits = fitting(f);
             if (s->json)
               print_line(described(f, fits).dump(2));
             else
               print_state(f, fits);
             finish_output("the list");
             return 0;
           })
      .option("FILE", s->file, "a checkpoint, or the index of its shards", true)
      .flag("--as-stored", s->as_stored, "packed weights in their parts")
      .flag("--json", s->json, "as JSON");
}

void add_convert(CommandLine& line) {
  auto s = std::make_shared<ConvertSettings>();
  line.add("convert", "a checkpoint in another container, format or with other names",
           [s] { return convert(*s); })
      .option("IN", s->in, "a checkpoint, or the index of its shards", true)
      .option("OUT", s->out, "NAME.safetensors or NAME.gguf", true)
      .option("--format", s->format,
              "of floating-point tensors: F32, F16, BF16, F64, F8_E4M3, F8_E5M2, F4, ... for "
              "safetensors; F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, TQ1_0, TQ2_0, MXFP4 for "
              "GGUF; without it as they are stored")
      .option("--map", s->map, "names of another library into ours: BERT, GPT-2, Llama, ...")
      .option("--shard", s->shard, "the most a file holds: 5GB; written with an index")
      .option("--conversion", s->conversion, "rounding to 4 to 8 bits: torch or ml_dtypes")
      .flag("--as-stored", s->as_stored, "packed weights in their parts, not unpacked");
}

}  // namespace dropin::cli
