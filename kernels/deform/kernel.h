// Deformable convolution (Dai et al. 2017, section 2.1; Zhu et al. 2019, section 3.2): x [B, C, H,
// W], offset [B, 2 G K, P, Q], mask [B, G K, P, Q] or null, w [O, C/groups, kh, kw], bias [O] or
// null, y [B, O, P, Q]; f32, contiguous. Sampling rules as in ops/deform_conv.h.
#pragma once
#include "kernels/conv/kernel.h"

namespace dropin::kernels {

DROPIN_KERNEL(deform_conv2d_forward, const abi::TensorIn& x, const abi::TensorIn& offset,
              const abi::TensorIn& mask, const abi::TensorIn& w, const abi::TensorIn& bias,
              const ConvGeometry& g, const abi::TensorOut& y);
/// Any of gx, goffset, gmask, gw may have data null.
DROPIN_KERNEL(deform_conv2d_backward, const abi::TensorIn& gy, const abi::TensorIn& x,
              const abi::TensorIn& offset, const abi::TensorIn& mask, const abi::TensorIn& w,
              const ConvGeometry& g, const abi::TensorOut& gx, const abi::TensorOut& goffset,
              const abi::TensorOut& gmask, const abi::TensorOut& gw);

}  // namespace dropin::kernels
