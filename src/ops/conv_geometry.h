// What the files of convolutions share.
#pragma once
#include "dropin/ops/conv.h"
#include "kernels/conv/kernel.h"

namespace dropin::ops_detail {

/// Parameters as the kernels take them.
inline kernels::ConvGeometry conv_geometry(const ConvParams& p) {
  kernels::ConvGeometry g;
  for (std::size_t i = 0; i < 2; ++i) {
    g.stride[i] = p.stride[i];
    g.dilation[i] = p.dilation[i];
    g.pad_begin[i] = p.pad_begin[i];
    g.pad_end[i] = p.pad_end[i];
  }
  g.groups = p.groups;
  return g;
}

/// Output sizes of a convolution, all arguments checked.
Shape conv_sizes(const Tensor& x, const Tensor& w, const Tensor& bias, const ConvParams& p);
/// By the general kernels, whatever the groups.
Tensor general_conv2d(const Tensor& x, const Tensor& w, const Tensor& bias, const ConvParams& p);

}  // namespace dropin::ops_detail
