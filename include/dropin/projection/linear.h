// Linear: the standard Projection.
#pragma once
#include "dropin/module/init.h"
#include "dropin/projection/contract.h"

namespace dropin {

struct LinearOptions {
  int64_t in_features = 0;   ///< required
  int64_t out_features = 0;  ///< required
  bool bias = true;
  static void fields(auto&& f) {
    using O = LinearOptions;
    f("in_features", &O::in_features, "size of each input row; required");
    f("out_features", &O::out_features, "size of each output row; required");
    f("bias", &O::bias, "adds a learnable bias");
  }
};

/// y = x W^T + b, x [*, in_features] -> [*, out_features]. Parameters weight [out, in], bias [out];
/// torch.nn.Linear's names and initial values.
class Linear : public Component<Linear, LinearOptions, Projection> {
 public:
  static constexpr const char* kSummary = "y = x W^T + b";
  explicit Linear(const LinearOptions& o) : Component(o) {
    DROPIN_CHECK(o.in_features > 0 && o.out_features > 0, OptionError, who(), ": in_features ",
                 o.in_features, " and out_features ", o.out_features, " must be positive");
    weight_ =
        &parameter("weight", init::default_uniform({o.out_features, o.in_features}, o.in_features));
    bias_ = &parameter("bias",
                       o.bias ? init::default_uniform({o.out_features}, o.in_features) : Tensor());
  }
  Tensor forward(const Tensor& x) override {
    DROPIN_CHECK(x.dim() > 0 && x.size(-1) == options_.in_features, ShapeError, who(), ": x is ",
                 x.sizes(), ", expected [*, ", options_.in_features,
                 "] because in_features = ", options_.in_features);
    return linear(x, *weight_, *bias_);
  }
  Tensor& weight() const { return *weight_; }
  Tensor& bias() const { return *bias_; }

 private:
  Tensor *weight_, *bias_;
};

}  // namespace dropin
