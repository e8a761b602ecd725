// Extractor: sums of all tokens so far, weighed by position, times a gate.
#pragma once
#include "dropin/sequence/common.h"

namespace dropin {

struct ExtractorOptions {
  int64_t embed_dim = 0, max_len = 0;  ///< required
  std::string variant = "she", positions = "relative", scale = "none";
  bool bias = true;
  static void fields(auto&& f) {
    using O = ExtractorOptions;
    f("embed_dim", &O::embed_dim, "D; required");
    f("max_len", &O::max_len, "N, lags (positions) that have weights; required");
    f("variant", &O::variant,
      "she: a matrix per lag; he: a vector per lag of a projection; we: of x itself; me: and a "
      "vector as the gate");
    f("positions", &O::positions, "relative: weights by lag; absolute: by the place of the token");
    f("scale", &O::scale, "none, or rsqrt: sums are divided by the root of the token's number");
    f("bias", &O::bias, "biases of the sum, of in_proj and of the gate");
  }
};

/// y_t = (s_t sum_{i <= t} E_{t - i}(x_i) + b) o adj(x_t) (after Chen 2023): no queries, keys or
/// softmax. E is W x (she), w o in_proj(x) (he) or w o x (we, me); adj is adj_proj(x), for me w o x
/// + b. Lags (absolute: places) from max_len on contribute nothing. Relative vector variants are
/// O(L log L D) by FFT, she by FFT one matrix product per frequency; short ones by direct sums.
/// The papers' text and code were not at hand: he, we and me are our reconstruction. Replaces
/// causal MultiheadAttention. x [B, L, D], key_padding_mask [B, L] bool: padding contributes
/// nothing. Parameters ext_weight [N, D, D] (she: lag, out, in) or [N, D], ext_bias [D],
/// in_proj.weight, in_proj.bias (he), adj_proj.weight, adj_proj.bias, for me adj_weight, adj_bias
/// [D].
class Extractor : public Component<Extractor, ExtractorOptions, SequenceMixer> {
 public:
  static constexpr const char* kSummary = "sums weighed by position, times a gate";
  static constexpr const char* kReplaces = "MultiheadAttention";
  static constexpr const char* kPaper = "Chen 2023, arXiv 2308.07661";
  static std::vector<std::string> examples();
  static Json options_from(std::string_view component, const Json& options, const Json& around);
  explicit Extractor(const ExtractorOptions& o);
  Tensor forward(const Tensor& x, const SequenceArgs& args = {}) override;
  bool causal() const override { return true; }
  /// The state is the last max_len - 1 + options.keep tokens (relative) or the sum so far and
  /// options.keep before it (absolute); max_len is not a limit.
  Box<SequenceState> init_state(int64_t batch, int64_t max_len,
                                const StateOptions& options = {}) override;
  /// With scale = rsqrt, only real tokens are counted.
  Tensor step(const Tensor& x_t, SequenceState& state, const StepArgs& args = {}) override;

 private:
  struct State;
  bool she() const { return options_.variant == "she"; }
  bool relative() const { return options_.positions == "relative"; }
  /// What is summed: in_proj(x) or x, 0 at padding [B, L].
  Tensor source(const Tensor& x, const Tensor& padding) const;
  /// The sums over lags of source [B, L, D].
  Tensor by_lag(const Tensor& source) const;
  /// E_i(source_i) of source [B, n, D] at places [B, n] int64, of which those from max_len on give
  /// 0.
  Tensor at_places(const Tensor& source, const Tensor& places) const;
  /// Scaled by the tokens' places, biased and gated.
  Tensor gated(const Tensor& sums, const Tensor& places, const Tensor& x) const;
  Child<Linear> in_proj_, adj_proj_;
  Tensor *ext_weight_, *ext_bias_, *adj_weight_ = nullptr, *adj_bias_ = nullptr;
};

}  // namespace dropin
