// Decaying, oscillating traces (Morad et al. 2023, section 4): S_t = gamma S_{t-1} + u_t for m
// rates of decay times c frequencies, complex. u [B, T, m], gamma [m, c, 2] and states [B, m, c, 2]
// as pairs (re, im); f [B, T, 2mc] holds S_t in the same order. f32 or f64, all of one type,
// contiguous. reset, hold [B, T] bool or null: where reset, S_{t-1} counts as 0; where hold, S_t =
// S_{t-1}. Cost: 8 FLOPs and one written pair per trace and token; memory decides.
#pragma once
#include "dropin/abi/abi.h"

namespace dropin::kernels {

struct TraceInputs {
  abi::TensorIn u, gamma, state, reset, hold;
  template <class F>
  void tensors(F&& f) const {
    for (const abi::TensorIn* t : {&u, &gamma, &state, &reset, &hold}) f(*t);
  }
};
struct TraceGradients {
  abi::TensorOut u, gamma, state;  ///< written; gamma [B, m, c, 2]: of each sample
  template <class F>
  void tensors(F&& f) const {
    for (const abi::TensorOut* t : {&u, &gamma, &state}) f(*t);
  }
};
DROPIN_KERNEL(trace_forward, const TraceInputs& in, const abi::TensorOut& f);
DROPIN_KERNEL(trace_backward, const abi::TensorIn& gf, const TraceInputs& in,
              const abi::TensorIn& f, const TraceGradients& out);

}  // namespace dropin::kernels
