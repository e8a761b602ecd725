// The best of several scores.
#pragma once
#include <string_view>
#include <vector>

#include "dropin/generation/mbr_decode.h"

namespace dropin::generation {

/// The `count` best scores in order, NaN never: of those within 1e-12 max(1, |best|) of the best
/// left the lowest index comes next.
std::vector<int64_t> best_first(const std::vector<double>& scores, int64_t count);
/// Sets index, and order where nbest > 1. OptionError where no score is a number.
void choose(std::string_view who, const std::vector<double>& scores, int64_t nbest, Choice& c);

}  // namespace dropin::generation
