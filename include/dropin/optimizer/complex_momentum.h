// Momentum with a complex coefficient, for games.
#pragma once
#include <numbers>

#include "dropin/optimizer/optimizer.h"

namespace dropin {

struct ComplexMomentumOptions {
  double lr = 1e-3, lr_imag = 0;
  double beta_abs = 0.9, beta_arg = std::numbers::pi / 8;
  double weight_decay = 0;
  bool maximize = false;
  static void fields(auto&& f) {
    using O = ComplexMomentumOptions;
    f("lr", &O::lr, "real part of the step size");
    f("lr_imag", &O::lr_imag, "imaginary part of the step size");
    f("beta_abs", &O::beta_abs, "size of the momentum's coefficient");
    f("beta_arg", &O::beta_arg, "its argument in radians; 0: SGD, pi: negative momentum");
    f("weight_decay", &O::weight_decay, "L2 penalty");
    f("maximize", &O::maximize, "climbs instead of descends");
  }
};
/// mu = beta mu - g and p += Re(lr mu) with complex beta, lr and mu (Lorraine et al. 2022, section
/// 3): converges on games where every positive momentum diverges. weight_decay is added to the
/// gradient. State: buffer_re, buffer_im; dtypes as with SGD.
class ComplexMomentum : public OptimizerOf<ComplexMomentum, ComplexMomentumOptions> {
 public:
  static constexpr const char* kSummary = "gradient descent with complex momentum";
  static constexpr const char* kReplaces = "SGD";
  static constexpr const char* kPaper = "Lorraine et al. 2022 (Complex Momentum), arXiv 2102.08431";
  explicit ComplexMomentum(const Tensors& params, const ComplexMomentumOptions& o = {})
      : OptimizerOf(params, o) {}
  static void check(const ComplexMomentumOptions& o);
  NamedTensors start(const ComplexMomentumOptions& o, const Tensor& p) const;
  void update_one(const ComplexMomentumOptions& o, const Tensor& p, const Tensor& g,
                  NamedTensors& state, bool first);
};

struct ComplexAdamOptions {
  double lr = 1e-3;
  double beta1_abs = 0.9, beta1_arg = std::numbers::pi / 8, beta2 = 0.999, eps = 1e-8;
  bool bias_correction = true;
  double weight_decay = 0;
  bool decoupled_weight_decay = false;
  static void fields(auto&& f) {
    using O = ComplexAdamOptions;
    f("lr", &O::lr, "step size");
    f("beta1_abs", &O::beta1_abs, "size of the first moment's coefficient");
    f("beta1_arg", &O::beta1_arg, "its argument in radians; 0: Adam");
    f("beta2", &O::beta2, "decay of the second moment");
    f("eps", &O::eps, "added to the root of the second moment");
    f("bias_correction", &O::bias_correction,
      "the first moment's weights sum to 1; false: it is a plain sum");
    f("weight_decay", &O::weight_decay, "L2 penalty, or decay of the parameters");
    f("decoupled_weight_decay", &O::decoupled_weight_decay,
      "p = (1 - lr weight_decay) p before the step, as in AdamW");
  }
};
/// Adam whose first moment has a complex coefficient (Lorraine et al. 2022, section 4): m = b1 m +
/// (1 - b1) g, p -= lr Re(m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps). State: step, exp_avg_re,
/// exp_avg_im, exp_avg_sq; dtypes as with SGD.
class ComplexAdam : public OptimizerOf<ComplexAdam, ComplexAdamOptions> {
 public:
  static constexpr const char* kSummary = "Adam with a complex first moment";
  static constexpr const char* kReplaces = "Adam";
  static constexpr const char* kPaper = ComplexMomentum::kPaper;
  explicit ComplexAdam(const Tensors& params, const ComplexAdamOptions& o = {})
      : OptimizerOf(params, o) {}
  static void check(const ComplexAdamOptions& o);
  NamedTensors start(const ComplexAdamOptions& o, const Tensor& p) const;
  void update_one(const ComplexAdamOptions& o, const Tensor& p, const Tensor& g,
                  NamedTensors& state, bool first);
};

}  // namespace dropin
