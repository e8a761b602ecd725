#include "dropin/loss/tunable.h"

namespace dropin {

Tensor tunable_parametric_loss(const Tensor& losses, const Tensor& params,
                               const TunableLossOptions& o) {
  const char* who = "tunable_parametric_loss";
  DROPIN_CHECK(is_floating(losses.dtype()) && is_floating(params.dtype()), DTypeError, who,
               ": losses is ", losses.dtype(), " and params ", params.dtype(),
               ", expected floating-point tensors");
  DROPIN_CHECK(losses.dim() == 2 && params.sizes() == losses.sizes(), ShapeError, who,
               ": losses is ", losses.sizes(), " and params ", params.sizes(),
               ", expected [B, P] twice");
  const int64_t p = losses.size(1);
  DROPIN_CHECK(o.scales.empty() || static_cast<int64_t>(o.scales.size()) == p, OptionError, who,
               ": scales has ", o.scales.size(), " numbers, expected ", p);
  DROPIN_CHECK(o.reduction == "mean" || o.reduction == "sum" || o.reduction == "none", OptionError,
               who, ": reduction is \"", o.reduction, "\", expected mean, sum or none");
  Tensor weighed = params * losses;
  if (!o.scales.empty()) weighed = weighed * tensor(o.scales, {p}, losses.options());
  const Tensor each = sum(weighed, {1});
  if (o.reduction == "none") return each;
  return o.reduction == "sum" ? sum(each) : mean(each);
}

Tensor sample_tunable_params(int64_t batch, int64_t num_params, const std::string& distribution,
                             Generator* g) {
  const char* who = "sample_tunable_params";
  DROPIN_CHECK(batch >= 0 && num_params >= 1, OptionError, who, ": batch ", batch,
               " and num_params ", num_params, ", expected at least 0 and 1");
  DROPIN_CHECK(distribution == "simplex" || distribution == "uniform", OptionError, who,
               ": distribution is \"", distribution, "\", expected simplex or uniform");
  const Tensor u = rand({batch, num_params}, kFloat64, g);
  if (distribution == "uniform") return u.to(kFloat32);
  const Tensor e = -log1p(-u);  // of exponential law
  return (e / sum(e, {1}, true)).to(kFloat32);
}

}  // namespace dropin
