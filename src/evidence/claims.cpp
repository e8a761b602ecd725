#include "evidence/claims.h"

#include <fmt/format.h>

#include <cmath>

namespace dropin::evidence {

void Findings::number(const std::string& what, double value, bool ok, const char* relation,
                      double limit) {
  checks_.push_back(
      {fmt::format("{} = {:.4g}, {}{} {:.4g}", what, value, ok ? "" : "NOT ", relation, limit),
       ok ? Check::Holds : Check::Fails});
}
void Findings::near(const std::string& what, double value, double wanted, double tolerance) {
  const bool ok = std::abs(value - wanted) <= tolerance;
  checks_.push_back({fmt::format("{} = {:.4g}, {}{:.4g} within {:.2g}", what, value,
                                 ok ? "" : "NOT ", wanted, tolerance),
                     ok ? Check::Holds : Check::Fails});
}
void Findings::timed(const std::string& what, const Contest& c, bool ok, bool some,
                     const char* relation, double limit) {
  checks_.push_back(
      {fmt::format("{} = {:.3g} (rounds {:.3g} to {:.3g}), {}{} {:.3g}{}", what, c.ratio.middle,
                   c.ratio.low, c.ratio.high, ok ? "" : "NOT ", relation, limit,
                   !ok && some ? "; the rounds differ too much to say" : ""),
       ok     ? Check::Holds
       : some ? Check::Undecided
              : Check::Fails});
}
Check::Result Findings::verdict() const {
  Check::Result r = Check::Holds;
  for (const Check& c : checks_) {
    if (c.result == Check::Fails) return Check::Fails;
    if (c.result == Check::Undecided) r = Check::Undecided;
  }
  return r;
}

const Claims& all_claims() {
  static const Claims* const all = [] {
    auto* c = new Claims;
    attention_claims(*c);
    mixer_claims(*c);
    scan_claims(*c);
    game_claims(*c);
    generation_claims(*c);
    hyena_claims(*c);
    lowbit_claims(*c);
    update_claims(*c);
    vision_claims(*c);
    text_claims(*c);
    return c;
  }();
  return *all;
}

}  // namespace dropin::evidence
