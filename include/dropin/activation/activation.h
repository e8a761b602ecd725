// Activations as modules, with PyTorch's names and options.
#pragma once
#include <limits>

#include "dropin/activation/contract.h"

namespace dropin {

namespace detail {
/// An activation without options: y = F(x).
template <class Self, Tensor (*F)(const Tensor&)>
class PlainActivation : public Component<Self, NoOptions, Activation> {
 public:
  explicit PlainActivation(const NoOptions& o = {}) : Component<Self, NoOptions, Activation>(o) {}
  Tensor forward(const Tensor& x) override { return F(x); }
};
/// An activation with options: y = Self::apply(x, options).
template <class Self, class O>
class OptionedActivation : public Component<Self, O, Activation> {
 public:
  explicit OptionedActivation(const O& o = {}) : Component<Self, O, Activation>(o) {
    if constexpr (requires { Self::check(o); }) Self::check(o);
  }
  Tensor forward(const Tensor& x) override { return Self::apply(x, this->options_); }
};
inline Tensor mish(const Tensor& x) { return x * tanh(softplus(x)); }
inline Tensor tanhshrink(const Tensor& x) { return x - tanh(x); }
}  // namespace detail

#define DROPIN_ACTIVATION(NAME, FUNCTION, SUMMARY)                                         \
  class NAME : public detail::PlainActivation<NAME, FUNCTION> {                            \
   public:                                                                                 \
    static constexpr const char* kSummary = SUMMARY;                                       \
    explicit NAME(const NoOptions& o = {}) : detail::PlainActivation<NAME, FUNCTION>(o) {} \
  }
/// y = max(x, 0); the gradient is 0 at 0.
DROPIN_ACTIVATION(ReLU, relu, "max(x, 0)");
/// y = min(max(x, 0), 6); the gradient is 0 at both corners.
DROPIN_ACTIVATION(ReLU6, relu6, "min(max(x, 0), 6)");
/// y = x sigmoid(x) (Hendrycks & Gimpel 2016; Ramachandran et al. 2017, "swish").
DROPIN_ACTIVATION(SiLU, silu, "x sigmoid(x)");
/// y = 1 / (1 + exp(-x)), computed without overflow for either sign.
DROPIN_ACTIVATION(Sigmoid, sigmoid, "1 / (1 + exp(-x))");
/// y = log(1 / (1 + exp(-x))) = min(x, 0) - log1p(exp(-|x|)).
DROPIN_ACTIVATION(LogSigmoid, logsigmoid, "log(sigmoid(x))");
/// y = tanh(x) = (exp(2 x) - 1) / (exp(2 x) + 1).
DROPIN_ACTIVATION(Tanh, tanh, "tanh(x)");
/// y = x - tanh(x).
DROPIN_ACTIVATION(Tanhshrink, detail::tanhshrink, "x - tanh(x)");
/// y = s x for x > 0, s a (exp(x) - 1) otherwise, s = 1.0507..., a = 1.6732... (Klambauer et al.
/// 2017, equation 2).
DROPIN_ACTIVATION(SELU, selu, "scaled ELU (Klambauer et al. 2017)");
/// y = x / (1 + |x|).
DROPIN_ACTIVATION(Softsign, softsign, "x / (1 + |x|)");
/// y = x tanh(log(1 + exp(x))) (Misra 2019).
DROPIN_ACTIVATION(Mish, detail::mish, "x tanh(softplus(x))");
/// y = x min(max(x + 3, 0), 6) / 6 (Howard et al. 2019, section 5.2).
DROPIN_ACTIVATION(Hardswish, hardswish, "x relu6(x + 3) / 6");
/// y = min(max(x / 6 + 1/2, 0), 1).
DROPIN_ACTIVATION(Hardsigmoid, hardsigmoid, "relu6(x + 3) / 6");
#undef DROPIN_ACTIVATION

struct ELUOptions {
  double alpha = 1;
  static void fields(auto&& f) {
    f("alpha", &ELUOptions::alpha, "-alpha is the limit far below 0");
  }
};
/// y = x for x > 0, alpha (exp(x) - 1) otherwise (Clevert et al. 2016, equation 15).
class ELU : public detail::OptionedActivation<ELU, ELUOptions> {
 public:
  static constexpr const char* kSummary = "x above 0, alpha (exp(x) - 1) below";
  explicit ELU(const ELUOptions& o = {}) : OptionedActivation(o) {}
  static Tensor apply(const Tensor& x, const ELUOptions& o) { return elu(x, o.alpha); }
};

struct CELUOptions {
  double alpha = 1;
  static void fields(auto&& f) {
    f("alpha", &CELUOptions::alpha, "-alpha is the limit far below 0; not 0");
  }
};
/// y = x for x > 0, alpha (exp(x / alpha) - 1) otherwise: its slope is 1 at 0 for every alpha
/// (Barron 2017).
class CELU : public detail::OptionedActivation<CELU, CELUOptions> {
 public:
  static constexpr const char* kSummary = "x above 0, alpha (exp(x / alpha) - 1) below";
  explicit CELU(const CELUOptions& o = {}) : OptionedActivation(o) {}
  static void check(const CELUOptions& o) {
    DROPIN_CHECK(o.alpha != 0, OptionError, who(), ": alpha is 0, expected another number");
  }
  static Tensor apply(const Tensor& x, const CELUOptions& o) { return celu(x, o.alpha); }
};

struct SoftplusOptions {
  double beta = 1, threshold = 20;
  static void fields(auto&& f) {
    f("beta", &SoftplusOptions::beta, "sharpness of the bend; not 0");
    f("threshold", &SoftplusOptions::threshold, "x itself where beta x is above");
  }
};
/// y = log(1 + exp(beta x)) / beta; x itself where beta x > threshold.
class Softplus : public detail::OptionedActivation<Softplus, SoftplusOptions> {
 public:
  static constexpr const char* kSummary = "log(1 + exp(beta x)) / beta";
  explicit Softplus(const SoftplusOptions& o = {}) : OptionedActivation(o) {}
  static void check(const SoftplusOptions& o) {
    DROPIN_CHECK(o.beta != 0, OptionError, who(), ": beta is 0, expected another number");
  }
  static Tensor apply(const Tensor& x, const SoftplusOptions& o) {
    return softplus(x, o.beta, o.threshold);
  }
};

struct HardtanhOptions {
  double min_val = -1, max_val = 1;
  static void fields(auto&& f) {
    f("min_val", &HardtanhOptions::min_val, "smallest result");
    f("max_val", &HardtanhOptions::max_val, "largest result");
  }
  /// OptionError naming `who` unless min_val < max_val.
  static void check(std::string_view who, const HardtanhOptions& o) {
    DROPIN_CHECK(o.min_val < o.max_val, OptionError, who, ": min_val ", o.min_val,
                 " is not below max_val ", o.max_val);
  }
};
/// y = min(max(x, min_val), max_val); the gradient is 0 at both corners.
class Hardtanh : public detail::OptionedActivation<Hardtanh, HardtanhOptions> {
 public:
  static constexpr const char* kSummary = "min(max(x, min_val), max_val)";
  explicit Hardtanh(const HardtanhOptions& o = {}) : OptionedActivation(o) {}
  static void check(const HardtanhOptions& o) { HardtanhOptions::check(who(), o); }
  static Tensor apply(const Tensor& x, const HardtanhOptions& o) {
    return hardtanh(x, o.min_val, o.max_val);
  }
};

struct ShrinkOptions {
  double lambda = 0.5;
  static void fields(auto&& f) {
    f("lambda", &ShrinkOptions::lambda, "values up to this size become 0; at least 0");
  }
  /// OptionError naming `who` unless lambda >= 0.
  static void check(std::string_view who, const ShrinkOptions& o) {
    DROPIN_CHECK(o.lambda >= 0, OptionError, who, ": lambda is ", o.lambda,
                 ", expected at least 0");
  }
};
/// y = x where |x| > lambda, else 0.
class Hardshrink : public detail::OptionedActivation<Hardshrink, ShrinkOptions> {
 public:
  static constexpr const char* kSummary = "x where |x| > lambda, else 0";
  explicit Hardshrink(const ShrinkOptions& o = {}) : OptionedActivation(o) {}
  static void check(const ShrinkOptions& o) { ShrinkOptions::check(who(), o); }
  static Tensor apply(const Tensor& x, const ShrinkOptions& o) {
    return where(abs(x) <= o.lambda, 0.0, x);
  }
};
/// y = x - lambda above lambda, x + lambda below -lambda, else 0.
class Softshrink : public detail::OptionedActivation<Softshrink, ShrinkOptions> {
 public:
  static constexpr const char* kSummary = "x moved towards 0 by lambda, 0 on the way";
  explicit Softshrink(const ShrinkOptions& o = {}) : OptionedActivation(o) {}
  static void check(const ShrinkOptions& o) { ShrinkOptions::check(who(), o); }
  static Tensor apply(const Tensor& x, const ShrinkOptions& o) { return softshrink(x, o.lambda); }
};

struct ThresholdOptions {
  double threshold = 0, value = 0;
  static void fields(auto&& f) {
    f("threshold", &ThresholdOptions::threshold, "x passes above");
    f("value", &ThresholdOptions::value, "the result elsewhere");
  }
};
/// y = x where x > threshold, else value.
class Threshold : public detail::OptionedActivation<Threshold, ThresholdOptions> {
 public:
  static constexpr const char* kSummary = "x above threshold, else value";
  explicit Threshold(const ThresholdOptions& o = {}) : OptionedActivation(o) {}
  static Tensor apply(const Tensor& x, const ThresholdOptions& o) {
    return where(x <= o.threshold, o.value, x);
  }
};

struct GELUOptions {
  std::string approximate = "none";
  static void fields(auto&& f) {
    f("approximate", &GELUOptions::approximate, "\"none\" (erf) or \"tanh\"");
  }
};
/// y = x Phi(x), Phi(x) = (1 + erf(x / sqrt(2))) / 2; "tanh": x (1 + tanh(sqrt(2 / pi) (x +
/// 0.044715 x^3))) / 2 (Hendrycks & Gimpel 2016).
class GELU : public Component<GELU, GELUOptions, Activation> {
 public:
  static constexpr const char* kSummary = "x times the normal distribution function of x";
  explicit GELU(const GELUOptions& o = {}) : Component(o) {
    DROPIN_CHECK(o.approximate == "none" || o.approximate == "tanh", OptionError, who(),
                 ": approximate is \"", o.approximate, "\", expected none or tanh");
  }
  Tensor forward(const Tensor& x) override { return gelu(x, options_.approximate); }
};

struct PReLUOptions {
  int64_t num_parameters = 1;
  double init = 0.25;
  static void fields(auto&& f) {
    f("num_parameters", &PReLUOptions::num_parameters, "1, or the channels of x [B, C, *]");
    f("init", &PReLUOptions::init, "slope below 0 at the start");
  }
};
/// y = x for x > 0, weight x otherwise, a learned slope for all or one per channel (He et al. 2015,
/// equation 1). Parameter weight [num_parameters]. torch.nn.PReLU.
class PReLU : public Component<PReLU, PReLUOptions, Activation> {
 public:
  static constexpr const char* kSummary = "x above 0, a learned slope below";
  static constexpr const char* kPaper = "He et al. 2015, arXiv 1502.01852";
  explicit PReLU(const PReLUOptions& o = {}) : Component(o) {
    DROPIN_CHECK(o.num_parameters > 0, OptionError, who(), ": num_parameters is ", o.num_parameters,
                 ", expected a positive number");
    weight_ = &parameter("weight", full({o.num_parameters}, o.init));
  }
  Tensor forward(const Tensor& x) override { return prelu(x, *weight_); }

 private:
  Tensor* weight_;
};

struct LeakyReLUOptions {
  double negative_slope = 0.01;
  static void fields(auto&& f) {
    f("negative_slope", &LeakyReLUOptions::negative_slope, "slope below 0");
  }
};
/// y = x for x > 0, negative_slope x otherwise (Maas et al. 2013).
class LeakyReLU : public detail::OptionedActivation<LeakyReLU, LeakyReLUOptions> {
 public:
  static constexpr const char* kSummary = "x above 0, negative_slope x below";
  explicit LeakyReLU(const LeakyReLUOptions& o = {}) : OptionedActivation(o) {}
  static Tensor apply(const Tensor& x, const LeakyReLUOptions& o) {
    return leaky_relu(x, o.negative_slope);
  }
};

}  // namespace dropin
