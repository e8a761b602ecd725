#include "evidence/cases.h"

#include <algorithm>
#include <memory>

namespace dropin::evidence {
namespace {

// Options of size i: those that swap() would give in place of the standard member, then what the
// family has for everyone.
Json options_of(const ComponentInfo& c, int i, const ComponentInfo* standard) {
  const FamilyInfo& family = registry().family(c);
  const Json values = family.options ? family.options(i + 1) : Json::object();
  Json o = Json::object();
  if (standard && standard->make_module && c.make_module) {
    const Json theirs = standard->make_module(sample_options(*standard, i + 1))->options_json();
    const Json given = replacing_options(*standard, theirs, values, c);
    for (const FieldInfo& f : c.options)  // a name may mean a number here and a word there
      if (const Json* v = given.find(f.name); v && (f.type != "string" || v->is_string()))
        o.set(f.name, *v);
  }
  fill_options(o, c, values);
  return o;
}

std::string label_of(const FamilyInfo& family, const Shape& x) {
  if (family.label) return family.label(x);
  std::string s;
  for (int64_t n : x) s += (s.empty() ? "" : "x") + std::to_string(n);
  return "x:" + s;
}
double bytes_of(const Tensor& t) {
  return t.defined() ? static_cast<double>(t.numel() * item_size(t.dtype())) : 0;
}
double bytes_of(const NamedTensors& all) {
  double n = 0;
  for (const auto& [name, t] : all) n += bytes_of(t);
  return n;
}

// A device's kernels may still run when a call returns; reading a value waits for them.
void wait(const Tensor& t) {
  if (t.defined() && !(t.device() == kCPU) && t.numel()) t.reshape({-1}).narrow(0, 0, 1).to(kCPU);
}

NamedTensors on(const Device& device, const NamedTensors& given) {
  NamedTensors r;
  for (const auto& [name, t] : given) r.set(name, t.to(device));
  return r;
}

// "y", or the first floating result.
Tensor result_of(const NamedTensors& out) {
  if (out.contains("y")) return out.find("y");
  for (const auto& [name, t] : out)
    if (is_floating(t.dtype())) return t;
  return out.begin()->second;
}

// One module of the case, from the same seed each time.
std::shared_ptr<Module> made(const ComponentInfo& c, const Json& options, const Device& device,
                             bool train) {
  manual_seed(1);
  const std::shared_ptr<Module> m(c.make_module(options).release());
  m->train(train);
  m->to(device);
  return m;
}

// Forward and backward; parameters are as after an optimizer's step.
Call backward_call(const std::shared_ptr<Module>& m, const NamedTensors& inputs,
                   const std::string& main, const Tensor& gradient) {
  return [m, inputs, leaf = inputs.find(main), gradient, parameters = m->parameters()] {
    if (leaf.requires_grad()) leaf.set_grad({});
    for (const Tensor& p : parameters) {
      p.set_grad({});
      p.bump_version();
    }
    result_of(m->call(inputs)).backward(gradient);
    wait(leaf.requires_grad() ? leaf.grad() : Tensor());
  };
}

Case module_case(const ComponentInfo& c, int i, const ComponentInfo* standard, const Json& changes,
                 const Device& device) {
  const FamilyInfo& family = registry().family(c);
  Case r;
  r.options = options_of(c, i, standard).with(changes);
  const std::shared_ptr<Module> still = made(c, r.options, device, false),
                                learning = made(c, r.options, device, true);
  const Sample sample = sample_inputs(c, learning->options_json(), {.size = i + 1, .seed = 2});
  NamedTensors inputs = on(device, sample.inputs);
  const Tensor x = inputs.find(sample.main());
  r.x = x.sizes();
  r.size = label_of(family, r.x);
  r.forward = [still, inputs] {
    no_grad guard;
    wait(result_of(still->call(inputs)));
  };
  Tensor y;
  {
    no_grad guard;
    y = result_of(still->call(inputs));
  }
  const Tensor leaf = is_floating(x.dtype()) ? x.detach().requires_grad_() : x;
  inputs.set(sample.main(), leaf);
  manual_seed(3);
  const Tensor g = randn(y.sizes()).to(device);  // not ones: a norm would answer them with 0
  Workload load{.x = x, .y = y};
  bool any = leaf.requires_grad();
  for (const Tensor& p : learning->parameters()) {
    load.weight_bytes += bytes_of(p);
    any = any || p.requires_grad();
  }
  any = any && result_of(learning->call(inputs)).requires_grad();
  if (any) {
    r.both = backward_call(learning, inputs, sample.main(), g);
    r.both();
    for (const Tensor& p : learning->parameters())  // what no gradient reached took no part
      if (p.dim() >= 2 && p.grad().defined()) load.used_weights += static_cast<double>(p.numel());
  }
  const Work work =
      c.work ? c.work(load)
      : family.work
          ? family.work(load)
          : work_of_places(load, static_cast<double>(x.numel() / std::max<int64_t>(1, x.size(-1))));
  const double core = c.core_flops ? c.core_flops(learning->options_json(), r.x) : 0;
  r.flops = work.flops + core;
  r.both_flops = work.both_flops + 3 * core;
  r.bytes = y.data_ptr() == x.data_ptr() ? 0 : work.bytes;  // 0: x itself is the answer
  r.both_bytes = work.both_bytes;
  r.kept_bytes = load.weight_bytes;
  r.options = learning->options_json();
  r.module = learning;
  r.input = leaf;
  r.gradient = g;
  return r;
}

Case optimizer_case(const ComponentInfo& c, int i, const Json& changes, const Device& device) {
  Case r;
  const Sample sample = sample_inputs(c, Json::object(), {.size = i + 1, .seed = 1});
  const Tensor p = sample.inputs.find(sample.main()).to(device).requires_grad_();
  const auto n = static_cast<double>(p.numel());
  r.x = p.sizes();
  r.size = label_of(registry().family(c), r.x);
  r.forward_name = "step";
  manual_seed(1);
  p.set_grad(randn(p.sizes()).to(device));
  r.options = Json::object();
  for (const FieldInfo& f : c.options)
    if (f.name == "lr")
      r.options.set("lr", 1e-6);
    else if (f.name == "momentum")
      r.options.set("momentum", 0.9);
  r.options = r.options.with(changes);
  const std::shared_ptr<Optimizer> o(c.make_optimizer({p}, r.options).release());
  r.input = p.detach().clone();
  r.gradient = p.grad();
  o->step();
  r.forward = [o, p] {
    o->step();
    wait(p);
  };
  r.kept_bytes = static_cast<double>(o->state_bytes());
  r.bytes = 12 * n + 2 * r.kept_bytes;  // p and the state read and written, the gradient read
  return r;
}

Case function_case(const ComponentInfo& c, int i, const Json& changes, const Device& device) {
  Case r;
  r.options = Json::parse(c.sample.empty() ? "{}" : c.sample).with(changes);
  const Sample sample = sample_inputs(c, r.options, {.size = i + 1, .seed = 1});
  const NamedTensors in = on(device, sample.inputs);
  const int64_t values = in.size() ? in.find(sample.main()).numel() : 0;
  r.size = "n:" + std::to_string(sample.count >= 0 ? sample.count : values);
  r.forward_name = "call";
  auto call = [&c, options = r.options, in] {
    no_grad guard;
    return c.call(options, in);
  };
  const NamedTensors out = call();
  r.bytes = bytes_of(in) + bytes_of(out);
  for (const auto& [n1, a] : in)
    for (const auto& [n2, b] : out)
      if (a.numel() && b.data_ptr() == a.data_ptr()) r.bytes = 0;  // the input itself is the answer
  r.forward = [call] {
    const NamedTensors out = call();
    if (out.size()) wait(out.begin()->second);
  };
  return r;
}

}  // namespace

int sizes_of(const ComponentInfo& c) { return registry().family(c).sizes; }

std::string label_of(const ComponentInfo& c, int i) {
  const FamilyInfo& family = registry().family(c);
  if (!family.label || !family.inputs || c.inputs) return "";
  const Sample s = family.inputs(sample_options(c, i + 1), {.size = i + 1, .batch = 0});
  return family.label(s.inputs.begin()->second.sizes());
}

Case make_case(const ComponentInfo& c, int i, const ComponentInfo* standard, const Json& changes,
               const Device& device) {
  if (c.kind == ComponentKind::Optimizer) return optimizer_case(c, i, changes, device);
  if (c.kind == ComponentKind::Function) return function_case(c, i, changes, device);
  return module_case(c, i, standard, changes, device);
}

const ComponentInfo* standard_of(const ComponentInfo& c) {
  if (!c.replaces.empty() && registry().contains(c.replaces) &&
      registry().find(c.replaces).kind == c.kind)
    return &registry().find(c.replaces);
  if (c.kind == ComponentKind::Function) return nullptr;
  for (const ComponentInfo& other : registry().all())  // the first that replaces nothing
    if (other.family == c.family && other.kind == c.kind && other.replaces.empty())
      return other.name == c.name ? nullptr : &other;
  return nullptr;
}

}  // namespace dropin::evidence
