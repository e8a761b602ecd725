#include "dropin/serialize/model_file.h"

#include <algorithm>
#include <optional>

#include "dropin/registry/registry.h"
#include "dropin/serialize/name_map.h"

namespace dropin {

namespace {

constexpr const char* kModelKey = "model";
constexpr const char* kPrefix = "model.";

std::string note(const StateFile& f, const char* key) {
  const Json* v = f.metadata.find(key);
  return v && v->is_string() ? v->as_string() : "";
}

/// Tensors by name, of a training checkpoint those of the model. What cannot be read (a type that
/// is not known, an integer beyond int64) is named in `unread`, or raised where that is null.
StateDict model_state(const StateFile& f, std::vector<std::string>* unread = nullptr) {
  const bool checkpoint = note(f, "format") == "dropin-checkpoint-1";
  const std::string prefix = checkpoint ? kPrefix : "";
  StateDict r;
  r.reserve(f.tensors.size() + f.aliases.size());
  for (const StoredTensor& t : f.tensors) {
    if (t.name.compare(0, prefix.size(), prefix) != 0) continue;
    const std::string name = t.name.substr(prefix.size());
    try {
      r.set(name, t.read());
    } catch (const FileError&) {
      if (!unread) throw;
      unread->push_back(name);
    }
  }
  for (const auto& [name, kept] : f.aliases)
    if (const Tensor t = r.find(kept); t.defined() && !r.contains(name)) r.set(name, t);
  return r;
}

bool has_child(const Module& model, std::string_view name) {
  for (const auto& [n, child] : model.children())
    if (n == name) return true;
  return false;
}

/// Takes off what programs put around weights.
StateDict unwrapped(StateDict state, const Module& model, std::vector<std::string>& renamed) {
  for (const std::string_view lead :
       {std::string_view("model_state_dict."), std::string_view("state_dict."),
        std::string_view("model."), std::string_view("module."), std::string_view("_orig_mod.")}) {
    if (has_child(model, lead.substr(0, lead.size() - 1))) continue;
    std::vector<std::string> wrapped;
    for (const auto& [name, t] : state)
      if (name.compare(0, lead.size(), lead) == 0) wrapped.push_back(name);
    if (wrapped.empty()) continue;
    // Beside a dict of weights lies what is no weight (an optimizer, a step); "module." is on all.
    StateDict inner;
    inner.reserve(wrapped.size());
    for (const std::string& name : wrapped) {
      inner.set(name.substr(lead.size()), state.take(name));
      renamed.push_back(name + " -> " + name.substr(lead.size()));
    }
    if (lead == "module." || lead == "_orig_mod.")
      for (const auto& [name, t] : state)
        if (!inner.contains(name)) inner.set(name, t);
    state = std::move(inner);
  }
  return state;
}

Json described(const Module& m) {
  Json j = Json::object();
  j.set("type", std::string(m.type()));
  j.set("options", m.options_json());
  return j;
}

// Puts other modules where `modules` says so; parents come before their children.
void exchange_children(Module& model, const Json& modules) {
  for (const auto& entry : modules.items()) {
    const std::string& path = entry.first;
    const Json& wanted = entry.second;
    const std::size_t dot = path.rfind('.');
    const std::string above = dot == std::string::npos ? "" : path.substr(0, dot),
                      name = dot == std::string::npos ? path : path.substr(dot + 1);
    Module *parent = nullptr, *child = nullptr;
    model.apply([&](const std::string& p, Module& m) {
      if (p == above) parent = &m;
      if (p == path) child = &m;
    });
    if (!parent || !child) fail<OptionError>({"there is no module \"", path, "\" to replace"});
    if (described(*child) == wanted) continue;
    const Json *type = wanted.find("type"), *options = wanted.find("options");
    if (!type || !options) fail<OptionError>({"module \"", path, "\" has no type and options"});
    parent->replace_child(name, make(type->as_string(), *options));
  }
}

}  // namespace

Json describe_model(const Module& model) {
  Json r = described(model), modules = Json::object();
  auto list = [&](auto& self, const Module& m, const std::string& above) -> void {
    for (const auto& [name, child] : m.children()) {
      const std::string path = above.empty() ? name : above + "." + name;
      if (registry().contains(child->type())) modules.set(path, described(*child));
      self(self, *child, path);
    }
  };
  list(list, model, "");
  r.set("modules", modules);
  return r;
}

Box<Module> build_model(const Json& description) {
  const Json *type = description.find("type"), *options = description.find("options"),
             *modules = description.find("modules");
  if (!type || !options) fail<OptionError>({"a model's description has no type and options"});
  Box<Module> m = make(type->as_string(), *options);
  if (modules) exchange_children(*m, *modules);
  return m;
}

void save(const Module& model, const std::string& path,
          const std::vector<std::pair<std::string, std::string>>& metadata) {
  auto all = metadata;
  all.emplace_back("format", "dropin-model-1");
  all.emplace_back(kModelKey, describe_model(model).dump());
  save_safetensors(path, model.state_dict(), all);
}

StateDict load_state_dict(const std::string& path) { return model_state(load_state(path)); }

namespace {
// StateError where the model that the file describes has another type at a path of this one: names
// and shapes may agree and mean something else.
void check_types(const Module& model, const std::string& description, const std::string& path) {
  const Json there = Json::parse(description), here = describe_model(model);
  const Json *theirs = there.find("modules"), *ours = here.find("modules");
  if (!theirs || !theirs->is_object()) return;
  for (const auto& [name, module] : theirs->items()) {
    const Json *mine = ours->find(name), *type = module.find("type");
    if (!mine || !type || *mine->find("type") == *type) continue;
    fail<StateError>({"load: ", path, " holds a ", type->as_string(), " at \"", name,
                      "\", the model a ", mine->find("type")->as_string(),
                      "; load(path) builds the model of the file, strict = false takes what fits"});
  }
}
}  // namespace

LoadReport load(Module& model, const StateFile& f, bool strict) {
  if (const std::string text = note(f, kModelKey); !text.empty() && strict)
    check_types(model, text, f.path);
  std::vector<std::string> unread, renamed;
  StateDict state = unwrapped(model_state(f, &unread), model, renamed);
  if (strict && !unread.empty()) f.get(unread[0]);  // which says why
  LoadReport r = model.load_state_dict(state, strict);
  r.renamed.insert(r.renamed.begin(), renamed.begin(), renamed.end());
  r.unexpected.insert(r.unexpected.end(), unread.begin(), unread.end());
  return r;
}

namespace {
/// Names that language models give an output layer, which may be the embedding.
bool is_output_layer(const std::string& name) {
  for (const char* end : {"head.weight", "embed_out.weight", "predictions.decoder.weight"})
    if (name.ends_with(end)) return true;
  return false;
}

/// Takes out an output layer that a model does not have because it is one of its tensors. (Other
/// tensors of equal values are no ties: fresh norms are all ones.)
void drop_tied(StateFile& f, const StateDict& mine, std::vector<std::string>& renamed) {
  for (std::size_t i = f.tensors.size(); i-- > 0;) {
    const StoredTensor& t = f.tensors[i];
    if (mine.contains(t.name) || !is_output_layer(t.name)) continue;
    for (const StoredTensor& other : f.tensors) {
      if (!mine.contains(other.name) || other.shape != t.shape || other.format != t.format ||
          other.raw() != t.raw())
        continue;
      renamed.push_back(t.name + " -> " + other.name + " (the same values)");
      f.tensors.erase(f.tensors.begin() + static_cast<std::ptrdiff_t>(i));
      break;
    }
  }
}
}  // namespace

LoadReport load(Module& model, const std::string& path, bool strict) {
  StateFile f = load_state(path);
  const NameMapChoice choice = guess_name_map(f);
  std::vector<std::string> renamed;
  // A map for this type of model, where none of the file's names is one of the model's.
  const StateDict mine = model.state_dict();
  if (!choice.name.empty() && name_map(choice.name).model == model.type()) {
    const bool known = std::any_of(f.tensors.begin(), f.tensors.end(),
                                   [&](const StoredTensor& t) { return mine.contains(t.name); });
    if (!known) {
      for (const auto& [theirs, ours] : map_names(f, choice.name).renamed)
        renamed.push_back(theirs + " -> " + ours);
      std::erase_if(f.aliases, [&](const auto& a) { return !mine.contains(a.first); });
    }
  }
  drop_tied(f, mine, renamed);
  LoadReport r = load(model, f, strict);
  r.renamed.insert(r.renamed.begin(), renamed.begin(), renamed.end());
  return r;
}

namespace {
// The dtype of all floating-point tensors of a state; float32 where they differ.
DType common_dtype(const StateDict& state) {
  std::optional<DType> common;
  for (const auto& [name, t] : state)
    if (is_floating(t.dtype())) {
      if (common && *common != t.dtype()) return kFloat32;
      common = t.dtype();
    }
  return common.value_or(kFloat32);
}
}  // namespace

Box<Module> load(const std::string& path) {
  const StateFile f = load_state(path);
  const std::string text = note(f, kModelKey);
  if (text.empty())
    fail<FileError>({path,
                     ": it does not say which model it holds, as save(model, path) writes "
                     "it; expected load(model, path) with a model made before"});
  Box<Module> m;
  try {
    m = build_model(Json::parse(text));
    const StateDict state = model_state(f);
    m->to(common_dtype(state));
    m->load_state_dict(state);
  } catch (const Error& e) {
    fail<FileError>({path, ": ", e.what()});
  }
  m->eval();
  return m;
}

}  // namespace dropin
