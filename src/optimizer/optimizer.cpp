#include "dropin/optimizer/optimizer.h"

#include <fmt/format.h>

#include <cmath>
#include <numbers>
#include <optional>
#include <unordered_map>
#include <unordered_set>

#include "dropin/autograd/swap_note.h"
#include "dropin/dispatch/dispatch.h"
#include "kernels/optim/kernel.h"
#include "optimizer/common.h"

namespace dropin {

// --- groups and options

void Optimizer::append_group(const Tensors& params, Json options) {
  std::unordered_map<const TensorImpl*, std::size_t> numbers;
  std::size_t i = 0;
  for (const ParamGroup& g : groups_)
    for (const Tensor& p : g.params) numbers.emplace(p.impl(), i++);
  const std::size_t held = i;
  for (const Tensor& p : params) {
    if (!p.defined()) fail<OptionError>({type(), ": parameter ", i, " is undefined"});
    if (!is_floating(p.dtype()))
      fail<DTypeError>(
          {type(), ": parameter ", i, " is ", p.dtype(), ", expected a floating-point type"});
    if (!p.is_leaf())
      fail<OptionError>({type(), ": parameter ", i, " is a result, expected a leaf of the tape"});
    const auto [at, is_new] = numbers.emplace(p.impl(), i);
    if (!is_new)
      fail<OptionError>({type(), ": parameter ", i, " is the same tensor as parameter ", at->second,
                         at->second < held ? "; a parameter is in more than one group"
                                           : ", which is in the same group"});
    ++i;
  }
  ParamGroup g{params, std::move(options)};
  if (const Json* lr = g.options.find("lr"); lr && lr->is_number()) g.initial_lr = lr->as_double();
  groups_.push_back(std::move(g));
  states_.resize(i);
  group_changed(groups_.size() - 1);
}

void Optimizer::add_first_group(const Tensors& params, const Json& options) {
  if (params.empty()) fail<OptionError>({type(), ": no parameters to optimize"});
  swaps_seen_ = swaps_so_far();
  append_group(params, options);
}

void Optimizer::add_param_group(const Tensors& params, const Json& changes) {
  append_group(params, check_options(Json(), changes));
  swaps_seen_ = swaps_so_far();
}

void Optimizer::check_group(std::size_t group, const char* who) const {
  DROPIN_CHECK(group < groups_.size(), OptionError, type(), ": ", who, ": there is no group ",
               group, ", only ", groups_.size());
}

void Optimizer::set_options(std::size_t group, const Json& changes) {
  check_group(group, "set_options");
  ParamGroup& g = groups_[group];
  const Json all = check_options(g.options, changes), before = g.options;
  std::size_t i = 0;
  for (std::size_t k = 0; k < group; ++k) i += groups_[k].params.size();
  std::vector<NamedTensors> states;  // with the notes of the options until now
  for (std::size_t j = 0; j < g.params.size(); ++j) {
    states.push_back(states_[i + j].state);
    for (const auto& [n, t] : state_notes(group, g.params[j], states[j])) states[j].set(n, t);
  }
  g.options = all;
  try {
    group_changed(group);
    for (std::size_t j = 0; j < g.params.size(); ++j)
      if (states[j].size() > 0) check_state(group, g.params[j], i + j, states[j]);
  } catch (...) {
    g.options = before;
    group_changed(group);
    throw;
  }
  if (const Json* lr = changes.find("lr")) g.initial_lr = lr->as_double();
}

// One rate per group; all are checked before the first is set.
void Optimizer::set_rates(const std::vector<double>& rates) {
  std::vector<Json> options;
  for (std::size_t k = 0; k < rates.size(); ++k) {
    Json change = Json::object();
    change.set("lr", rates[k]);
    options.push_back(check_options(groups_[k].options, change));
  }
  for (std::size_t k = 0; k < rates.size(); ++k) {
    groups_[k].options = std::move(options[k]);
    group_changed(k);
  }
}

void Optimizer::set_lr(std::size_t group, double lr) {
  check_group(group, "set_lr");
  std::vector<double> rates;
  for (std::size_t k = 0; k < groups_.size(); ++k) rates.push_back(k == group ? lr : this->lr(k));
  set_rates(rates);
}

void Optimizer::scale_lr(double factor) {
  std::vector<double> rates;
  for (const ParamGroup& g : groups_) rates.push_back(g.initial_lr * factor);
  set_rates(rates);
}

void Optimizer::set_lr(double lr) {
  const double first = groups_[0].initial_lr;
  std::vector<double> rates;
  for (const ParamGroup& g : groups_) {
    DROPIN_CHECK(g.initial_lr == first || first != 0, OptionError, type(),
                 ": set_lr: the first group began with lr 0 and others did not; set each group's "
                 "by set_lr(group, lr)");
    rates.push_back(g.initial_lr == first ? lr : lr * (g.initial_lr / first));
  }
  set_rates(rates);
}

double Optimizer::lr(std::size_t group) const {
  check_group(group, "lr");
  double v = 0;
  if (const Json* j = groups_[group].options.find("lr")) detail::field_from_json(*j, v);
  return v;
}

void Optimizer::accept_swap() { swaps_seen_ = swaps_so_far(); }

// --- the step

void Optimizer::check_ready(std::size_t i, const Tensor& p) const {
  if (const auto note = swap_note(p); note && note->number > swaps_seen_)
    fail<StateError>({type(), ": parameter ", i, " ", note->text,
                      "; make the optimizer after the swap, or tell this one: add_param_group for "
                      "new parameters, or accept_swap()"});
  const Tensor g = p.grad();
  if (!g.defined()) return;
  if (!is_floating(p.dtype()))
    fail<DTypeError>(
        {type(), ": parameter ", i, " has become ", p.dtype(), ", expected a floating-point type"});
  if (!(g.device() == p.device()))
    fail<DeviceError>({type(), ": parameter ", i, " is on ", p.device().str(),
                       " and its gradient on ", g.device().str()});
  const Held& h = states_[i];
  if (h.state.size() > 0 && !(h.sizes == p.sizes()))
    fail<StateError>({type(), ": parameter ", i, " is ", p.sizes(), " now, its state is of ",
                      h.sizes, "; make a new optimizer"});
}

// The state of a parameter that module.to() has moved since, as it belongs to the parameter now.
NamedTensors Optimizer::followed(std::size_t k, std::size_t i, const Tensor& p) const {
  const NamedTensors want = first_state(k, i, p);
  NamedTensors r;
  for (const auto& [n, t] : states_[i].state) {
    const Tensor w = want.find(n);
    const bool convert = is_floating(t.dtype());
    if (w.defined())
      r.set(n, convert && is_floating(w.dtype()) ? t.to(w.dtype(), w.device()) : t.to(w.device()));
    else if (t.sizes() == p.sizes() && p.dim() > 0)  // of an option that is off at present
      r.set(n, convert ? t.to(detail::step_dtype(p.dtype()), p.device()) : t.to(p.device()));
    else
      r.set(n, t);
  }
  return r;
}

void Optimizer::step() {
  no_grad guard;
  std::vector<NamedTensors> made(
      states_.size());  // what needs memory comes first: without it, nothing has changed
  std::size_t i = 0;
  for (std::size_t k = 0; k < groups_.size(); ++k) {
    group_changed(k);
    for (const Tensor& p : groups_[k].params) {
      check_ready(i, p);
      const Held& h = states_[i];
      check_update(k, i, p, p.grad(), h.state);
      if (p.grad().defined()) {
        if (h.state.size() == 0)
          made[i] = first_state(k, i, p);
        else if (h.options.dtype != p.dtype() || !(h.options.device == p.device()))
          made[i] = followed(k, i, p);
      }
      ++i;
    }
  }
  i = 0;
  for (std::size_t k = 0; k < groups_.size(); ++k)
    for (const Tensor& p : groups_[k].params) {
      if (const Tensor g = p.grad(); g.defined()) {
        Held& h = states_[i];
        const bool first = h.state.size() == 0;
        if (first || made[i].size() > 0) h = {std::move(made[i]), p.options(), p.sizes()};
        update(k, i, p, g.to(p.dtype()).contiguous(), h.state, first);
        p.bump_version();
      }
      ++i;
    }
}

Tensor Optimizer::step(const std::function<Tensor()>& closure) {
  DROPIN_CHECK(closure, OptionError, type(), ": step: the closure is empty");
  Tensor loss;
  {
    enable_grad guard;
    loss = closure();
  }
  step();
  return loss;
}

void Optimizer::zero_grad() {
  for (const ParamGroup& g : groups_)
    for (const Tensor& p : g.params) p.set_grad({});
}

// --- what is saved

namespace {

constexpr std::string_view kGroups = "param_groups.";

Tensor bytes_of(const std::string& text) {
  Tensor t = empty({static_cast<int64_t>(text.size())}, kUInt8);
  std::copy(text.begin(), text.end(), t.data<std::uint8_t>());
  return t;
}

// An option as an entry of a state_dict, and back.
Tensor option_to_tensor(const Json& v) {
  if (v.is_bool()) return full({}, v.as_bool(), kBool);
  if (v.is_int()) {
    Tensor t = empty({}, kInt64);
    *t.data<int64_t>() = v.as_int();
    return t;
  }
  if (v.is_double()) return scalar(v.as_double(), kFloat64);
  bool numbers = v.is_array() && v.size() > 0;
  std::vector<double> values;
  for (std::size_t i = 0; numbers && i < v.size(); ++i) {
    numbers = v[i].is_number();
    if (numbers) values.push_back(v[i].as_double());
  }
  return numbers ? tensor(values, kFloat64) : bytes_of(v.dump());
}

Json option_from_tensor(const Tensor& t_in) {
  const Tensor t = t_in.detach().to(kCPU).contiguous();
  if (t.dim() == 1 && t.dtype() == kUInt8) {
    const auto* bytes = t.data<std::uint8_t>();
    return Json::parse(std::string(bytes, bytes + t.numel()));
  }
  DROPIN_CHECK(t.dim() <= 1, OptionError, "an option is ", t.sizes(),
               ", expected a number or a list of numbers");
  if (t.dim() == 1) {
    Json list = Json::array();
    for (const double v : t.to_vector()) list.push_back(Json(v));
    return list;
  }
  if (t.dtype() == kBool) return Json(t.item<bool>());
  if (t.dtype() == kInt64) return Json(*t.data<int64_t>());
  return is_floating(t.dtype()) ? Json(t.item()) : Json(t.item<int64_t>());
}

// Switches of torch's own implementations in its param_groups, which change no number.
bool is_torch_switch(std::string_view option) {
  for (const char* s :
       {"foreach", "fused", "capturable", "differentiable", "decoupled_weight_decay"})
    if (option == s) return true;
  return false;
}

/// "<number>.<rest>" of an entry's name, from `at` on.
struct Numbered {
  std::size_t number = 0;
  std::string rest;
};
std::optional<Numbered> numbered(const std::string& name, std::size_t at) {
  const std::size_t dot = name.find('.', at);
  if (dot == std::string::npos || dot == at || dot - at > 9 ||
      name.find_first_not_of("0123456789", at) != dot)
    return {};
  return Numbered{std::stoul(name.substr(at, dot - at)), name.substr(dot + 1)};
}

}  // namespace

StateDict Optimizer::state_dict() const {
  StateDict s;
  std::size_t entries = 0, i = 0;
  for (const Held& h : states_) entries += h.state.size();
  s.reserve(entries);
  for (std::size_t k = 0; k < groups_.size(); ++k)
    for (const Tensor& p : groups_[k].params) {
      for (const auto& [n, t] : states_[i].state) s.set(fmt::format("state.{}.{}", i, n), t);
      for (const auto& [n, t] : state_notes(k, p, states_[i].state))
        s.set(fmt::format("state.{}.{}", i, n), t);
      ++i;
    }
  int64_t first = 0;
  for (std::size_t k = 0; k < groups_.size(); ++k) {
    const ParamGroup& g = groups_[k];
    for (const auto& [n, v] : g.options.items())
      s.set(fmt::format("{}{}.{}", kGroups, k, n), option_to_tensor(v));
    const auto count = static_cast<int64_t>(g.params.size());
    s.set(fmt::format("{}{}.initial_lr", kGroups, k), scalar(g.initial_lr, kFloat64));
    s.set(fmt::format("{}{}.params", kGroups, k),
          arange(static_cast<double>(first), static_cast<double>(first + count)));
    first += count;
  }
  return s;
}

// The groups with the options of a state; the present ones when it has none.
std::vector<ParamGroup> Optimizer::restored_groups(const StateDict& state) const {
  std::vector<Json> changes;
  std::vector<int64_t> counts;
  std::vector<std::optional<double>> initial;
  for (const auto& [n, t] : state) {
    if (n.rfind(kGroups, 0) != 0) continue;
    const auto at = numbered(n, kGroups.size());
    DROPIN_CHECK(at, StateError, type(), ": unexpected entry \"", n, "\"");
    // beyond any honest number of groups, a name must not decide how much is allocated
    DROPIN_CHECK(at->number < state.size(), StateError, type(), ": \"", n, "\" is of group ",
                 at->number, ", and not all before it are there");
    if (changes.size() <= at->number) {
      changes.resize(at->number + 1, Json::object());
      counts.resize(at->number + 1, -1);
      initial.resize(at->number + 1);
    }
    try {
      if (at->rest == "params")
        counts[at->number] = t.numel();
      else if (at->rest == "initial_lr")
        initial[at->number] = t.item();
      else if (!is_torch_switch(at->rest))
        changes[at->number].set(at->rest, option_from_tensor(t));
    } catch (const Error& e) {
      fail<StateError>({type(), ": ", n, ": ", e.what()});
    }
  }
  std::vector<ParamGroup> groups = groups_;
  if (changes.empty()) return groups;
  auto sizes = [](const auto& list, auto size) {
    std::string s;
    for (const auto& x : list) s += (s.empty() ? "" : ", ") + std::to_string(size(x));
    return s;
  };
  bool fits = changes.size() == groups.size();
  for (std::size_t k = 0; fits && k < groups.size(); ++k)
    fits = counts[k] == static_cast<int64_t>(groups[k].params.size());
  if (!fits)
    fail<StateError>({type(), ": the state has ", changes.size(), " parameter groups (of ",
                      sizes(counts, [](int64_t c) { return c; }),
                      " parameters; -1: no params entry), ", "this optimizer ", groups.size(),
                      " (of ", sizes(groups, [](const ParamGroup& g) { return g.params.size(); }),
                      ")"});
  for (std::size_t k = 0; k < groups.size(); ++k) {
    try {
      groups[k].options = check_options(groups[k].options, changes[k]);
    } catch (const Error& e) {
      fail<StateError>({type(), ": ", kGroups, k, ": ", e.what()});
    }
    if (initial[k])
      groups[k].initial_lr = *initial[k];
    else if (const Json* lr = changes[k].find("lr"))
      groups[k].initial_lr = lr->as_double();
  }
  return groups;
}

// The states of a state_dict by number, checked against the groups' options as they are now.
std::vector<NamedTensors> Optimizer::restored_states(const StateDict& state) const {
  std::vector<NamedTensors> fresh(states_.size());
  for (const auto& [n, t] : state) {
    if (n.rfind(kGroups, 0) == 0) continue;
    const auto at = n.rfind("state.", 0) == 0 ? numbered(n, 6) : std::nullopt;
    if (!at || at->number >= states_.size())
      fail<StateError>(
          {type(), ": unexpected entry \"", n, "\" for ", states_.size(), " parameters"});
    fresh[at->number].set(at->rest, t.detach());
  }
  std::size_t i = 0;
  for (std::size_t k = 0; k < groups_.size(); ++k)
    for (const Tensor& p : groups_[k].params) {
      check_state(k, p, i, fresh[i]);
      const NamedTensors want = fresh[i].size() > 0 ? first_state(k, i, p) : NamedTensors();
      for (const auto& [n, t] : want)
        if (!fresh[i].contains(n)) fail<StateError>({type(), ": state.", i, ".", n, " is missing"});
      NamedTensors mine;
      for (const auto& [n, t] : fresh[i]) {
        // Counts and norms are read by the host at every step; what is as large as a parameter
        // lives beside it.
        const Tensor w = want.find(n);
        const bool on_host = n == "step" || n == "gnorm_vec";
        Tensor value = t.to(on_host ? kCPU : p.device());
        if (w.defined() && is_floating(w.dtype()) && is_floating(value.dtype()))
          value = value.to(w.dtype());
        mine.set(n, value.impl()->storage == t.impl()->storage ? value.clone() : value);
      }
      fresh[i++] = std::move(mine);
    }
  return fresh;
}

void Optimizer::check_state(std::size_t k, const Tensor& p, std::size_t i,
                            NamedTensors& state) const {
  if (state.size() == 0) return;
  for (const auto& [n, want] : first_state(k, i, p)) {
    const Tensor t = state.find(n);
    if (!t.defined()) continue;
    if (want.dim() == 0 && t.numel() == 1) {
      state.set(n, t.reshape({}));
      continue;
    }
    DROPIN_CHECK(t.sizes() == want.sizes(), StateError, type(), ": state.", i, ".", n, " is ",
                 t.sizes(), ", expected ", want.sizes());
    DROPIN_CHECK(is_floating(t.dtype()) == is_floating(want.dtype()), StateError, type(),
                 ": state.", i, ".", n, " is ", t.dtype(), ", expected ", want.dtype());
  }
}

void Optimizer::load_state_dict(const StateDict& state) {
  std::vector<ParamGroup> groups = restored_groups(state);
  std::vector<NamedTensors> fresh;
  std::swap(groups_, groups);
  try {
    for (std::size_t k = 0; k < groups_.size(); ++k) group_changed(k);
    fresh = restored_states(state);
  } catch (...) {
    std::swap(groups_, groups);
    for (std::size_t k = 0; k < groups_.size(); ++k) group_changed(k);
    throw;
  }
  std::size_t i = 0;
  for (const ParamGroup& g : groups_)
    for (const Tensor& p : g.params) {
      states_[i] = {std::move(fresh[i]), p.options(), p.sizes()};
      ++i;
    }
}

bool Optimizer::holds(const Tensor& p, bool* has_state) const {
  std::size_t i = 0;
  for (const ParamGroup& g : groups_)
    for (const Tensor& q : g.params) {
      if (q.is_same(p)) {
        *has_state = states_[i].state.size() > 0;
        return true;
      }
      ++i;
    }
  return false;
}

int64_t Optimizer::state_bytes() const {
  int64_t n = 0;
  for (const Held& h : states_)
    for (const auto& [name, t] : h.state) n += t.numel() * item_size(t.dtype());
  return n;
}

// --- SGD

void SGD::check(const SGDOptions& o) {
  DROPIN_CHECK(o.lr >= 0, OptionError, "SGD: lr is ", o.lr, ", expected at least 0");
  DROPIN_CHECK(o.momentum >= 0, OptionError, "SGD: momentum is ", o.momentum,
               ", expected at least 0");
  DROPIN_CHECK(o.weight_decay >= 0, OptionError, "SGD: weight_decay is ", o.weight_decay,
               ", expected at least 0");
  DROPIN_CHECK(!o.nesterov || (o.momentum > 0 && o.dampening == 0), OptionError,
               "SGD: nesterov needs a momentum and no dampening");
}

namespace {

using detail::state_like;
using detail::step_dtype;
using detail::update_as;

NamedTensors adam_start(const Tensor& p, bool amsgrad) {
  NamedTensors state{
      {"step", zeros({}, kFloat32)}, {"exp_avg", state_like(p)}, {"exp_avg_sq", state_like(p)}};
  if (amsgrad) state.set("max_exp_avg_sq", state_like(p));
  return state;
}

void adam(const Tensor& p, const Tensor& g_in, NamedTensors& state, double lr,
          const std::vector<double>& betas, double eps, double decay, bool amsgrad, bool maximize,
          bool decoupled) {
  if (amsgrad && !state.contains("max_exp_avg_sq")) state.set("max_exp_avg_sq", state_like(p));
  Tensor count = state.find("step");
  const auto step = static_cast<int64_t>(count.item()) + 1;
  const DType dtype = step_dtype(p.dtype());
  const Tensor g = g_in.to(dtype);
  update_as(dtype, p, [&](const Tensor& t) {
    run<kernels::adam_step>(p.device(),
                            kernels::AdamStep{.lr = lr,
                                              .beta1 = betas[0],
                                              .beta2 = betas[1],
                                              .eps = eps,
                                              .weight_decay = decay,
                                              .decoupled = decoupled,
                                              .maximize = maximize,
                                              .step = step},
                            t.out(), g.in(), state.find("exp_avg").out(),
                            state.find("exp_avg_sq").out(),
                            amsgrad ? state.find("max_exp_avg_sq").out() : abi::TensorOut{});
  });
  count.fill_(static_cast<double>(step));
}

void check_adam(const char* who, double lr, const std::vector<double>& betas, double eps,
                double decay) {
  DROPIN_CHECK(lr >= 0, OptionError, who, ": lr is ", lr, ", expected at least 0");
  DROPIN_CHECK(betas.size() == 2, OptionError, who, ": betas has ", betas.size(),
               " values, expected 2");
  for (double b : betas)
    DROPIN_CHECK(b >= 0 && b < 1, OptionError, who, ": beta ", b, " is not in 0 <= beta < 1");
  DROPIN_CHECK(eps >= 0, OptionError, who, ": eps is ", eps, ", expected at least 0");
  DROPIN_CHECK(decay >= 0, OptionError, who, ": weight_decay is ", decay, ", expected at least 0");
}

}  // namespace

NamedTensors SGD::start(const SGDOptions& o, const Tensor& p) const {
  return o.momentum != 0 ? NamedTensors{{"momentum_buffer", state_like(p)}} : NamedTensors{};
}
void SGD::update_one(const SGDOptions& o, const Tensor& p, const Tensor& g_in, NamedTensors& state,
                     bool first) {
  const Tensor buffer = state.find("momentum_buffer");
  const DType dtype = step_dtype(p.dtype());
  const Tensor g = g_in.to(dtype);
  update_as(dtype, p, [&](const Tensor& t) {
    run<kernels::sgd_step>(p.device(),
                           kernels::SgdStep{.lr = o.lr,
                                            .momentum = o.momentum,
                                            .dampening = o.dampening,
                                            .weight_decay = o.weight_decay,
                                            .nesterov = o.nesterov,
                                            .maximize = o.maximize,
                                            .first = first},
                           t.out(), g.in(), o.momentum != 0 ? buffer.out() : abi::TensorOut{});
  });
}

void Adam::check(const AdamOptions& o) { check_adam("Adam", o.lr, o.betas, o.eps, o.weight_decay); }
NamedTensors Adam::start(const AdamOptions& o, const Tensor& p) const {
  return adam_start(p, o.amsgrad);
}
void Adam::update_one(const AdamOptions& o, const Tensor& p, const Tensor& g, NamedTensors& s,
                      bool) {
  adam(p, g, s, o.lr, o.betas, o.eps, o.weight_decay, o.amsgrad, o.maximize, false);
}
void AdamW::check(const AdamWOptions& o) {
  check_adam("AdamW", o.lr, o.betas, o.eps, o.weight_decay);
}
NamedTensors AdamW::start(const AdamWOptions& o, const Tensor& p) const {
  return adam_start(p, o.amsgrad);
}
void AdamW::update_one(const AdamWOptions& o, const Tensor& p, const Tensor& g, NamedTensors& s,
                       bool) {
  adam(p, g, s, o.lr, o.betas, o.eps, o.weight_decay, o.amsgrad, o.maximize, true);
}

// --- helpers

double clip_grad_norm_(const Tensors& params, double max_norm) {
  no_grad guard;
  std::unordered_set<const TensorImpl*> seen;
  Tensors grads;
  for (const Tensor& p : params)
    if (Tensor g = p.grad(); g.defined() && seen.insert(p.impl()).second) grads.push_back(g);
  double total = 0;
  for (const Tensor& g : grads)
    total += std::pow(norm(g.to(detail::step_dtype(g.dtype()))).item(), 2);
  const double n = std::sqrt(total), scale = max_norm / (n + 1e-6);
  if (!(scale >= 1))
    for (const Tensor& g : grads)
      detail::update_as(detail::step_dtype(g.dtype()), g, [&](Tensor t) { t.mul_(scale); });
  return n;
}

double warmup_cosine(int64_t step, int64_t warmup, int64_t total, double lr, double min_lr) {
  if (step < warmup) return lr * static_cast<double>(step + 1) / static_cast<double>(warmup);
  const double t =
      total > warmup
          ? std::min(1.0, static_cast<double>(step - warmup) / static_cast<double>(total - warmup))
          : 1;
  return min_lr + (lr - min_lr) * 0.5 * (1 + std::cos(std::numbers::pi * t));
}

}  // namespace dropin
