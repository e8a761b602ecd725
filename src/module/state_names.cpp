#include "dropin/module/state_names.h"

namespace dropin {

void detail::rename_state(StateDict& state, const std::string& from, const std::string& to,
                          std::vector<std::string>& renamed) {
  Tensor t = state.take(from);
  if (!t.defined()) return;
  state.set(to, t);
  renamed.push_back(from + " -> " + to);
}

}  // namespace dropin
