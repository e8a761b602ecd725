// Decaying, oscillating traces: a linear recurrence with fixed complex multipliers.
#pragma once
#include "dropin/autograd/autograd.h"

namespace dropin {

struct TraceArgs {
  Tensor reset;  ///< [B, T] bool: the state before this token counts as 0
  Tensor hold;   ///< [B, T] bool: this token leaves the state as it is
};

/// S_t = gamma S_{t-1} + u_t with u_t added to the real part of all frequencies (Morad et al. 2023,
/// section 4). u [B, T, m], gamma [m, c, 2] and state [B, m, c, 2] as pairs (re, im) -> all S_t [B,
/// T, 2mc] in the order of the state. A true scan, token after token: any T and any |gamma| <= 1 in
/// float32. float32, float64; 16-bit types compute in float32.
Tensor traces(const Tensor& u, const Tensor& gamma, const Tensor& state,
              const TraceArgs& args = {});

namespace plain {
Tensor traces(const Tensor& u, const Tensor& gamma, const Tensor& state,
              const TraceArgs& args = {});
}  // namespace plain

}  // namespace dropin
