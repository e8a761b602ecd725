#include "dropin/projection/mx_linear.h"

#include "dropin/module/init.h"

namespace dropin {

std::vector<std::string> MXLinear::examples() {
  return {
      R"({"weight_format": "MXFP4_E2M1", "act_format": "MXFP6_E2M3", "grad_format": "MXINT8", "block_size": 3, "rounding": "away", "scale_mode": "ceil"})",
      R"({"weight_format": "none", "act_format": "none", "quantize_backward": false, "bias": false})"};
}

MXLinear::MXLinear(const MXLinearOptions& o) : Component(o), params_(detail::mx_layer_params(o)) {
  DROPIN_CHECK(o.in_features > 0 && o.out_features > 0, OptionError, who(), ": in_features ",
               o.in_features, " and out_features ", o.out_features, " must be positive");
  check_mx(who(), params_);
  weight_ =
      &parameter("weight", init::default_uniform({o.out_features, o.in_features}, o.in_features));
  bias_ = &parameter("bias",
                     o.bias ? init::default_uniform({o.out_features}, o.in_features) : Tensor());
  stored_ = {&buffer("weight_codes", Tensor()), &buffer("weight_scales", Tensor()),
             &buffer("weight_tensor_scale", Tensor())};
}

Tensor MXLinear::forward(const Tensor& x) {
  const auto& o = options_;
  DROPIN_CHECK(x.dim() > 0 && x.size(-1) == o.in_features, ShapeError, who(), ": x is ", x.sizes(),
               ", expected [*, ", o.in_features, "] because in_features = ", o.in_features);
  DROPIN_CHECK(!frozen() || !is_training(), StateError, who(),
               ": the weight is frozen; the layer cannot be trained");
  const Tensor w = frozen() ? stored_.thaw({o.out_features, o.in_features}, -1, params_) : *weight_;
  return mx_linear(x, w, *bias_, detail::in_mode(params_, is_training()), frozen());
}

void MXLinear::freeze() {
  stored_.freeze(who(), *weight_, -1, params_);
  *weight_ = Tensor();
}

void MXLinear::translate_state(StateDict& state, const std::string& prefix,
                               std::vector<std::string>&) const {
  stored_.prepare(who(), *weight_, {options_.out_features, options_.in_features}, -1, params_,
                  state, prefix);
}

MXMatmul::MXMatmul(const MXMatmulOptions& o) : Component(o) {
  params_ = {.first = o.a_format,
             .second = o.b_format,
             .grad = o.grad_format,
             .block_size = o.block_size,
             .rounding = o.rounding,
             .scale_mode = o.scale_mode,
             .quantize_backward = o.quantize_backward};
  check_mx(who(), params_);
}

Tensor MXMatmul::forward(const Tensor& a, const Tensor& b) {
  return mx_matmul(a, b, detail::in_mode(params_, is_training()));
}

}  // namespace dropin
