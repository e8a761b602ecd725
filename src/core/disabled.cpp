#include "core/disabled.h"

#include <algorithm>
#include <cstdlib>

namespace dropin {

bool disabled_by_environment(std::string_view part) {
  const char* text = std::getenv("DROPIN_DISABLE");
  for (std::string_view rest = text ? text : ""; !rest.empty();) {
    const auto comma = std::min(rest.find(','), rest.size());
    if (rest.substr(0, comma) == part) return true;
    rest.remove_prefix(std::min(comma + 1, rest.size()));
  }
  return false;
}

}  // namespace dropin
