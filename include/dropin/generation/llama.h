// LlamaLM: a decoder-only language model of Llama's layout, and its layers.
#pragma once
#include "dropin/embedding/embedding.h"
#include "dropin/generation/language_model.h"
#include "dropin/module/containers.h"
#include "dropin/norm/norm.h"

namespace dropin {

struct LlamaOptions {
  int64_t vocab_size = 0, embed_dim = 0;  ///< required
  int64_t num_layers = 1, num_heads = 1, num_kv_heads = 1;
  int64_t mlp_dim = 0;  ///< required
  double rope_theta = 1e4, rms_eps = 1e-6;
  int64_t max_len = 0;
  static void fields(auto&& f) {
    using O = LlamaOptions;
    f("vocab_size", &O::vocab_size, "number of token ids; required");
    f("embed_dim", &O::embed_dim, "D; required");
    f("num_layers", &O::num_layers, "layers");
    f("num_heads", &O::num_heads, "heads of queries; divides embed_dim");
    f("num_kv_heads", &O::num_kv_heads, "heads of keys and values; divides num_heads");
    f("mlp_dim", &O::mlp_dim, "width inside the MLP; required");
    f("rope_theta", &O::rope_theta, "base of the rotary positions");
    f("rms_eps", &O::rms_eps, "added to the mean square in norms");
    f("max_len", &O::max_len, "the most tokens of a row; 0: no limit");
  }
};

/// Rotated keys and values of a stack's layers, [N, Hk, capacity, d], and the tokens of each row.
struct LlamaCache {
  Tensors keys, values;
  std::vector<int64_t> lengths;
  LlamaCache select(const std::vector<int64_t>& rows) const;
  /// Columns length + path[j] move to length + j, and stay. Of one row; path ascends.
  void keep(const std::vector<int64_t>& path);
};

/// What new tokens are told: where they stand behind the row's tokens, and whom of each other they
/// see.
struct LlamaTokens {
  std::vector<int64_t> offset;          ///< [n]
  std::vector<std::vector<bool>> sees;  ///< [n][n]; empty: those before and themselves
};

/// x + o(attention(norm(x))), then x + down(SiLU(gate x) * up x) of its norm; [B, L, D].
class LlamaLayer : public Component<LlamaLayer, LlamaOptions, Module> {
 public:
  explicit LlamaLayer(const LlamaOptions& o);
  /// Causal; key_padding_mask [B, L] bool or undefined.
  Tensor forward(const Tensor& x, const Tensor& key_padding_mask);
  /// x [N, n, D] at positions [N, n] behind what keys and values hold, columns lengths[i] on;
  /// forbidden [N, 1, n, columns].
  Tensor step(const Tensor& x, const Tensor& positions, const Tensor& forbidden,
              const std::vector<int64_t>& lengths, Tensor& keys, Tensor& values);

 private:
  struct Heads {
    Tensor q, k, v;
  };
  Heads heads(const Tensor& x, const Tensor& positions);
  Tensor after(const Tensor& x, const Tensor& attended);
  Child<RMSNorm> norm1_, norm2_;
  Child<ModuleDict> attn_, mlp_;
  Child<Linear> q_, k_, v_, o_, gate_, up_, down_;
};

/// embed_tokens (where vocab_size is not 0), layers.<i> and norm.
class LlamaStack : public Component<LlamaStack, LlamaOptions, Module> {
 public:
  explicit LlamaStack(const LlamaOptions& o);
  /// x [B, L, D] -> the last norm's output.
  Tensor forward(const Tensor& x, const Tensor& key_padding_mask = {});
  LlamaCache init_cache(int64_t rows) const;
  /// x [N, n, D], new tokens -> the last norm's output. Their keys lie behind each row's, but the
  /// rows' lengths do not grow.
  Tensor step(const Tensor& x, LlamaCache& cache, const LlamaTokens& tokens);
  Embedding& embed_tokens() const { return *embed_tokens_.as(); }

 private:
  Child<Embedding> embed_tokens_;
  Child<ModuleList> layers_;
  Child<RMSNorm> norm_;
};

/// Llama's layout and Hugging Face's names: model.embed_tokens, model.layers.<i>.*, model.norm,
/// lm_head. RMSNorm, rotary positions on halves, grouped keys, SwiGLU, no biases.
class LlamaLM : public Component<LlamaLM, LlamaOptions, LanguageModel> {
 public:
  explicit LlamaLM(const LlamaOptions& o);
  /// ids [B, L] -> hidden [B, L, D] and logits [B, L, V], for training.
  Pass forward(const Tensor& ids, const Tensor& key_padding_mask = {});
  int64_t vocab_size() const override { return options_.vocab_size; }
  int64_t max_len() const override { return options_.max_len ? options_.max_len : INT64_MAX; }
  Box<LanguageState> init_state(int64_t rows) override;
  Tensor step(const Tensor& tokens, LanguageState& state) override;
  bool has_soft_step() const override { return true; }
  Tensor step_soft(const Tensor& probs, LanguageState& state) override;
  Tensor prefill(const Tensor& prompts, const std::vector<int64_t>& lengths,
                 LanguageState& state) override;
  bool has_trees() const override { return true; }
  int64_t embed_dim() const override { return options_.embed_dim; }
  Pass read(const Tensor& prompt, LanguageState& state) override;
  Pass tree_step(const Tensor& tokens, const DraftTree& tree, LanguageState& state) override;
  void keep(const std::vector<int64_t>& path, LanguageState& state) override;
  Tensor& embedding_weight() const { return stack().embed_tokens().weight(); }
  Tensor& output_weight() const { return lm_head_.as()->weight(); }

 private:
  LlamaStack& stack() const { return *model_.as(); }
  LlamaCache& cache_of(LanguageState& state, int64_t rows) const;
  Tensor embedded_step(const Tensor& x, LlamaCache& cache);
  Child<LlamaStack> model_;
  Child<Linear> lm_head_;
};

}  // namespace dropin
