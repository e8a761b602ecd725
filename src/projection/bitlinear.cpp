#include "dropin/projection/bitlinear.h"

#include "dropin/module/init.h"

namespace dropin {

namespace {
/// Holds norm.weight and norm.bias.
class NormAffine : public Module {
 public:
  NormAffine(int64_t k, bool bias) {
    weight = &parameter("weight", ones({k}));
    this->bias = &parameter("bias", bias ? zeros({k}) : Tensor());
  }
  std::string_view type() const override { return "NormAffine"; }
  Tensor *weight, *bias;
};
}  // namespace

std::vector<std::string> BitLinear::examples() {
  return {R"({"variant": "b1.58", "norm_affine": true, "bias": false})",
          R"({"weight_groups": 3, "act_groups": 2, "norm_affine": true, "act_qmax": 128})",
          R"({"act_mode": "shift", "norm": "none", "act_groups": 4})"};
}

BitLinear::BitLinear(const BitLinearOptions& o) : Component(o), cache_(new Cache) {
  DROPIN_CHECK(o.in_features > 0, OptionError, who(), ": in_features is ", o.in_features,
               ", expected a positive number");
  DROPIN_CHECK(o.out_features > 0, OptionError, who(), ": out_features is ", o.out_features,
               ", expected a positive number");
  DROPIN_CHECK(o.variant == "b1" || o.variant == "b1.58", OptionError, who(), ": variant is \"",
               o.variant, "\", expected b1 or b1.58");
  DROPIN_CHECK(o.norm == "auto" || o.norm == "layer" || o.norm == "rms" || o.norm == "none",
               OptionError, who(), ": norm is \"", o.norm, "\", expected auto, layer, rms or none");
  DROPIN_CHECK(o.norm_eps >= 0, OptionError, who(), ": norm_eps is ", o.norm_eps,
               ", expected at least 0");
  DROPIN_CHECK(o.act_per == "token" || o.act_per == "tensor", OptionError, who(), ": act_per is \"",
               o.act_per, "\", expected token or tensor");
  DROPIN_CHECK(o.act_mode == "absmax" || o.act_mode == "shift", OptionError, who(),
               ": act_mode is \"", o.act_mode, "\", expected absmax or shift");
  DROPIN_CHECK(o.act_qmax == 127 || o.act_qmax == 128, OptionError, who(), ": act_qmax is ",
               o.act_qmax, ", expected 127 or 128");
  DROPIN_CHECK(o.weight_groups > 0 && o.out_features % o.weight_groups == 0, OptionError, who(),
               ": weight_groups ", o.weight_groups, " does not divide out_features ",
               o.out_features);
  DROPIN_CHECK(o.act_groups > 0 && o.in_features % o.act_groups == 0, OptionError, who(),
               ": act_groups ", o.act_groups, " does not divide in_features ", o.in_features);
  params_ = {.ternary = o.variant == "b1.58",
             .per_tensor = o.act_per == "tensor",
             .shift = o.act_mode == "shift",
             .qmax = o.act_qmax,
             .weight_groups = o.weight_groups,
             .act_groups = o.act_groups};
  rms_ = o.norm == "rms" || (o.norm == "auto" && params_.ternary);
  weight_ =
      &parameter("weight", init::default_uniform({o.out_features, o.in_features}, o.in_features));
  bias_ = &parameter("bias",
                     o.bias ? init::default_uniform({o.out_features}, o.in_features) : Tensor());
  packed_ = &buffer("weight_packed", Tensor());
  scale_ = &buffer("weight_scale", Tensor());
  if (o.norm_affine) {
    auto* affine = new NormAffine(o.in_features, !rms_ && o.norm != "none");
    add_child("norm", Box<Module>(affine));
    norm_weight_ = affine->weight;
    norm_bias_ = affine->bias;
  }
}

Tensor BitLinear::normalize(const Tensor& x) const {
  const auto& o = options_;
  if (o.norm == "none") return norm_weight_ ? x * *norm_weight_ : x;
  const int64_t k = o.in_features, slice = k / o.act_groups;
  const Tensor w = norm_weight_ ? *norm_weight_ : Tensor(), b = norm_bias_ ? *norm_bias_ : Tensor();
  if (o.act_groups == 1)
    return rms_ ? rms_norm(x, w, o.norm_eps) : layer_norm(x, {k}, w, b, o.norm_eps);
  Shape split = x.sizes();
  split[split.size() - 1] = o.act_groups;
  split.push_back(slice);
  const Tensor parts = x.reshape(split);
  Tensor h =
      (rms_ ? rms_norm(parts, {}, o.norm_eps) : layer_norm(parts, {slice}, {}, {}, o.norm_eps))
          .reshape(x.sizes());
  if (w.defined()) h = h * w;
  return b.defined() ? h + b : h;
}

BitPackedWeight BitLinear::quantized() {
  if (packed_->defined() && !is_training()) return {*packed_, *scale_};
  std::lock_guard lock(cache_->mutex);
  Cache& c = *cache_;
  const Tensor& w = *weight_;
  if (!c.packed.packed.defined() || c.source.data_ptr() != w.data_ptr() ||
      c.version != w.version() || !(c.source.sizes() == w.sizes()) ||
      c.source.dtype() != w.dtype()) {
    c.source = w.detach();
    c.version = w.version();
    c.packed = bitlinear_pack_weight(w, options_.variant, options_.weight_groups);
  }
  return c.packed;
}

Tensor BitLinear::forward(const Tensor& x) {
  const auto& o = options_;
  DROPIN_CHECK(is_floating(x.dtype()), DTypeError, who(), ": x is ", x.dtype(),
               ", expected a floating-point tensor");
  DROPIN_CHECK(x.dim() > 0 && x.size(-1) == o.in_features, ShapeError, who(), ": x is ", x.sizes(),
               ", expected [*, ", o.in_features, "] because in_features = ", o.in_features);
  DROPIN_CHECK(weight_->defined() || !is_training(), StateError, who(),
               ": the float weight was released by pack(); the layer cannot be trained");
  const Tensor h = normalize(x);
  if (h.dtype() == kFloat64)
    return bit_linear(h, packed() && !is_training() ? Tensor() : *weight_, *bias_, params_,
                      packed() ? BitPackedWeight{*packed_, *scale_} : BitPackedWeight{});
  return bit_linear(h, *weight_, *bias_, params_, quantized());
}

void BitLinear::pack(bool release) {
  DROPIN_CHECK(weight_->defined(), StateError, who(),
               ": pack: the float weight was released already");
  const BitPackedWeight p =
      bitlinear_pack_weight(*weight_, options_.variant, options_.weight_groups);
  *packed_ = p.packed;
  *scale_ = p.scale;
  if (release) *weight_ = Tensor();
  std::lock_guard lock(cache_->mutex);
  cache_->source = {};
  cache_->packed = {};
}

void BitLinear::state_changed() {
  std::lock_guard lock(cache_->mutex);
  cache_->source = {};
  cache_->packed = {};
  if (is_training() && weight_->defined()) *packed_ = *scale_ = Tensor();
  if (scale_->defined() && scale_->dtype() != kFloat32)
    *scale_ = scale_->detach().to(kFloat32);  // to(dtype) means the parameters
}

void BitLinear::translate_state(StateDict& state, const std::string& prefix,
                                std::vector<std::string>&) const {
  const auto& o = options_;
  const Tensor p = state.find(prefix + "weight_packed"), s = state.find(prefix + "weight_scale"),
               w = state.find(prefix + "weight");
  const int64_t planes = params_.ternary ? 4 : 8, bytes = (o.in_features + planes - 1) / planes;
  if (p.defined()) {
    DROPIN_CHECK(p.dtype() == kUInt8, StateError, who(), ": ", prefix, "weight_packed is ",
                 p.dtype(), ", expected uint8");
    DROPIN_CHECK(p.sizes() == (Shape{o.out_features, bytes}), StateError, who(), ": ", prefix,
                 "weight_packed is ", p.sizes(), ", expected ", (Shape{o.out_features, bytes}),
                 " for variant ", o.variant, ", in_features ", o.in_features, " and out_features ",
                 o.out_features);
    DROPIN_CHECK(s.defined() && s.sizes() == (Shape{o.weight_groups}), StateError, who(), ": ",
                 prefix, "weight_scale is ", s.defined() ? s.sizes() : Shape{}, ", expected [",
                 o.weight_groups, "]");
    const Tensor c = p.to(kCPU).contiguous();
    const std::uint8_t* b = c.data<std::uint8_t>();
    const int64_t spare = bytes * planes - o.in_features;
    for (int64_t i = 0; i < p.numel(); ++i) {
      bool good = !params_.ternary || (b[i] & b[i] >> 1 & 0x55) == 0;
      if ((i + 1) % bytes == 0 && spare) {
        const int used = static_cast<int>((planes - spare) * 8 / planes);
        good = good && b[i] >> used == (params_.ternary ? 0x55 >> used : 0);
      }
      DROPIN_CHECK(good, StateError, who(), ": ", prefix, "weight_packed holds ",
                   static_cast<int>(b[i]), " in row ", i / bytes,
                   ", which is not packed as variant ", o.variant, " of ", o.in_features,
                   " columns");
    }
    if (!packed_->defined()) {
      *packed_ = zeros(p.sizes(), {kUInt8, p.device()});
      *scale_ = zeros({o.weight_groups});
    }
    if (!w.defined()) *weight_ = Tensor();
  } else {
    *packed_ = *scale_ = Tensor();
  }
  if (w.defined() && !weight_->defined()) {
    *weight_ = zeros({o.out_features, o.in_features});
    weight_->requires_grad_();
  }
}

}  // namespace dropin
