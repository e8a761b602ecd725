// Deformable convolution (Dai et al. 2017, section 2.1; Zhu et al. 2019, section 3.2), f32,
// contiguous. Sampling rules as in ops/deform_conv.h.
#pragma once
#include "kernels/conv/kernel.h"

namespace dropin::kernels {

/// x [B, C, H, W], offset [B, 2 G K, P, Q], mask [B, G K, P, Q] or null, weight [O, C/groups, kh,
/// kw], bias [O] or null (not read by backward).
struct DeformConvInputs {
  abi::TensorIn x, offset, mask, weight, bias;
  ConvGeometry geometry;
  template <class F>
  void tensors(F&& f) const {
    for (const abi::TensorIn* t : {&x, &offset, &mask, &weight, &bias}) f(*t);
  }
};
/// Written; data null where not wanted.
struct DeformConvGradients {
  abi::TensorOut x, offset, mask, weight;
  template <class F>
  void tensors(F&& f) const {
    for (const abi::TensorOut* t : {&x, &offset, &mask, &weight}) f(*t);
  }
};

/// y [B, O, P, Q].
DROPIN_KERNEL(deform_conv2d_forward, const DeformConvInputs& in, const abi::TensorOut& y);
DROPIN_KERNEL(deform_conv2d_backward, const abi::TensorIn& gy, const DeformConvInputs& in,
              const DeformConvGradients& out);

}  // namespace dropin::kernels
