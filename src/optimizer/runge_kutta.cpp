#include "dropin/optimizer/runge_kutta.h"

#include <cmath>

#include "dropin/ops/elementwise.h"
#include "optimizer/common.h"

namespace dropin {

namespace {

// weight[s]: of stage s in the whole step; ahead[s]: how far from the start stage s + 1 lies.
struct Tableau {
  const char* name;
  int64_t stages;
  double weight[4], ahead[3];
};
constexpr Tableau kTableaus[] = {{"euler", 1, {1}, {}},
                                 {"rk2", 2, {0.5, 0.5}, {1}},
                                 {"rk2_midpoint", 2, {0, 1}, {0.5}},
                                 {"rk4", 4, {1. / 6, 1. / 3, 1. / 3, 1. / 6}, {0.5, 0.5, 1}}};
const Tableau& tableau_of(const std::string& method) {
  for (const Tableau& t : kTableaus)
    if (method == t.name) return t;
  fail<OptionError>({"RungeKuttaOptimizer: method is \"", method,
                     "\", expected euler, rk2, rk2_midpoint or rk4"});
}

}  // namespace

void RungeKuttaOptimizer::check(const RungeKuttaOptimizerOptions& o) {
  DROPIN_CHECK(o.lr > 0, OptionError, "RungeKuttaOptimizer: lr is ", o.lr,
               ", expected a positive number");
  DROPIN_CHECK(o.weight_decay >= 0, OptionError, "RungeKuttaOptimizer: weight_decay is ",
               o.weight_decay, ", expected at least 0");
  tableau_of(o.method);
}

int64_t RungeKuttaOptimizer::stages() const {
  return tableau_of(param_groups()[0].options.find("method")->as_string()).stages;
}

int64_t RungeKuttaOptimizer::stage() const {
  std::size_t i = 0;
  for (const ParamGroup& g : param_groups())
    for (std::size_t k = 0; k < g.params.size(); ++k, ++i)
      if (const Tensor t = held_state(i).find("stage"); t.defined())
        return static_cast<int64_t>(t.item());
  return 0;
}

void RungeKuttaOptimizer::refuse_pending() const {
  DROPIN_CHECK(!pending(), StateError, "RungeKuttaOptimizer: a step is unfinished: ", stage(),
               " of ", stages(), " gradients taken; finish it or call abort() first");
}

NamedTensors RungeKuttaOptimizer::start(const RungeKuttaOptimizerOptions& o,
                                        const Tensor& p) const {
  if (tableau_of(o.method).stages == 1) return {};
  const Tensor from = p.detach().to(detail::step_dtype(p.dtype()));
  return {{"start", from.data_ptr() == p.data_ptr() ? from.clone() : from.contiguous()},
          {"sum", detail::state_like(p)},
          {"stage", zeros({}, kFloat32)}};
}

void RungeKuttaOptimizer::update_one(const RungeKuttaOptimizerOptions& o, const Tensor& p,
                                     const Tensor& g_in, NamedTensors& state, bool) {
  const Tableau& t = tableau_of(o.method);
  const DType dtype = detail::step_dtype(p.dtype());
  bool last = true;
  detail::update_as(dtype, p, [&](Tensor w) {
    Tensor g = g_in.to(dtype);
    if (o.weight_decay != 0) g = add(g, w.detach(), o.weight_decay);
    if (t.stages == 1) {
      w.add_(g, -o.lr);
      return;
    }
    Tensor sum = state.find("sum"), count = state.find("stage");
    const auto s = static_cast<int64_t>(count.item());
    last = s + 1 == t.stages;
    sum.add_(g, t.weight[s]);
    w.copy_(state.find("start"));
    w.add_(last ? sum : g, last ? -o.lr : -o.lr * t.ahead[s]);
    count.fill_(static_cast<double>(s + 1));
  });
  if (last) state = {};
}

Json RungeKuttaOptimizer::check_options(const Json& base, const Json& changes) const {
  refuse_pending();
  const Json all = OptimizerOf::check_options(base, changes);
  if (const Json* method = changes.find("method"))
    DROPIN_CHECK(param_groups().size() <= 1 || tableau_of(method->as_string()).stages == stages(),
                 OptionError, "RungeKuttaOptimizer: method is \"", method->as_string(),
                 "\", expected one of ", stages(), " gradients, as the first group's");
  return all;
}

void RungeKuttaOptimizer::check_state(std::size_t group, const Tensor& p, std::size_t i,
                                      NamedTensors& state) const {
  refuse_pending();
  Optimizer::check_state(group, p, i, state);
}

void RungeKuttaOptimizer::check_update(std::size_t, std::size_t number, const Tensor&,
                                       const Tensor& g, const NamedTensors& state) const {
  if (!pending()) return;
  DROPIN_CHECK(g.defined() || state.size() == 0, StateError, "RungeKuttaOptimizer: parameter ",
               number, " has no gradient at stage ", stage(), " and had one before");
  DROPIN_CHECK(!g.defined() || state.size() > 0, StateError, "RungeKuttaOptimizer: parameter ",
               number, " has a gradient at stage ", stage(), " and had none before");
}

Tensor RungeKuttaOptimizer::step(const std::function<Tensor()>& closure) {
  DROPIN_CHECK(closure, OptionError, type(), ": step: the closure is empty");
  refuse_pending();
  Tensor first;
  for (int64_t s = 0; s < stages(); ++s) {
    Tensor loss;
    {
      enable_grad guard;
      loss = closure();
    }
    std::size_t i = 0;
    for (const ParamGroup& g : param_groups())
      for (const Tensor& p : g.params) {
        DROPIN_CHECK(p.grad().defined(), StateError, type(), ": the closure left parameter ", i,
                     " without a gradient");
        ++i;
      }
    step();
    if (s == 0) first = loss;
  }
  return first;
}

void RungeKuttaOptimizer::abort() {
  no_grad guard;
  std::size_t i = 0;
  for (const ParamGroup& g : param_groups())
    for (Tensor p : g.params) {
      NamedTensors& state = held_state(i++);
      if (state.size() == 0) continue;
      p.copy_(state.find("start"));
      state = {};
    }
}

// --- GradientReversal

GradientReversal::GradientReversal(const GradientReversalOptions& o) : Component(o) {
  DROPIN_CHECK(o.max_iters > 0, OptionError, who(), ": max_iters is ", o.max_iters,
               ", expected a positive number");
  DROPIN_CHECK(o.iter >= 0, OptionError, who(), ": iter is ", o.iter, ", expected at least 0");
}

double GradientReversal::coefficient() const {
  const auto& o = options_;
  if (!o.warm) return o.lambda;
  const double share = static_cast<double>(o.iter) / static_cast<double>(o.max_iters);
  return 2 * (o.hi - o.lo) / (1 + std::exp(-o.alpha * share)) - (o.hi - o.lo) + o.lo;
}

Tensor GradientReversal::forward(const Tensor& x) {
  DROPIN_CHECK(is_floating(x.dtype()), DTypeError, who(), ": x is ", x.dtype(),
               ", expected a floating-point tensor");
  const double scale = -coefficient();
  if (options_.warm && options_.auto_step && is_training()) step();
  return record("gradient_reversal", x.detach(), {x}, {},
                [scale](const Saved&, const Tensor& g) -> Tensors { return {g * scale}; });
}

}  // namespace dropin
