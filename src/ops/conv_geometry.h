// Convolution parameters as the kernels take them.
#pragma once
#include "dropin/ops/conv.h"
#include "kernels/conv/kernel.h"

namespace dropin::ops_detail {

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

}  // namespace dropin::ops_detail
