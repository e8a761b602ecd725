// Activations as modules, with PyTorch's names and options.
#pragma once
#include "dropin/nn/families.h"

namespace dropin {

struct NoOptions {
  static void fields(auto&&) {}
};

namespace detail {
/// An activation without options: y = F(x).
template <class Self, Tensor (*F)(const Tensor&)> class PlainActivation : public Component<Self, NoOptions, Activation> {
 public:
  explicit PlainActivation(const NoOptions& o = {}) : Component<Self, NoOptions, Activation>(o) {}
  Tensor forward(const Tensor& x) override { return F(x); }
};
inline Tensor elu1(const Tensor& x) { return elu(x); }
inline Tensor softplus1(const Tensor& x) { return softplus(x); }
}  // namespace detail

#define DROPIN_ACTIVATION(NAME, FUNCTION, SUMMARY)                              \
  class NAME : public detail::PlainActivation<NAME, FUNCTION> {                 \
   public:                                                                      \
    static constexpr const char* kSummary = SUMMARY;                            \
    explicit NAME(const NoOptions& o = {}) : detail::PlainActivation<NAME, FUNCTION>(o) {} \
  }
DROPIN_ACTIVATION(ReLU, relu, "max(x, 0)");
DROPIN_ACTIVATION(ReLU6, relu6, "min(max(x, 0), 6)");
DROPIN_ACTIVATION(SiLU, silu, "x sigmoid(x)");
DROPIN_ACTIVATION(Sigmoid, sigmoid, "1 / (1 + exp(-x))");
DROPIN_ACTIVATION(Tanh, tanh, "tanh(x)");
DROPIN_ACTIVATION(SELU, selu, "scaled ELU (Klambauer et al. 2017)");
DROPIN_ACTIVATION(Softsign, softsign, "x / (1 + |x|)");
DROPIN_ACTIVATION(Hardswish, hardswish, "x relu6(x + 3) / 6");
DROPIN_ACTIVATION(ELU, detail::elu1, "x above 0, exp(x) - 1 below");
DROPIN_ACTIVATION(Softplus, detail::softplus1, "log(1 + exp(x))");
#undef DROPIN_ACTIVATION

struct GELUOptions {
  std::string approximate = "none";
  static void fields(auto&& f) { f("approximate", &GELUOptions::approximate, "\"none\" (erf) or \"tanh\""); }
};
/// x Phi(x) (Hendrycks & Gimpel 2016).
class GELU : public Component<GELU, GELUOptions, Activation> {
 public:
  static constexpr const char* kSummary = "x times the normal distribution function of x";
  explicit GELU(const GELUOptions& o = {}) : Component(o) {
    DROPIN_CHECK(o.approximate == "none" || o.approximate == "tanh", OptionError, who(), ": approximate is \"", o.approximate, "\", expected none or tanh");
  }
  Tensor forward(const Tensor& x) override { return gelu(x, options_.approximate); }
};

struct LeakyReLUOptions {
  double negative_slope = 0.01;
  static void fields(auto&& f) { f("negative_slope", &LeakyReLUOptions::negative_slope, "slope below 0"); }
};
/// x above 0, negative_slope x below.
class LeakyReLU : public Component<LeakyReLU, LeakyReLUOptions, Activation> {
 public:
  static constexpr const char* kSummary = "x above 0, negative_slope x below";
  explicit LeakyReLU(const LeakyReLUOptions& o = {}) : Component(o) {}
  Tensor forward(const Tensor& x) override { return leaky_relu(x, options_.negative_slope); }
};

}  // namespace dropin
