#include "dropin/optimizer/complex_momentum.h"

#include <complex>

#include "dropin/ops/elementwise.h"
#include "optimizer/common.h"

namespace dropin {

using detail::step_dtype;
using detail::update_as;

void ComplexMomentum::check(const ComplexMomentumOptions& o) {
  const char* who = "ComplexMomentum";
  DROPIN_CHECK(o.lr >= 0, OptionError, who, ": lr is ", o.lr, ", expected at least 0");
  DROPIN_CHECK(std::isfinite(o.lr_imag) && std::isfinite(o.beta_arg), OptionError, who,
               ": lr_imag ", o.lr_imag, " and beta_arg ", o.beta_arg, ", expected finite numbers");
  DROPIN_CHECK(o.beta_abs >= 0 && o.beta_abs < 1, OptionError, who, ": beta_abs is ", o.beta_abs,
               ", expected 0 <= beta_abs < 1");
  DROPIN_CHECK(o.weight_decay >= 0, OptionError, who, ": weight_decay is ", o.weight_decay,
               ", expected at least 0");
}

NamedTensors ComplexMomentum::start(const ComplexMomentumOptions&, const Tensor& p) const {
  return {{"buffer_re", detail::state_like(p)}, {"buffer_im", detail::state_like(p)}};
}

void ComplexMomentum::update_one(const ComplexMomentumOptions& o, const Tensor& p,
                                 const Tensor& g_in, NamedTensors& state, bool) {
  const std::complex<double> beta = std::polar(o.beta_abs, o.beta_arg);
  const DType dtype = step_dtype(p.dtype());
  update_as(dtype, p, [&](Tensor w) {
    Tensor g = g_in.to(dtype), re = state.find("buffer_re"), im = state.find("buffer_im");
    if (o.maximize) g = -g;
    if (o.weight_decay != 0) g = add(g, w.detach(), o.weight_decay);
    const Tensor turned = re * beta.imag();
    re.mul_(beta.real()).add_(im, -beta.imag()).sub_(g);
    im.mul_(beta.real()).add_(turned);
    w.add_(re, o.lr);
    if (o.lr_imag != 0) w.add_(im, -o.lr_imag);
  });
}

void ComplexAdam::check(const ComplexAdamOptions& o) {
  const char* who = "ComplexAdam";
  DROPIN_CHECK(o.lr >= 0, OptionError, who, ": lr is ", o.lr, ", expected at least 0");
  DROPIN_CHECK(o.beta1_abs >= 0 && o.beta1_abs < 1, OptionError, who, ": beta1_abs is ",
               o.beta1_abs, ", expected 0 <= beta1_abs < 1");
  DROPIN_CHECK(std::isfinite(o.beta1_arg), OptionError, who, ": beta1_arg is ", o.beta1_arg,
               ", expected a finite number");
  DROPIN_CHECK(o.beta2 >= 0 && o.beta2 < 1, OptionError, who, ": beta2 is ", o.beta2,
               ", expected 0 <= beta2 < 1");
  DROPIN_CHECK(o.eps >= 0, OptionError, who, ": eps is ", o.eps, ", expected at least 0");
  DROPIN_CHECK(o.weight_decay >= 0, OptionError, who, ": weight_decay is ", o.weight_decay,
               ", expected at least 0");
}

NamedTensors ComplexAdam::start(const ComplexAdamOptions&, const Tensor& p) const {
  return {{"step", zeros({}, kFloat32)},
          {"exp_avg_re", detail::state_like(p)},
          {"exp_avg_im", detail::state_like(p)},
          {"exp_avg_sq", detail::state_like(p)}};
}

void ComplexAdam::update_one(const ComplexAdamOptions& o, const Tensor& p, const Tensor& g_in,
                             NamedTensors& state, bool) {
  Tensor count = state.find("step");
  const double t = count.item() + 1;
  const std::complex<double> beta = std::polar(o.beta1_abs, o.beta1_arg);
  // of the gradient as it enters, and of the moment as it is read
  const std::complex<double> in = o.bias_correction ? 1.0 - beta : 1.0,
                             out = o.bias_correction
                                       ? 1.0 / (1.0 - std::polar(std::pow(o.beta1_abs, t),
                                                                 o.beta1_arg * t))
                                       : 1.0;
  const DType dtype = step_dtype(p.dtype());
  update_as(dtype, p, [&](Tensor w) {
    Tensor g = g_in.to(dtype), re = state.find("exp_avg_re"), im = state.find("exp_avg_im"),
           v = state.find("exp_avg_sq");
    if (o.decoupled_weight_decay)
      w.mul_(1 - o.lr * o.weight_decay);
    else if (o.weight_decay != 0)
      g = add(g, w.detach(), o.weight_decay);
    const Tensor turned = re * beta.imag();
    re.mul_(beta.real()).add_(im, -beta.imag()).add_(g, in.real());
    im.mul_(beta.real()).add_(turned).add_(g, in.imag());
    v.mul_(o.beta2).add_(square(g), 1 - o.beta2);
    const Tensor mean = re * out.real() - im * out.imag(),
                 size = sqrt(v * (1 / (1 - std::pow(o.beta2, t)))) + o.eps;
    w.add_(mean / size, -o.lr);
  });
  count.fill_(t);
}

}  // namespace dropin
