#include "dropin/feed_forward/moe.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "dropin/module/init.h"

namespace dropin {

void MixtureOfExperts::create(std::string_view who, const MoEOptions& o) {
  DROPIN_CHECK(o.d_model > 0 && o.d_ff > 0 && o.num_experts > 0, OptionError, who, ": d_model ",
               o.d_model, ", d_ff ", o.d_ff, " and num_experts ", o.num_experts,
               " must be positive");
  DROPIN_CHECK(o.top_k >= 1 && o.top_k <= o.num_experts, OptionError, who, ": top_k is ", o.top_k,
               ", expected 1 to num_experts = ", o.num_experts);
  DROPIN_CHECK(o.activation == "swiglu" || o.activation == "gelu" || o.activation == "relu",
               OptionError, who, ": activation is \"", o.activation,
               "\", expected swiglu, gelu or relu");
  DROPIN_CHECK(o.granularity >= 1 && o.d_ff % o.granularity == 0, OptionError, who,
               ": granularity is ", o.granularity, ", expected a divisor of d_ff = ", o.d_ff);
  who_ = std::string(who);
  width_ = o.d_model;
  activation_ = o.activation;
  experts_ = o.num_experts * o.granularity;
  chosen_ = o.top_k * o.granularity;
  const int64_t d = o.d_model, ff = o.d_ff / o.granularity, e = experts_;
  router_ = child<Linear>("router", {.in_features = d, .out_features = e, .bias = false});
  Parameters& bundle = *child<Parameters>("experts").as();
  w1_ = &bundle.add("w1", init::default_uniform({e, ff, d}, d));
  if (o.activation == "swiglu") w3_ = &bundle.add("w3", init::default_uniform({e, ff, d}, d));
  w2_ = &bundle.add("w2", init::default_uniform({e, d, ff}, ff));
  no_grad guard;
  router_.as()->weight().copy_(init::normal({e, d}, 0.02));
}

Tensor MixtureOfExperts::expert(int64_t e, const Tensor& x) const {
  const Tensor a = linear(x, w1_->select(0, e));
  const Tensor h = activation_ == "swiglu" ? silu(a) * linear(x, w3_->select(0, e))
                   : activation_ == "gelu" ? gelu(a)
                                           : relu(a);
  return linear(h, w2_->select(0, e));
}

Tensor MixtureOfExperts::gates(const Tensor& x) const {
  DROPIN_CHECK(x.dim() == 2 && x.size(1) == width_, ShapeError, who_, ": x is ", x.sizes(),
               ", expected [n, ", width_, "]");
  return routing(router_(x)).gates;
}

Tensor MixtureOfExperts::last_load() const {
  const std::scoped_lock lock(mutex_);
  return load_.defined() ? load_ : zeros({experts_}, kInt64);
}

namespace {
// Places of true entries of a one-dimensional mask.
Tensor places(const Tensor& mask) { return nonzero(mask).reshape({-1}); }
}  // namespace

MoEResult MixtureOfExperts::route(const Tensor& x, const Tensor& mask) {
  DROPIN_CHECK(x.dim() > 0 && x.size(-1) == width_, ShapeError, who_, ": x is ", x.sizes(),
               ", expected [*, ", width_, "] because d_model = ", width_);
  DROPIN_CHECK(is_floating(x.dtype()), DTypeError, who_, ": x is ", x.dtype(),
               ", expected a floating-point tensor");
  if (mask.defined()) {
    DROPIN_CHECK(mask.dtype() == kBool, DTypeError, who_, ": key_padding_mask is ", mask.dtype(),
                 ", expected bool");
    const Shape leading(x.sizes().begin(), x.dim() - 1);
    DROPIN_CHECK(mask.sizes() == leading, ShapeError, who_, ": key_padding_mask is ", mask.sizes(),
                 ", expected ", leading);
  }
  const Tensor all = x.reshape({-1, width_});
  const Tensor real = mask.defined() ? places(logical_not(mask).reshape({-1})) : Tensor();
  const Tensor tokens = real.defined() ? index_select(all, 0, real) : all;
  const int64_t n = tokens.size(0), e = experts_;
  MoEResult r{zeros(x.sizes(), x.options()), zeros({}, x.options()), zeros({}, x.options())};
  if (n == 0) return r;
  const Tensor logits = router_(tokens);
  const Routing routed = routing(logits);
  const Tensor active = routed.gates.detach() > 0.0;
  Tensors outputs, targets;
  for (int64_t k = 0; k < e; ++k) {
    const Tensor at = places(active.select(1, k));
    if (at.numel() == 0) continue;
    const Tensor gate = index_select(routed.gates.select(1, k), 0, at).unsqueeze(1);
    outputs.push_back(expert(k, index_select(tokens, 0, at)) * gate);
    targets.push_back(at);
  }
  Tensor y = zeros_like(tokens);
  if (!outputs.empty()) y = index_add(y, 0, concat(targets, 0), concat(outputs, 0));
  y = where(any(isnan(logits), {-1}, true), std::nan(""), y);
  if (real.defined()) y = index_add(zeros_like(all), 0, real, y);
  r.y = y.reshape(x.sizes());
  if (is_training()) {
    const Tensor mass = sum(sum(routed.probabilities, {0}) * routed.load.to(x.dtype()));
    r.aux_loss =
        mass * (loss_coefficient() * static_cast<double>(e) / static_cast<double>(n * n * chosen_));
  }
  r.sparsity = 1.0 - sum(active.to(x.dtype())) / static_cast<double>(n * e);
  const std::scoped_lock lock(mutex_);
  load_ = routed.load.to(Device{});
  return r;
}

NamedTensors MixtureOfExperts::call(const NamedTensors& in) {
  MoEResult r;
  const Tensor y = with_hooks(in.get("x", type()), [&](const Tensor& x) {
    r = route(x, in.find("key_padding_mask"));
    return r.y;
  });
  return {{"y", y}, {"aux_loss", r.aux_loss}, {"sparsity", r.sparsity}};
}

// --- TopKMoE

std::vector<std::string> TopKMoE::examples() {
  return {R"({"pre_softmax": false, "activation": "gelu"})",
          R"({"granularity": 2, "activation": "relu", "top_k": 1})"};
}

TopKMoE::TopKMoE(const TopKMoEOptions& o) : Component(o) {
  create(who(), o);
  DROPIN_CHECK(o.pre_softmax || chosen_ >= 2, OptionError, who(),
               ": pre_softmax = false needs top_k >= 2; one gate would always be 1");
  DROPIN_CHECK(o.aux_loss_coeff >= 0, OptionError, who(), ": aux_loss_coeff is ", o.aux_loss_coeff,
               ", expected 0 or more");
  DROPIN_CHECK(!o.capacity_factor || *o.capacity_factor > 0, OptionError, who(),
               ": capacity_factor is ", o.capacity_factor.value_or(0),
               ", expected a positive factor or null");
  DROPIN_CHECK(o.drop_policy == "probs" || o.drop_policy == "position", OptionError, who(),
               ": drop_policy is \"", o.drop_policy, "\", expected probs or position");
}

namespace {
// Of each expert's tokens (chosen [n, E] bool) those that it keeps: the largest gates, or the
// first.
Tensor within_capacity(const Tensor& chosen, const Tensor& gates, int64_t capacity, bool by_gate) {
  const Tensor on = chosen.to(Device{}).contiguous(),
               g = gates.detach().to(Device{}).to(kFloat64).contiguous();
  const int64_t n = on.size(0), e = on.size(1);
  Tensor kept = zeros({n, e}, kBool);
  for (int64_t k = 0; k < e; ++k) {
    std::vector<int64_t> tokens;
    for (int64_t t = 0; t < n; ++t)
      if (on.data<bool>()[t * e + k]) tokens.push_back(t);
    if (by_gate)
      std::stable_sort(tokens.begin(), tokens.end(), [&](int64_t a, int64_t b) {
        return g.data<double>()[a * e + k] > g.data<double>()[b * e + k];
      });
    const auto room = static_cast<std::size_t>(capacity);
    for (std::size_t i = 0; i < std::min(room, tokens.size()); ++i)
      kept.data<bool>()[tokens[i] * e + k] = true;
  }
  return kept.to(gates.device());
}
}  // namespace

MixtureOfExperts::Routing TopKMoE::routing(const Tensor& logits) const {
  const auto& o = options_;
  const Tensor p = softmax(logits, -1);
  const ValuesIndices best = topk(o.pre_softmax ? p : logits, chosen_, -1);
  const Tensor values = o.pre_softmax ? best.values : softmax(best.values, -1);
  Routing r;
  r.probabilities = p;
  r.gates = scatter(zeros_like(logits), -1, best.indices, values);
  const Tensor chosen =
      scatter(zeros_like(logits).detach(), -1, best.indices, ones_like(values).detach()) > 0.0;
  r.load = sum(chosen, {0});
  if (o.capacity_factor) {
    const double n = static_cast<double>(logits.size(0)), k = static_cast<double>(chosen_),
                 e = static_cast<double>(experts_);
    const auto capacity = static_cast<int64_t>(std::ceil(n * k / e * *o.capacity_factor));
    const Tensor kept = within_capacity(chosen, r.gates, capacity, o.drop_policy == "probs");
    r.gates = masked_fill(r.gates, logical_not(kept), 0);
  }
  return r;
}

// --- ReMoE

std::vector<std::string> ReMoE::examples() {
  return {R"({"l1_coeff": 0.3, "activation": "gelu"})", R"({"granularity": 3})"};
}

ReMoE::ReMoE(const ReMoEOptions& o) : Component(o) {
  create(who(), o);
  DROPIN_CHECK(o.l1_multiplier > 1, OptionError, who(), ": l1_multiplier is ", o.l1_multiplier,
               ", expected more than 1");
  DROPIN_CHECK(o.l1_coeff >= 0, OptionError, who(), ": l1_coeff is ", o.l1_coeff,
               ", expected 0 or more");
  coeff_ = &buffer("l1_coeff", full({}, o.l1_coeff));
}

void ReMoE::set_coeff(double v) {
  DROPIN_CHECK(v >= 0, OptionError, who(), ": set_coeff(", v, "), expected 0 or more");
  no_grad guard;
  coeff_->fill_(std::clamp(v, 1e-30, 1e30));
}

void ReMoE::update_coeff(double mean_sparsity) {
  const RemoeLambdaOptions o{
      .top_k = chosen_, .num_experts = experts_, .multiplier = options_.l1_multiplier};
  set_coeff(
      remoe_lambda_update(coeff_->to(kFloat32).to(Device{}), full({}, mean_sparsity), o).item());
}

MixtureOfExperts::Routing ReMoE::routing(const Tensor& logits) const {
  const Tensor gates = relu(logits);
  return {gates, sum(gates.detach() > 0.0, {0}), gates};
}

void ReMoE::translate_state(StateDict& state, const std::string& prefix,
                            std::vector<std::string>&) const {
  if (state.contains(prefix + "router.weight") && !state.contains(prefix + "l1_coeff"))
    state.set(prefix + "l1_coeff", coeff_->clone());
}

Tensor remoe_lambda_update(const Tensor& coeff, const Tensor& sparsity,
                           const RemoeLambdaOptions& o) {
  const char* who = "remoe_lambda_update";
  DROPIN_CHECK(o.num_experts >= 1 && o.top_k >= 1 && o.top_k <= o.num_experts, OptionError, who,
               ": top_k is ", o.top_k, ", expected 1 to num_experts = ", o.num_experts);
  DROPIN_CHECK(o.multiplier > 1, OptionError, who, ": multiplier is ", o.multiplier,
               ", expected more than 1");
  DROPIN_CHECK(is_floating(coeff.dtype()) && is_floating(sparsity.dtype()), DTypeError, who,
               ": coeff is ", coeff.dtype(), " and sparsity ", sparsity.dtype(),
               ", expected floating-point tensors");
  no_grad guard;
  const Tensor c = coeff.detach().to(kFloat32), s = sparsity.detach().to(kFloat32);
  DROPIN_CHECK(!any(c < 0.0).item<bool>(), OptionError, who,
               ": coeff has a negative entry, expected 0 or more");
  const double target = 1 - static_cast<double>(o.top_k) / static_cast<double>(o.num_experts);
  return where(s < full({}, target, s.options()), c * o.multiplier, c / o.multiplier);
}

}  // namespace dropin
