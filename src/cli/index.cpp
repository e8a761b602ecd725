// dropin index: embeddings in files, searched.
#include <fmt/format.h>

#include <filesystem>
#include <memory>

#include "cli/command_line.h"
#include "cli/output.h"
#include "dropin/ops/shape.h"
#include "dropin/registry/registry.h"
#include "dropin/retrieval/vector_index.h"
#include "dropin/serialize/model_file.h"
#include "dropin/serialize/npy.h"

namespace dropin::cli {
namespace {

constexpr int64_t kQueriesAtOnce = 1024;

struct IndexSettings {
  std::string action, file, vectors, queries, ids, fields, tensor, options = "{}", save;
  int64_t k = 0;
  bool json = false;
};

// The array of a .npy file; of a safetensors file the tensor of that name, or the only one.
Tensor read_array(const std::string& path, const std::string& name) {
  if (std::filesystem::path(path).extension() == ".npy") return load_npy(path);
  const StateDict all = load_state_dict(path);
  std::vector<std::string> names;
  for (const auto& [n, t] : all) names.push_back(n);
  if (name.empty() && names.size() == 1) return all.find(names[0]);
  const Tensor t = name.empty() ? Tensor() : all.find(name);
  if (!t.defined())
    fail<OptionError>({"index: ", path, " holds ", names.size(), " tensors",
                       names.empty() ? "" : ", \"", names.empty() ? "" : names[0],
                       names.empty() ? "" : "\" first", "; expected --tensor to name one of them",
                       name.empty() ? "" : ", not \"", name, name.empty() ? "" : "\""});
  return t;
}

Tensor floats(const std::string& path, const std::string& name) {
  const Tensor t = read_array(path, name);
  if (!is_floating(t.dtype()) || t.dim() != 2)
    fail<OptionError>({"index: ", path, " holds ", t.dtype(), " ", t.sizes(),
                       ", expected floating-point numbers [N, E]"});
  return t.to(kFloat32);
}

struct Opened {
  Box<Module> module;
  VectorIndex* index = nullptr;
};
Opened open_index(const std::string& path) {
  Opened r{load(path)};
  r.index = dynamic_cast<VectorIndex*>(r.module.get());
  if (!r.index)
    fail<FileError>({path, ": it holds a ", r.module->type(), ", expected a VectorIndex"});
  return r;
}

void add_documents(VectorIndex& index, const IndexSettings& s) {
  const Tensor vectors = floats(s.vectors, s.tensor);
  Tensor ids = s.ids.empty() ? Tensor() : read_array(s.ids, "");
  if (ids.defined() && is_integral(ids.dtype())) ids = ids.to(kInt64);
  index.add(vectors, ids, s.fields.empty() ? Tensor() : floats(s.fields, ""));
}

int build(const IndexSettings& s) {
  if (s.vectors.empty()) fail<OptionError>({"index ", s.action, ": expected --vectors F"});
  Opened o;
  if (s.action == "build") {
    Json options = Json::parse(s.options);
    if (!options.is_object()) fail<OptionError>({"index: --options ", s.options, " is no object"});
    if (!options.find("dim")) options.set("dim", floats(s.vectors, s.tensor).size(1));
    if (s.k) options.set("k", s.k);
    o.module = make("VectorSearchIndex", options);
    o.index = dynamic_cast<VectorIndex*>(o.module.get());
  } else {
    o = open_index(s.file);
  }
  add_documents(*o.index, s);
  save(*o.module, s.file);
  fmt::print("{}: {} documents\n", s.file, o.index->size());
  return 0;
}

void print_found(const Found& f, int64_t first, bool json) {
  const std::vector<int64_t> ids = f.ids.to_vector<int64_t>();
  const std::vector<double> scores = f.scores.to_vector();
  const int64_t k = f.ids.size(1);
  for (int64_t q = 0; q < f.ids.size(0); ++q) {
    Json found = Json::array(), by = Json::array();
    for (int64_t j = 0; j < k; ++j) {
      const auto place = static_cast<std::size_t>(q * k + j);
      if (ids[place] < 0) break;
      if (!json) fmt::print("{}\t{}\t{}\t{:.7g}\n", first + q, j + 1, ids[place], scores[place]);
      found.push_back(ids[place]);
      by.push_back(scores[place]);
    }
    if (!json) continue;
    Json line = Json::object();
    line.set("query", first + q);
    line.set("ids", found);
    line.set("scores", by);
    print_line(line.dump());
  }
}

int search(const IndexSettings& s) {
  if (s.queries.empty()) fail<OptionError>({"index search: expected --queries F"});
  const Opened o = open_index(s.file);
  const Tensor queries = floats(s.queries, s.tensor);
  SearchArgs args;
  args.k = s.k;
  Tensors ids, scores;
  for (int64_t first = 0; first < queries.size(0); first += kQueriesAtOnce) {
    const Found f = o.index->search(
        queries.narrow(0, first, std::min(kQueriesAtOnce, queries.size(0) - first)), args);
    if (s.save.empty()) print_found(f, first, s.json);
    ids.push_back(f.ids);
    scores.push_back(f.scores);
  }
  if (!s.save.empty() && !ids.empty())
    save_safetensors(s.save, {{"ids", concat(ids)}, {"scores", concat(scores)}});
  finish_output("index: what was found");
  return 0;
}

int run_index(const IndexSettings& s) {
  if (s.action == "search") return search(s);
  if (s.action == "build" || s.action == "add") return build(s);
  fail<OptionError>({"index: \"", s.action, "\", expected build, add or search"});
}

}  // namespace

void add_index(CommandLine& line) {
  auto s = std::make_shared<IndexSettings>();
  line.add("index", "builds an index of embeddings, adds to it, searches it",
           [s] { return run_index(*s); })
      .option("ACTION", s->action, "build, add or search", true)
      .option("INDEX", s->file, "the index's file (safetensors); replaced at once, or not at all",
              true)
      .option("--vectors", s->vectors, "build, add: embeddings [N, E] in .npy or safetensors")
      .option("--ids", s->ids, "build, add: their ids, integers [N]; without: row numbers")
      .option("--fields", s->fields, "build, add: numbers [N, F] that scores may use")
      .option("--options", s->options,
              "build: of VectorSearchIndex, as JSON: {\"metric\": \"dot\", \"storage\": \"i8\"}")
      .option("--queries", s->queries, "search: [Q, E]")
      .option("--k", s->k, "results per query; 0: as the index says")
      .option("--tensor", s->tensor, "which tensor of a safetensors file")
      .option("--save", s->save, "search: ids and scores [Q, k] into this safetensors file")
      .flag("--json", s->json, "search: a JSON object a line: query, ids, scores");
}

}  // namespace dropin::cli
