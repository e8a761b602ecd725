// NeuralODE: a field followed through time, with a price on what the solver finds expensive.
#pragma once
#include <atomic>
#include <optional>

#include "dropin/dynamics/contract.h"

namespace dropin {

struct NeuralODEOptions {
  Json func = {};  ///< required, unless a module is given
  std::string solver = "tsit5";
  bool adaptive = true;
  std::optional<double> dt = std::nullopt;
  double rtol = 1e-6, atol = 1e-6, t0 = 0, t1 = 1;
  int64_t max_steps = 1000;
  std::optional<std::vector<double>> saveat = std::nullopt;
  bool adjoint = false;
  std::string regularize = "none", regularize_type = "error_estimate";
  std::optional<double> reg_time = std::nullopt, reg_dt = std::nullopt, reg_atol = std::nullopt,
                        reg_rtol = std::nullopt;
  bool detach_first_stage = false;
  static void fields(auto&& f) {
    using O = NeuralODEOptions;
    f("func", &O::func, "the field: {\"type\": \"TimeDependentMLP\", \"dims\": [...], ...}");
    f("solver", &O::solver, "tsit5, dopri5; rk4 and euler with fixed steps only");
    f("adaptive", &O::adaptive, "steps by the error that the solver estimates");
    f("dt", &O::dt, "size of fixed steps; the last one ends on t1");
    f("rtol", &O::rtol, "error allowed, in shares of the state");
    f("atol", &O::atol, "error allowed besides");
    f("t0", &O::t0, "where time begins");
    f("t1", &O::t1, "where it ends; may be before t0");
    f("max_steps", &O::max_steps, "steps tried at most, by adaptive solvers");
    f("saveat", &O::saveat, "times whose states are the result, sorted; null: t1 alone");
    f("adjoint", &O::adjoint, "gradients by an equation backwards in time, not through the steps");
    f("regularize", &O::regularize, "in training: none, unbiased (any time) or biased (a step's)");
    f("regularize_type", &O::regularize_type, "error_estimate or stiffness_estimate");
    f("reg_time", &O::reg_time, "that time; null: drawn");
    f("reg_dt", &O::reg_dt, "size of the step there; null: as a first step's");
    f("reg_atol", &O::reg_atol, "atol there; null: atol");
    f("reg_rtol", &O::reg_rtol, "rtol there; null: rtol");
    f("detach_first_stage", &O::detach_first_stage,
      "the penalty's first stage has no gradient, as in the authors' code");
  }
};

namespace detail {
/// What a solve counts; calls at the same time may count into each other.
struct DynamicsCounts {
  std::atomic<int64_t> evaluations{0}, steps{0};
  std::atomic<double> reg_time{0};
};
/// The state at the asked times, and the penalty of a regularized call in training.
struct DynamicsResult {
  Tensor y;
  Tensor reg, reg_dt;  ///< [] each; undefined without a penalty. reg_dt has no gradient
};
}  // namespace detail

/// du/dt = func(u, t) from x at t0 to t1 (Pal et al. 2023, sections 2 and 3). Replaces a stack of
/// residual blocks: x [B, ...] -> y [B, ...], or [times, B, ...] with saveat. Adaptive steps share
/// one error over all samples. With `regularize`, training gives `reg` too: the error (or
/// stiffness) of one more step from a random time, for the loss; its gradient reaches func only.
/// Backward goes through the accepted steps, or with `adjoint` solves them backwards; the module
/// must live until then. Parameters func.*.
class NeuralODE : public Component<NeuralODE, NeuralODEOptions, Dynamics> {
 public:
  static constexpr const char* kSummary = "a field followed through time by a solver";
  static constexpr const char* kPaper = "Pal et al. 2023, arXiv 2303.02262";
  static constexpr const char* kCall = "x [B, ...] -> y [B, ...], in training reg, reg_dt";
  static constexpr const char* kSample = R"({"adaptive": false})";
  static std::vector<std::string> examples();
  static void traits(const Options& o, Traits& t) { t.mixes_batch = o.adaptive; }
  using Result = detail::DynamicsResult;
  explicit NeuralODE(const NeuralODEOptions& o);
  /// With a field of the caller's.
  NeuralODE(Box<VectorField> func, const NeuralODEOptions& o);
  Box<Module> make_like() const override;
  Tensor forward(const Tensor& x) override { return solve(x).y; }
  Result solve(const Tensor& x);
  NamedTensors call(const NamedTensors& in) override;
  /// Evaluations of the field, and accepted steps, of the last call.
  int64_t nfe() const { return counts_->evaluations; }
  int64_t steps() const { return counts_->steps; }
  /// The time of the last penalty.
  double last_reg_time() const { return counts_->reg_time; }

 private:
  void check_options() const;
  void build(Box<VectorField> func);
  std::vector<double> stops() const;
  Child<VectorField> func_;
  Box<detail::DynamicsCounts> counts_;
};

}  // namespace dropin
