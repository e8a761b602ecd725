// Runge-Kutta steps along the joint gradient of a game, and the layer that makes such games.
#pragma once
#include "dropin/module/unary.h"
#include "dropin/optimizer/optimizer.h"

namespace dropin {

struct RungeKuttaOptimizerOptions {
  double lr = 1e-2;
  std::string method = "rk2";
  double weight_decay = 0;
  static void fields(auto&& f) {
    using O = RungeKuttaOptimizerOptions;
    f("lr", &O::lr, "h, the step along the flow");
    f("method", &O::method, "euler, rk2 (Heun), rk2_midpoint or rk4");
    f("weight_decay", &O::weight_decay, "L2 penalty at each point");
  }
};
/// Steps of dw/dt = -v(w), v the gradients that one backward leaves (Acuna et al. 2022, section 4):
/// stable in games at rates where gradient descent turns away. step(closure) calls the closure
/// stages() times. step() without one takes the gradient at the present point and moves on to the
/// next: after stages() of them the parameters are the new iterate. Batch statistics and dropout
/// masks are the closure's affair: they should be those of the first call. All parameters with a
/// gradient in the first stage must have one in the others. State while a step is unfinished:
/// start, sum, stage; adding groups, changing options and loading are refused then.
class RungeKuttaOptimizer : public OptimizerOf<RungeKuttaOptimizer, RungeKuttaOptimizerOptions> {
 public:
  static constexpr const char* kSummary = "Runge-Kutta steps along the gradient flow";
  static constexpr const char* kReplaces = "SGD";
  static constexpr const char* kPaper = "Acuna et al. 2022, arXiv 2202.05352";
  explicit RungeKuttaOptimizer(const Tensors& params, const RungeKuttaOptimizerOptions& o = {})
      : OptimizerOf(params, o) {}
  using Optimizer::step;
  /// The loss of the first call. StateError naming a parameter that the closure left without a
  /// gradient, and while a step is unfinished.
  Tensor step(const std::function<Tensor()>& closure) override;
  int64_t stages() const override;
  /// Gradients taken of the step that is under way; 0: none is.
  int64_t stage() const;
  bool pending() const { return stage() > 0; }
  /// Puts the parameters back where the unfinished step began, bit by bit.
  void abort();
  static void check(const RungeKuttaOptimizerOptions& o);
  NamedTensors start(const RungeKuttaOptimizerOptions& o, const Tensor& p) const;
  void update_one(const RungeKuttaOptimizerOptions& o, const Tensor& p, const Tensor& g,
                  NamedTensors& state, bool first);

 protected:
  Json check_options(const Json& base, const Json& changes) const override;
  void check_state(std::size_t group, const Tensor& p, std::size_t i,
                   NamedTensors& state) const override;
  void check_update(std::size_t group, std::size_t number, const Tensor& p, const Tensor& g,
                    const NamedTensors& state) const override;

 private:
  void refuse_pending() const;
};

struct GradientReversalOptions {
  double lambda = 1;
  bool warm = false;
  double alpha = 1, lo = 0, hi = 1;
  int64_t max_iters = 1000;
  bool auto_step = true;
  int64_t iter = 0;
  static void fields(auto&& f) {
    using O = GradientReversalOptions;
    f("lambda", &O::lambda, "coefficient, unless warm");
    f("warm", &O::warm, "the coefficient grows from lo towards hi");
    f("alpha", &O::alpha, "how fast it grows");
    f("lo", &O::lo, "where it begins");
    f("hi", &O::hi, "where it tends to");
    f("max_iters", &O::max_iters, "iterations that alpha counts in");
    f("auto_step", &O::auto_step, "each forward in training is an iteration");
    f("iter", &O::iter, "the iteration");
  }
};
/// y = x, and the gradient times -lambda on the way back (Ganin & Lempitsky 2015): the feature
/// extractor then plays against the discriminator. y shares x's memory. The iteration is part of
/// the options, so that clones go on from it; a checkpoint of parameters does not hold it.
class GradientReversal : public Component<GradientReversal, GradientReversalOptions, Layer> {
 public:
  static constexpr const char* kSummary = "the identity, whose gradient is turned round";
  static constexpr const char* kPaper = RungeKuttaOptimizer::kPaper;
  static Sample sample(const Options&, const SampleSpec& s) { return sample_values(s); }
  static void traits(const Options&, Traits& t) { t.any_shape = t.surrogate_gradient = true; }
  static std::vector<std::string> examples() { return {R"({"warm": true, "alpha": 10})"}; }
  explicit GradientReversal(const GradientReversalOptions& o = {});
  Tensor forward(const Tensor& x) override;
  /// lambda of the present iteration.
  double coefficient() const;
  /// The next iteration, where auto_step is off.
  void step() { ++options_.iter; }
};

}  // namespace dropin
