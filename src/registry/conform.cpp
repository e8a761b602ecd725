// Runs golden cases: a module, function or optimizer on given inputs against expected results.
#include "dropin/registry/conform.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <set>

#include "registry/golden_case.h"

namespace dropin {

using registry_detail::compare;
using registry_detail::GoldenCase;
using registry_detail::read_case;

namespace {

// What to say of an expected tensor that there is none for: the nearest that there is.
std::string no_such(std::string_view name, const std::vector<std::string>& there) {
  if (there.empty()) return "there is no such tensor, nor any other";
  return fmt::format("there is no such tensor; the nearest is \"{}\" of {}",
                     nearest_name(name, there.data(), there.size()), fmt::join(there, ", "));
}
template <class Items>
std::vector<std::string> names_of(const Items& items) {
  std::vector<std::string> r;
  for (const auto& [n, t] : items) r.push_back(n);
  return r;
}

/// "3.0": step 3, parameter 0. StateError on anything else.
std::pair<int64_t, std::size_t> step_and_index(const char* prefix, const std::string& name,
                                               std::size_t params) {
  int64_t step = 0;
  std::size_t index = 0;
  const char *at = name.data(), *end = at + name.size();
  const auto a = std::from_chars(at, end, step);
  const auto b = a.ec == std::errc() && a.ptr != end && *a.ptr == '.'
                     ? std::from_chars(a.ptr + 1, end, index)
                     : std::from_chars_result{at, std::errc::invalid_argument};
  if (b.ec != std::errc() || b.ptr != end || step < 1 || index >= params)
    fail<StateError>({prefix, name, ": expected ", prefix,
                      "<step>.<i> with step from 1 and i below ", params,
                      ", the number of parameters"});
  return {step, index};
}

void run_optimizer(const GoldenCase& c, const Device& device, CaseResult& r) {
  Tensors params;
  for (std::size_t i = 0;; ++i) {
    Tensor p = c.parameters.find(std::to_string(i));
    if (!p.defined()) break;
    params.push_back(p.to(device).clone().requires_grad_());
  }
  if (params.size() != c.parameters.size())
    fail<StateError>({"param.<i> must be numbered from 0 without gaps"});
  Box<Optimizer> optimizer = make_optimizer(c.name, params, c.config);
  std::set<int64_t> given;
  for (const auto& [n, t] : c.step_gradients)
    given.insert(step_and_index("grad.", n, params.size()).first);
  const int64_t steps = static_cast<int64_t>(given.size());
  if (steps && *given.rbegin() != steps)
    fail<StateError>({"grad.<step>.<i>: there are gradients of ", steps,
                      " steps, but the last is step ", *given.rbegin()});
  for (const auto& [n, t] : c.outputs)
    if (step_and_index("output.", n, params.size()).first > steps)
      fail<StateError>({"output.", n, ": the gradients end at step ", steps});
  for (int64_t s = 1; s <= steps; ++s) {
    for (std::size_t i = 0; i < params.size(); ++i) {
      const Tensor g = c.step_gradients.find(fmt::format("{}.{}", s, i));
      params[i].set_grad(g.defined() ? g.to(device).clone() : Tensor());
    }
    optimizer->step();
    for (std::size_t i = 0; i < params.size(); ++i) {
      const std::string n = fmt::format("{}.{}", s, i);
      if (const Tensor want = c.outputs.find(n); want.defined())
        r.checks.push_back(compare("output." + n, params[i], want, c));
    }
  }
}

/// Expected gradients by the module's own names: what loading does to a parameter of another
/// framework's name (a new name, a part, a transpose) is done to its gradient.
NamedTensors own_gradients(const Module& m, const GoldenCase& c) {
  StateDict values, given;  // gradients, and ones where there is one
  NamedTensors r;
  for (const auto& [n, t] : c.parameters) {
    const Tensor g = c.grad_parameters.find(n);
    values.set(n, g.defined() ? g : zeros_like(t));
    given.set(n, full(t.sizes(), g.defined() ? 1 : 0));
  }
  values = m.own_names(values);
  for (const auto& [n, t] : m.own_names(given))
    if (t.numel() && amin(t).item() == 1) r.set(n, values.find(n));
  for (const auto& [n, g] : c.grad_parameters)
    if (!c.parameters.contains(n) || g.numel() == 0) r.set(n, g);
  return r;
}

// Backward from the given gradients, then inputs' and parameters' gradients against the case's.
void check_gradients(const GoldenCase& c, const NamedTensors& outputs, const NamedTensors& inputs,
                     const NamedTensors& wanted,
                     const std::vector<std::pair<std::string, Tensor>>& parameters,
                     const Device& device, CaseResult& r) {
  if (!c.grad_outputs.size()) return;
  Tensors ys, gs;
  for (const auto& [n, g] : c.grad_outputs) {
    const Tensor y = outputs.find(n);
    if (!y.defined()) fail<StateError>({"grad_output.", n, ": ", no_such(n, names_of(outputs))});
    if (!y.requires_grad()) continue;
    ys.push_back(y);
    gs.push_back(g.to(device));
  }
  if (!ys.empty()) backward(ys, gs);
  auto gradient = [](const Tensor& t) {
    return t.grad().defined() ? t.grad() : zeros_like(t);
  };  // took no part: zero
  for (const auto& [n, want] : c.grad_inputs) {
    const Tensor x = inputs.find(n);
    r.checks.push_back(compare("grad_input." + n, x.defined() ? gradient(x) : Tensor(), want, c));
    if (!x.defined()) r.checks.back().detail = no_such(n, names_of(inputs));
  }
  for (const auto& [n, want] : wanted) {
    Tensor p;
    for (const auto& [name, t] : parameters)
      if (name == n) p = t;
    r.checks.push_back(compare("grad_param." + n, p.defined() ? gradient(p) : Tensor(), want, c));
    if (!p.defined()) r.checks.back().detail = no_such(n, names_of(parameters));
  }
}

// A tensor of a kind that this kind of case has no use for would go unchecked.
void refuse_leftovers(const GoldenCase& c) {
  struct Group {
    const char* prefix;
    const NamedTensors& tensors;
    const char* kinds;
  };
  const Group groups[] = {{"param.", c.parameters, "module optimizer"},
                          {"buffer.", c.buffers, "module"},
                          {"input.", c.inputs, "module function"},
                          {"grad_output.", c.grad_outputs, "module function"},
                          {"grad_input.", c.grad_inputs, "module function"},
                          {"grad_param.", c.grad_parameters, "module"},
                          {"grad.", c.step_gradients, "optimizer"}};
  for (const Group& g : groups)
    if (g.tensors.size() && std::string_view(g.kinds).find(c.kind) == std::string_view::npos)
      fail<StateError>({g.prefix, g.tensors.begin()->first, ": a case of kind ", c.kind,
                        " has no use for it; expected kind ", g.kinds});
  if (c.grad_outputs.size() == 0 && c.grad_inputs.size() + c.grad_parameters.size() > 0)
    fail<StateError>({"gradients are expected, but there is no grad_output to compute them from"});
}

// StateError on an input that the component never asked for, with the nearest name it did ask for.
void refuse_unread(const GoldenCase& c, const NamedTensors& inputs) {
  const std::vector<std::string> unread = inputs.unread();
  if (unread.empty()) return;
  const std::vector<std::string>& asked = inputs.asked();
  fail<StateError>({"input.", unread[0], ": ", c.name,
                    " takes no such input; the nearest name is \"",
                    nearest_name(unread[0], asked.data(), asked.size()),
                    "\"; it asked for: ", fmt::format("{}", fmt::join(asked, ", "))});
}

void run_case(const GoldenCase& c, const Device& device, CaseResult& r) {
  refuse_leftovers(c);
  if (c.kind == "optimizer") return run_optimizer(c, device, r);
  const ComponentInfo& info = registry().find(c.name);
  NamedTensors inputs;
  for (const auto& [n, t] : c.inputs) {
    Tensor x = t.to(device);
    if (c.grad_inputs.contains(n)) x = x.detach().requires_grad_();
    inputs.set(n, x);
  }
  NamedTensors outputs, wanted = c.grad_parameters;
  Box<Module> m;
  if (c.kind == "module") {
    m = make(c.name, c.config);
    StateDict state = c.parameters;
    for (const auto& [n, t] : c.buffers) state.set(n, t);
    if (!m->load_state_dict(state).renamed.empty()) wanted = own_gradients(*m, c);
    m->to(device);
    m->train(c.training);
    inputs.watch();
    outputs = m->call(inputs);
  } else {
    if (!info.call) fail<OptionError>({c.name, " is not a function"});
    inputs.watch();
    outputs = info.call(c.config, inputs);
  }
  refuse_unread(c, inputs);
  if (outputs.size() == 1 && (c.outputs.contains("y") || c.grad_outputs.contains("y")))
    outputs.set("y", outputs.begin()->second);  // a single result is also output.y
  for (const auto& [n, want] : c.outputs) {
    r.checks.push_back(compare("output." + n, outputs.find(n), want, c));
    if (!outputs.contains(n)) r.checks.back().detail = no_such(n, names_of(outputs));
  }
  check_gradients(c, outputs, inputs, wanted,
                  m ? m->named_parameters() : std::vector<std::pair<std::string, Tensor>>{}, device,
                  r);
}

}  // namespace

CaseResult conform(const std::string& path, const Device& device, bool skip_unknown) {
  const SafetensorsFile file = load_safetensors(path);
  const GoldenCase c = read_case(path, file);
  CaseResult r;
  r.path = path;
  r.component = c.name;
  if (const std::string* note = file.find_metadata("note")) r.note = *note;
  if (!registry().contains(c.name)) {
    r.error = fmt::format("no component \"{}\" in this build", c.name);
    r.skipped = skip_unknown;
    return r;
  }
  try {
    run_case(c, device, r);
    r.passed = std::all_of(r.checks.begin(), r.checks.end(),
                           [](const TensorCheck& t) { return t.passed; });
    if (r.checks.empty()) {
      r.passed = false;
      r.error = "the case has nothing to compare";
    }
  } catch (const Error& e) {
    r.error = e.what();
  }
  return r;
}

std::vector<std::string> golden_files(const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code error;
  if (fs::is_regular_file(path, error)) return {path};
  if (!fs::is_directory(path, error)) fail<FileError>({path, ": no such file or folder"});
  std::vector<std::string> r;
  for (auto it = fs::recursive_directory_iterator(path, error);
       !error && it != fs::recursive_directory_iterator(); it.increment(error))
    if (it->is_regular_file(error) && it->path().extension() == ".safetensors")
      r.push_back(it->path().string());
  if (r.empty()) fail<FileError>({path, ": no .safetensors files below this folder"});
  std::sort(r.begin(), r.end());
  return r;
}

}  // namespace dropin
