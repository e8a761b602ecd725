// Latent attention (Dolga et al. 2024, section 3): tokens talk
// through N latents per head. p [B, H, T, N] weights of the latents per token, k [B, H, T, N]
// scores of the tokens per latent, v [B, H, T, D], f32, any strides with the last dimension
// contiguous: o_t = sum_l p_tl sum_s exp(k_sl) v_s / sum_s exp(k_sl), over s <= t when causal (a
// chunked stable scan), over all s otherwise. A k of -inf is a token that is left out; its v must
// be finite.
#pragma once
#include "dropin/abi/abi.h"

namespace dropin::kernels {

/// Floats of state per head: the running maximum m [N], the sum z [N] in units of exp(m), and the
/// weighted sum S [N, D] in the same units.
inline std::int64_t latent_state_size(std::int64_t latents, std::int64_t width) {
  return latents * (width + 2);
}
/// Tokens between two kept states.
inline constexpr std::int64_t kLatentChunk = 64;

/// o [B, H, T, D]. state [B, H, latent_state_size] contiguous: before the first token on entry (m =
/// -inf and zeros for none), after the last on exit. kept [B, H, ceil(T / kLatentChunk),
/// latent_state_size] contiguous or null: the state before each chunk of a causal scan, for
/// backward. chunk: tokens taken at once, at most kLatentChunk; without effect on results beyond
/// rounding.
DROPIN_KERNEL(latent_forward, const abi::TensorIn& p, const abi::TensorIn& k,
              const abi::TensorIn& v, bool causal, std::int64_t chunk, const abi::TensorOut& o,
              const abi::TensorOut& state, const abi::TensorOut& kept);
/// kept: as forward left it when causal, otherwise the state after the last token [B, H,
/// latent_state_size]. gp, gk, gv are written.
DROPIN_KERNEL(latent_backward, const abi::TensorIn& go, const abi::TensorIn& p,
              const abi::TensorIn& k, const abi::TensorIn& v, bool causal, std::int64_t chunk,
              const abi::TensorIn& kept, const abi::TensorOut& gp, const abi::TensorOut& gk,
              const abi::TensorOut& gv);

}  // namespace dropin::kernels
