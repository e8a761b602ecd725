// Draft heads: small heads on a frozen language model's last state that guess several tokens ahead.
#pragma once
#include "dropin/generation/draft_tree.h"
#include "dropin/generation/llama.h"

namespace dropin {

/// hidden [B, L, D], what the base's output layer reads, and tokens [B, L] -> guesses of H heads:
/// head i at t guesses token t + i + 2 (the base itself gives t + 1, the root). Standard member:
/// MedusaHeads. Children mlp.<i>.<j>, lm_head.<i>. Official checkpoints' names are accepted.
class DraftHeads : public Module {
 public:
  using Family = DraftHeads;
  static constexpr const char* kFamily = "DraftHeads";
  static FamilyInfo family();
  struct Guesses {
    Tensor logits, head_hidden;  ///< [H, B, L, V] and [H, B, L, D]
  };
  /// tokens: where the heads read them. key_padding_mask [B, L] bool: keys of the prefix layer.
  /// Rows where tokens are missing are 0, without gradient. ShapeError, DTypeError, IndexError for
  /// inputs that do not fit.
  Guesses forward(const Tensor& hidden, const Tensor& tokens = {},
                  const Tensor& key_padding_mask = {});
  NamedTensors call(const NamedTensors& in) override;

  // --- decoding

  /// What one row keeps from step to step.
  struct State {
    Tensor context;    ///< [D], of the last committed position
    LlamaCache cache;  ///< of the prefix layer
  };
  /// hidden [P, D] of a prompt.
  State start(const Tensor& hidden);
  /// hidden [n, D] of tokens that were committed.
  void advance(const Tensor& hidden, State& state);
  /// Tokens of the tree's nodes, the root's first: of each node the rank-th best one of its
  /// parent's head, ties to the smaller id. OptionError for a tree that the heads are too few for,
  /// StateError where logits are NaN.
  std::vector<int64_t> propose(const DraftTree& tree, int64_t root, const State& state);

  // --- training

  /// W_lm of every head becomes a copy of the base's output weight [V, D].
  void start_from(const Tensor& output_weight);
  int64_t num_heads() const { return layout_.num_heads; }
  int64_t vocab_size() const { return layout_.vocab_size; }
  int64_t embed_dim() const { return layout_.embed_dim; }

 protected:
  struct Layout {
    int64_t embed_dim, vocab_size, num_heads, num_layers;
    bool tie_layers, lm_head_bias;
    double dropout;
    bool reads_tokens;  ///< head i reads the i + 1 tokens behind its position
  };
  /// Checks the layout and creates what all heads have.
  void build(const Layout& layout);
  /// c_t: hidden [N, n, D] -> the same sizes. With a cache, tokens behind what it holds.
  virtual Tensor context(const Tensor& hidden, const Tensor& /*key_padding_mask*/,
                         LlamaCache* /*cache*/) {
    return hidden;
  }
  /// Embeddings of ids.
  virtual Tensor embedded(const Tensor& ids) const { return ids; }
  void translate_state(StateDict& state, const std::string& prefix,
                       std::vector<std::string>& renamed) const override;

 private:
  int64_t missing_rows(int64_t head) const { return layout_.reads_tokens ? head + 1 : 0; }
  Tensor head_hidden(int64_t head, Tensor x);
  Tensor head_logits(int64_t head, const Tensor& z);
  void check_inputs(const Tensor& hidden, const Tensor& tokens) const;
  Tensor cast(const Tensor& hidden) const;
  std::string own_name(const std::string& name, bool interleaved) const;
  Layout layout_{};
  Child<ModuleList> mlp_, lm_head_;
};

namespace detail {
/// The fields that both kinds of heads have.
template <class O>
void draft_fields(auto&& f) {
  f("embed_dim", &O::embed_dim, "width D of the base's hidden state; required");
  f("vocab_size", &O::vocab_size, "number V of token ids; required");
  f("num_heads", &O::num_heads, "tokens guessed beyond the base's own");
  f("num_layers", &O::num_layers, "blocks of a head");
  f("tie_layers", &O::tie_layers, "plain blocks of a head are one, applied again and again");
  f("dropout", &O::dropout, "before blocks and output, when training");
  f("lm_head_bias", &O::lm_head_bias, "the output layers learn a bias");
}
}  // namespace detail

struct MedusaOptions {
  int64_t embed_dim = 0, vocab_size = 0;  ///< required
  int64_t num_heads = 4, num_layers = 1;
  bool tie_layers = false;
  double dropout = 0;
  bool lm_head_bias = false;
  static void fields(auto&& f) { detail::draft_fields<MedusaOptions>(f); }
};
/// Heads that guess each place by itself: blocks x + SiLU(W x + b) on the hidden state (Cai et al.
/// 2024, section 3.1).
class MedusaHeads : public Component<MedusaHeads, MedusaOptions, DraftHeads> {
 public:
  static constexpr const char* kSummary = "heads that guess each place by itself";
  static constexpr const char* kPaper = "Cai et al. 2024, arXiv 2401.10774";
  static std::vector<std::string> examples() {
    return {R"({"num_layers": 2, "lm_head_bias": true})",
            R"({"num_layers": 3, "tie_layers": true})"};
  }
  explicit MedusaHeads(const MedusaOptions& o);
};

struct HydraOptions {
  int64_t embed_dim = 0, vocab_size = 0;  ///< required
  int64_t num_heads = 4, num_layers = 1;
  bool tie_layers = false;
  double dropout = 0;
  bool lm_head_bias = true, prefix_attention = false;
  int64_t prefix_num_heads = 1, prefix_num_kv_heads = 1, prefix_mlp_dim = 0;
  double rope_theta = 1e4, rms_eps = 1e-6;
  static void fields(auto&& f) {
    using O = HydraOptions;
    detail::draft_fields<O>(f);
    f("prefix_attention", &O::prefix_attention,
      "Hydra++: a causal layer over the hidden states so far");
    f("prefix_num_heads", &O::prefix_num_heads, "of that layer");
    f("prefix_num_kv_heads", &O::prefix_num_kv_heads, "of its keys and values");
    f("prefix_mlp_dim", &O::prefix_mlp_dim, "width inside its MLP; required with it");
    f("rope_theta", &O::rope_theta, "base of its rotary positions");
    f("rms_eps", &O::rms_eps, "added to the mean square in its norms");
  }
};
/// Heads that read the guesses before them (Ankner et al. 2024, section 3): x = [c_t; e(x_{t+1});
/// ...; e(x_{t+i+1})], first block R x + r + SiLU(W x + b), then plain ones. Buffer
/// embed_tokens.weight [V, D], the base's embedding. Children prefix.* with prefix_attention.
class HydraHeads : public Component<HydraHeads, HydraOptions, DraftHeads> {
 public:
  static constexpr const char* kSummary = "heads that read the guesses before them";
  static constexpr const char* kReplaces = "MedusaHeads";
  static constexpr const char* kPaper = "Ankner et al. 2024, arXiv 2402.05109";
  static std::vector<std::string> examples() {
    return {R"({"num_layers": 2, "num_heads": 2})",
            R"({"num_layers": 3, "tie_layers": true, "prefix_attention": true,
                "prefix_num_heads": 2, "prefix_mlp_dim": 6})"};
  }
  explicit HydraHeads(const HydraOptions& o);
  /// Reads the base's embedding [V, D] from here on, without a copy. ShapeError where it does not
  /// fit.
  void share_embedding(const Tensor& weight);

 protected:
  Tensor context(const Tensor& hidden, const Tensor& key_padding_mask, LlamaCache* cache) override;
  Tensor embedded(const Tensor& ids) const override;
  void translate_state(StateDict& state, const std::string& prefix,
                       std::vector<std::string>& renamed) const override;

 private:
  class Table;
  Table& table() const;
  Child<Module> embed_tokens_;
  Child<LlamaStack> prefix_;
};

/// The heads that {"type": "HydraHeads", ...} names. OptionError naming `who` for anything else.
Box<DraftHeads> draft_heads_of(std::string_view who, const Json& spec);

}  // namespace dropin
