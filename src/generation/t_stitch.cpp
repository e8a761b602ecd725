#include "dropin/generation/t_stitch.h"

#include <cmath>
#include <numbers>

#include "dropin/module/init.h"
#include "kernels/hd.h"

namespace dropin {

namespace {

constexpr const char* kStitch = "TStitchSampler";

void check_stitch(const TStitchOptions& o) {
  DROPIN_CHECK(o.sampler == "ddim" || o.sampler == "ddpm" || o.sampler == "dpm_solver_pp_2m",
               OptionError, kStitch, ": sampler is \"", o.sampler,
               "\", expected ddim, ddpm or dpm_solver_pp_2m");
  DROPIN_CHECK(o.schedule == "linear" || o.schedule == "cosine", OptionError, kStitch,
               ": schedule is \"", o.schedule, "\", expected linear or cosine");
  DROPIN_CHECK(o.rule == "timestep" || o.rule == "step", OptionError, kStitch, ": rule is \"",
               o.rule, "\", expected timestep or step");
  DROPIN_CHECK(
      o.variance == "fixed_small" || o.variance == "fixed_large" || o.variance == "learned_range",
      OptionError, kStitch, ": variance is \"", o.variance,
      "\", expected fixed_small, fixed_large or learned_range");
  DROPIN_CHECK(o.num_steps >= 1 && o.num_steps <= o.train_steps, OptionError, kStitch,
               ": num_steps is ", o.num_steps, ", expected 1 to train_steps = ", o.train_steps);
  DROPIN_CHECK(o.eta >= 0 && std::isfinite(o.eta), OptionError, kStitch, ": eta is ", o.eta,
               ", expected 0 or more");
  double sum = 0;
  for (const double f : o.fractions) {
    DROPIN_CHECK(f >= 0, OptionError, kStitch, ": fractions has ", f, ", expected 0 or more");
    sum += f;
  }
  DROPIN_CHECK(!o.fractions.empty() && std::abs(sum - 1) <= 1e-6, OptionError, kStitch,
               ": fractions sum to ", sum, ", expected 1");
}

int64_t model_at(const TStitchOptions& o, int64_t step, int64_t time) {
  const auto t = static_cast<double>(time) / static_cast<double>(o.train_steps);
  const auto models = static_cast<int64_t>(o.fractions.size());
  if (o.rule == "timestep" && models == 2) return t >= 1 - o.fractions[0] ? 0 : 1;
  double upto = 0;
  for (int64_t k = 0; k + 1 < models; ++k) {
    upto += o.fractions[at(k)];
    if (o.rule == "timestep"
            ? 1 - t <= upto + 1e-12
            : static_cast<double>(step + 1) <= static_cast<double>(o.num_steps) * upto + 1e-9)
      return k;
  }
  return models - 1;
}

// prod_{j <= i} (1 - beta_j) of every time i.
std::vector<double> kept_signal(const TStitchOptions& o) {
  const auto steps = static_cast<double>(o.train_steps);
  auto cosine = [](double u) {
    const double c = std::cos((u + 0.008) / 1.008 * std::numbers::pi / 2);
    return c * c;
  };
  std::vector<double> kept;
  double product = 1;
  for (int64_t i = 0; i < o.train_steps; ++i) {
    const auto k = static_cast<double>(i);
    const double s = 1000 / steps, low = s * 1e-4, high = s * 0.02;
    const double beta = o.schedule == "linear"
                            ? low + (o.train_steps > 1 ? k * (high - low) / (steps - 1) : 0)
                            : std::min(1 - cosine((k + 1) / steps) / cosine(k / steps), 0.999);
    DROPIN_CHECK(beta < 1, OptionError, kStitch, ": train_steps is ", o.train_steps,
                 ", too few for the linear schedule, expected more than 20");
    kept.push_back(product *= 1 - beta);
  }
  return kept;
}

Box<Denoiser> denoiser_of(const Json& spec) {
  const Json* type = spec.is_object() ? spec.find("type") : nullptr;
  DROPIN_CHECK(type && type->is_string() && type->as_string() == "AffineDenoiser", OptionError,
               kStitch, ": option denoiser is ", spec.dump(),
               ", expected an object of type AffineDenoiser; other denoisers are given as modules");
  Json options = Json::object();
  for (const auto& [k, v] : spec.items())
    if (k != "type") options.set(k, v);
  return Box<Denoiser>(
      new AffineDenoiser(options_from_json<AffineDenoiserOptions>(options, "AffineDenoiser")));
}

}  // namespace

namespace {
constexpr int64_t kSampleWidths[] = {5, 16, 64, 256}, kSampleRows[] = {3, 64, 256, 1024};
}  // namespace

FamilyInfo DiffusionSampler::family() {
  FamilyInfo f;
  f.name = kFamily;
  f.call = "x [B, ...] -> y [B, ...]";
  f.options = [](int size) {
    Json denoiser = Json::object(), o = Json::object();
    denoiser.set("type", "AffineDenoiser");
    denoiser.set("dim", SampleSpec{.size = size}.of(kSampleWidths));
    o.set("denoiser", denoiser);
    return o;
  };
  f.inputs = [](const Json&, const SampleSpec& s) {
    const int64_t batch = s.batch >= 0 ? s.batch : s.of(kSampleRows);
    return Sample{{{"x", s.normal({batch, s.of(kSampleWidths)})}}};
  };
  f.bad_inputs = bad_shape({2, 4});
  return f;
}

AffineDenoiser::AffineDenoiser(const AffineDenoiserOptions& o)
    : Component(o),
      weight_(parameter("weight", init::default_uniform({o.dim, o.dim}, o.dim))),
      bias_(parameter("bias", init::default_uniform({o.dim}, o.dim))),
      time_(parameter("time", init::default_uniform({o.dim}, o.dim))) {
  DROPIN_CHECK(o.dim > 0, OptionError, who(), ": dim is ", o.dim, ", expected a positive number");
}
Tensor AffineDenoiser::forward(const Tensor& x, int64_t t, int64_t train_steps, const Tensor&) {
  DROPIN_CHECK(x.dim() >= 1 && x.size(-1) == options_.dim, ShapeError, who(), ": x is ", x.sizes(),
               ", expected [*, ", options_.dim, "]");
  const double share = static_cast<double>(t) / static_cast<double>(train_steps);
  return linear(x, weight_, bias_) + time_ * share;
}

TStitchPlan TStitchSchedule(const TStitchOptions& o) {
  check_stitch(o);
  TStitchPlan p;
  for (int64_t k = o.num_steps - 1; k >= 0; --k) {
    const auto whole = static_cast<double>(k * (o.train_steps - 1));
    const int64_t t =
        o.num_steps == 1
            ? 0
            : static_cast<int64_t>(std::nearbyint(whole / static_cast<double>(o.num_steps - 1)));
    if (!p.timesteps.empty() && p.timesteps.back() == t) continue;
    p.model.push_back(model_at(o, static_cast<int64_t>(p.model.size()), t));
    p.timesteps.push_back(t);
  }
  return p;
}

Sample TStitchSampler::sample(const Options& o, const SampleSpec& s) {
  const int64_t batch = s.batch >= 0 ? s.batch : s.of(kSampleRows), width = s.of(kSampleWidths);
  SampleSpec other = s;
  other.seed += 1;
  return {{{"x", s.normal({batch, width})}, {"noise", other.normal({o.num_steps, 1, width})}},
          {"noise"}};
}
std::vector<std::string> TStitchSampler::examples() {
  return {R"({"num_steps": 7, "rule": "step", "fractions": [0.3, 0.3, 0.4]})",
          R"({"num_steps": 6, "sampler": "ddpm", "variance": "fixed_large"})",
          R"({"num_steps": 6, "schedule": "cosine", "eta": 0.7, "clip_denoised": true})",
          R"({"num_steps": 6, "sampler": "dpm_solver_pp_2m"})"};
}

TStitchSampler::TStitchSampler(const TStitchOptions& o) : Component(o) {
  check_stitch(o);
  std::vector<Box<Denoiser>> all;
  for (std::size_t i = 0; i < o.fractions.size(); ++i) all.push_back(denoiser_of(o.denoiser));
  build(std::move(all));
}
TStitchSampler::TStitchSampler(std::vector<Box<Denoiser>> denoisers, const TStitchOptions& o)
    : Component(o) {
  check_stitch(o);
  build(std::move(denoisers));
}
void TStitchSampler::build(std::vector<Box<Denoiser>> denoisers) {
  DROPIN_CHECK(denoisers.size() == options_.fractions.size(), OptionError, who(),
               ": fractions has ", static_cast<int64_t>(options_.fractions.size()),
               " numbers, expected one for each of ", static_cast<int64_t>(denoisers.size()),
               " denoisers");
  for (const auto& d : denoisers)
    DROPIN_CHECK(d, OptionError, who(), ": a denoiser is null, expected modules");
  kept_ = kept_signal(options_);
  plan_ = TStitchSchedule(options_);
  denoisers_ = child<ModuleList>("denoisers");
  for (auto& d : denoisers) denoisers_->append(Box<Module>(d.release()));
}
Denoiser& TStitchSampler::denoiser(int64_t i) const {
  return dynamic_cast<Denoiser&>((*denoisers_)[i]);
}
Box<Module> TStitchSampler::make_like() const {
  std::vector<Box<Denoiser>> all;
  for (int64_t i = 0; i < denoisers_->size(); ++i) {
    Box<Module> m = denoiser(i).make_like();
    all.push_back(Box<Denoiser>(dynamic_cast<Denoiser*>(m.release())));
  }
  return Box<Module>(new TStitchSampler(std::move(all), options_));
}

void TStitchSampler::set_fractions(const std::vector<double>& fractions) {
  TStitchOptions o = options_;
  o.fractions = fractions;
  check_stitch(o);
  DROPIN_CHECK(static_cast<int64_t>(fractions.size()) == denoisers_->size(), OptionError, who(),
               ": fractions has ", static_cast<int64_t>(fractions.size()), " numbers, expected ",
               denoisers_->size());
  plan_ = TStitchSchedule(o);
  options_.fractions = fractions;
}
std::vector<int64_t> TStitchSampler::calls() const {
  std::vector<int64_t> n(at(denoisers_->size()));
  for (const int64_t m : plan_.model) ++n[at(m)];
  return n;
}
double TStitchSampler::expected_cost(const std::vector<double>& costs) const {
  DROPIN_CHECK(static_cast<int64_t>(costs.size()) == denoisers_->size(), OptionError, who(),
               ": costs has ", static_cast<int64_t>(costs.size()), " numbers, expected ",
               denoisers_->size());
  double sum = 0;
  for (const int64_t m : plan_.model) sum += costs[at(m)];
  return sum;
}

Tensor TStitchSampler::denoise(const Tensor& x, const Tensor& noise, const Tensor& cond) {
  DROPIN_CHECK(x.dim() >= 1 && is_floating(x.dtype()), DTypeError, who(), ": x is ", x.dtype(), " ",
               x.sizes(), ", expected floats [B, ...]");
  const auto n = static_cast<int64_t>(plan_.timesteps.size());
  if (noise.defined() && adds_noise()) {
    Shape want{n};
    for (const int64_t d : x.sizes()) want.push_back(d);
    Shape shared = want;
    shared[1] = 1;
    DROPIN_CHECK((noise.sizes() == want || noise.sizes() == shared) && noise.dtype() == x.dtype(),
                 ShapeError, who(), ": noise is ", noise.dtype(), " ", noise.sizes(), ", expected ",
                 x.dtype(), " ", want, " or ", shared);
  }
  State state;
  Tensor y = x;
  for (int64_t i = 0; i < n; ++i) {
    Tensor z;
    if (adds_noise())
      z = noise.defined() ? noise[i].expand(x.sizes()) : randn(x.sizes(), x.options());
    y = step(y, i, state, z, cond);
  }
  return y;
}

NamedTensors TStitchSampler::call(const NamedTensors& in) {
  const Tensor y = with_hooks(in.get("x", who()), [&](const Tensor& x) {
    return denoise(x, in.find("noise"), in.find("cond"));
  });
  return {{"y", y}, {"model", tensor(plan_.model)}, {"timesteps", tensor(plan_.timesteps)}};
}

}  // namespace dropin
