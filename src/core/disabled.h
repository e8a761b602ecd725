// DROPIN_DISABLE: a list of parts to do without, with commas between: onednn, cuda, cache, simd.
#pragma once
#include <string_view>

namespace dropin {

/// Whether the environment variable DROPIN_DISABLE names `part`.
bool disabled_by_environment(std::string_view part);

}  // namespace dropin
