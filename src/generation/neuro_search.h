// One example's NeuroLogic search.
#pragma once
#include <optional>

#include "generation/beams.h"

namespace dropin::generation {

struct NeuroRules {
  BeamRules beams;
  int64_t prune = 50, tolerance = 2;
  double partial = 0, eos_top = 1.5;
};

/// The steps of the paper: propose() collects and prunes candidates, choose() ranks and groups
/// them.
class NeuroSearch {
 public:
  NeuroSearch(const Limits& l, const NeuroRules& rules, const Hypothesis& start);

  /// A candidate, grown, beside where it came from.
  struct Candidate {
    Hypothesis text;
    int64_t parent, token;
    int64_t met = 0;
    double rank = 0;
    std::optional<double> ahead = {};  ///< what a look ahead adds to its rank
  };
  bool done = false;
  std::vector<Hypothesis> beam;

  void propose(const Rows& rows);
  /// Candidates whose texts are to be completed: ahead may be set before choose().
  std::vector<Candidate>& open() { return open_; }
  void choose(int64_t t);
  const std::vector<Finished>& results() const { return pool_.kept(); }

 private:
  void best_overall(const std::vector<double>& sums, std::vector<bool>& taken);
  void best_of_rows(const std::vector<double>& sums, std::vector<bool>& taken);
  void add(std::vector<Candidate>& to, int64_t parent, int64_t token, double sum);
  void prune_by_met();
  void rank(int64_t t);
  std::vector<Candidate> picks();
  void walk(const std::vector<Candidate>& order, int64_t t);
  void end(const std::vector<Hypothesis>& live);

  const Limits& limits_;
  NeuroRules rules_;
  std::vector<std::vector<double>> lp_;     // masked, of the beam
  std::vector<std::vector<int64_t>> best_;  // tokens of each row, best first
  std::vector<Candidate> open_, complete_;  // C and F of the paper
  Pool pool_;
};

}  // namespace dropin::generation
