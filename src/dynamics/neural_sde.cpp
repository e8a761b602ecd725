#include "dropin/dynamics/neural_sde.h"

#include <algorithm>
#include <cmath>

#include "dynamics/sde_steps.h"
#include "kernels/hd.h"

namespace dropin {

using dynamics::Field;
using dynamics::SdeFields;
using dynamics::SdeStep;
using dynamics::Tolerance;

std::vector<std::string> NeuralSDE::examples() {
  return {R"({"solver": "milstein"})", R"({"solver": "euler_maruyama"})",
          R"({"solver": "euler_heun"})",
          R"({"regularize": "unbiased", "reg_time": 0.5, "reg_dt": 0.1})"};
}

Json NeuralSDE::options_from(std::string_view, const Json& options, const Json&) {
  Json r = Json::object();
  if (const Json* func = options.find("func")) r.set("drift", *func);
  for (const char* name : {"dt", "t0", "t1", "rtol", "atol", "saveat", "regularize"})
    if (const Json* v = options.find(name)) r.set(name, *v);
  return r;
}

void NeuralSDE::check_options() const {
  const auto& o = options_;
  DROPIN_CHECK(o.solver == "sosri" || o.solver == "milstein" || o.solver == "euler_maruyama" ||
                   o.solver == "euler_heun",
               OptionError, who(), ": solver is \"", o.solver,
               "\", expected sosri, milstein, euler_maruyama or euler_heun");
  DROPIN_CHECK(!o.adaptive, OptionError, who(),
               ": adaptive steps are not supported, expected adaptive = false");
  DROPIN_CHECK(o.dt && *o.dt > 0, OptionError, who(), ": dt is ", o.dt.value_or(0),
               ", expected a positive step");
  for (const auto& [name, v] : {std::pair{"rtol", o.rtol},
                                {"atol", o.atol},
                                {"reg_atol", o.reg_atol.value_or(1)},
                                {"reg_rtol", o.reg_rtol.value_or(1)},
                                {"reg_dt", o.reg_dt.value_or(1)}})
    DROPIN_CHECK(v > 0, OptionError, who(), ": ", name, " is ", v, ", expected a positive number");
  DROPIN_CHECK(std::isfinite(o.t0) && std::isfinite(o.t1) && o.t1 >= o.t0, OptionError, who(),
               ": t0 ", o.t0, " and t1 ", o.t1, ", expected finite times, t1 not before t0");
  DROPIN_CHECK(step_count() <= o.max_steps, OptionError, who(), ": dt ", *o.dt, " takes ",
               step_count(), " steps, expected at most max_steps = ", o.max_steps);
  DROPIN_CHECK(o.regularize == "none" || o.regularize == "unbiased" || o.regularize == "biased",
               OptionError, who(), ": regularize is \"", o.regularize,
               "\", expected none, unbiased or biased");
  DROPIN_CHECK(o.regularize_type == "error_estimate", OptionError, who(), ": regularize_type is \"",
               o.regularize_type, "\", expected error_estimate");
  DROPIN_CHECK(!o.reg_time || (*o.reg_time >= o.t0 && *o.reg_time < o.t1), OptionError, who(),
               ": reg_time is ", o.reg_time.value_or(0), ", expected t0 <= reg_time < t1");
  double last = o.t0;
  for (const double t : o.saveat.value_or(std::vector<double>{})) {
    DROPIN_CHECK(t >= last && t <= o.t1, OptionError, who(), ": saveat has ", t, " after ", last,
                 ", expected times sorted from t0 to t1");
    bool there = false;
    for (int64_t i = 0; i <= step_count(); ++i)
      there = there || std::abs(time_of(i) - t) <= 1e-9 * std::max(1.0, std::abs(t));
    DROPIN_CHECK(there, OptionError, who(), ": saveat has ", t, ", expected the time of a step");
    last = t;
  }
}

int64_t NeuralSDE::step_count() const {
  return dynamics::fixed_steps(options_.t0, options_.t1, *options_.dt);
}
double NeuralSDE::time_of(int64_t i) const {
  return i == step_count() ? options_.t1 : options_.t0 + static_cast<double>(i) * *options_.dt;
}

NeuralSDE::NeuralSDE(const NeuralSDEOptions& o)
    : Component(o), counts_(new detail::DynamicsCounts) {
  check_options();
  build(detail::make_field(who(), "drift", o.drift),
        detail::make_field(who(), "diffusion", o.diffusion));
}
NeuralSDE::NeuralSDE(Box<VectorField> drift, Box<VectorField> diffusion, const NeuralSDEOptions& o)
    : Component(o), counts_(new detail::DynamicsCounts) {
  check_options();
  DROPIN_CHECK(drift && diffusion, OptionError, who(), ": a field is null");
  build(std::move(drift), std::move(diffusion));
}
void NeuralSDE::build(Box<VectorField> drift, Box<VectorField> diffusion) {
  drift_ = Child<VectorField>(add_child("drift", Box<Module>(drift.release())));
  diffusion_ = Child<VectorField>(add_child("diffusion", Box<Module>(diffusion.release())));
}
Box<Module> NeuralSDE::make_like() const {
  auto again = [](const VectorField& f) {
    Box<Module> m = f.make_like();
    return Box<VectorField>(dynamic_cast<VectorField*>(m.release()));
  };
  return Box<Module>(new NeuralSDE(again(*drift_), again(*diffusion_), options_));
}

NeuralSDENoise NeuralSDE::noise_for(const Tensor& x, const NeuralSDENoise& given) const {
  Shape many{step_count()};
  for (const int64_t d : x.sizes()) many.push_back(d);
  const auto& o = options_;
  Generator own(static_cast<std::uint64_t>(o.seed.value_or(0)));
  Generator* from = o.seed ? &own : nullptr;
  auto checked = [&](const char* name, const Tensor& t, const Shape& want) {
    DROPIN_CHECK(t.sizes() == want && t.dtype() == x.dtype(), ShapeError, who(), ": ", name, " is ",
                 t.dtype(), " ", t.sizes(), ", expected ", x.dtype(), " ", want);
    return t;
  };
  auto path = [&](const char* name, const Tensor& t) {
    if (t.defined()) return checked(name, t, many);
    Tensor w = randn(many, {kFloat64, kCPU}, from);
    for (int64_t i = 0; i < many[0]; ++i) w[i].mul_(std::sqrt(time_of(i + 1) - time_of(i)));
    return w.to(x.dtype(), x.device());
  };
  NeuralSDENoise r;
  r.dW = path("dW", given.dW);
  if (o.solver == "sosri")
    r.dZ = path("dZ", given.dZ);
  else
    DROPIN_CHECK(!given.dZ.defined(), OptionError, who(), ": dZ is not supported: solver ",
                 o.solver, " has one noise");
  auto unit = [&](const char* name, const Tensor& t) {
    return t.defined() ? checked(name, t, x.sizes()) : Tensor();
  };
  r.reg_dW = unit("reg_dW", given.reg_dW);
  r.reg_dZ = unit("reg_dZ", given.reg_dZ);
  return r;
}

int64_t NeuralSDE::step_at(double t) const {
  int64_t i = step_count();
  while (i > 0 && time_of(i) > t + 1e-9) --i;
  return i;
}

NeuralSDE::Result NeuralSDE::solve(const Tensor& x, const NeuralSDENoise& given) {
  const auto& o = options_;
  DROPIN_CHECK(x.dim() >= 1 && is_floating(x.dtype()), DTypeError, who(), ": x is ", x.dtype(), " ",
               x.sizes(), ", expected floats [B, ...]");
  const NeuralSDENoise noise = noise_for(x, given);
  int64_t evaluations = 0;
  auto field = [&](const Child<VectorField>& of) -> Field {
    return [&evaluations, of](const Tensor& u, double t) {
      ++evaluations;
      const Tensor v = of(u, t);
      DROPIN_CHECK(v.sizes() == u.sizes() && v.dtype() == u.dtype(), ShapeError, who(),
                   ": a field gives ", v.dtype(), " ", v.sizes(), ", expected ", u.dtype(), " ",
                   u.sizes(), " as the state");
      return v;
    };
  };
  const SdeFields of{field(drift_), field(diffusion_)};
  const int64_t n = step_count();
  Tensors states{x};
  for (int64_t i = 0; i < n; ++i) {
    const double t = time_of(i);
    states.push_back(sde_step(o.solver, of, states.back(), t, time_of(i + 1) - t, noise.dW[i],
                              noise.dZ.defined() ? noise.dZ[i] : Tensor()));
  }
  Result r;
  r.y = states.back();
  if (o.saveat) {
    Tensors saved;
    for (const double t : *o.saveat) saved.push_back(states[at(step_at(t))]);
    r.y = saved.empty() ? zeros({0}, x.options()) : stack(saved);
  }
  if (is_training() && o.regularize != "none" && n > 0 && x.numel() > 0) {
    const double share = o.reg_time ? 0 : rand({1}).item();
    const int64_t i = o.reg_time ? step_at(*o.reg_time)
                      : o.regularize == "unbiased"
                          ? step_at(o.t0 + share * (o.t1 - o.t0))
                          : static_cast<int64_t>(share * static_cast<double>(n));
    const double s = time_of(std::min(i, n - 1));
    const Tensor from = states[at(std::min(i, n - 1))].detach();
    const Tolerance tol{o.reg_atol.value_or(o.atol), o.reg_rtol.value_or(o.rtol)};
    double h = o.reg_dt.value_or(0);
    if (!o.reg_dt) {
      no_grad guard;
      h = dynamics::first_step(of.drift, from, s, of.drift(from, s), o.t1 - s, tol);
    }
    auto drawn = [&](const Tensor& t) {
      return t.defined() ? t : randn(x.sizes(), x.options()) * std::sqrt(h);
    };
    const SdeStep step = sosri_step(of, from, s, h, drawn(noise.reg_dW), drawn(noise.reg_dZ));
    r.reg = dynamics::error_norm(add(step.noise_error, step.drift_error, o.delta), from, step.next,
                                 tol) *
            h;
    r.reg_dt = scalar(h, x.options());
    counts_->reg_time = s;
  }
  counts_->steps = n;
  counts_->evaluations = evaluations;
  return r;
}

NamedTensors NeuralSDE::call(const NamedTensors& in) {
  Result r;
  const Tensor y = with_hooks(in.get("x", who()), [&](const Tensor& x) {
    r = solve(x, {in.find("dW"), in.find("dZ"), in.find("reg_dW"), in.find("reg_dZ")});
    return r.y;
  });
  NamedTensors out{{"y", y}};
  if (r.reg.defined()) {
    out.set("reg", r.reg);
    out.set("reg_dt", r.reg_dt);
  }
  return out;
}

}  // namespace dropin
