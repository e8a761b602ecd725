#include "dropin/convolution/mx_conv.h"

#include "dropin/module/init.h"

namespace dropin {

std::vector<std::string> MXConv2d::examples() {
  return {
      R"({"weight_format": "MXFP6_E3M2", "act_format": "MXINT8", "groups": 2, "stride": 2, "block_size": 3})"};
}

MXConv2d::MXConv2d(const MXConv2dOptions& o)
    : Component(o), conv_(o.conv()), params_(detail::mx_layer_params(o)) {
  detail::check_conv(who(), conv_);
  check_mx(who(), params_);
  const int64_t fan_in = o.in_channels / o.groups * o.kernel_size.h * o.kernel_size.w;
  weight_ = &parameter("weight", init::default_uniform(weight_sizes(), fan_in));
  bias_ = &parameter("bias", o.bias ? init::default_uniform({o.out_channels}, fan_in) : Tensor());
  stored_ = {&buffer("weight_codes", Tensor()), &buffer("weight_scales", Tensor()),
             &buffer("weight_tensor_scale", Tensor())};
}

Shape MXConv2d::weight_sizes() const {
  return {options_.out_channels, options_.in_channels / options_.groups, options_.kernel_size.h,
          options_.kernel_size.w};
}

Tensor MXConv2d::forward(const Tensor& x) {
  const auto& o = options_;
  DROPIN_CHECK(x.dim() == 4 && x.size(1) == o.in_channels, ShapeError, who(), ": x is ", x.sizes(),
               ", expected [B, ", o.in_channels, ", H, W]");
  DROPIN_CHECK(!frozen() || !is_training(), StateError, who(),
               ": the weight is frozen; the layer cannot be trained");
  const Tensor w = frozen() ? stored_.thaw(weight_sizes(), 1, params_) : *weight_;
  return mx_conv2d(x, w, *bias_, detail::conv_params(conv_, x.size(2), x.size(3)),
                   detail::in_mode(params_, is_training()), frozen());
}

void MXConv2d::freeze() {
  stored_.freeze(who(), *weight_, 1, params_);
  *weight_ = Tensor();
}

void MXConv2d::translate_state(StateDict& state, const std::string& prefix,
                               std::vector<std::string>&) const {
  stored_.prepare(who(), *weight_, weight_sizes(), 1, params_, state, prefix);
}

}  // namespace dropin
