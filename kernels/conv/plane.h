// Convolution of a single channel by a single filter, the unit of depthwise convolution.
#pragma once
#include <cstdint>

namespace dropin::cpu {

/// Rows, then columns.
struct PlaneConv {
  std::int64_t size[2], out_size[2], kernel[2], stride[2], dilation[2], pad_begin[2];
};

/// gw[i, j] = sum over images, p, q of gy[p, q] x[p s + i d - pad, q s + j d - pad]; one thread. Image strides in elements.
template <class T>
void plane_weight_gradient(const PlaneConv& c, std::int64_t images, const T* gy, std::int64_t gy_stride, const T* x, std::int64_t x_stride, T* gw);

}  // namespace dropin::cpu
