// Deformable convolution (Dai et al. 2017; with modulation, Zhu et al. 2018, arXiv 1811.11168).
#pragma once
#include "dropin/ops/conv.h"

namespace dropin {

/// y[b, o, p, q] = bias[o] + sum over c, i, j of w[o, c, i, j] m x[b, c] sampled at row p s - pad +
/// i d + dy, column q s - pad + j d + dx (torchvision.ops.deform_conv2d). x [B, C, H, W], w [O,
/// C/groups, kh, kw], bias [O] or undefined; offset [B, 2 G K, H', W'] with K = kh kw and channels
/// (dy, dx) per offset group and tap; mask [B, G K, H', W'] or undefined (m = 1). Each of the G
/// offset groups moves C/G consecutive channels. A sample is 0, with zero gradients, unless -1 <
/// row < H and -1 < column < W; inside that it is bilinear with 0 beyond the border. NaN offsets
/// sample 0. The gradient at whole pixels is that of the lower cell. Padding must be symmetric.
Tensor deform_conv2d(const Tensor& x, const Tensor& offset, const Tensor& mask, const Tensor& w,
                     const Tensor& bias, const ConvParams& p = {});

namespace plain {
Tensor deform_conv2d(const Tensor& x, const Tensor& offset, const Tensor& mask, const Tensor& w,
                     const Tensor& bias, const ConvParams& p);
}  // namespace plain

}  // namespace dropin
