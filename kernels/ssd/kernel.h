// The scan of Mamba-2 (Dao & Gu 2024, section 6): h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T and
// y_t = h_t C_t + D x_t, for each sample and head. f32, contiguous.
// Cost per token and head, in chunks of Q tokens: Q (N + P) + 4 N P FLOPs forward, about 2.5 times
// that backward; arithmetic decides, as all that a chunk needs stays in cache.
#pragma once
#include "dropin/abi/abi.h"

namespace dropin::kernels {

struct SsdInputs {
  abi::TensorIn x;        ///< [B, L, H, P]
  abi::TensorIn dt;       ///< [B, L, H]
  abi::TensorIn A;        ///< [H]
  abi::TensorIn B, C;     ///< [B, L, G, N]; head h reads group h / (H / G)
  abi::TensorIn D;        ///< [H], or without data
  abi::TensorIn state;    ///< [B, H, P, N]: before the first token scanned
  abi::TensorIn seq_idx;  ///< [B, L] i64, or without data: where it changes, h begins at 0 again
  bool reverse = false;   ///< from the last token to the first
  template <class F>
  void tensors(F&& f) const {
    for (const abi::TensorIn* t : {&x, &dt, &A, &B, &C, &D, &state, &seq_idx}) f(*t);
  }
};
/// Written, of the inputs' sizes but: A and D [B, H], of each sample; B and C [B, L, H, N], of each
/// head.
struct SsdGradients {
  abi::TensorOut x, dt, A, B, C, D, state;
  template <class F>
  void tensors(F&& f) const {
    for (const abi::TensorOut* t : {&x, &dt, &A, &B, &C, &D, &state}) f(*t);
  }
};
/// y as x; final_state as state: after the last token scanned.
DROPIN_KERNEL(ssd_forward, const SsdInputs& in, const abi::TensorOut& y,
              const abi::TensorOut& final_state);
/// By the gradients of y and final_state (each may be without data: zeros).
DROPIN_KERNEL(ssd_backward, const abi::TensorIn& gy, const abi::TensorIn& gfinal,
              const SsdInputs& in, const SsdGradients& out);

}  // namespace dropin::kernels
