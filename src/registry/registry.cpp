#include "dropin/registry/registry.h"

#include "registry/lists.h"

namespace dropin {

void Registry::insert(ComponentInfo c) {
  if (contains(c.name)) fail<OptionError>({"registry: \"", c.name, "\" is registered already"});
  components_.push_back(std::move(c));
}

std::string_view Registry::real_name(std::string_view name) const {
  for (const auto& [alias, real] : aliases_)
    if (alias == name) return real;
  return name;
}

bool Registry::contains(std::string_view given) const {
  const std::string_view name = real_name(given);
  for (const ComponentInfo& c : components_)
    if (c.name == name) return true;
  return false;
}

const ComponentInfo& Registry::find(std::string_view given) const {
  const std::string_view name = real_name(given);
  std::vector<std::string> names;
  for (const ComponentInfo& c : components_) {
    if (c.name == name) return c;
    names.push_back(c.name);
  }
  const std::string near = nearest_name(name, names.data(), names.size());
  std::string all;
  for (const std::string& n : names) all += (all.empty() ? "" : ", ") + n;
  fail<OptionError>({"registry: no component \"", name, "\"; the nearest name is \"", near,
                     "\"; components: ", all});
}

Json sample_options(const ComponentInfo& c) {
  static const Json common = Json::parse(R"({
    "embed_dim": 8, "num_heads": 2, "in_features": 8, "out_features": 6, "normalized_shape": [8], "num_features": 4, "num_groups": 2, "num_channels": 4,
    "in_channels": 4, "out_channels": 4, "channels": 4, "kernel_size": 3, "padding": 1, "output_size": 2, "num_embeddings": 11, "embedding_dim": 8,
    "vocab_size": 11, "num_layers": 1, "max_len": 12})");
  Json o = Json::object();
  for (const FieldInfo& f : c.options)
    if (const Json* v = common.find(f.name); v && !(f.type == "string" && !v->is_string()) &&
                                             !(f.type.rfind("list", 0) == 0 && !v->is_array()))
      o.set(f.name, *v);
  if (c.sample.empty()) return o;
  const Json own = Json::parse(c.sample);
  for (const auto& [k, v] : own.items()) o.set(k, v);
  return o;
}

Registry& registry() {
  static Registry* r = [] {
    auto* fresh = new Registry;
#define X(room) register_##room(*fresh);
    DROPIN_ROOM_LISTS(X)
#undef X
    return fresh;
  }();
  return *r;
}

Box<Module> make(std::string_view name, const Json& options) {
  const ComponentInfo& c = registry().find(name);
  if (!c.make_module)
    fail<OptionError>({"make: ", name, " is ",
                       c.kind == ComponentKind::Function ? "a function" : "an optimizer",
                       ", not a module"});
  return c.make_module(options);
}
Box<Optimizer> make_optimizer(std::string_view name, const Tensors& params, const Json& options) {
  const ComponentInfo& c = registry().find(name);
  if (!c.make_optimizer) fail<OptionError>({"make_optimizer: ", name, " is not an optimizer"});
  return c.make_optimizer(params, options);
}

}  // namespace dropin
