// RMSprop, Adagrad, Lion, Muon and Adafactor, by operations on whole tensors.
#include "dropin/optimizer/adaptive.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "dropin/ops/elementwise.h"
#include "dropin/ops/matmul.h"
#include "dropin/ops/reduce.h"
#include "optimizer/common.h"

namespace dropin {

namespace {

using detail::state_like;
using detail::step_dtype;
using detail::update_as;

void check_at_least_0(const char* who, const char* name, double value) {
  DROPIN_CHECK(value >= 0, OptionError, who, ": ", name, " is ", value, ", expected at least 0");
}

/// The gradient in the dtype of the step, turned when climbing, with the L2 penalty of w.
Tensor penalised(const Tensor& g_in, const Tensor& w, bool maximize, double weight_decay) {
  const Tensor g = maximize ? -g_in.to(w.dtype()) : g_in.to(w.dtype());
  return weight_decay != 0 ? add(g, w, weight_decay) : g;
}

/// f(w) with memory of the dtype of the step that holds p's values; off the tape.
template <class F>
void step_tensor(const Tensor& p, F f) {
  no_grad guard;
  update_as(step_dtype(p.dtype()), p, [&](const Tensor& t) {
    Tensor w = t.detach();
    f(w);
  });
}

/// The state's entry, made as p's zeros where options that need it came later.
Tensor own_entry(NamedTensors& state, const char* name, const Tensor& p) {
  if (!state.contains(name)) state.set(name, state_like(p));
  return state.find(name);
}

/// This step's number, from 1; the count is moved on.
int64_t next_step(NamedTensors& state) {
  Tensor count = state.find("step");
  const auto step = static_cast<int64_t>(count.item()) + 1;
  count.fill_(static_cast<double>(step));
  return step;
}

/// kept = share kept + (1 - share) fresh.
void average(Tensor kept, const Tensor& fresh, double share) {
  kept.mul_(share);
  kept.add_(fresh, 1 - share);
}

}  // namespace

// --- RMSprop

void RMSprop::check(const RMSpropOptions& o) {
  check_at_least_0("RMSprop", "lr", o.lr);
  check_at_least_0("RMSprop", "eps", o.eps);
  check_at_least_0("RMSprop", "momentum", o.momentum);
  check_at_least_0("RMSprop", "weight_decay", o.weight_decay);
  check_at_least_0("RMSprop", "alpha", o.alpha);
}
NamedTensors RMSprop::start(const RMSpropOptions& o, const Tensor& p) const {
  NamedTensors s{{"step", zeros({})}, {"square_avg", state_like(p)}};
  if (o.momentum > 0) s.set("momentum_buffer", state_like(p));
  if (o.centered) s.set("grad_avg", state_like(p));
  return s;
}
void RMSprop::update_one(const RMSpropOptions& o, const Tensor& p, const Tensor& g_in,
                         NamedTensors& state, bool) {
  step_tensor(p, [&](Tensor& w) {
    const Tensor g = penalised(g_in, w, o.maximize, o.weight_decay),
                 squares = state.find("square_avg");
    average(squares, square(g), o.alpha);
    Tensor v = squares;
    if (o.centered) {
      const Tensor mean = own_entry(state, "grad_avg", p);
      average(mean, g, o.alpha);
      v = squares - square(mean);
    }
    Tensor u = g / (sqrt(v) + o.eps);
    if (o.momentum > 0) {
      Tensor kept = own_entry(state, "momentum_buffer", p);
      kept.mul_(o.momentum);
      kept.add_(u);
      u = kept;
    }
    w.sub_(u, o.lr);
  });
  next_step(state);
}

// --- Adagrad

void Adagrad::check(const AdagradOptions& o) {
  check_at_least_0("Adagrad", "lr", o.lr);
  check_at_least_0("Adagrad", "lr_decay", o.lr_decay);
  check_at_least_0("Adagrad", "weight_decay", o.weight_decay);
  check_at_least_0("Adagrad", "initial_accumulator_value", o.initial_accumulator_value);
  check_at_least_0("Adagrad", "eps", o.eps);
}
NamedTensors Adagrad::start(const AdagradOptions& o, const Tensor& p) const {
  return {{"step", zeros({})}, {"sum", full_like(state_like(p), o.initial_accumulator_value)}};
}
void Adagrad::update_one(const AdagradOptions& o, const Tensor& p, const Tensor& g_in,
                         NamedTensors& state, bool) {
  const int64_t step = next_step(state);
  step_tensor(p, [&](Tensor& w) {
    const Tensor g = penalised(g_in, w, o.maximize, o.weight_decay);
    Tensor sum = state.find("sum");
    sum.add_(square(g));
    w.sub_(g / (sqrt(sum) + o.eps), o.lr / (1 + static_cast<double>(step - 1) * o.lr_decay));
  });
}

// --- Lion

void Lion::check(const LionOptions& o) {
  check_at_least_0("Lion", "lr", o.lr);
  check_at_least_0("Lion", "weight_decay", o.weight_decay);
  DROPIN_CHECK(o.betas.size() == 2, OptionError, "Lion: betas has ", o.betas.size(),
               " values, expected 2");
  for (const double b : o.betas)
    DROPIN_CHECK(b >= 0 && b < 1, OptionError, "Lion: beta ", b, " is not in 0 <= beta < 1");
}
NamedTensors Lion::start(const LionOptions&, const Tensor& p) const {
  return {{"exp_avg", state_like(p)}};
}
void Lion::update_one(const LionOptions& o, const Tensor& p, const Tensor& g_in,
                      NamedTensors& state, bool) {
  step_tensor(p, [&](Tensor& w) {
    const Tensor g = penalised(g_in, w, o.maximize, 0), m = state.find("exp_avg");
    if (o.weight_decay != 0) w.mul_(1 - o.lr * o.weight_decay);
    w.sub_(sign(m * o.betas[0] + g * (1 - o.betas[0])), o.lr);
    average(m, g, o.betas[1]);
  });
}

// --- Muon

void Muon::check(const MuonOptions& o) {
  check_at_least_0("Muon", "lr", o.lr);
  check_at_least_0("Muon", "weight_decay", o.weight_decay);
  check_at_least_0("Muon", "momentum", o.momentum);
  check_at_least_0("Muon", "eps", o.eps);
  DROPIN_CHECK(o.ns_coefficients.size() == 3, OptionError, "Muon: ns_coefficients has ",
               o.ns_coefficients.size(), " values, expected 3");
  DROPIN_CHECK(o.ns_steps >= 0 && o.ns_steps < 100, OptionError, "Muon: ns_steps is ", o.ns_steps,
               ", expected 0 to 99");
  const std::string& f = o.adjust_lr_fn;
  DROPIN_CHECK(f == "original" || f == "match_rms_adamw" || f == "spectral_unclamped", OptionError,
               "Muon: adjust_lr_fn is \"", f,
               "\", expected original, match_rms_adamw or spectral_unclamped");
}
NamedTensors Muon::start(const MuonOptions&, const Tensor& p) const {
  return {{"momentum_buffer", state_like(p)}};
}

namespace {

/// Nearly U V^T of m = U S V^T [A, B].
Tensor orthogonal(const MuonOptions& o, const Tensor& m) {
  const bool tall = m.size(0) > m.size(1);
  Tensor x = tall ? m.t() : m;
  x = x / clamp_min(norm(x), o.eps);
  for (int64_t i = 0; i < o.ns_steps; ++i) {
    const Tensor gram = matmul(x, x.t()),
                 more = addmm(gram, gram, gram, o.ns_coefficients[1], o.ns_coefficients[2]);
    x = addmm(x, more, x, o.ns_coefficients[0]);
  }
  return tall ? x.t() : x;
}

double muon_factor(const std::string& name, const Tensor& m) {
  const auto rows = static_cast<double>(m.size(0)), columns = static_cast<double>(m.size(1));
  if (name == "original") return std::sqrt(std::max(1.0, rows / columns));
  if (name == "match_rms_adamw") return 0.2 * std::sqrt(std::max(rows, columns));
  return std::sqrt(rows / columns);
}

}  // namespace

void Muon::update_one(const MuonOptions& o, const Tensor& p, const Tensor& g_in,
                      NamedTensors& state, bool) {
  if (p.numel() == 0) return;
  step_tensor(p, [&](Tensor& w) {
    const Tensor g = g_in.to(w.dtype()), kept = state.find("momentum_buffer");
    average(kept, g, o.momentum);
    const Tensor m = o.nesterov ? g * (1 - o.momentum) + kept * o.momentum : kept;
    const Tensor matrix = m.reshape({m.dim() > 1 ? m.size(0) : 1, -1});
    w.mul_(1 - o.lr * o.weight_decay);
    w.sub_(orthogonal(o, matrix).reshape(w.sizes()), o.lr * muon_factor(o.adjust_lr_fn, matrix));
  });
}

// --- Adafactor

void Adafactor::check(const AdafactorOptions& o) {
  check_at_least_0("Adafactor", "lr", o.lr);
  check_at_least_0("Adafactor", "weight_decay", o.weight_decay);
  DROPIN_CHECK(o.beta2_decay <= 0, OptionError, "Adafactor: beta2_decay is ", o.beta2_decay,
               ", expected at most 0");
  DROPIN_CHECK(o.d >= 1, OptionError, "Adafactor: d is ", o.d, ", expected at least 1");
  const bool two = o.eps.is_array() && o.eps.size() == 2 &&
                   (o.eps[0].is_null() || o.eps[0].is_number()) && o.eps[1].is_number();
  DROPIN_CHECK(
      two && (o.eps[0].is_null() || o.eps[0].as_double() >= 0) && o.eps[1].as_double() >= 0,
      OptionError, "Adafactor: eps is ", o.eps.dump(),
      ", expected two numbers of at least 0, the first of which may be null");
}
NamedTensors Adafactor::start(const AdafactorOptions&, const Tensor& p) const {
  NamedTensors s{{"step", zeros({})}};
  if (p.dim() < 2) {
    s.set("variance", state_like(p));
    return s;
  }
  const TensorOptions like{step_dtype(p.dtype()), p.device()};
  Shape rows = p.sizes(), columns = p.sizes();
  rows[rows.size() - 1] = 1;
  columns[columns.size() - 2] = 1;
  s.set("row_var", zeros(rows, like));
  s.set("col_var", zeros(columns, like));
  return s;
}

namespace {

double root_mean_square(const Tensor& x) {
  return norm(x).item() / std::sqrt(static_cast<double>(x.numel()));
}

/// The mean squares of g's entries, moved on and put together.
Tensor factored_squares(const Tensor& g, NamedTensors& state, double share, double eps) {
  if (g.dim() < 2) {
    const Tensor v = state.find("variance");
    average(v, square(g), 1 - share);
    return v;
  }
  const Tensor rows = state.find("row_var"), columns = state.find("col_var"), squares = square(g);
  average(rows, squares.mean(-1, true), 1 - share);
  average(columns, squares.mean(-2, true), 1 - share);
  return matmul(rows, columns) / clamp_min(rows.mean(-2, true), eps);
}

}  // namespace

void Adafactor::update_one(const AdafactorOptions& o, const Tensor& p, const Tensor& g_in,
                           NamedTensors& state, bool) {
  const auto step = static_cast<double>(next_step(state));
  if (p.numel() == 0) return;
  step_tensor(p, [&](Tensor& w) {
    const double eps = !o.eps[0].is_null()     ? o.eps[0].as_double()
                       : w.dtype() == kFloat64 ? std::numeric_limits<double>::epsilon()
                                               : std::numeric_limits<float>::epsilon();
    const double rate =
        std::max(o.eps[1].as_double(), root_mean_square(w)) * std::min(o.lr, 1 / std::sqrt(step));
    const Tensor g = penalised(g_in, w, o.maximize, 0);
    const Tensor v = factored_squares(g, state, std::pow(step, o.beta2_decay), eps);
    const Tensor u = rsqrt(clamp_min(v, eps * eps)) * g;
    if (o.weight_decay != 0) w.mul_(1 - o.lr * o.weight_decay);
    w.sub_(u, rate / std::max(1.0, root_mean_square(u) / o.d));
  });
}

}  // namespace dropin
