#include "dropin/module/state_names.h"

namespace dropin {

void detail::rename_state(StateDict& state, const std::string& from, const std::string& to,
                          std::vector<std::string>& renamed) {
  Tensor t = state.take(from);
  if (!t.defined()) return;
  state.set(to, t);
  renamed.push_back(from + " -> " + to);
}

void detail::rename_prefixes(StateDict& state, const std::string& prefix,
                             const std::vector<std::pair<std::string, std::string>>& rules,
                             std::vector<std::string>& renamed) {
  for (const auto& [theirs, ours] : rules) {
    const std::string from = prefix + theirs;
    std::vector<std::string> names;
    for (const auto& [name, t] : state)
      if (name.compare(0, from.size(), from) == 0) names.push_back(name);
    for (const std::string& name : names)
      rename_state(state, name, prefix + ours + name.substr(from.size()), renamed);
  }
}

}  // namespace dropin
