#include "dropin/ops/conv.h"

#include <limits>
#include <utility>

#include "dropin/ops/matmul.h"
#include "dropin/ops/reduce.h"
#include "dropin/ops/shape.h"
#include "kernels/hd.h"
#include "kernels/pool/kernel.h"
#include "ops/common.h"
#include "ops/conv_geometry.h"

namespace dropin {

using ops_detail::conv_geometry;
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

namespace {

/// Output sizes of a convolution, all arguments checked.
Shape conv_sizes(const Tensor& x, const Tensor& w, const Tensor& bias, const ConvParams& p) {
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

Tensor like(const Tensor& t, const Tensor& x) {
  return t.defined() ? t.to(x.dtype()).contiguous() : t;
}

/// By the general kernels, whatever the groups.
Tensor general_conv2d(const Tensor& x_, const Tensor& w, const Tensor& bias, const ConvParams& p) {
  const Shape y_sizes = conv_sizes(x_, w, bias, p);
  const Tensor x = prepared(x_);
  return conv_op(x, like(w, x), like(bias, x), y_sizes, p).to(x_.dtype());
}

}  // namespace

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

// --- depthwise convolution with several kernels

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

}  // namespace

Tensor mixed_depthwise_conv2d(const Tensor& x_, const std::vector<DepthwiseGroup>& groups_,
                              const Pair& stride) {
  const char* who = "mixed_depthwise_conv2d";
  need_floating(who, x_);
  if (x_.dim() != 4) fail<ShapeError>({who, ": x is ", x_.sizes(), ", expected [B, C, H, W]"});
  Shape y_sizes;
  int64_t channels = 0;
  for (const DepthwiseGroup& g : groups_) {
    const int64_t c = g.weight.dim() == 4 ? g.weight.size(0) : -1;
    if (c <= 0 || channels + c > x_.size(1))
      fail<ShapeError>({who, ": weight is ", g.weight.sizes(),
                        ", expected [C_i, 1, kh, kw] with all C_i adding up to the ", x_.size(1),
                        " channels of x"});
    const Shape s = conv_sizes(x_.detach().narrow(1, channels, c), g.weight, g.bias,
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
  if (channels != x_.size(1))
    fail<ShapeError>(
        {who, ": x is ", x_.sizes(), ", expected ", channels, " channels as the weights have"});
  y_sizes[1] = channels;
  if (x_.dtype() == kFloat64 ||
      !has_kernels<kernels::mixed_depthwise_forward, kernels::mixed_depthwise_backward>(
          x_.device()))
    return plain::mixed_depthwise_conv2d(x_, groups_, stride);

  const bool last = x_.dtype() == kFloat32 && channels_last(x_);
  const Tensor x = last ? x_ : prepared(x_);
  std::vector<DepthwiseGroup> groups = groups_;
  Tensors inputs{x};
  for (DepthwiseGroup& g : groups) {
    g.weight = like(g.weight, x), g.bias = like(g.bias, x);
    inputs.push_back(g.weight);
    inputs.push_back(g.bias);
  }
  auto geometry_of = [stride](const DepthwiseGroup& g) {
    return conv_geometry(ConvParams{
        .stride = stride, .pad_begin = g.pad_begin, .pad_end = g.pad_end, .dilation = g.dilation});
  };
  Tensor y = empty_image(y_sizes, x.options(), last);
  std::vector<kernels::DepthwiseRun> runs;
  for (const DepthwiseGroup& g : groups)
    runs.push_back({g.weight.in(), g.bias.in(), {}, {}, geometry_of(g)});
  run<kernels::mixed_depthwise_forward>(
      x.device(), x.in(), kernels::DepthwiseRuns{runs.data(), static_cast<int64_t>(runs.size())},
      y.out());
  Tensors saved{x};
  for (DepthwiseGroup& g : groups) {
    saved.push_back(g.weight);
    saved.push_back(std::exchange(g.bias, {}));
    g.weight = {};
  }
  return record_many(
             "mixed_depthwise_conv2d", {y}, inputs, saved,
             [groups, stride, last, geometry_of](const Saved& s, const Tensors& gs) -> Tensors {
               const Tensor x = s[0];
               const std::size_t n = groups.size();
               if (grad_enabled()) {
                 Tensors in{x};
                 for (std::size_t i = 1; i <= 2 * n; ++i) in.push_back(s[static_cast<int>(i)]);
                 return plain_gradients(s, in, gs[0], [&](const Tensors& v) {
                   std::vector<DepthwiseGroup> all = groups;
                   for (std::size_t i = 0; i < n; ++i)
                     all[i].weight = v[2 * i + 1], all[i].bias = v[2 * i + 2];
                   return plain::mixed_depthwise_conv2d(v[0], all, stride);
                 });
               }
               const Tensor g = last ? as_channels_last(gs[0]) : gs[0].contiguous();
               Tensors out{s.needs(0) ? empty_image(x.sizes(), x.options(), last) : Tensor()};
               std::vector<kernels::DepthwiseRun> runs;
               for (std::size_t i = 0; i < n; ++i) {
                 const Tensor w = s[static_cast<int>(2 * i + 1)];
                 out.push_back(s.needs(static_cast<int>(2 * i + 1)) ? empty_like(w) : Tensor());
                 out.push_back(s.needs(static_cast<int>(2 * i + 2))
                                   ? empty({w.size(0)}, w.options())
                                   : Tensor());
                 runs.push_back({w.in(),
                                 {},
                                 out[2 * i + 1].out(),
                                 out[2 * i + 2].out(),
                                 geometry_of(groups[i])});
               }
               run<kernels::mixed_depthwise_backward>(
                   x.device(), g.in(), x.in(),
                   kernels::DepthwiseRuns{runs.data(), static_cast<int64_t>(n)}, out[0].out());
               return out;
             })[0]
      .to(x_.dtype());
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

// --- pooling

namespace {

kernels::PoolGeometry geometry(const PoolParams& p) {
  kernels::PoolGeometry g;
  for (int i = 0; i < 2; ++i) {
    g.kernel[i] = p.kernel[static_cast<std::size_t>(i)];
    g.stride[i] = p.stride[static_cast<std::size_t>(i)];
    g.padding[i] = p.padding[static_cast<std::size_t>(i)];
    g.dilation[i] = p.dilation[static_cast<std::size_t>(i)];
  }
  g.count_include_pad = p.count_include_pad;
  g.divisor_override = p.divisor_override;
  return g;
}

Shape pooled_sizes(const char* who, const Tensor& x, const PoolParams& p) {
  need_floating(who, x);
  if (x.dim() != 4) fail<ShapeError>({who, ": x is ", x.sizes(), ", expected [B, C, H, W]"});
  Shape y = x.sizes();
  for (std::size_t i = 0; i < 2; ++i) {
    const int d = static_cast<int>(i) + 2;
    if (p.kernel[i] <= 0 || p.stride[i] <= 0 || p.dilation[i] <= 0 || p.padding[i] < 0)
      fail<OptionError>(
          {who, ": kernel size, stride and dilation must be positive and padding not negative"});
    if (p.padding[i] > p.kernel[i] / 2)
      fail<OptionError>(
          {who, ": padding ", p.padding[i], " is more than half of the kernel size ", p.kernel[i]});
    const int64_t span = x.size(d) + 2 * p.padding[i] - p.dilation[i] * (p.kernel[i] - 1) - 1;
    // Windows from the first on; with ceil_mode one more that begins inside, though it ends
    // outside.
    const int64_t s = p.stride[i], whole = span < 0 ? (span - s + 1) / s : span / s;
    int64_t n = (p.ceil_mode && whole * s < span ? whole + 1 : whole) + 1;
    if (p.ceil_mode && (n - 1) * s >= x.size(d) + p.padding[i]) --n;
    if (n < 1 || x.size(d) < 1)
      fail<ShapeError>({who, ": x is ", x.sizes(), ": smaller than the kernel (empty output)"});
    y[d] = n;
  }
  return y;
}

}  // namespace

Tensor max_pool2d(const Tensor& x_, const PoolParams& p) {
  const Shape sizes = pooled_sizes("max_pool2d", x_, p);
  const Tensor x = prepared(x_);
  Tensor y = empty(sizes, x.options()), index = empty(sizes, {kInt64, x.device()});
  run<kernels::max_pool2d_forward>(x.device(), x.in(), geometry(p), y.out(), index.out());
  return record(
             "max_pool2d", y, {x}, {index},
             [sx = x.sizes()](const Saved& s, const Tensor& g_) -> Tensors {
               const Tensor g = g_.contiguous(), index = s[0];
               auto flat = [](const Shape& z) { return Shape{z[0], z[1], z[2] * z[3]}; };
               if (grad_enabled())
                 return {scatter_add(zeros(flat(sx), g.options()), 2,
                                     index.reshape(flat(index.sizes())), g.reshape(flat(g.sizes())))
                             .reshape(sx)};
               Tensor gx = empty(sx, g.options());
               run<kernels::max_pool2d_backward>(g.device(), g.in(), index.in(), gx.out());
               return {gx};
             })
      .to(x_.dtype());
}

namespace {

// Average pooling is linear, so the gradient of its gradient is itself.
Tensor avg_pool_gradient(const Tensor& g_, const PoolParams& p, const Shape& sx) {
  const Tensor g = g_.contiguous();
  Tensor gx = empty(sx, g.options());
  run<kernels::avg_pool2d_backward>(g.device(), g.in(), geometry(p), gx.out());
  return record("avg_pool2d_gradient", gx, {g}, {},
                [p](const Saved&, const Tensor& gg) -> Tensors { return {avg_pool2d(gg, p)}; });
}
Tensor adaptive_gradient(const Tensor& g_, const Shape& sx) {
  const Tensor g = g_.contiguous();
  Tensor gx = empty(sx, g.options());
  run<kernels::adaptive_avg_pool2d_backward>(g.device(), g.in(), gx.out());
  return record("adaptive_avg_pool2d_gradient", gx, {g}, {},
                [size = Pair{g.size(2), g.size(3)}](const Saved&, const Tensor& gg) -> Tensors {
                  return {adaptive_avg_pool2d(gg, size)};
                });
}

}  // namespace

Tensor avg_pool2d(const Tensor& x_, const PoolParams& p) {
  if (p.dilation != Pair{1, 1})
    fail<OptionError>({"avg_pool2d: dilation is not an option of average pooling"});
  const Shape sizes = pooled_sizes("avg_pool2d", x_, p);
  const Tensor x = prepared(x_);
  Tensor y = empty(sizes, x.options());
  run<kernels::avg_pool2d_forward>(x.device(), x.in(), geometry(p), y.out());
  return record("avg_pool2d", y, {x}, {},
                [p, sx = x.sizes()](const Saved&, const Tensor& g) -> Tensors {
                  return {avg_pool_gradient(g, p, sx)};
                })
      .to(x_.dtype());
}

Tensor adaptive_avg_pool2d(const Tensor& x_, const Pair& size) {
  need_floating("adaptive_avg_pool2d", x_);
  if (x_.dim() != 4)
    fail<ShapeError>({"adaptive_avg_pool2d: x is ", x_.sizes(), ", expected [B, C, H, W]"});
  if (size[0] <= 0 || size[1] <= 0)
    fail<OptionError>({"adaptive_avg_pool2d: output size ", size[0], " x ", size[1],
                       ", expected positive sizes"});
  if (x_.size(2) == 0 || x_.size(3) == 0)
    fail<ShapeError>({"adaptive_avg_pool2d: x is ", x_.sizes(), ": no pixels"});
  const Tensor x = prepared(x_);
  Tensor y = empty({x.size(0), x.size(1), size[0], size[1]}, x.options());
  run<kernels::adaptive_avg_pool2d_forward>(x.device(), x.in(), y.out());
  return record("adaptive_avg_pool2d", y, {x}, {},
                [sx = x.sizes()](const Saved&, const Tensor& g) -> Tensors {
                  return {adaptive_gradient(g, sx)};
                })
      .to(x_.dtype());
}

}  // namespace dropin
