// Diffusion sampling by several denoisers along one trajectory.
#pragma once
#include "dropin/module/containers.h"
#include "dropin/module/unary.h"

namespace dropin {

/// From noise to a sample: x [B, ...] = x_T -> y [B, ...].
class DiffusionSampler : public Unary<DiffusionSampler> {
 public:
  static constexpr const char* kFamily = "DiffusionSampler";
  static FamilyInfo family();
};

/// e(x, t): predicts the noise in x. Derive, and give it to TStitchSampler.
class Denoiser : public Module {
 public:
  using Family = Denoiser;
  /// x [B, ...] at time index t of train_steps, `cond` as the caller gave it (or undefined) -> the
  /// noise, of x's shape; for learned_range also the variances, [B, 2C, ...].
  virtual Tensor forward(const Tensor& x, int64_t t, int64_t train_steps, const Tensor& cond) = 0;
};

struct AffineDenoiserOptions {
  int64_t dim = 0;  ///< required
  static void fields(auto&& f) { f("dim", &AffineDenoiserOptions::dim, "of x; required"); }
};
/// e = x weight^T + bias + (t / train_steps) time. x [*, dim]. For tests.
class AffineDenoiser : public Component<AffineDenoiser, AffineDenoiserOptions, Denoiser> {
 public:
  explicit AffineDenoiser(const AffineDenoiserOptions& o);
  Tensor forward(const Tensor& x, int64_t t, int64_t train_steps, const Tensor& cond) override;

 private:
  Tensor &weight_, &bias_, &time_;
};

struct TStitchOptions {
  std::string sampler = "ddim";
  int64_t num_steps = 50, train_steps = 1000;
  std::string schedule = "linear";
  std::vector<double> fractions = {0.5, 0.5};
  std::string rule = "timestep";
  double eta = 0;
  std::string variance = "fixed_small";
  bool clip_denoised = false;
  Json denoiser;
  static void fields(auto&& f) {
    using O = TStitchOptions;
    f("sampler", &O::sampler, "ddim, ddpm or dpm_solver_pp_2m");
    f("num_steps", &O::num_steps, "evaluations in all");
    f("train_steps", &O::train_steps, "times that the denoisers know");
    f("schedule", &O::schedule, "of noise: linear or cosine");
    f("fractions", &O::fractions, "of the steps, for each denoiser from the noisy end; sum 1");
    f("rule", &O::rule, "fractions are of time (timestep) or of steps (step)");
    f("eta", &O::eta, "ddim: share of fresh noise");
    f("variance", &O::variance, "ddpm: fixed_small, fixed_large or learned_range");
    f("clip_denoised", &O::clip_denoised, "keeps predicted samples within -1 to 1");
    f("denoiser", &O::denoiser, "of files: {\"type\": \"AffineDenoiser\", \"dim\": 8}");
  }
};
struct TStitchPlan {
  std::vector<int64_t> timesteps, model;  ///< in the order walked, from the noisiest
};
/// Which denoiser takes which step. OptionError on options that are none.
TStitchPlan TStitchSchedule(const TStitchOptions& o);

/// Small denoisers first, large ones after: every step is one of `sampler`, by the denoiser that
/// the plan names (Pan et al. 2024, section 3). Children denoisers.<i>. Gradients go through the
/// denoisers while the tape records; sample inside no_grad.
class TStitchSampler : public Component<TStitchSampler, TStitchOptions, DiffusionSampler> {
 public:
  static constexpr const char* kSummary = "sampling by small denoisers first, large ones after";
  static constexpr const char* kReplaces = "DDIMSampler";
  static constexpr const char* kPaper = "Pan et al. 2024, arXiv 2402.14167";
  static constexpr const char* kCall =
      "x [B, ...], noise [num_steps, B, ...], cond -> y [B, ...], model, timesteps [num_steps]";
  static std::vector<std::string> examples();
  static constexpr const char* kSample = R"({"num_steps": 6})";
  static Sample sample(const Options& o, const SampleSpec& s);
  /// What goes from one step to the next.
  struct State {
    Tensor last;  ///< predicted sample
    double last_lambda = 0;
  };

  explicit TStitchSampler(const TStitchOptions& o);
  /// With denoisers of the caller's, as many as fractions.
  TStitchSampler(std::vector<Box<Denoiser>> denoisers, const TStitchOptions& o);
  Box<Module> make_like() const override;
  Tensor forward(const Tensor& x) override { return denoise(x); }
  /// noise[i] is added at step i, a batch of 1 for all rows alike; undefined: drawn. ShapeError
  /// where it does not fit.
  Tensor denoise(const Tensor& x, const Tensor& noise = {}, const Tensor& cond = {});
  /// Step i of the plan: x_t -> the next x, with noise z of x's shape where the sampler adds any.
  Tensor step(const Tensor& x, int64_t i, State& state, const Tensor& z = {},
              const Tensor& cond = {});
  NamedTensors call(const NamedTensors& in) override;

  const TStitchPlan& plan() const { return plan_; }
  /// Other shares from the next call on.
  void set_fractions(const std::vector<double>& fractions);
  /// Evaluations of each denoiser in one call.
  std::vector<int64_t> calls() const;
  /// Cost of a call, by the cost of one evaluation of each denoiser.
  double expected_cost(const std::vector<double>& costs) const;

 private:
  void build(std::vector<Box<Denoiser>> denoisers);
  bool adds_noise() const { return options_.sampler == "ddpm" || options_.eta > 0; }
  Tensor ddim(const Tensor& e, const Tensor& x0, double a, double next, const Tensor& z) const;
  Tensor ddpm(const Tensor& x, const Tensor& v, const Tensor& x0, double a, double next,
              const Tensor& z) const;
  static Tensor dpm_solver(const Tensor& x, const Tensor& x0, double a, double next, State& state);
  Denoiser& denoiser(int64_t i) const;
  Child<ModuleList> denoisers_;
  std::vector<double> kept_;  // product of 1 - beta up to each time
  TStitchPlan plan_;
};

}  // namespace dropin
