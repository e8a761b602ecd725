#include "dropin/serialize/optimizer_file.h"

#include <cmath>
#include <cstring>

#include "dropin/ops/ops.h"
#include "dropin/optimizer/blockwise.h"

namespace dropin {

namespace {

constexpr std::string_view kBnbState = "__bnb_optimizer_quant_state__.";

/// An option or count as an entry of a state_dict.
Tensor entry_of(const Json& v) {
  if (v.is_bool()) return full({}, v.as_bool(), kBool);
  if (v.is_int()) {
    Tensor t = empty({}, kInt64);
    *t.data<int64_t>() = v.as_int();
    return t;
  }
  if (v.is_double()) {
    Tensor t = empty({}, kFloat64);
    *t.data<double>() = v.as_double();
    return t;
  }
  const std::string text = v.dump();
  Tensor t = empty({static_cast<int64_t>(text.size())}, kUInt8);
  std::memcpy(t.data_ptr(), text.data(), text.size());
  return t;
}

bool is_off(const Json& v) {
  return v.is_null() || (v.is_bool() && !v.as_bool()) || (v.is_number() && v.as_double() == 0);
}

/// What PyTorch notes of how it computes, which changes no number.
bool is_torch_note(std::string_view option) {
  for (const char* s :
       {"foreach", "fused", "capturable", "differentiable", "decoupled_weight_decay"})
    if (option == s) return true;
  return false;
}

/// The one-byte codes of a stored state that was decoded when it was opened.
Tensor codes_of(const StoredTensor& t) {
  Tensor r = empty(t.shape, kUInt8);
  t.content->raw(0, t.bytes, r.data_ptr());
  return r;
}

void check_map(const StateFile& f, const StoredTensor& t, bool is_signed) {
  const std::vector<float> theirs = t.read(kFloat32).to_vector<float>(),
                           ours = create_dynamic_map(is_signed).to_vector<float>();
  for (std::size_t i = 0; i < 256; ++i)
    if (theirs.size() != 256 || !(std::fabs(theirs[i] - ours[i]) <= 1e-6f * std::fabs(ours[i])))
      fail<StateError>(
          {f.path, ": ", t.name, " is ", t.shape, ", expected the dynamic map of ",
           is_signed ? "signed" : "unsigned", " values",
           theirs.size() == 256 ? join({"; value ", static_cast<int>(i), " differs"}) : ""});
}

/// The groups' options, from a metadata value that lies under `prefix` or is a text.
Json groups_of(const StateFile& f, const std::string& prefix) {
  const Json* at = &f.metadata;
  for (std::size_t from = 0; at && from < prefix.size();) {
    const std::size_t dot = std::min(prefix.find('.', from), prefix.size());
    at = at->find(prefix.substr(from, dot - from));
    from = dot + 1;
  }
  const Json* groups = at ? at->find("param_groups") : nullptr;
  if (!groups) return {};
  try {
    return groups->is_string() ? Json::parse(groups->as_string()) : *groups;
  } catch (const OptionError& e) {
    fail<FileError>({f.path, ": param_groups: ", e.what()});
  }
}

void enter_groups(const StateFile& f, const Json& groups, const Optimizer& optimizer,
                  StateDict& to) {
  if (!groups.is_array()) return;
  const auto& ours = optimizer.param_groups();
  int64_t first = 0;
  for (std::size_t k = 0; k < groups.size(); ++k) {
    const std::string group = "param_groups." + std::to_string(k) + ".";
    if (!groups[k].is_object()) fail<FileError>({f.path, ": ", group, " is no dict"});
    const Json* mine = k < ours.size() ? &ours[k].options : nullptr;
    for (const auto& [name, v] : groups[k].items()) {
      if (name == "params") {
        const auto n = static_cast<int64_t>(v.size());
        to.set(group + name, arange(static_cast<double>(first), static_cast<double>(first + n)));
        first += n;
      } else if (mine && mine->find(name) && !v.is_null()) {
        to.set(group + name, entry_of(v));
      } else if (!is_off(v) && !is_torch_note(name) && name != "initial_lr") {
        fail<StateError>({f.path, ": ", group, name, " is ", v.dump(), ", which ", optimizer.type(),
                          " does not have"});
      }
    }
  }
}

/// Counts that the file keeps as plain numbers: state.<i>.step.
void enter_numbers(const Json* states, StateDict& to) {
  if (!states || !states->is_object()) return;
  for (const auto& [number, entries] : states->items()) {
    if (!entries.is_object()) continue;
    for (const auto& [name, v] : entries.items())
      if (v.is_number()) to.set("state." + number + "." + name, entry_of(v));
  }
}

}  // namespace

StateDict read_optimizer_state(const StateFile& f, const Optimizer& optimizer,
                               const std::string& prefix) {
  const std::string lead = prefix.empty() || prefix.back() == '.' ? prefix : prefix + ".";
  StateDict r;
  for (const StoredTensor& t : f.tensors) {
    if (t.name.compare(0, lead.size(), lead) != 0) continue;
    std::string name = t.name.substr(lead.size());
    if (name.compare(0, 6, "state.") != 0) continue;
    const std::size_t bnb = name.find(kBnbState);
    if (bnb != name.npos) name.erase(bnb, kBnbState.size());
    if (name.ends_with(".qmap1") || name.ends_with(".qmap2")) {
      check_map(f, t, name.back() == '1');
      continue;
    }
    r.set(name, t.format == "bitsandbytes.DYNAMIC8" ? codes_of(t) : t.read());
  }
  const Json* at = &f.metadata;
  for (std::size_t from = 0; at && from < lead.size();) {
    const std::size_t dot = lead.find('.', from);
    at = at->find(lead.substr(from, dot - from));
    from = dot + 1;
  }
  enter_numbers(at ? at->find("state") : nullptr, r);
  const Json groups = groups_of(f, lead.empty() ? "" : lead.substr(0, lead.size() - 1));
  if (r.size() == 0 && !groups.is_array())
    fail<FileError>({f.path, ": there is no optimizer's state", lead.empty() ? "" : " under \"",
                     prefix, lead.empty() ? "" : "\"", ", expected state and param_groups"});
  enter_groups(f, groups, optimizer, r);
  return r;
}

StateDict bitsandbytes_state(const Optimizer& optimizer) {
  StateDict r;
  for (const auto& [name, t] : optimizer.state_dict()) {
    if (name.compare(0, 6, "state.") != 0) continue;
    const std::size_t dot = name.find('.', 6);
    const std::string number = name.substr(0, dot + 1), rest = name.substr(dot + 1);
    if (rest == "step") {
      r.set(name, t);
    } else if (rest == "state1" || rest == "state2" || rest == "absmax1" || rest == "absmax2") {
      r.set(number + std::string(kBnbState) + rest, t);
      if (t.dtype() == kUInt8)
        r.set(number + std::string(kBnbState) + "qmap" + rest.back(),
              create_dynamic_map(rest == "state1"));
    }
  }
  if (r.size() == 0)
    fail<StateError>({optimizer.type(),
                      ": it has no one-byte states, expected an 8-bit optimizer "
                      "that has made a step"});
  return r;
}

}  // namespace dropin
