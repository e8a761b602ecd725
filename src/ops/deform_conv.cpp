#include "dropin/ops/deform_conv.h"

#include "dropin/ops/elementwise.h"
#include "dropin/ops/matmul.h"
#include "dropin/ops/reduce.h"
#include "dropin/ops/shape.h"
#include "kernels/deform/kernel.h"
#include "ops/common.h"
#include "ops/conv_geometry.h"

namespace dropin {

using ops_detail::as_beside;

namespace plain {

Tensor deform_conv2d(const Tensor& x, const Tensor& offset, const Tensor& mask, const Tensor& w,
                     const Tensor& bias, const ConvParams& p) {
  const int64_t B = x.size(0), C = x.size(1), H = x.size(2), W = x.size(3), O = w.size(0),
                kh = w.size(2), kw = w.size(3), K = kh * kw;
  const int64_t P = offset.size(2), Q = offset.size(3), G = offset.size(1) / (2 * K), N = K * P * Q;
  const TensorOptions real = x.options(), whole{kInt64, x.device()};
  // where the taps stand without offsets: rows [kh, 1, P, 1], columns [1, kw, 1, Q]
  auto stands = [&](int64_t k, int64_t out, std::size_t axis) {
    return arange(0, static_cast<double>(k), 1, real).unsqueeze(1) *
               static_cast<double>(p.dilation[axis]) +
           (arange(0, static_cast<double>(out), 1, real) * static_cast<double>(p.stride[axis]) -
            static_cast<double>(p.pad_begin[axis]));
  };
  const Tensor off = offset.reshape({B, G, kh, kw, 2, P, Q});
  const Tensor row = off.select(4, 0) + stands(kh, P, 0).reshape({kh, 1, P, 1}),
               col = off.select(4, 1) + stands(kw, Q, 1).reshape({kw, 1, Q});
  auto within = [](const Tensor& v, double low, double high) { return (v > low) & (v < high); };
  const Tensor valid = within(row.detach(), -1, static_cast<double>(H)) &
                       within(col.detach(), -1, static_cast<double>(W));
  const Tensor r = where(valid, row, 0.0), c = where(valid, col, 0.0), r0 = floor(r.detach()),
               c0 = floor(c.detach()), lr = r - r0, lc = c - c0;
  const Tensor planes = x.reshape({B, G, C / G, H * W});
  Tensor samples;
  for (int a = 0; a < 2; ++a)
    for (int b = 0; b < 2; ++b) {
      const Tensor rr = r0 + a, cc = c0 + b;
      const Tensor inside =
          valid & within(rr, -1, static_cast<double>(H)) & within(cc, -1, static_cast<double>(W));
      const Tensor index =
          where(inside, rr, 0.0).to(kInt64) * full({}, static_cast<double>(W), whole) +
          where(inside, cc, 0.0).to(kInt64);
      auto flat = [&](const Tensor& t) { return t.reshape({B, G, 1, N}); };
      const Tensor v = where(
          flat(inside), gather(planes, 3, flat(index).expand({B, G, C / G, N}).contiguous()), 0.0);
      const Tensor s = v * flat((a ? lr : 1.0 - lr) * (b ? lc : 1.0 - lc));
      samples = samples.defined() ? samples + s : s;
    }
  if (mask.defined()) samples = samples * mask.reshape({B, G, 1, N});
  const int64_t depth = C / p.groups * K;
  const Tensor y = matmul(w.reshape({p.groups, O / p.groups, depth}),
                          samples.reshape({B, p.groups, depth, P * Q}))
                       .reshape({B, O, P, Q});
  return bias.defined() ? y + bias.reshape({O, 1, 1}) : y;
}

}  // namespace plain

namespace {

/// Sizes of the result, all arguments checked.
Shape deform_sizes(const Tensor& x, const Tensor& offset, const Tensor& mask, const Tensor& w,
                   const Tensor& bias, const ConvParams& p) {
  const char* who = "deform_conv2d";
  ops_detail::need_floating(who, x);
  if (x.dim() != 4) fail<ShapeError>({who, ": x is ", x.sizes(), ", expected [B, C, H, W]"});
  if (w.dim() != 4)
    fail<ShapeError>({who, ": weight is ", w.sizes(), ", expected [O, C / groups, kh, kw]"});
  const int64_t B = x.size(0), C = x.size(1), O = w.size(0), K = w.size(2) * w.size(3);
  if (p.groups <= 0 || C % p.groups || O % p.groups)
    fail<OptionError>({who, ": ", C, " input and ", O,
                       " output channels are not divisible by groups ", p.groups});
  if (w.size(1) != C / p.groups)
    fail<ShapeError>({who, ": weight is ", w.sizes(), ", expected [O, ", C / p.groups,
                      ", kh, kw] because x has ", C, " channels in ", p.groups, " groups"});
  if (bias.defined() && !(bias.sizes() == Shape{O}))
    fail<ShapeError>({who, ": bias is ", bias.sizes(), ", expected [", O, "]"});
  Shape out{0, 0};
  for (std::size_t i = 0; i < 2; ++i) {
    const int d = static_cast<int>(i) + 2;
    if (p.stride[i] <= 0 || p.dilation[i] <= 0 || p.pad_begin[i] < 0 || w.size(d) <= 0)
      fail<OptionError>(
          {who, ": kernel size, stride and dilation must be positive and padding not negative"});
    if (p.pad_begin[i] != p.pad_end[i])
      fail<OptionError>({who, ": padding ", p.pad_begin[i], " and ", p.pad_end[i],
                         ", expected the same on both sides"});
    const int64_t room = x.size(d) + 2 * p.pad_begin[i],
                  reach = p.dilation[i] * (w.size(d) - 1) + 1;
    if (room < reach)
      fail<ShapeError>({who, ": x is ", x.sizes(), ": the padded size ", room,
                        " is smaller than the kernel's reach ", reach, " (empty output)"});
    out[static_cast<int>(i)] = (room - reach) / p.stride[i] + 1;
  }
  if (offset.dim() != 4 || offset.size(1) <= 0 || offset.size(1) % (2 * K) ||
      C % (offset.size(1) / (2 * K)) || offset.size(0) != B || offset.size(2) != out[0] ||
      offset.size(3) != out[1])
    fail<ShapeError>({who, ": offset is ", offset.sizes(), ", expected [", B, ", 2 G ", K, ", ",
                      out[0], ", ", out[1], "] with G dividing the ", C, " channels of x"});
  const int64_t G = offset.size(1) / (2 * K);
  if (mask.defined() && !(mask.sizes() == Shape{B, G * K, out[0], out[1]}))
    fail<ShapeError>(
        {who, ": mask is ", mask.sizes(), ", expected ", Shape{B, G * K, out[0], out[1]}});
  return {B, O, out[0], out[1]};
}

/// Saved: x, offset, mask, weight.
Tensors deform_backward(const ConvParams& p, const Saved& s, const Tensor& gy) {
  const Tensor x = s[0], offset = s[1], mask = s[2], w = s[3];
  if (grad_enabled()) {
    Tensor bias = s.needs(4) ? zeros({w.size(0)}, x.options()).requires_grad_()
                             : Tensor();  // its value does not enter a gradient
    return plain_gradients(s, {x, offset, mask, w, bias}, gy, [&](const Tensors& v) {
      return plain::deform_conv2d(v[0], v[1], v[2], v[3], v[4], p);
    });
  }
  auto wanted = [&](int i, const Tensor& like) { return s.needs(i) ? empty_like(like) : Tensor(); };
  const Tensor gx = wanted(0, x), goffset = wanted(1, offset), gmask = wanted(2, mask),
               gw = wanted(3, w);
  if (gx.defined() || goffset.defined() || gmask.defined() || gw.defined())
    run<kernels::deform_conv2d_backward>(
        x.device(), gy.in(),
        kernels::DeformConvInputs{
            x.in(), offset.in(), mask.in(), w.in(), {}, ops_detail::conv_geometry(p)},
        kernels::DeformConvGradients{gx.out(), goffset.out(), gmask.out(), gw.out()});
  return {gx, goffset, gmask, gw, s.needs(4) ? sum(gy, {0, 2, 3}) : Tensor()};
}

}  // namespace

Tensor deform_conv2d(const Tensor& x_, const Tensor& offset_, const Tensor& mask_, const Tensor& w_,
                     const Tensor& bias_, const ConvParams& p) {
  const Shape y_sizes = deform_sizes(x_, offset_, mask_, w_, bias_, p);
  const Tensor x = ops_detail::prepared(x_);
  for (const Tensor& t : {offset_, mask_, w_, bias_})
    if (t.defined()) ops_detail::same_device("deform_conv2d", x, t);
  const Tensor offset = as_beside(offset_, x), mask = as_beside(mask_, x), w = as_beside(w_, x),
               bias = as_beside(bias_, x);
  if (x.dtype() == kFloat64 ||
      !has_kernels<kernels::deform_conv2d_forward, kernels::deform_conv2d_backward>(x.device()))
    return plain::deform_conv2d(x, offset, mask, w, bias, p);
  Tensor y = empty(y_sizes, x.options());
  run<kernels::deform_conv2d_forward>(
      x.device(),
      kernels::DeformConvInputs{x.in(), offset.in(), mask.in(), w.in(), bias.in(),
                                ops_detail::conv_geometry(p)},
      y.out());
  return record("deform_conv2d", y, {x, offset, mask, w, bias}, {x, offset, mask, w},
                [p](const Saved& s, const Tensor& gy) -> Tensors {
                  return deform_backward(p, s, gy.contiguous());
                })
      .to(x_.dtype());
}

}  // namespace dropin
