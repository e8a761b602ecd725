// Attention on heads [B, H, L, Dh].
#pragma once
#include <optional>
#include <string_view>
#include <vector>

#include "dropin/autograd/autograd.h"

namespace dropin {

/// What is done to the scores. Masks combine: a key is seen when none forbids it. A query that sees
/// no key gives 0, with gradient 0.
struct AttentionParams {
  std::optional<double> scale;           ///< 1 / sqrt(Dh) unless given
  bool causal = false;                   ///< key j is seen by query i when j <= i + causal_offset
  std::optional<int64_t> causal_offset;  ///< Lk - Lq unless given: the last query sees every key
  Tensor key_padding_mask;               ///< [B, Lk] bool, true = ignored
  Tensor attn_mask;      ///< broadcasts to [B, H, Lq, Lk]; bool (true = forbidden) or float (added)
  bool alibi = false;    ///< adds -slope_h |i + Lk - Lq - j| (Press et al. 2021)
  double dropout_p = 0;  ///< on the probabilities
  std::optional<int64_t> window_left;   ///< key j is seen only when j >= i + offset - window_left
                                        ///< (offset: causal_offset, 0 unless causal or given)
  std::optional<int64_t> window_right;  ///< and when j <= i + offset + window_right
  std::optional<double> sigmoid_bias;   ///< weights sigmoid(score + sigmoid_bias) instead of the
                                        ///< softmax (Ramapuram et al. 2024)
  /// Strands (self-attention, Lq = Lk and H = Hk): positions are cut into
  /// segments of `segment` (0: one), and in head h the positions of a segment that are first[h]
  /// modulo step[h] see only each other; the others see nothing. first empty: every residue is a
  /// strand of its own, which with a window is dilation. The window then counts positions of the
  /// strand.
  int64_t segment = 0;
  std::vector<int64_t> step = {}, first = {};  ///< [H] each; step empty: no strands
  /// Learned distances (Shaw et al. 2018), not along strands: of query i and key j, a is row
  /// clamp(i
  /// + offset - j + relative_middle, 0, R - 1) of its table, offset as for windows. relative [R,
  /// Dh]: a score is scale (q_i k_j + q_i a), + scale k_j a with relative_of_keys; relative_factors
  /// [R]: q_i k_j is multiplied by a; relative_values [R, Dv]: values are v_j + a. All get
  /// gradients.
  Tensor relative, relative_factors, relative_values;
  int64_t relative_middle = 0;
  bool relative_of_keys = false;
  /// Places on a grid (self-attention, not along strands): tokens 0 .. P - 1 stand in row y and
  /// column x, grid_places [P, 2] int64, and a score gets grid_bias[h, y_j - y_i + (Gy - 1) / 2,
  /// x_j
  /// - x_i + (Gx - 1) / 2] of [H, Gy, Gx], Gy and Gx odd, a constant; -inf: j is not seen. Other
  /// tokens get 0. Tokens that lie near each other on the grid should be neighbours: tiles of 64 by
  /// 64 that nobody sees cost nothing.
  Tensor grid_bias, grid_places;
};

/// softmax(q k^T scale + ...) v. q [B, H, Lq, Dh], k [B, Hk, Lk, Dh], v [B, Hk, Lk, Dv], Hk divides
/// H -> [B, H, Lq, Dv]. (Vaswani et al. 2017, section 3.2.) Tiled: memory is linear
/// in L, backward recomputes the probabilities. Float64, dropout, and float masks that want a
/// gradient take the plain definition.
Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionParams& p = {});

/// Does attention() take its tiled kernel for these? Else it keeps Lq x Lk scores in memory.
bool attention_is_tiled(const Tensor& q, const Tensor& k, const Tensor& v,
                        const AttentionParams& p = {});

struct AttentionWithLse {
  Tensor o;    ///< [B, H, Lq, Dv]
  Tensor lse;  ///< [B, H, Lq]: log of the sum of exponentials of the scores seen, -inf where none
               ///< is; differentiable
  Tensor rest = {};  ///< [B, H, Lq]: what rounding takes from lse (log n, where all n scores are
                     ///< -1e9); a constant in backward; undefined: 0
};
/// The same with what is needed to merge attention over several sets of keys: o = sum_s exp(lse_s -
/// lse) o_s. Not for the sigmoid.
AttentionWithLse attention_with_lse(const Tensor& q, const Tensor& k, const Tensor& v,
                                    const AttentionParams& p = {});
/// softmax attention over several patterns at once: o = sum_i alpha_i o_i with alpha_i = exp(lse_i
/// - lse), in one buffer, as if the keys of all patterns were one list (Ding et al. 2023, LongNet,
/// section 2.2). exact_gradient = false holds the alpha_i constant in backward, as the paper's code
/// does.
AttentionWithLse attention_mixture(const Tensor& q, const Tensor& k, const Tensor& v,
                                   const std::vector<AttentionParams>& patterns,
                                   bool exact_gradient = true);
/// Merges attention over several sets of keys into attention over all of them, by log-sum-exp.
/// exact_gradient as attention_mixture().
AttentionWithLse merge_attention(const std::vector<AttentionWithLse>& parts,
                                 bool exact_gradient = true);

/// PyTorch's F.scaled_dot_product_attention: here a boolean attn_mask is true where a query MAY
/// attend. is_causal: query i sees keys up to i + causal_offset; 0 aligns top-left, as PyTorch, no
/// value bottom-right (Lk - Lq), as MultiheadAttention.
Tensor scaled_dot_product_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                    const Tensor& attn_mask = {}, double dropout_p = 0,
                                    bool is_causal = false, std::optional<double> scale = {},
                                    std::optional<int64_t> causal_offset = 0);

/// The ALiBi slopes of `heads` heads, [H].
Tensor alibi_slopes(int64_t heads, const TensorOptions& o = {});

/// Rotary positions (Su et al. 2021) of x [B, H, L, Dh]: pair c turns by (start + t) base^(-2c/Dh).
/// style "half": pairs (c, c + Dh/2); "interleaved": pairs (2c, 2c+1); "none": x as it is.
Tensor rope(const Tensor& x, std::string_view style, double base = 10000, int64_t start = 0);
/// The same at positions [B, L] int64.
Tensor rope(const Tensor& x, std::string_view style, double base, const Tensor& positions);

/// [B, L, H * Dh] -> [B, H, L, Dh], a view.
Tensor split_heads(const Tensor& x, int64_t heads);
/// [B, H, L, Dh] -> [B, L, H * Dh].
Tensor merge_heads(const Tensor& x);

namespace plain {
/// attention_mixture by its definition, each pattern's output in memory.
AttentionWithLse attention_mixture(const Tensor& q, const Tensor& k, const Tensor& v,
                                   const std::vector<AttentionParams>& patterns,
                                   bool exact_gradient = true);
/// The definition, with the L x L scores in memory. `weights` receives the probabilities [B, H, Lq,
/// Lk], `lse` the log-sum-exp and `rest` what rounding takes from it, when not null.
Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionParams& p,
                 Tensor* weights = nullptr, Tensor* lse = nullptr, Tensor* rest = nullptr);
}  // namespace plain

}  // namespace dropin
