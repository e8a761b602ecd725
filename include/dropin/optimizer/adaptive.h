// RMSprop, Adagrad, Lion, Muon and Adafactor in 32 bits. Dtypes of parameters and states as with
// SGD (optimizer.h).
#pragma once
#include "dropin/optimizer/optimizer.h"

namespace dropin {

struct RMSpropOptions {
  double lr = 1e-2;
  double alpha = 0.99;
  double eps = 1e-8;
  double weight_decay = 0, momentum = 0;
  bool centered = false, maximize = false;
  static void fields(auto&& f) {
    using O = RMSpropOptions;
    f("lr", &O::lr, "step size");
    f("alpha", &O::alpha, "decay of the mean square");
    f("eps", &O::eps, "added to its root");
    f("weight_decay", &O::weight_decay, "L2 penalty");
    f("momentum", &O::momentum, "share of the last step that is kept");
    f("centered", &O::centered, "divides by the variance, not by the mean square");
    f("maximize", &O::maximize, "climbs instead of descends");
  }
};
/// torch.optim.RMSprop (Hinton 2012, lecture 6): g += weight_decay p; v = alpha v + (1 - alpha)
/// g^2; centered: m = alpha m + (1 - alpha) g, and v - m^2 in v's place; u = g / (sqrt(v) + eps),
/// with a momentum b = momentum b + u in its place; p -= lr u. State: step, square_avg, grad_avg
/// (centered), momentum_buffer (momentum).
class RMSprop : public OptimizerOf<RMSprop, RMSpropOptions> {
 public:
  static constexpr const char* kSummary = "steps divided by the root of the mean square gradient";
  static constexpr const char* kPaper =
      "Hinton 2012, Neural Networks for Machine Learning, lecture 6";
  explicit RMSprop(const Tensors& params, const RMSpropOptions& o = {}) : OptimizerOf(params, o) {}
  static void check(const RMSpropOptions& o);
  NamedTensors start(const RMSpropOptions& o, const Tensor& p) const;
  void update_one(const RMSpropOptions& o, const Tensor& p, const Tensor& g, NamedTensors& state,
                  bool first);
};

struct AdagradOptions {
  double lr = 1e-2;
  double lr_decay = 0, weight_decay = 0, initial_accumulator_value = 0;
  double eps = 1e-10;
  bool maximize = false;
  static void fields(auto&& f) {
    using O = AdagradOptions;
    f("lr", &O::lr, "step size");
    f("lr_decay", &O::lr_decay, "the step t counts lr / (1 + (t - 1) lr_decay)");
    f("weight_decay", &O::weight_decay, "L2 penalty");
    f("initial_accumulator_value", &O::initial_accumulator_value, "what the sums begin with");
    f("eps", &O::eps, "added to the root of the sum of squares");
    f("maximize", &O::maximize, "climbs instead of descends");
  }
};
/// torch.optim.Adagrad (Duchi et al. 2011): g += weight_decay p; s += g^2; p -= lr / (1 + (t - 1)
/// lr_decay) g / (sqrt(s) + eps). State: step, sum.
class Adagrad : public OptimizerOf<Adagrad, AdagradOptions> {
 public:
  static constexpr const char* kSummary = "steps divided by the root of the sum of squares";
  static constexpr const char* kPaper = "Duchi et al. 2011, JMLR 12";
  explicit Adagrad(const Tensors& params, const AdagradOptions& o = {}) : OptimizerOf(params, o) {}
  static void check(const AdagradOptions& o);
  NamedTensors start(const AdagradOptions& o, const Tensor& p) const;
  void update_one(const AdagradOptions& o, const Tensor& p, const Tensor& g, NamedTensors& state,
                  bool first);
};

struct LionOptions {
  double lr = 1e-4;
  std::vector<double> betas = {0.9, 0.99};
  double weight_decay = 0;
  bool maximize = false;
  static void fields(auto&& f) {
    using O = LionOptions;
    f("lr", &O::lr, "step size");
    f("betas", &O::betas, "share of the momentum in the step, and in itself");
    f("weight_decay", &O::weight_decay, "decay of the parameters themselves, times lr");
    f("maximize", &O::maximize, "climbs instead of descends");
  }
};
/// Lion (Chen et al. 2023, program 1): p = (1 - lr weight_decay) p - lr sign(b1 m + (1 - b1) g); m
/// = b2 m + (1 - b2) g. State: exp_avg.
class Lion : public OptimizerOf<Lion, LionOptions> {
 public:
  static constexpr const char* kSummary = "steps of one size, by the sign of the momentum";
  static constexpr const char* kPaper = "Chen et al. 2023, arXiv 2302.06675";
  explicit Lion(const Tensors& params, const LionOptions& o = {}) : OptimizerOf(params, o) {}
  static void check(const LionOptions& o);
  NamedTensors start(const LionOptions& o, const Tensor& p) const;
  void update_one(const LionOptions& o, const Tensor& p, const Tensor& g, NamedTensors& state,
                  bool first);
};

struct MuonOptions {
  double lr = 1e-3;
  double weight_decay = 0.1, momentum = 0.95;
  bool nesterov = true;
  std::vector<double> ns_coefficients = {3.4445, -4.7750, 2.0315};
  double eps = 1e-7;
  int64_t ns_steps = 5;
  std::string adjust_lr_fn = "original";
  static void fields(auto&& f) {
    using O = MuonOptions;
    f("lr", &O::lr, "step size");
    f("weight_decay", &O::weight_decay, "decay of the parameters themselves, times lr");
    f("momentum", &O::momentum, "share of the last momentum that is kept");
    f("nesterov", &O::nesterov, "Nesterov's momentum");
    f("ns_coefficients", &O::ns_coefficients,
      "a, b and c of X <- a X + (b G + c G^2) X, G = X X^T");
    f("eps", &O::eps, "least norm that a matrix is divided by");
    f("ns_steps", &O::ns_steps, "iterations, below 100");
    f("adjust_lr_fn", &O::adjust_lr_fn,
      "factor of lr for [A, B]: original sqrt(max(1, A / B)), match_rms_adamw 0.2 sqrt(max(A, B)) "
      "or "
      "spectral_unclamped sqrt(A / B)");
  }
};
/// torch.optim.Muon (Jordan et al. 2024): m = momentum m + (1 - momentum) g; the step is the matrix
/// nearest to orthogonal of m (nesterov: of momentum m + (1 - momentum) g), by ns_steps of Newton
/// and Schulz's iteration; p = (1 - lr weight_decay) p - lr factor step. The iteration runs in
/// float32 (torch: bfloat16). For weight matrices; convolution weights are taken as [O, rest].
/// Vectors, which torch refuses, count as one row, whose step is its direction: give biases and
/// norms to AdamW. State: momentum_buffer.
class Muon : public OptimizerOf<Muon, MuonOptions> {
 public:
  static constexpr const char* kSummary = "momentum made orthogonal";
  static constexpr const char* kPaper =
      "Jordan et al. 2024, Muon; Liu et al. 2025, arXiv 2502.16982";
  explicit Muon(const Tensors& params, const MuonOptions& o = {}) : OptimizerOf(params, o) {}
  static void check(const MuonOptions& o);
  NamedTensors start(const MuonOptions& o, const Tensor& p) const;
  void update_one(const MuonOptions& o, const Tensor& p, const Tensor& g, NamedTensors& state,
                  bool first);
};

struct AdafactorOptions {
  double lr = 1e-2;
  double beta2_decay = -0.8;
  Json eps = Json::parse("[null, 0.001]");
  double d = 1;
  double weight_decay = 0;
  bool maximize = false;
  static void fields(auto&& f) {
    using O = AdafactorOptions;
    f("lr", &O::lr, "greatest relative step");
    f("beta2_decay", &O::beta2_decay,
      "the step t takes the share t^beta2_decay of the new squares");
    f("eps", &O::eps,
      "two numbers: least root of the mean square (null: the dtype's epsilon), least scale of a "
      "parameter");
    f("d", &O::d, "greatest root mean square of a step before lr");
    f("weight_decay", &O::weight_decay, "decay of the parameters themselves, times lr");
    f("maximize", &O::maximize, "climbs instead of descends");
  }
};
/// torch.optim.Adafactor (Shazeer & Stern 2018, algorithms 4 and 5): the mean squares of a matrix
/// kept as those of its rows and columns, v = r c / mean(r); u = g / sqrt(v), scaled down to a root
/// mean square of d; p -= max(eps_2, rms(p)) min(lr, 1 / sqrt(t)) u. The epsilon of null is that of
/// the type stepped in: float32's for 16-bit parameters. State: step, row_var and col_var, or
/// variance for vectors.
class Adafactor : public OptimizerOf<Adafactor, AdafactorOptions> {
 public:
  static constexpr const char* kSummary = "adaptive steps from the squares of rows and columns";
  static constexpr const char* kPaper = "Shazeer & Stern 2018, arXiv 1804.04235";
  explicit Adafactor(const Tensors& params, const AdafactorOptions& o = {})
      : OptimizerOf(params, o) {}
  static void check(const AdafactorOptions& o);
  NamedTensors start(const AdafactorOptions& o, const Tensor& p) const;
  void update_one(const AdafactorOptions& o, const Tensor& p, const Tensor& g, NamedTensors& state,
                  bool first);
};

}  // namespace dropin
