#include <algorithm>
#include <cmath>

#include "dropin/generation/t_stitch.h"
#include "kernels/hd.h"

namespace dropin {

Tensor TStitchSampler::ddim(const Tensor& e, const Tensor& x0, double a, double next,
                            const Tensor& z) const {
  const double sigma =
      options_.eta * std::sqrt((1 - next) / (1 - a)) * std::sqrt(std::max(0.0, 1 - a / next));
  const Tensor y = x0 * std::sqrt(next) + e * std::sqrt(std::max(0.0, 1 - next - sigma * sigma));
  return z.defined() ? y + z * sigma : y;
}

Tensor TStitchSampler::ddpm(const Tensor& x, const Tensor& v, const Tensor& x0, double a,
                            double next, const Tensor& z) const {
  const double b = 1 - a / next, small = b * (1 - next) / (1 - a);
  const Tensor mean =
      x0 * (b * std::sqrt(next) / (1 - a)) + x * ((1 - next) * std::sqrt(1 - b) / (1 - a));
  if (!z.defined()) return mean;
  if (!v.defined()) return mean + z * std::sqrt(options_.variance == "fixed_large" ? b : small);
  const Tensor share = (v + 1) / 2;
  return mean + exp((share * std::log(b) + (1 - share) * std::log(small)) / 2) * z;
}

Tensor TStitchSampler::dpm_solver(const Tensor& x, const Tensor& x0, double a, double next,
                                  State& state) {
  auto lambda = [](double kept) { return 0.5 * std::log(kept / (1 - kept)); };
  const double now = lambda(a);
  if (next >= 1) return x0;
  const double h = lambda(next) - now;
  Tensor d = x0;
  if (state.last.defined()) d = x0 + (x0 - state.last) * (h / (2 * (now - state.last_lambda)));
  state = {x0, now};
  return x * std::sqrt((1 - next) / (1 - a)) - d * (std::sqrt(next) * std::expm1(-h));
}

Tensor TStitchSampler::step(const Tensor& x, int64_t i, State& state, const Tensor& z,
                            const Tensor& cond) {
  const auto n = static_cast<int64_t>(plan_.timesteps.size());
  DROPIN_CHECK(i >= 0 && i < n, IndexError, who(), ": step ", i, ", expected 0 to ", n - 1);
  const bool last = i + 1 == n, ddpm_step = options_.sampler == "ddpm";
  const Tensor noise = last || !adds_noise() ? Tensor() : z;
  DROPIN_CHECK(last || !adds_noise() || (z.defined() && z.sizes() == x.sizes()), ShapeError, who(),
               ": z is ", z.defined() ? z.sizes() : Shape{}, ", expected x's ", x.sizes());
  const int64_t t = plan_.timesteps[at(i)];
  const double a = kept_[at(t)], next = last ? 1 : kept_[at(plan_.timesteps[at(i + 1)])];
  Tensor e = denoiser(plan_.model[at(i)]).forward(x, t, options_.train_steps, cond), v;
  Shape want = x.sizes();
  if (ddpm_step && options_.variance == "learned_range" && want.size() > 1) want[1] *= 2;
  DROPIN_CHECK(e.sizes() == want, ShapeError, who(), ": a denoiser gives ", e.sizes(),
               ", expected ", want, " for x ", x.sizes());
  if (want != x.sizes()) {
    v = e.narrow(1, x.size(1), x.size(1));
    e = e.narrow(1, 0, x.size(1));
  }
  Tensor x0 = (x - e * std::sqrt(1 - a)) / std::sqrt(a);
  if (options_.clip_denoised) {
    x0 = clamp(x0, -1.0, 1.0);
    e = (x - x0 * std::sqrt(a)) / std::sqrt(1 - a);
  }
  if (options_.sampler == "dpm_solver_pp_2m") return dpm_solver(x, x0, a, next, state);
  return ddpm_step ? ddpm(x, v, x0, a, next, noise) : ddim(e, x0, a, next, noise);
}

}  // namespace dropin
