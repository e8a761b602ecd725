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
inline int64_t latent_state_size(int64_t latents, int64_t width) { return latents * (width + 2); }
/// Tokens between two kept states.
inline constexpr int64_t kLatentChunk = 64;

struct LatentInputs {
  abi::TensorIn p, k, v;
  bool causal = false;
  int64_t chunk = kLatentChunk;  ///< tokens taken at once, at most kLatentChunk; without
                                 ///< effect on results beyond rounding
  template <class F>
  void tensors(F&& f) const {
    for (const abi::TensorIn* t : {&p, &k, &v}) f(*t);
  }
};
struct LatentGradients {
  abi::TensorOut p, k, v;  ///< written
  template <class F>
  void tensors(F&& f) const {
    for (const abi::TensorOut* t : {&p, &k, &v}) f(*t);
  }
};
/// o [B, H, T, D]. state [B, H, latent_state_size] contiguous: before the first token on entry (m =
/// -inf and zeros for none), after the last on exit. kept [B, H, ceil(T / kLatentChunk),
/// latent_state_size] contiguous or null: the state before each chunk of a causal scan, for
/// backward.
DROPIN_KERNEL(latent_forward, const LatentInputs& in, const abi::TensorOut& o,
              const abi::TensorOut& state, const abi::TensorOut& kept);
/// kept: as forward left it when causal, otherwise the state after the last token [B, H,
/// latent_state_size].
DROPIN_KERNEL(latent_backward, const abi::TensorIn& go, const LatentInputs& in,
              const abi::TensorIn& kept, const LatentGradients& out);

}  // namespace dropin::kernels
