// Choosing among sampled outputs: minimum Bayes risk decoding and its standard members.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "dropin/core/options.h"
#include "dropin/ops/ops.h"

namespace dropin {

struct MbrDecodeOptions {
  std::string utility = "rougeL", score = "f1";
  int64_t max_order = 4;
  std::string smoothing = "exp";
  std::optional<double> smooth_value;
  bool effective_order = true;
  int64_t char_order = 6;
  double beta = 2;
  std::vector<int64_t> ignore_ids = {};
  bool exclude_self = false, lazy = false;
  std::string approximate = "none", coarse_utility = "rouge1";
  int64_t keep = 8;
  std::vector<int64_t> schedule = {8, 16, 32, 64, 128, 256};
  double alpha = 0.99;
  int64_t bootstrap = 500, seed = 0, nbest = 1;
  bool return_utilities = false;
  static void fields(auto&& f) {
    using O = MbrDecodeOptions;
    f("utility", &O::utility,
      "exact_match, rouge1 to rouge9, rougeL, lcs, edit, bleu, chrf, cosine, bertscore or matrix");
    f("score", &O::score, "of rouge: f1, precision or recall");
    f("max_order", &O::max_order, "bleu: longest n-gram");
    f("smoothing", &O::smoothing, "bleu: exp, floor, add-k or none");
    f("smooth_value", &O::smooth_value, "bleu: floor's 0.1 or the k of add-k, 1");
    f("effective_order", &O::effective_order,
      "bleu: orders longer than the candidate are left out");
    f("char_order", &O::char_order, "chrf: longest n-gram");
    f("beta", &O::beta, "chrf: weight of recall");
    f("ignore_ids", &O::ignore_ids, "ids that are removed first: padding, ends, blanks");
    f("exclude_self", &O::exclude_self, "a candidate is no reference of its own");
    f("lazy", &O::lazy, "rougeL, lcs, edit: rows that can not win report a bound");
    f("approximate", &O::approximate, "none, aggregate, coarse or confidence");
    f("coarse_utility", &O::coarse_utility, "coarse: the cheap utility of all rows");
    f("keep", &O::keep, "coarse: rows that get the exact utility");
    f("schedule", &O::schedule, "confidence: numbers of references after which rows are dropped");
    f("alpha", &O::alpha, "confidence: how sure a drop is");
    f("bootstrap", &O::bootstrap, "confidence: resamples");
    f("seed", &O::seed, "confidence: of the resamples");
    f("nbest", &O::nbest, "the best candidates in order, where more than 1");
    f("return_utilities", &O::return_utilities, "the table of utilities as well");
  }
};

/// What a choice is made from; undefined where a utility does not need it. Sequences are int64 ids
/// [N, L] with lengths [N].
struct Candidates {
  Tensor candidates, lengths, references, reference_lengths;
  Tensor weights, log_weights;                    ///< [M], of the references
  Tensor embeddings, reference_embeddings;        ///< cosine [N, E]; bertscore [N, L, E]
  Tensor token_weights, reference_token_weights;  ///< bertscore [N, L]
  Tensor utilities;                               ///< matrix [N, M]
};
struct Choice {
  Tensor index;      ///< int64 []
  Tensor scores;     ///< [N]
  Tensor order;      ///< int64 [min(nbest, N)] where nbest > 1
  Tensor utilities;  ///< [N, M] where asked for; NaN where not computed
  Tensor evaluated;  ///< bool [N] where lazy
};

/// The candidate with the largest expected utility over the references (default: the candidates):
/// scores_i = sum_j p_ij u(c_i, r_j), ties to the lowest index (Suzgun et al. 2022). Gradients of
/// scores reach weights, embeddings, token weights and utilities where approximate is "none".
/// Errors: StateError for a missing input, ShapeError, DTypeError, IndexError for lengths,
/// OptionError for options and weights.
Choice mbr_decode(const Candidates& in, const MbrDecodeOptions& o = {});
/// The same with a utility of the user's: u(candidate, reference) of their indices.
Choice mbr_decode(int64_t candidates, int64_t references,
                  const std::function<double(int64_t, int64_t)>& utility,
                  const MbrDecodeOptions& o = {});
/// Several groups, one after the other.
std::vector<Choice> mbr_decode(const std::vector<Candidates>& groups,
                               const MbrDecodeOptions& o = {});
/// Of UTF-8 texts: rouge splits lower case at all but [a-z0-9], chrf takes code points without
/// white space, the others split at white space.
Choice mbr_decode(const std::vector<std::string>& candidates,
                  const std::vector<std::string>& references = {}, const MbrDecodeOptions& o = {});

/// Scores are the share, or with `weights` [N] the sum of weights, of the candidates equal to each.
Choice majority_vote(const Tensor& candidates, const Tensor& lengths, const Tensor& weights = {});

struct MostLikelyOptions {
  std::string normalize = "none";
  static void fields(auto&& f) {
    f("normalize", &MostLikelyOptions::normalize, "none, or length: log_probs over max(length, 1)");
  }
};
/// Scores are log_probs [N], over their lengths [N] where asked.
Choice most_likely(const Tensor& log_probs, const Tensor& lengths = {},
                   const MostLikelyOptions& o = {});

}  // namespace dropin
