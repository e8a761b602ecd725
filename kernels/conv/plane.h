// Convolution of planes [H, W] by single filters, the unit of depthwise convolution. One thread.
#pragma once
#include <algorithm>
#include <cstdint>
#include <numeric>

#include "kernels/hd.h"

namespace dropin::cpu {

/// Rows, then columns.
struct PlaneConv {
  int64_t size[2], out_size[2], kernel[2], stride[2], dilation[2], pad_begin[2];
};

/// Rows (or columns) of gx with remainder `first` modulo the stride: which taps reach them, and
/// from which rows of gy.
struct Phase {
  int64_t first, count;              ///< gx's rows first, first + stride, ...
  int64_t tap, tap_step, taps, dil;  ///< the last tap that reaches them (tap - u tap_step for
                                     ///< u < taps), and rows of gy from one to the next
  int64_t row;                       ///< gy's row under the first of them, for that last tap
};
inline Phase phase(const PlaneConv& c, int axis, int64_t first) {
  const int64_t s = c.stride[axis], d = c.dilation[axis], k = c.kernel[axis],
                pad = c.pad_begin[axis], g = std::gcd(s, d);
  Phase f{first, ceil_div(c.size[axis] - first, s), 0, s / g, 0, d / g, 0};
  int64_t i0 = 0;
  while (i0 < std::min(k, s) && (first + pad - i0 * d) % s != 0) ++i0;
  if (i0 >= std::min(k, s)) return f;
  f.taps = (k - 1 - i0) / f.tap_step + 1;
  f.tap = i0 + (f.taps - 1) * f.tap_step;
  f.row = (first + pad - f.tap * d) / s;  // exact, maybe negative
  return f;
}

/// y[c, p, q] = bias[c] + sum of w[c, i, j] x[c, p s + i d - pad, q s + j d - pad] for `channels`
/// channels of one image; x [channels, H, W], w [channels, kh, kw], bias or null.
void planes_forward(const PlaneConv& c, int64_t channels, const float* x, const float* w,
                    const float* bias, float* y);

/// For `channels` channels over all images (image strides in elements): gx of each image and gw
/// [channels, kh, kw], gb [channels] summed over them; any of the three may be null. Sums run over
/// images in order.
void planes_backward(const PlaneConv& c, int64_t channels, int64_t images, const float* gy,
                     int64_t gy_image, const float* x, int64_t x_image, const float* w, float* gx,
                     float* gw, float* gb);

/// gw[i, j] = sum over images, p, q of gy[p, q] x[p s + i d - pad, q s + j d - pad] of one channel.
/// Image strides in elements. f32 and f64.
template <class T>
void plane_weight_gradient(const PlaneConv& c, int64_t images, const T* gy, int64_t gy_image,
                           const T* x, int64_t x_image, T* gw);

}  // namespace dropin::cpu
