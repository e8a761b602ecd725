#include "dropin/ops/norm.h"

#include "dropin/ops/reduce.h"
#include "dropin/ops/shape.h"
#include "kernels/norm/kernel.h"
#include "ops/common.h"

namespace dropin {

using ops_detail::as_beside;
using ops_detail::need_floating;
using ops_detail::prepared;

namespace plain {

Tensor layer_norm(const Tensor& x, const Shape& normalized, const Tensor& weight,
                  const Tensor& bias, double eps) {
  Shape dims;
  for (int i = 0; i < normalized.size(); ++i) dims.push_back(-1 - i);
  const Tensor centred = x - mean(x, dims, true);
  Tensor y = centred * rsqrt(mean(square(centred), dims, true) + eps);
  if (weight.defined()) y = y * weight;
  return bias.defined() ? y + bias : y;
}

Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps) {
  const Tensor y = x * rsqrt(mean(square(x), {-1}, true) + eps);
  return weight.defined() ? y * weight : y;
}

Tensor batch_norm_train(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  const Tensor v = x.dim() == 3 ? x : x.reshape({x.size(0), x.size(1), -1});
  const Tensor centred = v - mean(v, {0, 2}, true);
  Tensor y = centred * rsqrt(mean(square(centred), {0, 2}, true) + eps);
  if (weight.defined()) y = y * weight.unsqueeze(1);
  if (bias.defined()) y = y + bias.unsqueeze(1);
  return y.reshape(x.sizes());
}

}  // namespace plain

namespace {

void check_affine(const char* who, const char* what, const Tensor& t, const Shape& want) {
  if (t.defined() && !(t.sizes() == want))
    fail<ShapeError>({who, ": ", what, " is ", t.sizes(), ", expected ", want});
}
// Positions per channel of x [B, C, *].
int64_t positions(const Tensor& x) {
  int64_t n = 1;
  for (int i = 2; i < x.dim(); ++i) n *= x.sizes()[i];
  return n;
}
Tensor want_if(bool needed, const Tensor& like) { return needed ? empty_like(like) : Tensor(); }

}  // namespace

Tensor layer_norm(const Tensor& x_, const Shape& normalized, const Tensor& weight_,
                  const Tensor& bias_, double eps) {
  need_floating("layer_norm", x_);
  const int k = normalized.size(), lead = static_cast<int>(x_.dim()) - k;
  if (k == 0 || lead < 0 || !(Shape(x_.sizes().begin() + lead, k) == normalized))
    fail<ShapeError>(
        {"layer_norm: x is ", x_.sizes(), ", expected [*, ...] ending in ", normalized});
  check_affine("layer_norm", "weight", weight_, normalized);
  check_affine("layer_norm", "bias", bias_, normalized);
  const Tensor x = prepared(x_);
  const Tensor w = as_beside(weight_, x), b = as_beside(bias_, x);
  const int64_t n = normalized.numel(), rows = n ? x.numel() / n : 0;
  Tensor y = empty_like(x), mean = empty({rows}, x.options()), rstd = empty({rows}, x.options());
  run<kernels::layer_norm_forward>(x.device(), kernels::NormInputs{x.in(), n, w.in(), b.in(), eps},
                                   y.out(), mean.out(), rstd.out());
  return record(
             "layer_norm", y, {x, w, b}, {x, w, mean, rstd},
             [n, normalized, eps](const Saved& s, const Tensor& g) -> Tensors {
               const Tensor x = s[0], w = s[1];
               if (grad_enabled()) {
                 // the bias does not enter its own gradient; any tensor of its shape stands in
                 // for it
                 Tensor b = s.needs(2) ? zeros(normalized, x.options()).requires_grad_() : Tensor();
                 return plain_gradients(s, {x, w, b}, g, [&](const Tensors& in) {
                   return plain::layer_norm(in[0], normalized, in[1], in[2], eps);
                 });
               }
               Tensor gx = want_if(s.needs(0), x),
                      gw = s.needs(1) ? empty(normalized, x.options()) : Tensor(),
                      gb = s.needs(2) ? empty(normalized, x.options()) : Tensor();
               run<kernels::layer_norm_backward>(
                   x.device(), g.contiguous().in(), kernels::NormInputs{x.in(), n, w.in(), {}, eps},
                   s[2].in(), s[3].in(), kernels::NormGradients{gx.out(), gw.out(), gb.out()});
               return {gx, gw, gb};
             })
      .to(x_.dtype());
}

Tensor rms_norm(const Tensor& x_, const Tensor& weight_, double eps) {
  need_floating("rms_norm", x_);
  if (x_.dim() == 0) fail<ShapeError>({"rms_norm: x is a scalar, expected [*, D]"});
  const int64_t n = x_.size(-1);
  check_affine("rms_norm", "weight", weight_, {n});
  const Tensor x = prepared(x_), w = as_beside(weight_, x);
  Tensor y = empty_like(x), rstd = empty({n ? x.numel() / n : 0}, x.options());
  run<kernels::rms_norm_forward>(x.device(), kernels::NormInputs{x.in(), n, w.in(), {}, eps},
                                 y.out(), rstd.out());
  return record("rms_norm", y, {x, w}, {x, w, rstd},
                [n, eps](const Saved& s, const Tensor& g) -> Tensors {
                  const Tensor x = s[0], w = s[1];
                  if (grad_enabled())
                    return plain_gradients(s, {x, w}, g, [&](const Tensors& in) {
                      return plain::rms_norm(in[0], in[1], eps);
                    });
                  Tensor gx = want_if(s.needs(0), x),
                         gw = s.needs(1) ? empty({n}, x.options()) : Tensor();
                  run<kernels::rms_norm_backward>(x.device(), g.contiguous().in(),
                                                  kernels::NormInputs{x.in(), n, w.in(), {}, eps},
                                                  s[2].in(),
                                                  kernels::NormGradients{gx.out(), gw.out(), {}});
                  return {gx, gw};
                })
      .to(x_.dtype());
}

Tensor group_norm(const Tensor& x, int64_t groups, const Tensor& weight, const Tensor& bias,
                  double eps) {
  if (x.dim() < 2) fail<ShapeError>({"group_norm: x is ", x.sizes(), ", expected [B, C, *]"});
  const int64_t c = x.size(1);
  if (groups <= 0 || c % groups)
    fail<OptionError>({"group_norm: ", c, " channels are not divisible into ", groups, " groups"});
  check_affine("group_norm", "weight", weight, {c});
  check_affine("group_norm", "bias", bias, {c});
  const int64_t spatial = positions(x);
  // normalise rows of one group each, then scale per channel
  Tensor y = layer_norm(x.reshape({x.size(0) * groups, c / groups * spatial}),
                        {c / groups * spatial}, {}, {}, eps)
                 .reshape({x.size(0), c, spatial});
  if (weight.defined()) y = y * weight.unsqueeze(1);
  if (bias.defined()) y = y + bias.unsqueeze(1);
  return y.reshape(x.sizes());
}

namespace {

/// What a channel is normalised by.
struct Moments {
  Tensor mean, rstd;
};
/// Of x [B, C, n / B] in training, whose running statistics learn from it; else the running ones.
Moments batch_moments(const Tensor& x, int64_t n, const Tensor& running_mean,
                      const Tensor& running_var, bool training, double momentum, double eps) {
  const int64_t c = x.size(1);
  Tensor mean, rstd;
  if (training && n == 0) {  // nothing to learn from: running statistics stay
    mean = zeros({c}, x.options());
    rstd = ones({c}, x.options());
  } else if (training) {
    mean = empty({c}, x.options());
    rstd = empty({c}, x.options());
    Tensor var = empty({c}, x.options());
    run<kernels::batch_norm_stats>(x.device(), x.in(), eps, mean.out(), var.out(), rstd.out());
    no_grad guard;
    if (running_mean.defined())
      Tensor(running_mean).mul_(1 - momentum).add_(mean.to(running_mean.dtype()), momentum);
    if (running_var.defined())
      Tensor(running_var)
          .mul_(1 - momentum)
          .add_(var.to(running_var.dtype()),
                momentum * static_cast<double>(n) / static_cast<double>(n - 1));
  } else {
    no_grad guard;
    mean = as_beside(running_mean.detach().clone(), x);
    rstd = as_beside(rsqrt(running_var.detach() + eps), x);
  }
  return {mean, rstd};
}

/// Saved: x, weight, mean, rstd.
Tensors batch_norm_backward(bool training, double eps, int64_t c, const Saved& s, const Tensor& g) {
  const Tensor x = s[0], w = s[1], mean = s[2], rstd = s[3];
  if (grad_enabled()) {
    Tensor b = s.needs(2) ? zeros({c}, x.options()).requires_grad_() : Tensor();
    return plain_gradients(s, {x, w, b}, g, [&](const Tensors& in) {
      if (training) return plain::batch_norm_train(in[0], in[1], in[2], eps);
      Tensor y = (in[0] - mean.unsqueeze(1)) * rstd.unsqueeze(1);
      if (w.defined()) y = y * in[1].unsqueeze(1);
      return b.defined() ? y + in[2].unsqueeze(1) : y;
    });
  }
  Tensor gx = want_if(s.needs(0), x), gw = s.needs(1) ? zeros({c}, x.options()) : Tensor(),
         gb = s.needs(2) ? zeros({c}, x.options()) : Tensor();
  if (x.numel() == 0) return {gx, gw, gb};
  run<kernels::batch_norm_backward>(
      x.device(), g.contiguous().in(),
      kernels::BatchNormInputs{x.in(), mean.in(), rstd.in(), w.in(), {}, training},
      kernels::NormGradients{gx.out(), gw.out(), gb.out()});
  return {gx, gw, gb};
}

}  // namespace

Tensor batch_norm(const Tensor& x_, const Tensor& running_mean, const Tensor& running_var,
                  const Tensor& weight_, const Tensor& bias_, bool training, double momentum,
                  double eps) {
  need_floating("batch_norm", x_);
  if (x_.dim() < 2) fail<ShapeError>({"batch_norm: x is ", x_.sizes(), ", expected [B, C, *]"});
  const int64_t c = x_.size(1);
  check_affine("batch_norm", "weight", weight_, {c});
  check_affine("batch_norm", "bias", bias_, {c});
  check_affine("batch_norm", "running_mean", running_mean, {c});
  check_affine("batch_norm", "running_var", running_var, {c});
  if (!training && !(running_mean.defined() && running_var.defined()))
    fail<Error>({"batch_norm: not training, and there are no running statistics"});
  const int64_t n = c ? x_.numel() / c : 0;
  if (training && n == 1)
    fail<ShapeError>({"batch_norm: expected more than 1 value per channel when training, got x of ",
                      x_.sizes()});
  Tensor x = prepared(x_);
  x = x.reshape({x.size(0), c, positions(x)});
  const Tensor w = as_beside(weight_, x), b = as_beside(bias_, x);
  const Moments m = batch_moments(x, n, running_mean, running_var, training, momentum, eps);
  Tensor y = empty_like(x);
  if (n > 0)
    run<kernels::batch_norm_forward>(
        x.device(),
        kernels::BatchNormInputs{x.in(), m.mean.in(), m.rstd.in(), w.in(), b.in(), training},
        y.out());
  y = record("batch_norm", y, {x, w, b}, {x, w, m.mean, m.rstd},
             [training, eps, c](const Saved& s, const Tensor& g) -> Tensors {
               return batch_norm_backward(training, eps, c, s, g);
             });
  return y.reshape(x_.sizes()).to(x_.dtype());
}

}  // namespace dropin
