// Normalisation layers, PyTorch's names and buffers.
#pragma once
#include <limits>

#include "dropin/norm/batch_norm.h"
#include "dropin/norm/contract.h"

namespace dropin {

struct LayerNormOptions {
  OneOrMany normalized_shape = std::vector<int64_t>{};  ///< required
  double eps = 1e-5;
  bool elementwise_affine = true;
  bool bias = true;
  static void fields(auto&& f) {
    using O = LayerNormOptions;
    f("normalized_shape", &O::normalized_shape,
      "sizes of the last dimensions, normalised together; required");
    f("eps", &O::eps, "added to the variance");
    f("elementwise_affine", &O::elementwise_affine, "learns a weight (and a bias)");
    f("bias", &O::bias, "learns a bias, if affine");
  }
};
namespace detail {
/// OptionError naming `who` unless there are sizes and all are positive.
inline Shape checked_shape(std::string_view who, const OneOrMany& sizes) {
  DROPIN_CHECK(!sizes.values.empty(), OptionError, who, ": normalized_shape is required");
  const Shape shape(sizes.values);
  for (int64_t n : shape)
    DROPIN_CHECK(n > 0, OptionError, who, ": normalized_shape ", shape, " must be positive");
  return shape;
}
/// x of rows that end in these sizes.
Sample sample_normalized(const SampleSpec& s, const OneOrMany& normalized_shape);
}  // namespace detail

/// y = (x - mean) / sqrt(var + eps) * weight + bias, mean and variance (over n) of the last
/// dimensions (Ba et al. 2016). x [*, normalized_shape]. torch.nn.LayerNorm.
class LayerNorm : public Component<LayerNorm, LayerNormOptions, Norm> {
 public:
  static constexpr const char* kSummary = "mean 0 and variance 1 over the last dimensions";
  static Sample sample(const Options& o, const SampleSpec& s) {
    return detail::sample_normalized(s, o.normalized_shape);
  }
  explicit LayerNorm(const LayerNormOptions& o)
      : Component(o), shape_(detail::checked_shape(who(), o.normalized_shape)) {
    weight_ = &parameter("weight", o.elementwise_affine ? ones(shape_) : Tensor());
    bias_ = &parameter("bias", o.elementwise_affine && o.bias ? zeros(shape_) : Tensor());
  }
  Tensor forward(const Tensor& x) override {
    return layer_norm(x, shape_, *weight_, *bias_, options_.eps);
  }

 private:
  Shape shape_;
  Tensor *weight_, *bias_;
};

struct RMSNormOptions {
  OneOrMany normalized_shape = std::vector<int64_t>{};  ///< required
  std::optional<double> eps = std::nullopt;
  bool elementwise_affine = true;
  static void fields(auto&& f) {
    using O = RMSNormOptions;
    f("normalized_shape", &O::normalized_shape,
      "sizes of the last dimensions, normalised together; required");
    f("eps", &O::eps,
      "added to the mean square; null: the epsilon of x's dtype, float32's for 16-bit ones");
    f("elementwise_affine", &O::elementwise_affine, "learns a weight");
  }
};
/// y = x / sqrt(mean(x^2) + eps) * weight, the mean over the last dimensions (Zhang & Sennrich
/// 2019, equation 4). x [*, normalized_shape]. torch.nn.RMSNorm. Replaces LayerNorm.
class RMSNorm : public Component<RMSNorm, RMSNormOptions, Norm> {
 public:
  static constexpr const char* kSummary = "x over its root mean square";
  static Sample sample(const Options& o, const SampleSpec& s) {
    return detail::sample_normalized(s, o.normalized_shape);
  }
  static constexpr const char* kReplaces = "LayerNorm";
  static constexpr const char* kPaper = "Zhang & Sennrich 2019, arXiv 1910.07467";
  explicit RMSNorm(const RMSNormOptions& o)
      : Component(o), shape_(detail::checked_shape(who(), o.normalized_shape)) {
    weight_ = &parameter("weight", o.elementwise_affine ? ones(shape_) : Tensor());
  }
  Tensor forward(const Tensor& x) override {
    bool fits = x.dim() >= shape_.size();
    for (int d = 1; fits && d <= shape_.size(); ++d) fits = x.size(-d) == shape_[shape_.size() - d];
    DROPIN_CHECK(fits, ShapeError, who(), ": x is ", x.sizes(),
                 ", expected its last dimensions to be ", shape_);
    const double eps =
        options_.eps.value_or(x.dtype() == kFloat64 ? std::numeric_limits<double>::epsilon()
                                                    : std::numeric_limits<float>::epsilon());
    if (shape_.size() == 1) return rms_norm(x, *weight_, eps);
    Shape rows;
    for (int d = 0; d < x.dim() - shape_.size(); ++d) rows.push_back(x.size(d));
    rows.push_back(shape_.numel());
    return rms_norm(x.reshape(rows),
                    weight_->defined() ? weight_->reshape({shape_.numel()}) : Tensor(), eps)
        .reshape(x.sizes());
  }

 private:
  Shape shape_;
  Tensor* weight_;
};

struct GroupNormOptions {
  int64_t num_groups = 0, num_channels = 0;  ///< required
  double eps = 1e-5;
  bool affine = true;
  static void fields(auto&& f) {
    using O = GroupNormOptions;
    f("num_groups", &O::num_groups, "groups of channels; required");
    f("num_channels", &O::num_channels, "divisible by num_groups; required");
    f("eps", &O::eps, "added to the variance");
    f("affine", &O::affine, "learns weight and bias per channel");
  }
};
/// y = (x - mean) / sqrt(var + eps) * weight[c] + bias[c], statistics per sample and group of C /
/// num_groups channels (Wu & He 2018). x [B, C, *]. torch.nn.GroupNorm.
class GroupNorm : public Component<GroupNorm, GroupNormOptions, Norm> {
 public:
  static constexpr const char* kSummary = "mean 0 and variance 1 per group of channels";
  explicit GroupNorm(const GroupNormOptions& o) : Component(o) {
    DROPIN_CHECK(o.num_groups > 0 && o.num_channels > 0 && o.num_channels % o.num_groups == 0,
                 OptionError, who(), ": num_channels ", o.num_channels,
                 " is not divisible by num_groups ", o.num_groups);
    weight_ = &parameter("weight", o.affine ? ones({o.num_channels}) : Tensor());
    bias_ = &parameter("bias", o.affine ? zeros({o.num_channels}) : Tensor());
  }
  Tensor forward(const Tensor& x) override {
    DROPIN_CHECK(x.dim() >= 2 && x.size(1) == options_.num_channels, ShapeError, who(), ": x is ",
                 x.sizes(), ", expected [B, ", options_.num_channels, ", *]");
    return group_norm(x, options_.num_groups, *weight_, *bias_, options_.eps);
  }

 private:
  Tensor *weight_, *bias_;
};

}  // namespace dropin
