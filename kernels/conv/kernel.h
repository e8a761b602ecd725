// 2-d cross-correlation with zero padding (torch.nn.functional.conv2d). x [B, C, H, W], w [O,
// C/g, kh, kw], y [B, O, H', W'], contiguous, f32 and f64. Conv1d arrives as H = 1. Padding may be
// asymmetric (TF SAME).
#pragma once
#include "dropin/abi/abi.h"

namespace dropin::kernels {

struct ConvGeometry {
  int64_t stride[2] = {1, 1};
  int64_t dilation[2] = {1, 1};
  int64_t pad_begin[2] = {0, 0};  ///< top, left
  int64_t pad_end[2] = {0, 0};    ///< bottom, right
  int64_t groups = 1;
};

DROPIN_KERNEL(conv2d_forward, const abi::TensorIn& x, const abi::TensorIn& w,
              const abi::TensorIn& bias, const ConvGeometry& g, const abi::TensorOut& y);
DROPIN_KERNEL(conv2d_backward_input, const abi::TensorIn& gy, const abi::TensorIn& w,
              const ConvGeometry& g, const abi::TensorOut& gx);
/// gb may have data null.
DROPIN_KERNEL(conv2d_backward_weight, const abi::TensorIn& gy, const abi::TensorIn& x,
              const ConvGeometry& g, const abi::TensorOut& gw, const abi::TensorOut& gb);

/// Consecutive channels of a mixed depthwise convolution. w, gw [channels, 1, kh, kw]; bias, gb
/// [channels] or null.
struct DepthwiseRun {
  abi::TensorIn w, bias;
  abi::TensorOut gw, gb;
  ConvGeometry g;  ///< groups is not read
};
/// The runs of one convolution, where the caller keeps them; their channels add up to those of x.
struct DepthwiseRuns {
  const DepthwiseRun* first = nullptr;
  int64_t count = 0;
  const DepthwiseRun* begin() const { return first; }
  const DepthwiseRun* end() const { return first + count; }
  template <class F>
  void tensors(F&& f) const {
    for (const DepthwiseRun& r : *this) {
      for (const abi::TensorIn* t : {&r.w, &r.bias}) f(*t);
      for (const abi::TensorOut* t : {&r.gw, &r.gb}) f(*t);
    }
  }
};
/// x [B, C, H, W], y [B, C, H', W'], f32, both contiguous or both channels-last (strides of [B, H,
/// W, C]).
DROPIN_KERNEL(mixed_depthwise_forward, const abi::TensorIn& x, const DepthwiseRuns& runs,
              const abi::TensorOut& y);
/// gx, and each run's gw and gb; any may have data null. x is read for gw only.
DROPIN_KERNEL(mixed_depthwise_backward, const abi::TensorIn& gy, const abi::TensorIn& x,
              const DepthwiseRuns& runs, const abi::TensorOut& gx);

}  // namespace dropin::kernels
