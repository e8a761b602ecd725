// Groups of parameters, their options, and the step.
#include "dropin/optimizer/optimizer.h"

#include <unordered_map>

#include "dropin/autograd/swap_note.h"
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
  const auto note = swap_note(p);
  if (note && note->number > swaps_seen_)
    fail<StateError>({type(), ": parameter ", i, " ", note->text,
                      "; make the optimizer after the swap, or tell this one: add_param_group for "
                      "new parameters, or accept_swap()"});
  const Tensor g = p.grad();
  // After replace_child() by hand: its module is gone, and no backward pass will reach it.
  if (!note && !g.defined() && p.requires_grad() && p.impl()->use_count() == 1)
    fail<StateError>({type(), ": parameter ", i, " ", p.sizes(),
                      " is held by this optimizer alone: the module that had it was replaced or "
                      "destroyed; make the optimizer anew of the model's parameters"});
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

}  // namespace dropin
