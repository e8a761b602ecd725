// Options of every registered component: the first byte picks one, the rest is JSON. What can be
// made must print options that make it again.
#include "dropin/registry/registry.h"
#include "fuzz.h"

namespace {

/// Sizes a fuzzer thinks of would be refused for want of memory, at best; small ones reach further.
dropin::Json tamed(const dropin::Json& j) {
  using dropin::Json;
  if (j.is_int()) return Json(j.as_int() > 96 || j.as_int() < -96 ? j.as_int() % 97 : j.as_int());
  if (j.is_array()) {
    Json r = Json::array();
    for (std::size_t i = 0; i < j.size() && i < 8; ++i) r.push_back(tamed(j[i]));
    return r;
  }
  if (!j.is_object()) return j;
  Json r = Json::object();
  for (const auto& [key, value] : j.items()) r.set(key, tamed(value));
  return r;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace dropin;
  if (!size) return 0;
  const auto& all = registry().all();
  const ComponentInfo& c = all[data[0] % all.size()];
  try {
    Json options = tamed(Json::parse(fuzz::text(data + 1, size - 1)));
    if (traits_of(c, options).reads_files) return 0;  // its options name folders of this machine
    if (c.slow && c.slow(options)) return 0;
    if (c.kind == ComponentKind::Module) {
      const Box<Module> m = make(c.name, options);
      fuzz::expect(make(c.name, m->options_json())->options_json() == m->options_json(),
                   "options print as options that make the same");
    } else if (c.kind == ComponentKind::Optimizer) {
      Tensor p = zeros({3, 5}).requires_grad_();
      p.set_grad(ones({3, 5}));
      make_optimizer(c.name, {p}, options)->step();
    } else {
      c.call(options, {});
    }
  } catch (const Error&) {
  }
  return 0;
}
