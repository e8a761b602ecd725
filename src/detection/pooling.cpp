#include "dropin/detection/pooling.h"

#include "dropin/detection/delf.h"
#include "dropin/module/parameters.h"
#include "kernels/hd.h"

namespace dropin {

FamilyInfo Pooling::family() {
  FamilyInfo f;
  f.name = kFamily;
  f.call = "x [B, C, H, W] -> y [B, C]";
  f.options = [](int size) { return json_of({{"in_channels", picture_size(size).channels}}); };
  f.inputs = [](const Json& o, const SampleSpec& s) {
    return sample_pictures(s, option_or(o, {"in_channels"}, picture_size(s.size).channels));
  };
  f.bad_inputs = bad_shape({2, 5});
  f.work = work_of_pictures;
  return f;
}

Tensor GlobalAvgPool2d::forward(const Tensor& x) {
  DROPIN_CHECK(x.dim() == 4 && x.size(2) * x.size(3) > 0, ShapeError, who(), ": x is ", x.sizes(),
               ", expected [B, C, H, W] with a place at least");
  DROPIN_CHECK(is_floating(x.dtype()), DTypeError, who(), ": x is ", x.dtype(),
               ", expected a floating-point tensor");
  return mean(x, {2, 3});
}

std::vector<std::string> AttentiveLocalFeatures::examples() {
  return {R"({"pooling": "sum", "normalize_features": false})",
          R"({"reduced_dim": 3, "detach_features": true})"};
}

AttentiveLocalFeatures::AttentiveLocalFeatures(const AttentiveLocalFeaturesOptions& o)
    : Component(o) {
  DROPIN_CHECK(o.in_channels > 0 && o.hidden > 0 && o.reduced_dim >= 0, OptionError, who(),
               ": in_channels ", o.in_channels, " and hidden ", o.hidden,
               " must be positive, reduced_dim ", o.reduced_dim, " at least 0");
  DROPIN_CHECK(o.pooling == "mean" || o.pooling == "sum", OptionError, who(), ": pooling is \"",
               o.pooling, "\", expected mean or sum");
  DROPIN_CHECK(o.bn_eps >= 0, OptionError, who(), ": bn_eps is ", o.bn_eps,
               ", expected at least 0");
  auto pointwise = [](Parameters& to, const char* name, int64_t in, int64_t out) {
    auto conv = to.child<Conv2d>(name, {.in_channels = in, .out_channels = out, .kernel_size = 1});
    const StateDict state = conv.as()->state_dict();
    no_grad guard;
    Tensor w = state.find("weight"), b = state.find("bias");
    w.copy_(init::xavier_uniform(w.sizes(), in, out));
    b.zero_();
    return conv;
  };
  Parameters& head = *child<Parameters>("attention").as();
  conv1_ = pointwise(head, "conv1", o.in_channels, o.hidden);
  Parameters& bn = head.bundle("bn1");
  bn_weight_ = &bn.add("weight", ones({o.hidden}));
  bn_bias_ = &bn.add("bias", zeros({o.hidden}));
  bn_mean_ = &bn.add_buffer("running_mean", zeros({o.hidden}));
  bn_var_ = &bn.add_buffer("running_var", ones({o.hidden}));
  conv2_ = pointwise(head, "conv2", o.hidden, 1);
  if (o.reduced_dim == 0) return;
  Parameters& code = *child<Parameters>("autoencoder").as();
  reduce_ = pointwise(code, "conv1", o.in_channels, o.reduced_dim);
  expand_ = pointwise(code, "conv2", o.reduced_dim, o.in_channels);
}

AttentiveLocalFeatures::Result AttentiveLocalFeatures::attend(const Tensor& x_) {
  const auto& o = options_;
  DROPIN_CHECK(x_.dim() == 4 && x_.size(1) == o.in_channels && x_.size(2) * x_.size(3) > 0,
               ShapeError, who(), ": x is ", x_.sizes(), ", expected [B, ", o.in_channels,
               ", H, W] because in_channels = ", o.in_channels);
  DROPIN_CHECK(is_floating(x_.dtype()), DTypeError, who(), ": x is ", x_.dtype(),
               ", expected a floating-point tensor");
  const Tensor x = o.detach_features ? x_.detach() : x_;
  Result r;
  Tensor seen = x;
  if (o.reduced_dim > 0) {
    r.descriptors = reduce_(x);
    seen = relu(expand_(r.descriptors));
    r.reconstruction = mse_loss(seen, x);
  }
  const Tensor hidden = conv1_(seen);
  const bool batch = is_training() && x.size(0) > 0;
  const Tensor s = conv2_(
      relu(batch_norm(hidden, *bn_mean_, *bn_var_, *bn_weight_, *bn_bias_, batch, 0.01, o.bn_eps)));
  const Tensor a = softplus(s);  // [B, 1, H, W]
  r.scores = a.squeeze(1);
  Tensor places = x;
  if (o.normalize_features)
    places = x * rsqrt(clamp(sum(square(x), {1}, true), 1e-12, kernels::kInf<double>));
  r.y = sum(places * a, {2, 3});
  if (o.pooling == "mean") r.y = r.y * (1 / static_cast<double>(x.size(2) * x.size(3)));
  return r;
}

NamedTensors AttentiveLocalFeatures::call(const NamedTensors& in) {
  Result r;
  const Tensor y = with_hooks(in.get("x", who()), [&](const Tensor& x) {
    r = attend(x);
    return r.y;
  });
  NamedTensors out{{"y", y}, {"scores", r.scores}};
  if (r.descriptors.defined()) {
    out.set("descriptors", r.descriptors);
    out.set("reconstruction_loss", r.reconstruction);
  }
  return out;
}

}  // namespace dropin
