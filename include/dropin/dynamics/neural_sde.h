// NeuralSDE: a drift and a diffusion followed through time.
#pragma once
#include "dropin/dynamics/neural_ode.h"

namespace dropin {

struct NeuralSDEOptions {
  Json drift = {}, diffusion = {};  ///< required, unless modules are given
  std::string solver = "sosri";
  bool adaptive = false;
  std::optional<double> dt = std::nullopt;  ///< required
  double rtol = 1e-6, atol = 1e-6, t0 = 0, t1 = 1;
  int64_t max_steps = 1000;
  std::optional<std::vector<double>> saveat = std::nullopt;
  std::string regularize = "none", regularize_type = "error_estimate";
  std::optional<double> reg_time = std::nullopt, reg_dt = std::nullopt, reg_atol = std::nullopt,
                        reg_rtol = std::nullopt;
  double delta = 1.0 / 6;
  std::optional<int64_t> seed = std::nullopt;
  static void fields(auto&& f) {
    using O = NeuralSDEOptions;
    f("drift", &O::drift, "f: {\"type\": \"TimeDependentMLP\", \"dims\": [...], ...}");
    f("diffusion", &O::diffusion, "g, of a noise of its own for each number; as drift");
    f("solver", &O::solver, "sosri, milstein, euler_maruyama (Ito) or euler_heun (Stratonovich)");
    f("adaptive", &O::adaptive, "only false is supported");
    f("dt", &O::dt, "size of the steps; the last one ends on t1; required");
    f("rtol", &O::rtol, "of the penalty, in shares of the state");
    f("atol", &O::atol, "of the penalty, besides");
    f("t0", &O::t0, "where time begins");
    f("t1", &O::t1, "where it ends");
    f("max_steps", &O::max_steps, "steps at most");
    f("saveat", &O::saveat, "times of steps whose states are the result, sorted; null: t1 alone");
    f("regularize", &O::regularize, "in training: none, unbiased (any time) or biased (a step's)");
    f("regularize_type", &O::regularize_type, "error_estimate");
    f("reg_time", &O::reg_time, "that time, moved back to a step's; null: drawn");
    f("reg_dt", &O::reg_dt, "size of the step there; null: as a first step's");
    f("reg_atol", &O::reg_atol, "atol there; null: atol");
    f("reg_rtol", &O::reg_rtol, "rtol there; null: rtol");
    f("delta", &O::delta, "weight of the drift's error");
    f("seed", &O::seed, "noise by a generator of each call's own; null: the thread's");
  }
};

/// Noise of a call; what is undefined is drawn, normal of variance dt.
struct NeuralSDENoise {
  Tensor dW, dZ;          ///< [steps, B, ...]; dZ for sosri only
  Tensor reg_dW, reg_dZ;  ///< [B, ...]
};

/// du = drift(u, t) dt + diffusion(u, t) dW with diagonal noise, by fixed steps from x at t0 to t1
/// (Pal et al. 2023, section 3). x [B, ...] -> y [B, ...], or [times, B, ...] with saveat. With
/// `regularize`, training gives `reg` too: the error of one more step by sosri. Parameters drift.*
/// and diffusion.*.
class NeuralSDE : public Component<NeuralSDE, NeuralSDEOptions, Dynamics> {
 public:
  static constexpr const char* kSummary = "a noisy field followed through time";
  static constexpr const char* kReplaces = "NeuralODE";
  static constexpr const char* kPaper = NeuralODE::kPaper;
  static constexpr const char* kCall =
      "x [B, ...], dW, dZ [n, B, ...], reg_dW, reg_dZ [B, ...] -> y [B, ...], in training reg, "
      "reg_dt";
  static constexpr const char* kSample = R"({"seed": 3})";
  static std::vector<std::string> examples();
  /// A sample's noise depends on its place.
  static void traits(const Options& o, Traits& t) {
    t.no_batch = true;
    t.random_in_training = !o.seed;
  }
  using Result = detail::DynamicsResult;
  /// func becomes the drift; the diffusion is to be named.
  static Json options_from(std::string_view component, const Json& options, const Json& around);
  explicit NeuralSDE(const NeuralSDEOptions& o);
  /// With fields of the caller's.
  NeuralSDE(Box<VectorField> drift, Box<VectorField> diffusion, const NeuralSDEOptions& o);
  Box<Module> make_like() const override;
  Tensor forward(const Tensor& x) override { return solve(x).y; }
  Result solve(const Tensor& x, const NeuralSDENoise& noise = {});
  NamedTensors call(const NamedTensors& in) override;
  /// Evaluations of both fields, and steps, of the last call.
  int64_t nfe() const { return counts_->evaluations; }
  int64_t steps() const { return counts_->steps; }
  double last_reg_time() const { return counts_->reg_time; }

 private:
  void check_options() const;
  void build(Box<VectorField> drift, Box<VectorField> diffusion);
  int64_t step_count() const;
  double time_of(int64_t step) const;
  /// The last step whose time is not after t.
  int64_t step_at(double t) const;
  NeuralSDENoise noise_for(const Tensor& x, const NeuralSDENoise& given) const;
  Child<VectorField> drift_, diffusion_;
  Box<detail::DynamicsCounts> counts_;
};

}  // namespace dropin
