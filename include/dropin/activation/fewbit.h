// Activations that keep 1 to 4 bits per element for backward. Each replaces the standard one of its
// name.
#pragma once
#include "dropin/activation/activation.h"
#include "dropin/ops/fewbit.h"

namespace dropin {

struct FewBitOptions {
  int64_t bits = 3;
  bool fold = false;
  static void fields(auto&& f) {
    f("bits", &FewBitOptions::bits, "bits per element, 1 to 4");
    f("fold", &FewBitOptions::fold, "codes of |x|; only where the derivative is even");
  }
};
struct FewBitEvenOptions {
  int64_t bits = 3;
  bool fold = true;
  static void fields(auto&& f) {
    f("bits", &FewBitEvenOptions::bits, "bits per element, 1 to 4");
    f("fold", &FewBitEvenOptions::fold, "codes of |x|: all levels serve one side");
  }
};
struct FewBitAlphaOptions {
  int64_t bits = 3;
  bool fold = false;
  double alpha = 1;
  static void fields(auto&& f) {
    f("bits", &FewBitAlphaOptions::bits, "bits per element, 1 to 4");
    f("fold", &FewBitAlphaOptions::fold, "codes of |x|; only where the derivative is even");
    f("alpha", &FewBitAlphaOptions::alpha, "of the standard function; there are tables for 1 only");
  }
};
struct FewBitSoftplusOptions {
  int64_t bits = 3;
  bool fold = false;
  double beta = 1, threshold = 20;
  static void fields(auto&& f) {
    f("bits", &FewBitSoftplusOptions::bits, "bits per element, 1 to 4");
    f("fold", &FewBitSoftplusOptions::fold, "codes of |x|; only where the derivative is even");
    f("beta", &FewBitSoftplusOptions::beta, "log(1 + exp(beta x)) / beta");
    f("threshold", &FewBitSoftplusOptions::threshold, "x itself where beta x is above");
  }
};

namespace detail {
/// Checks bits, fold and the table's existence; the option error names `who`.
FewBitTable fewbit_table_for(std::string_view who, const char* function, int64_t bits, bool fold,
                             double alpha);
/// StateError when a table that is about to be loaded is not strictly increasing.
void check_fewbit_state(std::string_view who, const StateDict& state, const std::string& prefix);

/// An activation whose derivative is approximated by a table. Buffers borders [2^bits - 1], levels
/// [2^bits] F32; loading them replaces the table.
template <class Self, class O>
class FewBitTabled : public Component<Self, O, Activation> {
 public:
  static constexpr const char* kPaper = "Novikov et al. 2022, arXiv 2202.00441";
  static void traits(const O&, Traits& t) { t.surrogate_gradient = true; }
  explicit FewBitTabled(const O& o) : Component<Self, O, Activation>(o) {
    spec_ = {.function = Self::kFunction, .bits = o.bits, .fold = o.fold};
    if constexpr (requires { o.alpha; }) spec_.a = o.alpha;
    if constexpr (requires { o.beta; }) {
      DROPIN_CHECK(o.beta > 0, OptionError, type_name<Self>(), ": beta is ", o.beta,
                   ", expected a positive number");
      spec_.a = o.beta, spec_.b = o.threshold;
    }
    double alpha = 1;
    if constexpr (requires { o.alpha; }) alpha = o.alpha;
    const FewBitTable t =
        fewbit_table_for(type_name<Self>(), Self::kFunction, o.bits, o.fold, alpha);
    borders_ = &this->buffer("borders", tensor(t.borders));
    levels_ = &this->buffer("levels", tensor(t.levels));
  }
  Tensor forward(const Tensor& x) override {
    return fewbit_activation(x, spec_, *borders_, *levels_);
  }
  /// y in x's memory; go on with the result.
  Tensor forward_(const Tensor& x) {
    return fewbit_activation(x, spec_, *borders_, *levels_, true);
  }

 protected:
  void translate_state(StateDict& state, const std::string& prefix,
                       std::vector<std::string>&) const override {
    check_fewbit_state(type_name<Self>(), state, prefix);
  }

 private:
  FewBitFunctionSpec spec_;
  Tensor *borders_, *levels_;
};

/// An activation whose derivative has two values: one bit, exact.
template <class Self, class O>
class FewBitExact : public Component<Self, O, Activation> {
 public:
  static constexpr const char* kPaper = "Novikov et al. 2022, arXiv 2202.00441";
  explicit FewBitExact(const O& o) : Component<Self, O, Activation>(o), spec_(Self::spec(o)) {}
  Tensor forward(const Tensor& x) override { return fewbit_activation(x, spec_); }
  /// y in x's memory; go on with the result.
  Tensor forward_(const Tensor& x) { return fewbit_activation(x, spec_, {}, {}, true); }

 private:
  FewBitFunctionSpec spec_;
};
}  // namespace detail

/// The result is the standard function's, exactly. Backward keeps `bits` bits per element in place
/// of x: the code c(x), the number of borders less than x, and gives grad_x = levels[c(x)] grad_y.
/// Borders and levels are the best step function for the derivative on [-100, 100] in the sense of
/// least squares (Novikov et al. 2022, section 3; `fewbit_table`). Any shape; f32, f64, bf16, f16.
/// A NaN takes the last level; integers are a DTypeError. Not differentiable twice.
#define DROPIN_FEWBIT(NAME, OPTIONS, FUNCTION)                                                 \
  class FewBit##NAME : public detail::FewBitTabled<FewBit##NAME, OPTIONS> {                    \
   public:                                                                                     \
    static constexpr const char* kSummary = #NAME " with a few bits per element for backward"; \
    static constexpr const char* kReplaces = #NAME;                                            \
    static constexpr const char* kFunction = FUNCTION;                                         \
    explicit FewBit##NAME(const OPTIONS& o = {}) : FewBitTabled(o) {}                          \
  }
DROPIN_FEWBIT(GELU, FewBitOptions, "gelu");
DROPIN_FEWBIT(SiLU, FewBitOptions, "silu");
DROPIN_FEWBIT(Sigmoid, FewBitEvenOptions, "sigmoid");
DROPIN_FEWBIT(Tanh, FewBitEvenOptions, "tanh");
DROPIN_FEWBIT(SELU, FewBitOptions, "selu");
DROPIN_FEWBIT(ELU, FewBitAlphaOptions, "elu");
DROPIN_FEWBIT(CELU, FewBitAlphaOptions, "celu");
DROPIN_FEWBIT(Softplus, FewBitSoftplusOptions, "softplus");
DROPIN_FEWBIT(LogSigmoid, FewBitOptions, "logsigmoid");
DROPIN_FEWBIT(Mish, FewBitOptions, "mish");
DROPIN_FEWBIT(Hardswish, FewBitOptions, "hardswish");
DROPIN_FEWBIT(Softsign, FewBitEvenOptions, "softsign");
DROPIN_FEWBIT(Tanhshrink, FewBitEvenOptions, "tanhshrink");
#undef DROPIN_FEWBIT

/// The result and the gradient are the standard function's, exactly: its derivative has two values,
/// and backward keeps one bit per element that says which (Novikov et al. 2022). Any shape; f32,
/// f64, bf16, f16; integers are a DTypeError. Not differentiable twice.
#define DROPIN_FEWBIT_EXACT(NAME, OPTIONS, ...)                                             \
  class FewBit##NAME : public detail::FewBitExact<FewBit##NAME, OPTIONS> {                  \
   public:                                                                                  \
    static constexpr const char* kSummary = #NAME " with one bit per element for backward"; \
    static constexpr const char* kReplaces = #NAME;                                         \
    explicit FewBit##NAME(const OPTIONS& o = {}) : FewBitExact(o) {}                        \
    static FewBitFunctionSpec spec([[maybe_unused]] const OPTIONS& o) { __VA_ARGS__ }       \
  }
DROPIN_FEWBIT_EXACT(ReLU, NoOptions, return {.function = "relu"};);
DROPIN_FEWBIT_EXACT(ReLU6, NoOptions, return {.function = "relu6"};);
DROPIN_FEWBIT_EXACT(LeakyReLU, LeakyReLUOptions,
                    return {.function = "leaky_relu", .a = o.negative_slope};);
DROPIN_FEWBIT_EXACT(Hardtanh, HardtanhOptions, HardtanhOptions::check(who(), o);
                    return {.function = "hardtanh", .a = o.min_val, .b = o.max_val};);
DROPIN_FEWBIT_EXACT(Hardsigmoid, NoOptions, return {.function = "hardsigmoid"};);
DROPIN_FEWBIT_EXACT(Hardshrink, ShrinkOptions, ShrinkOptions::check(who(), o);
                    return {.function = "hardshrink", .a = o.lambda};);
DROPIN_FEWBIT_EXACT(Softshrink, ShrinkOptions, ShrinkOptions::check(who(), o);
                    return {.function = "softshrink", .a = o.lambda};);
DROPIN_FEWBIT_EXACT(Threshold, ThresholdOptions,
                    return {.function = "threshold", .a = o.threshold, .b = o.value};);
#undef DROPIN_FEWBIT_EXACT

struct FewBitStepwiseOptions {
  std::vector<double> borders = {0}, levels = {0, 1};
  std::string function = "relu";
  bool fold = false;
  static void fields(auto&& f) {
    using O = FewBitStepwiseOptions;
    f("borders", &O::borders, "strictly increasing; one fewer than levels");
    f("levels", &O::levels, "values of the derivative between the borders; at most 256");
    f("function", &O::function,
      "gelu, silu, sigmoid, tanh, selu, elu, celu, softplus, logsigmoid, mish, hardswish, "
      "softsign, tanhshrink or relu");
    f("fold", &O::fold, "borders and levels are for |x|");
  }
};
/// A function with a table of the user's own, up to 256 levels. Buffers borders, levels.
class FewBitStepwise : public Component<FewBitStepwise, FewBitStepwiseOptions, Activation> {
 public:
  static constexpr const char* kSummary = "an activation whose derivative is a given step function";
  static constexpr const char* kPaper = "Novikov et al. 2022, arXiv 2202.00441";
  static void traits(const FewBitStepwiseOptions&, Traits& t) { t.surrogate_gradient = true; }
  static std::vector<std::string> examples() {
    return {
        R"({"borders": [0.5, 1.5], "levels": [0.9, 0.4, 0.1], "function": "tanh", "fold": true})"};
  }
  explicit FewBitStepwise(const FewBitStepwiseOptions& o = {});
  FewBitStepwise(const std::vector<double>& borders, const std::vector<double>& levels,
                 std::string function)
      : FewBitStepwise(FewBitStepwiseOptions{borders, levels, std::move(function)}) {}
  Tensor forward(const Tensor& x) override {
    return fewbit_activation(x, spec_, *borders_, *levels_);
  }

 protected:
  void translate_state(StateDict& state, const std::string& prefix,
                       std::vector<std::string>&) const override {
    detail::check_fewbit_state(who(), state, prefix);
  }

 private:
  FewBitFunctionSpec spec_;
  Tensor *borders_, *levels_;
};

}  // namespace dropin
