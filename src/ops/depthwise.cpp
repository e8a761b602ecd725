// Depthwise convolution with several kernels at once.
#include <utility>

#include "dropin/ops/conv.h"
#include "dropin/ops/shape.h"
#include "ops/common.h"
#include "ops/conv_geometry.h"

namespace dropin {

using ops_detail::as_beside;
using ops_detail::conv_sizes;
using ops_detail::general_conv2d;

namespace plain {

Tensor mixed_depthwise_conv2d(const Tensor& x, const std::vector<DepthwiseGroup>& groups,
                              const Pair& stride) {
  Tensors parts;
  int64_t at = 0;
  for (const DepthwiseGroup& g : groups) {
    const int64_t c = g.weight.size(0);
    parts.push_back(general_conv2d(x.narrow(1, at, c), g.weight, g.bias,
                                   {.stride = stride,
                                    .pad_begin = g.pad_begin,
                                    .pad_end = g.pad_end,
                                    .dilation = g.dilation,
                                    .groups = c}));
    at += c;
  }
  return parts.size() == 1 ? parts[0] : concat(parts, 1);
}

}  // namespace plain

namespace {

/// Lies as [B, H, W, C] and not as [B, C, H, W] as well.
bool channels_last(const Tensor& t) {
  return !t.is_contiguous() && t.permute({0, 2, 3, 1}).is_contiguous();
}
Tensor as_channels_last(const Tensor& t) {
  return t.permute({0, 2, 3, 1}).contiguous().permute({0, 3, 1, 2});
}
Tensor empty_image(const Shape& s, const TensorOptions& o, bool last) {
  return last ? empty({s[0], s[2], s[3], s[1]}, o).permute({0, 3, 1, 2}) : empty(s, o);
}

/// Output sizes, all arguments checked.
Shape mixed_sizes(const Tensor& x, const std::vector<DepthwiseGroup>& groups, const Pair& stride) {
  const char* who = "mixed_depthwise_conv2d";
  ops_detail::need_floating(who, x);
  if (x.dim() != 4) fail<ShapeError>({who, ": x is ", x.sizes(), ", expected [B, C, H, W]"});
  Shape y_sizes;
  int64_t channels = 0;
  for (const DepthwiseGroup& g : groups) {
    const int64_t c = g.weight.dim() == 4 ? g.weight.size(0) : -1;
    if (c <= 0 || channels + c > x.size(1))
      fail<ShapeError>({who, ": weight is ", g.weight.sizes(),
                        ", expected [C_i, 1, kh, kw] with all C_i adding up to the ", x.size(1),
                        " channels of x"});
    const Shape s = conv_sizes(x.detach().narrow(1, channels, c), g.weight, g.bias,
                               {.stride = stride,
                                .pad_begin = g.pad_begin,
                                .pad_end = g.pad_end,
                                .dilation = g.dilation,
                                .groups = c});
    if (y_sizes.empty()) y_sizes = s;
    if (s[2] != y_sizes[2] || s[3] != y_sizes[3])
      fail<ShapeError>({who, ": groups give ", s[2], " x ", s[3], " and ", y_sizes[2], " x ",
                        y_sizes[3], " outputs, expected the same"});
    channels += c;
  }
  if (channels != x.size(1))
    fail<ShapeError>(
        {who, ": x is ", x.sizes(), ", expected ", channels, " channels as the weights have"});
  y_sizes[1] = channels;
  return y_sizes;
}

kernels::ConvGeometry geometry_of(const DepthwiseGroup& g, const Pair& stride) {
  return ops_detail::conv_geometry(ConvParams{
      .stride = stride, .pad_begin = g.pad_begin, .pad_end = g.pad_end, .dilation = g.dilation});
}

/// A call without its tensors: what its backward pass needs beside them.
struct Mixed {
  std::vector<DepthwiseGroup> groups;
  Pair stride;
  bool last;  ///< channels last
};

/// Saved: x, then weight and bias of each group.
Tensors mixed_backward(const Mixed& c, const Saved& s, const Tensor& gy) {
  const Tensor x = s[0];
  const std::size_t n = c.groups.size();
  if (grad_enabled()) {
    Tensors in{x};
    for (std::size_t i = 1; i <= 2 * n; ++i) in.push_back(s[static_cast<int>(i)]);
    return plain_gradients(s, in, gy, [&](const Tensors& v) {
      std::vector<DepthwiseGroup> all = c.groups;
      for (std::size_t i = 0; i < n; ++i) all[i].weight = v[2 * i + 1], all[i].bias = v[2 * i + 2];
      return plain::mixed_depthwise_conv2d(v[0], all, c.stride);
    });
  }
  const Tensor g = c.last ? as_channels_last(gy) : gy.contiguous();
  Tensors out{s.needs(0) ? empty_image(x.sizes(), x.options(), c.last) : Tensor()};
  std::vector<kernels::DepthwiseRun> runs;
  for (std::size_t i = 0; i < n; ++i) {
    const Tensor w = s[static_cast<int>(2 * i + 1)];
    out.push_back(s.needs(static_cast<int>(2 * i + 1)) ? empty_like(w) : Tensor());
    out.push_back(s.needs(static_cast<int>(2 * i + 2)) ? empty({w.size(0)}, w.options())
                                                       : Tensor());
    runs.push_back({w.in(),
                    {},
                    out[2 * i + 1].out(),
                    out[2 * i + 2].out(),
                    geometry_of(c.groups[i], c.stride)});
  }
  run<kernels::mixed_depthwise_backward>(
      x.device(), g.in(), x.in(), kernels::DepthwiseRuns{runs.data(), static_cast<int64_t>(n)},
      out[0].out());
  return out;
}

}  // namespace

Tensor mixed_depthwise_conv2d(const Tensor& x_, const std::vector<DepthwiseGroup>& groups,
                              const Pair& stride) {
  const Shape y_sizes = mixed_sizes(x_, groups, stride);
  if (x_.dtype() == kFloat64 ||
      !has_kernels<kernels::mixed_depthwise_forward, kernels::mixed_depthwise_backward>(
          x_.device()))
    return plain::mixed_depthwise_conv2d(x_, groups, stride);

  Mixed call{groups, stride, x_.dtype() == kFloat32 && channels_last(x_)};
  const Tensor x = call.last ? x_ : ops_detail::prepared(x_);
  Tensors inputs{x};
  for (DepthwiseGroup& g : call.groups) {
    inputs.push_back(as_beside(std::exchange(g.weight, {}), x));
    inputs.push_back(as_beside(std::exchange(g.bias, {}), x));
  }
  std::vector<kernels::DepthwiseRun> runs;
  for (std::size_t i = 0; i < groups.size(); ++i)
    runs.push_back(
        {inputs[2 * i + 1].in(), inputs[2 * i + 2].in(), {}, {}, geometry_of(groups[i], stride)});
  Tensor y = empty_image(y_sizes, x.options(), call.last);
  run<kernels::mixed_depthwise_forward>(
      x.device(), x.in(), kernels::DepthwiseRuns{runs.data(), static_cast<int64_t>(runs.size())},
      y.out());
  return record_many("mixed_depthwise_conv2d", {y}, inputs, inputs,
                     [call](const Saved& s, const Tensors& gs) -> Tensors {
                       return mixed_backward(call, s, gs[0]);
                     })[0]
      .to(x_.dtype());
}

}  // namespace dropin
