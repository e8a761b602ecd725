#include "dropin/projection/tunable.h"

#include "dropin/module/parameters.h"

namespace dropin {

void detail::check_tuning(std::string_view who, int64_t num_params, int64_t expand_params,
                          const std::string& mode) {
  DROPIN_CHECK(num_params >= 1 && expand_params >= 1, OptionError, who, ": num_params ", num_params,
               " and expand_params ", expand_params, ", expected at least 1");
  DROPIN_CHECK(mode == "mlp" || mode == "linear", OptionError, who, ": mode is \"", mode,
               "\", expected mlp or linear");
}

bool detail::learned_tuning(int64_t expand_params, const std::string& mode) {
  return mode == "mlp" || expand_params > 1;
}

Tensor detail::checked_tuning(std::string_view who, const Tensor& omega, int64_t num_params) {
  if (!omega.defined()) return omega;
  DROPIN_CHECK(is_floating(omega.dtype()), DTypeError, who, ": params is ", omega.dtype(),
               ", expected a floating-point tensor");
  DROPIN_CHECK((omega.dim() == 1 || omega.dim() == 2) && omega.size(-1) == num_params, ShapeError,
               who, ": params is ", omega.sizes(), ", expected [", num_params, "] or [B, ",
               num_params, "]");
  return omega;
}

Tensor detail::tuning_of(std::string_view who, const Tensor& given, const Tensor& kept,
                         int64_t num_params, int64_t batch, const TensorOptions& like) {
  const Shape want{batch, num_params};
  if (given.defined()) {
    DROPIN_CHECK(given.sizes() == want, ShapeError, who, ": params is ", given.sizes(),
                 ", expected ", want);
    return checked_tuning(who, given, num_params).to(like.dtype);
  }
  if (!kept.defined()) {
    DROPIN_CHECK(num_params == 1, StateError, who, ": no params given, expected ", want,
                 " or set_params() before");
    return ones(want, like);
  }
  const Tensor rows = kept.dim() == 1 ? kept.unsqueeze(0).expand(want) : kept;
  DROPIN_CHECK(rows.sizes() == want, ShapeError, who, ": params set are ", kept.sizes(),
               ", expected ", want);
  return rows.to(like.dtype, like.device);
}

bool detail::one_tuning(const Tensor& params) {
  if (params.size(0) <= 1) return params.size(0) == 1;
  if (params.requires_grad()) return false;
  return all(params == params.narrow(0, 0, 1)).item<bool>();
}

std::vector<std::string> TunableLinear::examples() {
  return {R"({"num_params": 3, "mode": "linear", "bias": false})",
          R"({"num_params": 2, "expand_params": 2, "mode": "linear"})"};
}

Sample TunableLinear::sample(const Options& o, const SampleSpec& s) {
  Sample r = sample_rows(s, o.in_features);
  SampleSpec other = s;
  other.seed += 1;
  r.inputs.set("params", other.normal({r.inputs.find("x").size(0), o.num_params}));
  return r;
}

TunableLinear::TunableLinear(const TunableLinearOptions& o) : Component(o) {
  DROPIN_CHECK(o.in_features > 0 && o.out_features > 0, OptionError, who(), ": in_features ",
               o.in_features, " and out_features ", o.out_features, " must be positive");
  detail::check_tuning(who(), o.num_params, o.expand_params, o.mode);
  const int64_t n = o.num_params * o.expand_params;
  // the fan of the whole tensor, as the authors' initialization reads it
  const int64_t fan = n > 0 ? o.out_features * o.in_features * n : 1;
  weight_ = &parameter("weight", init::default_uniform({1, n, o.out_features, o.in_features}, fan));
  bias_ =
      &parameter("bias", o.bias ? init::default_uniform({1, n, o.out_features}, fan) : Tensor());
  if (!detail::learned_tuning(o.expand_params, o.mode)) return;
  Parameters& mlp = *child<Parameters>("mlp").as();
  mlp_weight_ = &mlp.add("weight", init::default_uniform({n, o.num_params}, o.num_params));
  mlp_bias_ = &mlp.add("bias", init::default_uniform({n}, o.num_params));
}

void TunableLinear::set_params(const Tensor& omega) {
  kept_ = detail::checked_tuning(who(), omega, options_.num_params);
}

Tensor TunableLinear::forward(const Tensor& x, const Tensor& given) {
  const auto& o = options_;
  DROPIN_CHECK((x.dim() == 2 || x.dim() == 3) && x.size(-1) == o.in_features, ShapeError, who(),
               ": x is ", x.sizes(), ", expected [B, T, ", o.in_features, "] or [B, ",
               o.in_features, "] because in_features = ", o.in_features);
  DROPIN_CHECK(is_floating(x.dtype()), DTypeError, who(), ": x is ", x.dtype(),
               ", expected a floating-point tensor");
  const int64_t b = x.size(0), n = o.num_params * o.expand_params;
  Tensor omega = detail::tuning_of(who(), given, kept_, o.num_params, b, x.options());
  const bool one = detail::one_tuning(omega);
  if (one) omega = omega.narrow(0, 0, 1);
  const Tensor alpha = mlp_weight_ ? linear(omega, *mlp_weight_, *mlp_bias_) : omega;
  const Tensor w = matmul(alpha, weight_->reshape({n, o.out_features * o.in_features}))
                       .reshape({omega.size(0), o.out_features, o.in_features}),
               bias = bias_->defined() ? matmul(alpha, bias_->squeeze(0)) : Tensor();
  if (one) return linear(x, w[0], bias.defined() ? bias[0] : Tensor());
  const Tensor rows = x.dim() == 2 ? x.unsqueeze(1) : x;
  Tensor y = matmul(rows, w.mT());
  if (bias.defined()) y = y + bias.unsqueeze(1);
  return x.dim() == 2 ? y.squeeze(1) : y;
}

NamedTensors TunableLinear::call(const NamedTensors& in) {
  return {{"y", (*this)(in.get("x", who()), in.find("params"))}};
}

}  // namespace dropin
