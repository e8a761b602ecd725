// Attention whose heads mix per pair of tokens, before the softmax and after it (Xiao et al. 2024):
// no Lq x Lk array. q [B, H, Lq, D], k [B, H, Lk, D], v [B, H, Lk, Dv] f32, the last dimension
// contiguous. Of the H numbers a of a pair (t, s), mixing makes a + a F + a M(t) + a M(s), M = w1^T
// w2 + diag(g): F [H, H] is fixed, the others come from factors of the query and of the key, each
// w1 [R, H], w2 [R, H], g [H], of the first stage and then of the second. Cost of a pair: 4 D
// products of a head and 4 (4 R + 2) of mixing.
#pragma once
#include "dropin/abi/abi.h"

namespace dropin::kernels {

/// Key j is seen by query i when left <= j - (i + offset) <= right and no mask forbids it.
struct MixedHeadsSpec {
  double scale = 1;
  int64_t rank = 1;
  int64_t offset = 0;
  int64_t left = INT64_MIN;   ///< INT64_MIN: no bound
  int64_t right = INT64_MAX;  ///< INT64_MAX: no bound
};
/// of_queries [B, Lq, 2 (2 R + 1) H], of_keys [B, Lk, 2 (2 R + 1) H], fixed [2, H, H]: contiguous
/// f32, each may be null; key_mask [B, Lk] bool (true = ignored) or null.
struct MixedHeadsInputs {
  abi::TensorIn q, k, v, of_queries, of_keys, fixed, key_mask;
  template <class F>
  void tensors(F&& f) const {
    for (const abi::TensorIn* t : {&q, &k, &v, &of_queries, &of_keys, &fixed, &key_mask}) f(*t);
  }
};
/// Written; those of what is null are null.
struct MixedHeadsGradients {
  abi::TensorOut q, k, v, of_queries, of_keys, fixed;
  template <class F>
  void tensors(F&& f) const {
    for (const abi::TensorOut* t : {&q, &k, &v, &of_queries, &of_keys, &fixed}) f(*t);
  }
};

/// o [B, H, Lq, Dv]. A query that sees no key gives 0. Unsupported: ranks above 8.
DROPIN_KERNEL(mixed_heads_forward, const MixedHeadsInputs& in, const MixedHeadsSpec& spec,
              const abi::TensorOut& o);
DROPIN_KERNEL(mixed_heads_backward, const abi::TensorIn& go, const MixedHeadsInputs& in,
              const MixedHeadsSpec& spec, const MixedHeadsGradients& out);

}  // namespace dropin::kernels
