// Convolutions, whose gradients are convolutions too.
#include "dropin/ops/conv.h"

#include <algorithm>

#include "dropin/ops/matmul.h"
#include "dropin/ops/reduce.h"
#include "dropin/ops/shape.h"
#include "kernels/hd.h"
#include "ops/common.h"
#include "ops/conv_geometry.h"

namespace dropin {

using ops_detail::conv_geometry;
using ops_detail::general_conv2d;
using ops_detail::need_floating;
using ops_detail::prepared;

namespace {

// The gradients of a convolution are convolutions too; each is a recorded op so that second
// derivatives exist.
Tensor conv_input_gradient(const Tensor& gy, const Tensor& w, const Shape& x_sizes,
                           const ConvParams& p);
Tensor conv_weight_gradient(const Tensor& gy, const Tensor& x, const Shape& w_sizes,
                            const ConvParams& p);

Tensor conv_op(const Tensor& x, const Tensor& w, const Tensor& bias, const Shape& y_sizes,
               const ConvParams& p) {
  Tensor y = empty(y_sizes, x.options());
  run<kernels::conv2d_forward>(x.device(), x.in(), w.in(), bias.in(), conv_geometry(p), y.out());
  return record(
      "conv2d", y, {x, w, bias},
      {w.requires_grad() ? x : Tensor(), x.requires_grad() ? w : Tensor()},
      [p, sx = x.sizes(), sw = w.sizes()](const Saved& s, const Tensor& g_) -> Tensors {
        const Tensor g = g_.contiguous();
        Tensor gx, gw, gb;
        if (s.needs(0)) gx = conv_input_gradient(g, s[1], sx, p);
        if (s.needs(1) && s.needs(2) && !grad_enabled()) {  // the bias comes along for free
          gw = empty(sw, g.options());
          gb = empty({sw[0]}, g.options());
          run<kernels::conv2d_backward_weight>(g.device(), g.in(), s[0].in(), conv_geometry(p),
                                               gw.out(), gb.out());
        } else {
          if (s.needs(1)) gw = conv_weight_gradient(g, s[0], sw, p);
          if (s.needs(2)) gb = sum(g, {0, 2, 3});
        }
        return {gx, gw, gb};
      });
}

Tensor conv_input_gradient(const Tensor& gy, const Tensor& w, const Shape& x_sizes,
                           const ConvParams& p) {
  Tensor gx = empty(x_sizes, gy.options());
  run<kernels::conv2d_backward_input>(gy.device(), gy.in(), w.in(), conv_geometry(p), gx.out());
  return record("conv2d_input_gradient", gx, {gy, w}, {gy, w},
                [p](const Saved& s, const Tensor& g_) -> Tensors {
                  const Tensor g = g_.contiguous(), gy = s[0], w = s[1];
                  return {s.needs(0) ? conv_op(g, w, {}, gy.sizes(), p) : Tensor(),
                          s.needs(1) ? conv_weight_gradient(gy, g, w.sizes(), p) : Tensor()};
                });
}

Tensor conv_weight_gradient(const Tensor& gy, const Tensor& x, const Shape& w_sizes,
                            const ConvParams& p) {
  Tensor gw = empty(w_sizes, gy.options());
  run<kernels::conv2d_backward_weight>(gy.device(), gy.in(), x.in(), conv_geometry(p), gw.out(),
                                       abi::TensorOut{});
  return record("conv2d_weight_gradient", gw, {gy, x}, {gy, x},
                [p](const Saved& s, const Tensor& g_) -> Tensors {
                  const Tensor g = g_.contiguous(), gy = s[0], x = s[1];
                  return {s.needs(0) ? conv_op(x, g, {}, gy.sizes(), p) : Tensor(),
                          s.needs(1) ? conv_input_gradient(gy, g, x.sizes(), p) : Tensor()};
                });
}

}  // namespace

Shape ops_detail::conv_sizes(const Tensor& x, const Tensor& w, const Tensor& bias,
                             const ConvParams& p) {
  need_floating("conv2d", x);
  if (x.dim() != 4) fail<ShapeError>({"conv2d: x is ", x.sizes(), ", expected [B, C, H, W]"});
  if (w.dim() != 4)
    fail<ShapeError>({"conv2d: weight is ", w.sizes(), ", expected [O, C / groups, kh, kw]"});
  const int64_t c = x.size(1), o = w.size(0);
  if (p.groups <= 0 || c % p.groups || o % p.groups)
    fail<OptionError>({"conv2d: ", c, " input and ", o,
                       " output channels are not divisible by groups ", p.groups});
  if (w.size(1) != c / p.groups)
    fail<ShapeError>({"conv2d: weight is ", w.sizes(), ", expected [O, ", c / p.groups,
                      ", kh, kw] because x has ", c, " channels in ", p.groups, " groups"});
  if (bias.defined() && !(bias.sizes() == Shape{o}))
    fail<ShapeError>({"conv2d: bias is ", bias.sizes(), ", expected [", o, "]"});
  ops_detail::same_device("conv2d", x, w);
  Shape y_sizes{x.size(0), o, 0, 0};
  for (std::size_t i = 0; i < 2; ++i) {
    if (p.stride[i] <= 0 || p.dilation[i] <= 0 || p.pad_begin[i] < 0 || p.pad_end[i] < 0 ||
        w.size(static_cast<int>(i) + 2) <= 0)
      fail<OptionError>(
          {"conv2d: kernel size, stride and dilation must be positive and padding not negative"});
    const int64_t room = x.size(static_cast<int>(i) + 2) + p.pad_begin[i] + p.pad_end[i],
                  reach = p.dilation[i] * (w.size(static_cast<int>(i) + 2) - 1) + 1;
    if (room < reach)
      fail<ShapeError>({"conv2d: x is ", x.sizes(), ": the padded size ", room,
                        " is smaller than the kernel's reach ", reach, " (empty output)"});
    y_sizes[static_cast<int>(i) + 2] = (room - reach) / p.stride[i] + 1;
  }
  return y_sizes;
}

Tensor ops_detail::general_conv2d(const Tensor& x_, const Tensor& w, const Tensor& bias,
                                  const ConvParams& p) {
  const Shape y_sizes = conv_sizes(x_, w, bias, p);
  const Tensor x = prepared(x_);
  return conv_op(x, ops_detail::as_beside(w, x), ops_detail::as_beside(bias, x), y_sizes, p)
      .to(x_.dtype());
}

Tensor conv2d(const Tensor& x, const Tensor& w, const Tensor& bias, const ConvParams& p) {
  if (x.dim() == 4 && p.groups == x.size(1) && w.dim() == 4 && w.size(0) == x.size(1) &&
      w.size(1) == 1 && x.dtype() != kFloat64 && p.groups > 0)
    return mixed_depthwise_conv2d(x, {{w, bias, p.pad_begin, p.pad_end, p.dilation}}, p.stride);
  return general_conv2d(x, w, bias, p);
}

Tensor conv1d(const Tensor& x, const Tensor& w, const Tensor& bias, int64_t stride,
              int64_t pad_begin, int64_t pad_end, int64_t dilation, int64_t groups) {
  if (x.dim() != 3) fail<ShapeError>({"conv1d: x is ", x.sizes(), ", expected [B, C, L]"});
  if (w.dim() != 3)
    fail<ShapeError>({"conv1d: weight is ", w.sizes(), ", expected [O, C / groups, k]"});
  return conv2d(x.unsqueeze(2), w.unsqueeze(2), bias,
                {.stride = {1, stride},
                 .pad_begin = {0, pad_begin},
                 .pad_end = {0, pad_end},
                 .dilation = {1, dilation},
                 .groups = groups})
      .squeeze(2);
}

namespace {

/// Sizes of a transposed convolution's result, all arguments checked.
Shape transposed_sizes(const Tensor& x, const Tensor& w, const Tensor& bias,
                       const ConvTransposeParams& p) {
  const char* who = "conv_transpose2d";
  need_floating(who, x);
  DROPIN_CHECK(x.dim() == 4 && w.dim() == 4, ShapeError, who, ": x is ", x.sizes(),
               " and weight is ", w.sizes(), ", expected [B, C, H, W] and [C, O / groups, kh, kw]");
  DROPIN_CHECK(p.groups > 0 && x.size(1) % p.groups == 0, OptionError, who, ": ", x.size(1),
               " input channels are not divisible by groups ", p.groups);
  DROPIN_CHECK(w.size(0) == x.size(1), ShapeError, who, ": weight is ", w.sizes(), ", expected [",
               x.size(1), ", O / groups, kh, kw] because x has ", x.size(1), " channels");
  const int64_t channels = w.size(1) * p.groups;
  DROPIN_CHECK(!bias.defined() || bias.sizes() == Shape{channels}, ShapeError, who, ": bias is ",
               bias.sizes(), ", expected [", channels, "]");
  ops_detail::same_device(who, x, w);
  Shape y{x.size(0), channels, 0, 0};
  for (int i = 0; i < 2; ++i) {
    const auto k = static_cast<std::size_t>(i);
    DROPIN_CHECK(p.stride[k] > 0 && p.dilation[k] > 0 && p.padding[k] >= 0 && w.size(i + 2) > 0,
                 OptionError, who,
                 ": kernel size, stride and dilation must be positive and padding not negative");
    DROPIN_CHECK(
        p.output_padding[k] >= 0 && p.output_padding[k] < std::max(p.stride[k], p.dilation[k]),
        OptionError, who, ": output_padding ", p.output_padding[k], " is not below stride ",
        p.stride[k], " or dilation ", p.dilation[k]);
    y[i + 2] = (x.size(i + 2) - 1) * p.stride[k] - 2 * p.padding[k] +
               p.dilation[k] * (w.size(i + 2) - 1) + p.output_padding[k] + 1;
    DROPIN_CHECK(x.size(i + 2) > 0 && y[i + 2] > 0, ShapeError, who, ": x is ", x.sizes(),
                 ", whose result would be empty");
  }
  return y;
}

}  // namespace

Tensor conv_transpose2d(const Tensor& x_in, const Tensor& w, const Tensor& bias,
                        const ConvTransposeParams& p) {
  Shape sizes = transposed_sizes(x_in, w, bias, p);
  const Tensor x = prepared(x_in);
  ConvParams c{
      .stride = p.stride, .pad_begin = p.padding, .dilation = p.dilation, .groups = p.groups};
  Shape more{0, 0, 0, 0};  // cells that no window reaches, right and below
  for (std::size_t i = 0; i < 2; ++i) {
    c.pad_end[i] = std::max<int64_t>(p.padding[i] - p.output_padding[i], 0);
    const int64_t beyond = std::max<int64_t>(p.output_padding[i] - p.padding[i], 0);
    more[i == 0 ? 3 : 1] = beyond;
    sizes[static_cast<int>(i) + 2] -= beyond;
  }
  Tensor y = conv_input_gradient(x, ops_detail::as_beside(w, x), sizes, c);
  if (more[1] || more[3]) y = pad(y, more);
  if (bias.defined()) y = y + ops_detail::as_beside(bias, x).reshape({1, -1, 1, 1});
  return y.to(x_in.dtype());
}

Tensor conv_transpose1d(const Tensor& x, const Tensor& w, const Tensor& bias, int64_t stride,
                        int64_t padding, int64_t output_padding, int64_t groups, int64_t dilation) {
  DROPIN_CHECK(x.dim() == 3 && w.dim() == 3, ShapeError, "conv_transpose1d: x is ", x.sizes(),
               " and weight is ", w.sizes(), ", expected [B, C, L] and [C, O / groups, k]");
  return conv_transpose2d(x.unsqueeze(2), w.unsqueeze(2), bias,
                          {.stride = {1, stride},
                           .padding = {0, padding},
                           .output_padding = {0, output_padding},
                           .groups = groups,
                           .dilation = {1, dilation}})
      .squeeze(2);
}

Pair same_padding(int64_t kernel, int64_t dilation) {
  const int64_t total = dilation * (kernel - 1);
  return {total / 2, total - total / 2};
}
Pair tf_same_padding(int64_t n, int64_t kernel, int64_t stride, int64_t dilation) {
  const int64_t out = ceil_div(n, stride),
                total = std::max<int64_t>((out - 1) * stride + dilation * (kernel - 1) + 1 - n, 0);
  return {total / 2, total - total / 2};
}

}  // namespace dropin
