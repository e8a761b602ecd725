// Stitched sampling: who takes which step, limits where it is one denoiser, exact solutions, words.
#include "dropin/generation/t_stitch.h"

#include <cmath>

#include "dropin/registry/registry.h"
#include "support.h"

namespace dropin::testing {
namespace {

Json affine(int64_t dim) {
  Json j = Json::object();
  j.set("type", "AffineDenoiser");
  j.set("dim", dim);
  return j;
}

// The exact noise in x when every sample is `point`.
class PointDenoiser : public Denoiser {
 public:
  PointDenoiser(double point, std::vector<double> kept) : point_(point), kept_(std::move(kept)) {}
  std::string_view type() const override { return "PointDenoiser"; }
  Box<Module> make_like() const override { return Box<Module>(new PointDenoiser(point_, kept_)); }
  NamedTensors call(const NamedTensors& in) override { return in; }
  Tensor forward(const Tensor& x, int64_t t, int64_t, const Tensor&) override {
    const double a = kept_[static_cast<std::size_t>(t)];
    return (x - point_ * std::sqrt(a)) / std::sqrt(1 - a);
  }

 private:
  double point_;
  std::vector<double> kept_;
};
std::vector<double> linear_kept() {
  std::vector<double> kept;
  double p = 1;
  for (int i = 0; i < 1000; ++i) kept.push_back(p *= 1 - (1e-4 + i * (0.02 - 1e-4) / 999));
  return kept;
}
Box<TStitchSampler> points(const TStitchOptions& o) {
  std::vector<Box<Denoiser>> all;
  for (std::size_t i = 0; i < o.fractions.size(); ++i)
    all.push_back(Box<Denoiser>(new PointDenoiser(i ? 0.5 : -0.25, linear_kept())));
  return Box<TStitchSampler>(new TStitchSampler(std::move(all), o));
}

TEST(TStitchSchedule, CountsOfTheClaim) {
  for (const double f : {0.0, 0.4, 0.5, 1.0}) {
    const TStitchPlan p = TStitchSchedule({.num_steps = 50, .fractions = {f, 1 - f}});
    EXPECT_EQ(p.timesteps.front(), 999);
    EXPECT_EQ(p.timesteps.back(), 0);
    int64_t small = 0;
    for (std::size_t i = 0; i < p.model.size(); ++i) {
      small += p.model[i] == 0;
      if (i) EXPECT_GE(p.model[i], p.model[i - 1]);
    }
    EXPECT_EQ(small, std::lround(50 * f));
  }
  const TStitchPlan p =
      TStitchSchedule({.num_steps = 10, .fractions = {0.3, 0.3, 0.4}, .rule = "step"});
  EXPECT_EQ(p.model, (std::vector<int64_t>{0, 0, 0, 1, 1, 1, 2, 2, 2, 2}));
  EXPECT_EQ(TStitchSchedule({.num_steps = 1}).timesteps, std::vector<int64_t>{0});
}

TEST(TStitchSampler, ExactNoiseGivesThePointOfTheLastDenoiser) {
  for (const char* sampler : {"ddim", "ddpm", "dpm_solver_pp_2m"}) {
    const auto s = points({.sampler = sampler, .num_steps = 20});
    const Tensor y = s->denoise(random({4, 3}, kFloat64, 2));
    EXPECT_LT(max_difference(y, full({4, 3}, 0.5, kFloat64)), 1e-9) << sampler;
  }
}

TEST(TStitchSampler, EqualDenoisersAreOne) {
  for (const char* name : {"DDIMSampler", "DPMSolverSampler", "DDPMSampler"}) {
    Json o = Json::object();
    o.set("denoiser", affine(3));
    o.set("num_steps", 9);
    manual_seed(4);
    const Box<Module> one = make(name, o);
    auto& single = dynamic_cast<TStitchSampler&>(*one);
    TStitchOptions two = single.options();
    two.fractions = {0.4, 0.6};
    TStitchSampler stitched(two);
    for (const auto& [path, to] : stitched.named_parameters())
      for (const auto& [own, from] : single.named_parameters())
        if (path.substr(path.rfind('.')) == own.substr(own.rfind('.')))
          to.set_data(from.detach().clone());
    const Tensor x = random({2, 3}, kFloat32, 5), z = random({9, 2, 3}, kFloat32, 6);
    EXPECT_EQ(max_difference(single.denoise(x, z), stitched.denoise(x, z)), 0) << name;
    EXPECT_EQ(stitched.calls(), (std::vector<int64_t>{4, 5}));
    EXPECT_NEAR(stitched.expected_cost({1, 10}), 54, 1e-12);
    stitched.set_fractions({0, 1});
    EXPECT_EQ(stitched.calls(), (std::vector<int64_t>{0, 9}));
  }
}

TEST(TStitchSampler, StepsByHandAreTheSample) {
  const auto s = points({.sampler = "dpm_solver_pp_2m", .num_steps = 6});
  const Tensor x = random({2, 3}, kFloat64, 8);
  Tensor y = x;
  TStitchSampler::State state;
  for (int64_t i = 0; i < 6; ++i) y = s->step(y, i, state);
  EXPECT_EQ(max_difference(y, s->denoise(x)), 0);
  EXPECT_EQ(s->denoise(zeros({0, 3}, kFloat64)).sizes(), Shape({0, 3}));
}

TEST(TStitchSampler, RefusesInWords) {
  auto refused = [](TStitchOptions o, const char* says) {
    o.denoiser = affine(3);
    EXPECT_ERROR(TStitchSampler{o}, OptionError, says);
  };
  refused({.fractions = {}}, "fractions");
  refused({.fractions = {0.5, 0.4}}, "fractions");
  refused({.fractions = {1.5, -0.5}}, "fractions");
  refused({.num_steps = 0}, "num_steps");
  refused({.num_steps = 101, .train_steps = 100}, "num_steps");
  refused({.num_steps = 5, .train_steps = 10}, "train_steps");
  refused({.sampler = "euler"}, "sampler");
  refused({.rule = "time"}, "rule");
  refused({.variance = "small"}, "variance");
  EXPECT_ERROR(TStitchSampler{TStitchOptions{}}, OptionError, "denoiser");
  TStitchOptions o{.sampler = "ddpm", .num_steps = 5};
  o.denoiser = affine(3);
  EXPECT_ERROR(TStitchSampler(o).denoise(zeros({2, 3}), zeros({4, 2, 3})), ShapeError, "noise");
}

}  // namespace
}  // namespace dropin::testing
