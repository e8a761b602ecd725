#include "dropin/dynamics/neural_ode.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "dynamics/solver.h"

namespace dropin {

using dynamics::Field;
using dynamics::Tolerance;
using dynamics::Trajectory;

std::vector<std::string> NeuralODE::examples() {
  return {
      R"({"solver": "dopri5", "dt": 0.4})", R"({"solver": "rk4", "dt": 0.3, "t0": 1, "t1": 0.2})",
      R"({"dt": 0.5, "regularize": "unbiased", "reg_time": 0.5, "regularize_type": "stiffness_estimate"})"};
}

void NeuralODE::check_options() const {
  const auto& o = options_;
  const bool pair = o.solver == "tsit5" || o.solver == "dopri5";
  DROPIN_CHECK(pair || o.solver == "rk4" || o.solver == "euler", OptionError, who(),
               ": solver is \"", o.solver, "\", expected tsit5, dopri5, rk4 or euler");
  DROPIN_CHECK(pair || !o.adaptive, OptionError, who(), ": solver ", o.solver,
               " estimates no error, expected adaptive = false");
  DROPIN_CHECK(o.adaptive || (o.dt && *o.dt > 0), OptionError, who(), ": dt is ",
               o.dt ? *o.dt : 0.0, ", expected a positive step because adaptive = false");
  for (const auto& [name, v] : {std::pair{"rtol", o.rtol},
                                {"atol", o.atol},
                                {"reg_atol", o.reg_atol.value_or(1)},
                                {"reg_rtol", o.reg_rtol.value_or(1)}})
    DROPIN_CHECK(v > 0, OptionError, who(), ": ", name, " is ", v, ", expected a positive number");
  DROPIN_CHECK(std::isfinite(o.t0) && std::isfinite(o.t1), OptionError, who(), ": t0 ", o.t0,
               " and t1 ", o.t1, ", expected finite times");
  DROPIN_CHECK(o.max_steps >= 1, OptionError, who(), ": max_steps is ", o.max_steps,
               ", expected at least 1");
  DROPIN_CHECK(o.regularize == "none" || o.regularize == "unbiased" || o.regularize == "biased",
               OptionError, who(), ": regularize is \"", o.regularize,
               "\", expected none, unbiased or biased");
  DROPIN_CHECK(o.regularize_type == "error_estimate" || o.regularize_type == "stiffness_estimate",
               OptionError, who(), ": regularize_type is \"", o.regularize_type,
               "\", expected error_estimate or stiffness_estimate");
  const bool back = o.t1 < o.t0;
  DROPIN_CHECK(!back || o.regularize == "none", OptionError, who(), ": t1 is ", o.t1,
               ", expected it after t0 = ", o.t0, " because regularize = ", o.regularize);
  DROPIN_CHECK(!o.reg_time || (*o.reg_time >= o.t0 && *o.reg_time < o.t1), OptionError, who(),
               ": reg_time is ", o.reg_time.value_or(0), ", expected t0 <= reg_time < t1");
  DROPIN_CHECK(!o.reg_dt || *o.reg_dt > 0, OptionError, who(), ": reg_dt is ", o.reg_dt.value_or(0),
               ", expected a positive step");
  if (!o.saveat) return;
  double last = o.t0;
  for (const double t : *o.saveat) {
    DROPIN_CHECK(back ? t <= last && t >= o.t1 : t >= last && t <= o.t1, OptionError, who(),
                 ": saveat has ", t, " after ", last, ", expected times sorted from t0 to t1");
    last = t;
  }
}

NeuralODE::NeuralODE(const NeuralODEOptions& o)
    : Component(o), counts_(new detail::DynamicsCounts) {
  check_options();
  build(detail::make_field(who(), "func", o.func));
}
NeuralODE::NeuralODE(Box<VectorField> func, const NeuralODEOptions& o)
    : Component(o), counts_(new detail::DynamicsCounts) {
  check_options();
  DROPIN_CHECK(func, OptionError, who(), ": the field is null");
  build(std::move(func));
}
void NeuralODE::build(Box<VectorField> func) {
  func_ = Child<VectorField>(add_child("func", Box<Module>(func.release())));
}
Box<Module> NeuralODE::make_like() const {
  Box<Module> field = func_->make_like();
  return Box<Module>(
      new NeuralODE(Box<VectorField>(dynamic_cast<VectorField*>(field.release())), options_));
}

// The asked times, and t1.
std::vector<double> NeuralODE::stops() const {
  std::vector<double> r = options_.saveat.value_or(std::vector<double>{});
  if (r.empty() || r.back() != options_.t1) r.push_back(options_.t1);
  return r;
}

namespace {

dynamics::SolveOptions solve_options(const NeuralODEOptions& o) {
  return {o.solver, o.adaptive, o.dt.value_or(0), {o.atol, o.rtol}, o.max_steps};
}

// The state, the gradient of it and those of the parameters as one vector.
struct Augmented {
  Shape state;
  std::vector<Tensor> params;
  std::vector<int64_t> sizes;
  Augmented(const Tensor& u, Tensors p) : state(u.sizes()), params(std::move(p)) {
    sizes = {u.numel(), u.numel()};
    for (const Tensor& t : params) sizes.push_back(t.numel());
  }
  Tensor join(const Tensors& parts) const {
    Tensors flat;
    for (const Tensor& t : parts) flat.push_back(t.reshape({t.numel()}));
    return concat(flat);
  }
  Tensors parts(const Tensor& z) const {
    Tensors r;
    int64_t from = 0;
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      r.push_back(z.narrow(0, from, sizes[i]).reshape(i < 2 ? state : params[i - 2].sizes()));
      from += sizes[i];
    }
    return r;
  }
  // d/dt of (u, a, g): f, -a^T df/du, -a^T df/dp.
  Tensor rate(const Field& f, const Tensor& z, double t) const {
    const Tensors now = parts(z);
    enable_grad on;
    Tensor u = now[0].detach().clone().requires_grad_();
    Tensors inputs{u};
    inputs.insert(inputs.end(), params.begin(), params.end());
    const Tensor v = f(u, t);
    const Tensors g = v.requires_grad() ? grad({v}, inputs, {now[1].detach()}, false, false, true)
                                        : Tensors(inputs.size());
    no_grad off;
    Tensors rates{v.detach()};
    for (std::size_t i = 0; i < inputs.size(); ++i)
      rates.push_back(g[i].defined() ? -g[i] : zeros_like(inputs[i]));
    return join(rates);
  }
};

// Gradients of x and the parameters from those of the saved states, interval by interval of the
// accepted steps, whose states are known.
Tensors adjoint_gradients(const Field& f, const Trajectory& path, const std::vector<double>& stops,
                          const Tensors& gs, const Tensors& params,
                          const dynamics::SolveOptions& o) {
  no_grad guard;
  const Augmented both(path.states[0], params);
  Tensor a = zeros_like(path.states[0]);
  Tensors sums;
  for (const Tensor& p : params) sums.push_back(zeros_like(p));
  std::size_t left = stops.size();
  auto arrive = [&](double t) {
    for (; left > 0 && stops[left - 1] == t; --left)
      if (gs[left - 1].defined()) a = a + gs[left - 1];
  };
  arrive(path.times.back());
  for (std::size_t i = path.times.size() - 1; i > 0; --i) {
    Tensors start{path.states[i], a};
    start.insert(start.end(), sums.begin(), sums.end());
    const Trajectory back = solve([&](const Tensor& z, double t) { return both.rate(f, z, t); },
                                  both.join(start), path.times[i], {path.times[i - 1]}, o);
    const Tensors now = both.parts(back.saved.back());
    a = now[1];
    for (std::size_t k = 0; k < sums.size(); ++k) sums[k] = now[k + 2];
    arrive(path.times[i - 1]);
  }
  Tensors r{a};
  r.insert(r.end(), sums.begin(), sums.end());
  return r;
}

// The saved states with gradients by the adjoint equation.
Tensors with_adjoint(const Field& f, const Trajectory& path, const Tensor& x,
                     const std::vector<double>& stops, const Tensors& params,
                     const dynamics::SolveOptions& o) {
  Tensors inputs{x}, ys;
  inputs.insert(inputs.end(), params.begin(), params.end());
  for (const Tensor& y : path.saved) ys.push_back(y.detach().clone());
  return record_many("neural_ode", ys, inputs, inputs,
                     [f, path, stops, o](const Saved& s, const Tensors& gs) -> Tensors {
                       if (grad_enabled())
                         fail<AutogradError>(
                             {"NeuralODE: adjoint = true has no second derivatives; expected "
                              "adjoint = false"});
                       Tensors params;
                       for (int i = 1; i < s.inputs(); ++i) params.push_back(s[i]);
                       return adjoint_gradients(f, path, stops, gs, params, o);
                     });
}

// The error, or the stiffness, of one step from u at t; u, h and t are constants.
Tensor penalty(const NeuralODEOptions& o, const Field& f, const Tensor& u, double t, double h,
               const Tolerance& tol) {
  const Tensor first = f(u, t);
  const dynamics::PairStep s =
      dynamics::step(dynamics::tsit5(), f, u, t, h, o.detach_first_stage ? first.detach() : first);
  if (o.regularize_type == "error_estimate")
    return dynamics::error_norm(s.error, u, s.next, tol) * h;
  const double root = std::sqrt(static_cast<double>(std::max<int64_t>(1, u.numel())));
  const Tensor moved = norm(s.next - s.g6) * (1 / root);
  if (moved.item() == 0) return zeros({}, u.options());
  return norm(s.k7 - s.k6) * (1 / root) / (moved + 1.1920929e-7) * (1 / 3.5068);
}

// A time for the penalty.
double penalty_time(const NeuralODEOptions& o, const Trajectory& path) {
  if (o.reg_time) return *o.reg_time;
  const double share = rand({1}).item();
  if (o.regularize == "unbiased") return o.t0 + share * (o.t1 - o.t0);
  const auto n = path.times.size() - 1;  // the last one is t1
  return path.times[std::min(n - 1, static_cast<std::size_t>(share * static_cast<double>(n)))];
}

}  // namespace

NeuralODE::Result NeuralODE::solve(const Tensor& x) {
  const auto& o = options_;
  DROPIN_CHECK(x.dim() >= 1 && is_floating(x.dtype()), DTypeError, who(), ": x is ", x.dtype(), " ",
               x.sizes(), ", expected floats [B, ...]");
  const auto evaluations = std::make_shared<std::atomic<int64_t>>(0);
  const Field f = [func = func_, evaluations, sizes = x.sizes(), dtype = x.dtype()](const Tensor& u,
                                                                                    double t) {
    ++*evaluations;
    const Tensor v = func(u, t);
    DROPIN_CHECK(v.sizes() == u.sizes() && v.dtype() == u.dtype(), ShapeError, who(),
                 ": the field gives ", v.dtype(), " ", v.sizes(), ", expected ", u.dtype(), " ",
                 u.sizes(), " as the state");
    return v;
  };
  Result r;
  const std::vector<double> ends = stops();
  const bool idle = x.numel() == 0 || o.t0 == o.t1;
  Trajectory path{Tensors(ends.size(), x), {o.t0}, {x.detach()}};
  if (!idle) {
    const dynamics::SolveOptions how = solve_options(o);
    if (o.adjoint && grad_enabled()) {
      {
        no_grad guard;
        path = dynamics::solve(f, x, o.t0, ends, how);
      }
      path.saved = with_adjoint(f, path, x, ends, func_->parameters(), how);
    } else {
      path = dynamics::solve(f, x, o.t0, ends, how);
    }
  }
  if (o.saveat) {
    path.saved.resize(o.saveat->size());
    r.y = path.saved.empty() ? zeros({0}, x.options()) : stack(path.saved);
  } else {
    r.y = path.saved.back();
  }
  counts_->steps = static_cast<int64_t>(path.times.size()) - 1;
  if (is_training() && o.regularize != "none" && !idle) {
    const double s = penalty_time(o, path);
    const auto after = std::upper_bound(path.times.begin(), path.times.end(), s);
    const auto i = static_cast<std::size_t>(after - path.times.begin()) - 1;
    const Tolerance tol{o.reg_atol.value_or(o.atol), o.reg_rtol.value_or(o.rtol)};
    Tensor u = path.states[i];
    double h = o.reg_dt.value_or(0);
    {
      no_grad guard;
      if (s > path.times[i])
        u = dynamics::advance(o.solver, f, u, path.times[i], s - path.times[i]);
      if (!o.reg_dt) h = dynamics::first_step(f, u, s, f(u, s), o.t1 - s, tol);
    }
    r.reg = penalty(o, f, u, s, h, tol);
    r.reg_dt = scalar(h, x.options());
    counts_->reg_time = s;
  }
  counts_->evaluations = evaluations->load();
  return r;
}

NamedTensors NeuralODE::call(const NamedTensors& in) {
  Result r;
  const Tensor y = with_hooks(in.get("x", who()), [&](const Tensor& x) {
    r = solve(x);
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
