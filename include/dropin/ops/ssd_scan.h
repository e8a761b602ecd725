// The scan of Mamba-2: a linear recurrence with a decay per head and token, in chunks.
#pragma once
#include "dropin/autograd/autograd.h"

namespace dropin {

struct SsdScanArgs {
  Tensor D;                 ///< [H]: adds D x_t
  Tensor initial_states;    ///< [B, H, P, N]: the state before the first token scanned; zeros
  Tensor seq_idx;           ///< [B, L] int64: where it changes, the state begins at 0 again
  int64_t chunk_size = 64;  ///< tokens computed at once where there is no kernel (float32 on the
                            ///< CPU has one); only rounding depends on it
  bool reverse = false;     ///< from the last token to the first
};
struct SsdScanResult {
  Tensor y;            ///< [B, L, H, P]
  Tensor final_state;  ///< [B, H, P, N]: after the last token scanned
};

namespace plain {
/// ssd_scan() by chunks of recorded operations, all of one type, with initial_states.
SsdScanResult ssd_scan(const Tensor& x, const Tensor& dt, const Tensor& A, const Tensor& B,
                       const Tensor& C, const SsdScanArgs& args);
}  // namespace plain

/// h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T and y_t = h_t C_t + D x_t for each head (Dao & Gu
/// 2024, section 6; ssd). x [B, L, H, P], dt [B, L, H], A [H], B and C [B, L, G, N]; head h reads
/// group h / (H / G). O(L) time and memory: chunks as matrix products, one state carried between
/// them. Every decay is the exponential of a sum of dt A alone, never a quotient, so that no length
/// and no decay overflows. 16-bit types compute in float32, and the state stays float32. A NaN
/// spreads to every later token of its sample and head.
SsdScanResult ssd_scan(const Tensor& x, const Tensor& dt, const Tensor& A, const Tensor& B,
                       const Tensor& C, const SsdScanArgs& args = {});

/// The next token: state [B, H, P, N], x_t [B, H, P], dt_t [B, H], A [H], B_t and C_t [B, G, N], D
/// [H] or undefined -> y [B, H, P] and the new state.
SsdScanResult ssd_step(const Tensor& state, const Tensor& x_t, const Tensor& dt_t, const Tensor& A,
                       const Tensor& B_t, const Tensor& C_t, const Tensor& D = {});

}  // namespace dropin
