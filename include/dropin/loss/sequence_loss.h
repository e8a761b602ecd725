// Losses of a sequence model's logits against a target sequence.
#pragma once
#include "dropin/core/options.h"
#include "dropin/ops/ops.h"

namespace dropin {

struct SequenceCrossEntropyOptions {
  int64_t ignore_index = -100;
  double label_smoothing = 0;
  static void fields(auto&& f) {
    using O = SequenceCrossEntropyOptions;
    f("ignore_index", &O::ignore_index, "target id whose positions are left out");
    f("label_smoothing", &O::label_smoothing, "share of the target spread over all classes");
  }
};

struct EditInvariantSequenceLossOptions {
  std::vector<int64_t> ngrams{1, 2};
  std::vector<double> weights = {};
  std::string position = "gumbel_softmax";
  double tau = 1;
  bool detach_position = false;
  double ngram_factor = 1, ce_factor = 0, label_smoothing = 0;
  int64_t ignore_index = -100;
  double min_log_prob = -20;
  bool from_log_probs = false;
  static void fields(auto&& f) {
    using O = EditInvariantSequenceLossOptions;
    f("ngrams", &O::ngrams, "orders; 0 and below count from the full length");
    f("weights", &O::weights, "of the orders, relative; empty: equal");
    f("position", &O::position,
      "where an n-gram should appear: \"gumbel_softmax\", \"softmax\" or \"logsumexp\"");
    f("tau", &O::tau, "temperature of the positions");
    f("detach_position", &O::detach_position, "no gradient through the positions");
    f("ngram_factor", &O::ngram_factor, "of the n-gram part");
    f("ce_factor", &O::ce_factor, "of the cross entropy part");
    f("label_smoothing", &O::label_smoothing, "of the cross entropy part");
    f("ignore_index", &O::ignore_index, "target id whose positions are left out");
    f("min_log_prob", &O::min_log_prob, "least logarithm of a probability");
    f("from_log_probs", &O::from_log_probs, "the logits are normalized already");
  }
};

/// What the loss takes besides logits and target; all may stay undefined.
struct EditInvariantArgs {
  Tensor target_padding_mask;  ///< bool [B, S], true: ignore
  Tensor output_padding_mask;  ///< bool [B, T], true: ignore
  Tensor gumbel;               ///< noise [N, B, T, S] of entry k of ngrams, windows i and j
  bool training = false;       ///< draws the noise when none is given
  Generator* generator = nullptr;
};
struct EditInvariantLosses {
  Tensor loss, ngram_loss, ce_loss;  ///< []
};

/// EISL (Liu et al. 2022, arXiv 2106.15078): asks of each target n-gram that it appears somewhere
/// in the output. logits [B, T, V], target int64 [B, S]. ngram_loss: mean over samples of the
/// weighted orders; ce_loss: over positions valid on both sides, 0 unless T = S; loss: their mix.
/// Gradients for logits; masked rows get exactly 0. 16-bit logits are summed in float32.
/// IndexError for a target outside [0, V) that counts; Error for a row that counts and holds NaN or
/// +inf, or -inf throughout.
EditInvariantLosses EditInvariantSequenceLoss(const Tensor& logits, const Tensor& target,
                                              const EditInvariantArgs& args = {},
                                              const EditInvariantSequenceLossOptions& o = {});

}  // namespace dropin
