// Claims: what a component's paper promises, and a small reproduction of it that runs here. One
// entry per claim, listed per family in claims/.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "dropin/core/json.h"
#include "evidence/timing.h"

namespace dropin::evidence {

/// One thing that must come out.
struct Check {
  enum Result { Holds, Fails, Undecided, Reported };
  std::string text;  ///< "t(16384) / t(4096) = 3.9, below 5"
  Result result = Reported;
};

/// What a reproduction found.
class Findings {
 public:
  void below(const std::string& what, double value, double limit) {
    number(what, value, value < limit, "below", limit);
  }
  void above(const std::string& what, double value, double limit) {
    number(what, value, value > limit, "above", limit);
  }
  void near(const std::string& what, double value, double wanted, double tolerance);
  void holds(const std::string& what, bool yes) {
    checks_.push_back({what + (yes ? ": yes" : ": NO"), yes ? Check::Holds : Check::Fails});
  }
  void report(const std::string& text) { checks_.push_back({text, Check::Reported}); }
  /// Of the rounds of two calls in turn, their middle; undecided rather than failed when the limit
  /// lies among them.
  void below(const std::string& what, const Contest& c, double limit) {
    timed(what, c, c.ratio.middle < limit, c.ratio.low < limit, "below", limit);
  }
  void above(const std::string& what, const Contest& c, double limit) {
    timed(what, c, c.ratio.middle > limit, c.ratio.high > limit, "above", limit);
  }
  const std::vector<Check>& checks() const { return checks_; }
  /// Fails when one fails, else Undecided when one is.
  Check::Result verdict() const;

 private:
  void number(const std::string& what, double value, bool ok, const char* relation, double limit);
  void timed(const std::string& what, const Contest& c, bool ok, bool some, const char* relation,
             double limit);
  std::vector<Check> checks_;
};

/// Real data, where there is some.
struct ClaimData {
  std::string text;           ///< a text file; empty: a text from the generated grammar
  std::string fashion_mnist;  ///< a folder with IDX files; empty: none
};

struct Claim {
  std::vector<std::string> components;  ///< whose claim it is; the first names it
  std::string paper;                    ///< where it is made; empty: the component's own
  std::string claim, figure;            ///< in words; the paper's number and its conditions
  std::function<void(Findings&, const ClaimData&)> show;
  std::string data;  ///< a file that it cannot do without: "fashion-mnist"
};

using Claims = std::vector<Claim>;
void attention_claims(Claims& all);
void game_claims(Claims& all);
void generation_claims(Claims& all);
void hyena_claims(Claims& all);
void lowbit_claims(Claims& all);
void mixer_claims(Claims& all);
void scan_claims(Claims& all);
void text_claims(Claims& all);
void update_claims(Claims& all);
void vision_claims(Claims& all);
/// Every claim, in the order of the registry's families.
const Claims& all_claims();

}  // namespace dropin::evidence
