// Pooling of pictures.
#include "dropin/ops/conv.h"
#include "dropin/ops/shape.h"
#include "kernels/pool/kernel.h"
#include "ops/common.h"

namespace dropin {

using ops_detail::need_floating;
using ops_detail::prepared;

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
