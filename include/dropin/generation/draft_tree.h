// Trees of drafted tokens: their layout, and how a pass of the base over them is judged.
#pragma once
#include <functional>

#include "dropin/core/options.h"
#include "dropin/ops/ops.h"

namespace dropin {

/// Candidates of the next tokens. Node 0 is the root; each other node is a continuation of its
/// parent: the rank-th best one of a draft head (0 is the best).
struct DraftTree {
  std::vector<int64_t> parent, rank, depth;  ///< [N]; of the root -1, 0, 0
  std::vector<std::vector<int64_t>> paths;   ///< node ids from the root to each leaf
  int64_t size() const { return static_cast<int64_t>(parent.size()); }
  int64_t max_depth() const { return depth.empty() ? 0 : depth.back(); }
  /// Whether b is a or an ancestor of a.
  bool sees(int64_t a, int64_t b) const;
  /// [N, N] bool of sees().
  Tensor mask() const;
  /// The nodes of at most that depth, which are the first ones.
  DraftTree up_to(int64_t depth) const;
};

/// A choice [r_1, ..., r_d] is the node that the r_1-th best child of the root, then its r_2-th,
/// and so on leads to. Nodes come by (length, values); paths from the last choice to the first.
/// OptionError unless every prefix of a choice is listed too, or where one is listed twice, is
/// empty or has a negative rank. More than 64 nodes: a warning.
DraftTree draft_tree(std::vector<std::vector<int64_t>> choices);
/// Of a list of choices, or a name: "mc_sim_7b_63" (Cai et al. 2024, for Vicuna-7B).
DraftTree draft_tree(const Json& choices);
/// A run: a root and `depth` nodes one behind the other, each the best of its head.
DraftTree draft_run(int64_t depth);
/// n choices that the accuracies acc [H, K] (head, rank) make likely: grown from [0] by the next
/// sibling or the first child with the largest product along its path.
std::vector<std::vector<int64_t>> tree_from_accuracy(const Tensor& acc, int64_t n);

struct DraftTreeOptions {
  Json choices = "mc_sim_7b_63";
  static void fields(auto&& f) {
    f("choices", &DraftTreeOptions::choices, "list of choices, or mc_sim_7b_63");
  }
};

struct VerifyOptions {
  Json choices = "mc_sim_7b_63";
  std::string acceptance = "greedy";
  double temperature = 0, posterior_threshold = 0.09, posterior_alpha = 0.3;
  static void fields(auto&& f) {
    using O = VerifyOptions;
    f("choices", &O::choices, "of the tree: list of choices, or mc_sim_7b_63");
    f("acceptance", &O::acceptance, "greedy, typical or sample");
    f("temperature", &O::temperature, "of typical and sample; 0 for greedy");
    f("posterior_threshold", &O::posterior_threshold, "typical: probability that always suffices");
    f("posterior_alpha", &O::posterior_alpha, "typical: factor of e^-entropy");
  }
};
/// What stays of a tree: nodes from the root down, and the token behind the last one (-1 where all
/// logits are -inf).
struct Verified {
  std::vector<int64_t> path;
  int64_t next_token = -1;
};
/// Changes the logits (float64, as many as tokens) of a node before they are judged: `position` is
/// the number of nodes above, `path` the tokens from the root to the node.
using ProcessLogits =
    std::function<void(int64_t position, const std::vector<int64_t>& path, double* logits)>;
/// tokens int64 [N], logits [N, V] of the base at the nodes, uniforms [max_depth + 1] for sample.
/// Errors: OptionError for options, ShapeError, DTypeError, IndexError for tokens, OptionError for
/// uniforms outside [0, 1) or logits of NaN or +inf.
Verified verify_draft_tree(const DraftTree& tree, const Tensor& tokens, const Tensor& logits,
                           const VerifyOptions& o, const Tensor& uniforms = {},
                           const ProcessLogits& process_logits = nullptr);

struct DraftHeadsLossOptions {
  double lm_weight = 1, teacher_weight = 0, reconstruction_weight = 0, head_decay = 1;
  static void fields(auto&& f) {
    using O = DraftHeadsLossOptions;
    f("lm_weight", &O::lm_weight, "of the cross-entropy with the labels");
    f("teacher_weight", &O::teacher_weight, "of the cross-entropy with the base's probabilities");
    f("reconstruction_weight", &O::reconstruction_weight, "of SmoothL1 with the base's states");
    f("head_decay", &O::head_decay, "head i weighs head_decay^i");
  }
};
struct DraftHeadsLoss {
  Tensor loss;      ///< []
  Tensor per_head;  ///< [H], before the decay
};
/// What heads that guess head i's token i + 2 places ahead lose: logits [H, B, L, V], labels int64
/// [B, L] (-100: ignored); base_logits [B, L, V], head_hidden [H, B, L, D], base_hidden [B, L, D]
/// where their weights are not 0. The base's probabilities are constants. Heads without labels: 0.
DraftHeadsLoss draft_heads_loss(const Tensor& logits, const Tensor& labels,
                                const DraftHeadsLossOptions& o = {}, const Tensor& base_logits = {},
                                const Tensor& head_hidden = {}, const Tensor& base_hidden = {});

}  // namespace dropin
