// What an optimizer saves: states by parameter, options by group; and how it takes them back.
#include <fmt/format.h>

#include <optional>

#include "dropin/optimizer/optimizer.h"
#include "optimizer/common.h"

namespace dropin {

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

}  // namespace dropin
