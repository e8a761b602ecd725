#include "dropin/convolution/tunable_conv.h"

#include "dropin/module/parameters.h"

namespace dropin {

std::vector<std::string> TunableConv2d::examples() {
  return {R"({"num_params": 3, "mode": "linear", "stride": 2, "padding": 1, "bias": true})",
          R"({"num_params": 2, "expand_params": 2, "dilation": 2, "padding": 2, "init": "conv"})"};
}

Sample TunableConv2d::sample(const Options& o, const SampleSpec& s) {
  Sample r = sample_pictures(s, o.in_channels);
  SampleSpec other = s;
  other.seed += 1;
  r.inputs.set("params", other.normal({r.inputs.find("x").size(0), o.num_params}));
  return r;
}

TunableConv2d::TunableConv2d(const TunableConv2dOptions& o) : Component(o) {
  conv_ = {.in_channels = o.in_channels,
           .out_channels = o.out_channels,
           .kernel_size = o.kernel_size,
           .stride = o.stride,
           .padding = o.padding,
           .dilation = o.dilation,
           .groups = o.groups,
           .bias = o.bias};
  detail::check_conv(who(), conv_);
  detail::check_tuning(who(), o.num_params, o.expand_params, o.mode);
  DROPIN_CHECK(o.init == "official" || o.init == "conv", OptionError, who(), ": init is \"", o.init,
               "\", expected official or conv");
  const int64_t n = o.num_params * o.expand_params, k = o.kernel_size, c = o.in_channels / o.groups,
                fan = c * k * k * (o.init == "official" ? n * o.out_channels : 1);
  weight_ = &parameter("weight", init::default_uniform({1, n, o.out_channels, c, k, k}, fan));
  bias_ =
      &parameter("bias", o.bias ? init::default_uniform({1, n, o.out_channels}, fan) : Tensor());
  if (!detail::learned_tuning(o.expand_params, o.mode)) return;
  Parameters& mlp = *child<Parameters>("mlp").as();
  mlp_weight_ = &mlp.add("weight", init::default_uniform({n, o.num_params}, o.num_params));
  mlp_bias_ = &mlp.add("bias", init::default_uniform({n}, o.num_params));
}

void TunableConv2d::set_params(const Tensor& omega) {
  kept_ = detail::checked_tuning(who(), omega, options_.num_params);
}

TunableConv2d::Mixture TunableConv2d::mixture(const Tensor& omega) const {
  const Shape& all = weight_->sizes();
  const int64_t n = all[1], size = weight_->numel() / n;
  const Tensor alpha = mlp_weight_ ? linear(omega, *mlp_weight_, *mlp_bias_) : omega;
  return {matmul(alpha, weight_->reshape({n, size}))
              .reshape({omega.size(0), all[2], all[3], all[4], all[5]}),
          bias_->defined() ? matmul(alpha, bias_->squeeze(0)) : Tensor()};
}

Tensor TunableConv2d::forward(const Tensor& x, const Tensor& given) {
  const auto& o = options_;
  DROPIN_CHECK(x.dim() == 4 && x.size(1) == o.in_channels, ShapeError, who(), ": x is ", x.sizes(),
               ", expected [B, ", o.in_channels, ", H, W]");
  DROPIN_CHECK(is_floating(x.dtype()), DTypeError, who(), ": x is ", x.dtype(),
               ", expected a floating-point tensor");
  const int64_t b = x.size(0);
  const Tensor omega = detail::tuning_of(who(), given, kept_, o.num_params, b, x.options());
  const ConvParams p = detail::conv_params(conv_, x.size(2), x.size(3));
  if (b == 0 || detail::one_tuning(omega)) {
    const Tensor first = b ? omega.narrow(0, 0, 1) : zeros({1, o.num_params}, x.options());
    const Mixture m = mixture(first);
    return conv2d(x, m.weight[0], m.bias.defined() ? m.bias[0] : Tensor(), p);
  }
  const Mixture m = mixture(omega);
  const Tensors xs = split(x, 1, 0), ws = split(m.weight, 1, 0);
  Tensors bs(xs.size()), ys;
  if (m.bias.defined()) bs = split(m.bias, 1, 0);
  for (std::size_t i = 0; i < xs.size(); ++i)
    ys.push_back(conv2d(xs[i], ws[i].squeeze(0), bs[i].defined() ? bs[i].squeeze(0) : Tensor(), p));
  return concat(ys);
}

NamedTensors TunableConv2d::call(const NamedTensors& in) {
  return {{"y", (*this)(in.get("x", who()), in.find("params"))}};
}

Box<Conv2d> TunableConv2d::fuse(const Tensor& omega) const {
  no_grad guard;
  DROPIN_CHECK(omega.defined() && omega.dim() == 1, ShapeError, who(), ": fuse: omega is ",
               omega.defined() ? omega.sizes() : Shape{}, ", expected [", options_.num_params, "]");
  const Mixture m = mixture(
      detail::checked_tuning(who(), omega, options_.num_params).to(weight_->dtype()).unsqueeze(0));
  Box<Conv2d> r(new Conv2d(conv_));
  r->to(weight_->dtype());
  r->to(weight_->device());
  StateDict state{{"weight", m.weight[0]}};
  if (m.bias.defined()) state.set("bias", m.bias[0]);
  r->load_state_dict(state);
  return r;
}

}  // namespace dropin
