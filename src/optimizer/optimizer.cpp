#include "dropin/optimizer/optimizer.h"

#include <fmt/format.h>

#include <cmath>
#include <numbers>

#include "dropin/dispatch/dispatch.h"
#include "kernels/optim/kernel.h"

namespace dropin {

void Optimizer::add_first_group(const Tensors& params, const Json& options) {
  if (params.empty()) fail<OptionError>({type(), ": no parameters to optimize"});
  for (const Tensor& p : params)
    if (!p.defined() || !p.is_leaf() || !is_floating(p.dtype()))
      fail<OptionError>({type(), ": parameters must be floating-point leaves"});
  groups_.push_back({params, options});
  states_.resize(params.size());
}

void Optimizer::add_param_group(const Tensors& params, const Json& changes) {
  Json all = check_options(changes);
  for (const Tensor& p : params) {
    if (!p.defined() || !p.is_leaf() || !is_floating(p.dtype()))
      fail<OptionError>({type(), ": parameters must be floating-point leaves"});
    for (const ParamGroup& g : groups_)
      for (const Tensor& q : g.params)
        if (q.is_same(p)) fail<OptionError>({type(), ": a parameter is in more than one group"});
  }
  groups_.push_back({params, all});
  states_.resize(states_.size() + params.size());
}

void Optimizer::step() {
  no_grad guard;
  std::vector<NamedTensors> made(
      states_.size());  // what needs memory comes first: without it, nothing has changed
  std::size_t i = 0;
  for (std::size_t k = 0; k < groups_.size(); ++k) {
    group_changed(k);
    for (const Tensor& p : groups_[k].params) {
      if (p.grad().defined() && states_[i].size() == 0) made[i] = first_state(k, p);
      ++i;
    }
  }
  i = 0;
  for (std::size_t k = 0; k < groups_.size(); ++k)
    for (const Tensor& p : groups_[k].params) {
      const Tensor g = p.grad();
      if (g.defined()) {
        const bool first = states_[i].size() == 0;
        if (first) states_[i] = std::move(made[i]);
        update(k, p, g.to(p.dtype()).contiguous(), states_[i], first);
        p.bump_version();
      }
      ++i;
    }
}

void Optimizer::zero_grad() {
  for (const ParamGroup& g : groups_)
    for (const Tensor& p : g.params) p.set_grad({});
}
void Optimizer::set_lr(double lr) {
  for (ParamGroup& g : groups_) g.options.set("lr", Json(lr));
}
double Optimizer::lr() const {
  double v = 0;
  if (const Json* j = groups_[0].options.find("lr")) detail::field_from_json(*j, v);
  return v;
}

StateDict Optimizer::state_dict() const {
  StateDict s;
  std::size_t i = 0;
  for (std::size_t k = 0; k < groups_.size(); ++k)
    for (const Tensor& p : groups_[k].params) {
      for (const auto& [n, t] : states_[i]) s.set(fmt::format("state.{}.{}", i, n), t);
      for (const auto& [n, t] : state_notes(k, p, states_[i]))
        s.set(fmt::format("state.{}.{}", i, n), t);
      ++i;
    }
  return s;
}

void Optimizer::load_state_dict(const StateDict& state) {
  std::vector<NamedTensors> fresh(states_.size());
  Tensors params;
  for (const ParamGroup& g : groups_)
    for (const Tensor& p : g.params) params.push_back(p);
  for (const auto& [n, t] : state) {
    const std::size_t dot = n.find('.', 6);
    std::size_t i = states_.size();
    if (n.rfind("state.", 0) == 0 && dot != std::string::npos && dot - 6 <= 9 &&
        n.find_first_not_of("0123456789", 6) == dot && dot > 6)
      i = std::stoul(n.substr(6, dot - 6));
    if (i >= states_.size())
      fail<StateError>(
          {type(), ": unexpected entry \"", n, "\" for ", states_.size(), " parameters"});
    // counts and norms are read by the host at every step; what is as large as a parameter lives
    // beside it
    const std::string what = n.substr(dot + 1);
    const bool on_host = what == "step" || what == "gnorm_vec";
    const Tensor value = t.detach().to(on_host ? kCPU : params[i].device());
    fresh[i].set(what, value.is_same(t) || value.impl()->storage == t.impl()->storage
                           ? value.clone()
                           : value);
  }
  for (std::size_t i = 0; i < fresh.size(); ++i)
    for (const auto& [n, t] : fresh[i])
      if ((n == "exp_avg" || n == "exp_avg_sq" || n == "momentum_buffer") &&
          is_floating(t.dtype()) && !(t.sizes() == params[i].sizes()))
        fail<StateError>(
            {type(), ": state.", i, ".", n, " is ", t.sizes(), ", expected ", params[i].sizes()});
  std::size_t i = 0;
  for (std::size_t k = 0; k < groups_.size(); ++k) {
    group_changed(k);
    for (const Tensor& p : groups_[k].params) {
      check_state(k, p, i, fresh[i]);
      if (fresh[i].size() > 0)
        for (const auto& [n, t] : first_state(k, p))
          if (!fresh[i].contains(n))
            fail<StateError>({type(), ": state.", i, ".", n, " is missing"});
      ++i;
    }
  }
  states_ = std::move(fresh);
}

bool Optimizer::holds(const Tensor& p, bool* has_state) const {
  std::size_t i = 0;
  for (const ParamGroup& g : groups_)
    for (const Tensor& q : g.params) {
      if (q.is_same(p)) {
        *has_state = states_[i].size() > 0;
        return true;
      }
      ++i;
    }
  return false;
}

std::int64_t Optimizer::state_bytes() const {
  std::int64_t n = 0;
  for (const auto& s : states_)
    for (const auto& [name, t] : s) n += t.numel() * item_size(t.dtype());
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

// A kernel writes contiguous memory; a parameter that is not is updated through a copy.
template <class F>
void contiguous_update(const Tensor& p, F f) {
  if (p.is_contiguous()) return f(p);
  Tensor c = p.detach().contiguous();
  f(c);
  p.detach().copy_(c);
}

NamedTensors adam_start(const Tensor& p, bool amsgrad) {
  NamedTensors state{{"step", zeros({}, kFloat32)},
                     {"exp_avg", zeros(p.sizes(), p.options())},
                     {"exp_avg_sq", zeros(p.sizes(), p.options())}};
  if (amsgrad) state.set("max_exp_avg_sq", zeros(p.sizes(), p.options()));
  return state;
}

void adam(const Tensor& p, const Tensor& g, NamedTensors& state, double lr,
          const std::vector<double>& betas, double eps, double decay, bool amsgrad, bool maximize,
          bool decoupled) {
  if (amsgrad && !state.contains("max_exp_avg_sq"))
    state.set("max_exp_avg_sq", zeros(p.sizes(), p.options()));
  Tensor step = state.find("step");
  step.add_(1.0);
  contiguous_update(p, [&](const Tensor& t) {
    run<kernels::adam_step>(
        p.device(), t.out(), g.in(), state.find("exp_avg").out(), state.find("exp_avg_sq").out(),
        amsgrad ? state.find("max_exp_avg_sq").out() : abi::TensorOut{}, lr, betas[0], betas[1],
        eps, decay, decoupled, maximize, static_cast<std::int64_t>(step.item()));
  });
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
  return o.momentum != 0 ? NamedTensors{{"momentum_buffer", empty(p.sizes(), p.options())}}
                         : NamedTensors{};
}
void SGD::update_one(const SGDOptions& o, const Tensor& p, const Tensor& g, NamedTensors& state,
                     bool first) {
  const Tensor buffer = state.find("momentum_buffer");
  contiguous_update(p, [&](const Tensor& t) {
    run<kernels::sgd_step>(p.device(), t.out(), g.in(),
                           o.momentum != 0 ? buffer.out() : abi::TensorOut{}, o.lr, o.momentum,
                           o.dampening, o.weight_decay, o.nesterov, first, o.maximize);
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
  double total = 0;
  for (const Tensor& p : params)
    if (Tensor g = p.grad(); g.defined()) total += std::pow(norm(g).item(), 2);
  const double n = std::sqrt(total), scale = max_norm / (n + 1e-6);
  if (scale < 1)
    for (const Tensor& p : params)
      if (Tensor g = p.grad(); g.defined()) g.mul_(scale);
  return n;
}

double warmup_cosine(std::int64_t step, std::int64_t warmup, std::int64_t total, double lr,
                     double min_lr) {
  if (step < warmup) return lr * static_cast<double>(step + 1) / static_cast<double>(warmup);
  const double t =
      total > warmup
          ? std::min(1.0, static_cast<double>(step - warmup) / static_cast<double>(total - warmup))
          : 1;
  return min_lr + (lr - min_lr) * 0.5 * (1 + std::cos(std::numbers::pi * t));
}

}  // namespace dropin
