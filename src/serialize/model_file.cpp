#include "dropin/serialize/model_file.h"

#include <optional>

#include "dropin/registry/registry.h"

namespace dropin {

namespace {

constexpr const char* kModelKey = "model";
constexpr const char* kPrefix = "model.";

bool is_checkpoint(const SafetensorsFile& f) {
  const std::string* format = f.find_metadata("format");
  return format && *format == "dropin-checkpoint-1";
}

StateDict model_state(const SafetensorsFile& f) {
  if (!f.unread.empty()) f.get(f.unread[0].name);  // which says why
  const bool checkpoint = is_checkpoint(f);
  const std::string prefix = kPrefix;
  StateDict r;
  r.reserve(f.tensors.size());
  for (const auto& [name, t] : f.tensors)
    if (!checkpoint)
      r.set(name, t);
    else if (name.compare(0, prefix.size(), prefix) == 0)
      r.set(name.substr(prefix.size()), t);
  return r;
}

Json described(const Module& m) {
  Json j = Json::object();
  j.set("type", std::string(m.type()));
  j.set("options", m.options_json());
  return j;
}

// Puts other modules where `modules` says so; parents come before their children.
void exchange_children(Module& model, const Json& modules) {
  for (const auto& [path, wanted] : modules.items()) {
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

StateDict load_state_dict(const std::string& path) { return model_state(load_safetensors(path)); }

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

LoadReport load(Module& model, const std::string& path, bool strict) {
  const SafetensorsFile f = load_safetensors(path);
  if (const std::string* text = f.find_metadata(kModelKey); text && strict)
    check_types(model, *text, path);
  return model.load_state_dict(model_state(f), strict);
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
  const SafetensorsFile f = load_safetensors(path);
  const std::string* text = f.find_metadata(kModelKey);
  if (!text)
    fail<FileError>({path,
                     ": it does not say which model it holds, as save(model, path) writes "
                     "it; expected load(model, path) with a model made before"});
  Box<Module> m;
  try {
    m = build_model(Json::parse(*text));
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
