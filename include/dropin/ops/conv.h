// Convolution and pooling, NCHW (PyTorch's semantics).
#pragma once
#include <array>

#include "dropin/autograd/autograd.h"

namespace dropin {

using Pair = std::array<int64_t, 2>;

struct ConvParams {
  Pair stride{1, 1};
  Pair pad_begin{0, 0};  ///< top, left
  Pair pad_end{0, 0};    ///< bottom, right
  Pair dilation{1, 1};
  int64_t groups = 1;
};

/// x [B, C, H, W], w [O, C/g, kh, kw], bias [O] or undefined -> [B, O, H', W'].
Tensor conv2d(const Tensor& x, const Tensor& w, const Tensor& bias, const ConvParams& p = {});
/// x [B, C, L], w [O, C/g, k] -> [B, O, L'].
Tensor conv1d(const Tensor& x, const Tensor& w, const Tensor& bias, int64_t stride = 1,
              int64_t pad_begin = 0, int64_t pad_end = 0, int64_t dilation = 1, int64_t groups = 1);
/// What a transposed convolution is told, as torch.nn.functional.conv_transpose2d.
struct ConvTransposeParams {
  Pair stride{1, 1};
  Pair padding{0, 0};         ///< cells taken off each side of the result
  Pair output_padding{0, 0};  ///< cells added below and right; less than stride or dilation
  int64_t groups = 1;
  Pair dilation{1, 1};
};
/// The gradient of conv2d with respect to its input, as a layer: x [B, C, H, W], w [C, O/g, kh,
/// kw], bias [O] or undefined -> [B, O, (H - 1) stride - 2 padding + dilation (kh - 1) +
/// output_padding + 1, W'].
Tensor conv_transpose2d(const Tensor& x, const Tensor& w, const Tensor& bias = {},
                        const ConvTransposeParams& p = {});
/// x [B, C, L], w [C, O/g, k] -> [B, O, L'].
Tensor conv_transpose1d(const Tensor& x, const Tensor& w, const Tensor& bias = {},
                        int64_t stride = 1, int64_t padding = 0, int64_t output_padding = 0,
                        int64_t groups = 1, int64_t dilation = 1);
/// One run of channels of a mixed depthwise convolution, with a kernel of its own.
struct DepthwiseGroup {
  Tensor weight;  ///< [C_i, 1, kh, kw]
  Tensor bias;    ///< [C_i] or undefined
  Pair pad_begin{0, 0}, pad_end{0, 0}, dilation{1, 1};
};
/// Depthwise convolution of consecutive channels by several kernel sizes in one pass (MixConv): x
/// [B, sum C_i, H, W] -> [B, sum C_i, H', W'], the same output size for every group. f32 images
/// stay as they lie: channels-last x (strides of [B, H, W, C]) gives channels-last y.
Tensor mixed_depthwise_conv2d(const Tensor& x, const std::vector<DepthwiseGroup>& groups,
                              const Pair& stride = {1, 1});
/// Total padding of one axis for PyTorch's "same" (stride 1): {left, right}.
Pair same_padding(int64_t kernel, int64_t dilation);
/// TensorFlow's SAME for any stride: output ceil(n / stride); {left, right}, the odd cell on the
/// right.
Pair tf_same_padding(int64_t n, int64_t kernel, int64_t stride, int64_t dilation);

namespace plain {
Tensor mixed_depthwise_conv2d(const Tensor& x, const std::vector<DepthwiseGroup>& groups,
                              const Pair& stride);
}  // namespace plain

struct PoolParams {
  Pair kernel{1, 1};
  Pair stride{1, 1};
  Pair padding{0, 0};
  Pair dilation{1, 1};
  bool ceil_mode = false;
  bool count_include_pad = true;
  int64_t divisor_override = 0;
};
Tensor max_pool2d(const Tensor& x, const PoolParams& p);
Tensor avg_pool2d(const Tensor& x, const PoolParams& p);
Tensor adaptive_avg_pool2d(const Tensor& x, const Pair& output_size);

}  // namespace dropin
