// The judgement of a tree's tokens by the base.
#pragma once
#include "dropin/generation/draft_tree.h"
#include "generation/decoding.h"

namespace dropin::generation {

/// OptionError for options that are none; they have VerifyOptions' names.
template <class O>
void check_acceptance(std::string_view who, const O& o) {
  DROPIN_CHECK(o.acceptance == "greedy" || o.acceptance == "typical" || o.acceptance == "sample",
               OptionError, who, ": acceptance is \"", o.acceptance,
               "\", expected greedy, typical or sample");
  DROPIN_CHECK(o.acceptance == "greedy" ? o.temperature == 0 : o.temperature > 0, OptionError, who,
               ": temperature is ", o.temperature, " with acceptance ", o.acceptance,
               o.acceptance == "greedy" ? ", expected 0" : ", expected a positive number");
}

/// z [N, vocab], scores of each node's next token, banned ones -inf: divided by the temperature
/// here where there is one. uniform(k) draws the token behind the k-th node of the walk.
Verified verify_rows(const DraftTree& tree, const std::vector<int64_t>& tokens,
                     std::vector<double> z, int64_t vocab, const VerifyOptions& o,
                     const std::function<double(int64_t)>& uniform);

}  // namespace dropin::generation
