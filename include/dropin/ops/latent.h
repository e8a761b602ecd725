// Latent attention on heads.
#pragma once
#include "dropin/autograd/autograd.h"

namespace dropin {

/// p [B, H, T, N] weights of the latents per token, k [B, H, T, N] scores of the tokens per latent,
/// v [B, H, T, Dv] -> [B, H, T, Dv]: o_t = sum_l p_tl sum_s softmax_s(k_sl) v_s, the softmax over s
/// <= t when causal, over all s otherwise (Dolga et al. 2024, section 3). Tokens with
/// key_padding_mask [B, T] true take no part; a token that sees none gives 0. Linear in T; stable
/// for any finite scores. chunk: tokens that a causal scan takes at once (at most 64), without
/// effect on results beyond rounding.
Tensor latent_attention(const Tensor& p, const Tensor& k, const Tensor& v, bool causal,
                        const Tensor& key_padding_mask = {}, int64_t chunk = 64);

/// The state of a causal scan before its first token, [B, H, N (Dv + 2)]: a running maximum, a sum
/// and a weighted sum of values per latent.
Tensor latent_state(int64_t batch, int64_t heads, int64_t latents, int64_t width,
                    const TensorOptions& o = {});
/// The next tokens of a causal scan: latent_attention() from `state`, which is moved on. Not
/// recorded.
Tensor latent_scan(const Tensor& p, const Tensor& k, const Tensor& v, const Tensor& state,
                   int64_t chunk = 64);

namespace plain {
/// latent_attention from recorded operations. state: where to start, and where to end, when defined
/// (it is written then).
Tensor latent_attention(const Tensor& p, const Tensor& k, const Tensor& v, bool causal,
                        const Tensor& state = {});
}  // namespace plain

}  // namespace dropin
