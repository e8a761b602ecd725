// Helpers of translate_state(): entries by other frameworks' names.
#pragma once
#include "dropin/module/module.h"

namespace dropin::detail {

/// Moves the entry `from`, if there is one, to `to`.
void rename_state(StateDict& state, const std::string& from, const std::string& to,
                  std::vector<std::string>& renamed);
/// Every entry below `prefix` whose next words are rule.first gets rule.second in their place;
/// rules apply in order.
void rename_prefixes(StateDict& state, const std::string& prefix,
                     const std::vector<std::pair<std::string, std::string>>& rules,
                     std::vector<std::string>& renamed);

}  // namespace dropin::detail
