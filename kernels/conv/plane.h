// Convolution of single channels by single filters, the unit of depthwise convolution. One thread.
#pragma once
#include <cstdint>

namespace dropin::cpu {

/// Rows, then columns.
struct PlaneConv {
  std::int64_t size[2], out_size[2], kernel[2], stride[2], dilation[2], pad_begin[2];
};

/// Where the elements of an image stand: [C, H, W] with column = 1, or [H, W, C] with channel = 1.
struct PlaneStrides {
  std::int64_t channel, row, column;
};

/// y[c, p, q] = bias[c] + sum of w[c, i, j] x[c, p s + i d - pad, q s + j d - pad] for `channels` channels of one image; w [channels, kh, kw], bias or null. f32.
void planes_forward(const PlaneConv& c, std::int64_t channels, const float* x, const PlaneStrides& sx, const float* w, const float* bias, float* y, const PlaneStrides& sy);

/// For `channels` channels over all images (image strides in elements): gx of each image and gw [channels, kh, kw], gb [channels] summed over them; any of the three may be
/// null. Sums run over images in order. f32.
void planes_backward(const PlaneConv& c, std::int64_t channels, std::int64_t images, const float* gy, std::int64_t gy_image, const PlaneStrides& sy, const float* x, std::int64_t x_image,
                     const PlaneStrides& sx, const float* w, float* gx, float* gw, float* gb);

/// gw[i, j] = sum over images, p, q of gy[p, q] x[p s + i d - pad, q s + j d - pad] of one channel. Image strides in elements. f32 and f64.
template <class T>
void plane_weight_gradient(const PlaneConv& c, std::int64_t images, const T* gy, std::int64_t gy_image, const T* x, std::int64_t x_image, T* gw);

}  // namespace dropin::cpu
