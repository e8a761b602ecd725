// Glossary: L the projected gradient, P and Q the bases of the left and the right side.
#include "dropin/optimizer/galore.h"

#include <algorithm>
#include <cmath>

#include "dropin/ops/elementwise.h"
#include "dropin/ops/linalg.h"
#include "dropin/ops/matmul.h"
#include "dropin/ops/reduce.h"
#include "dropin/ops/shape.h"
#include "optimizer/common.h"

namespace dropin::detail {

void check_galore(const GaLoreRule& rule, const GaLoreAdamWOptions& o) {
  const char* who = rule.who;
  DROPIN_CHECK(o.lr >= 0, OptionError, who, ": lr is ", o.lr, ", expected at least 0");
  DROPIN_CHECK(o.betas.size() == 2, OptionError, who, ": betas has ", o.betas.size(),
               " values, expected 2");
  for (const double b : o.betas)
    DROPIN_CHECK(b >= 0 && b < 1, OptionError, who, ": beta ", b, " is not in 0 <= beta < 1");
  DROPIN_CHECK(o.eps >= 0, OptionError, who, ": eps is ", o.eps, ", expected at least 0");
  DROPIN_CHECK(o.weight_decay >= 0, OptionError, who, ": weight_decay is ", o.weight_decay,
               ", expected at least 0");
  DROPIN_CHECK(o.rank >= 0, OptionError, who, ": rank is ", o.rank, ", expected at least 0");
  DROPIN_CHECK(o.update_proj_gap >= 1, OptionError, who, ": update_proj_gap is ", o.update_proj_gap,
               ", expected at least 1");
  const char* const kinds[] = {"std", "reverse_std", "left", "right", "full"};
  DROPIN_CHECK(std::find(std::begin(kinds), std::end(kinds), o.proj_type) != std::end(kinds),
               OptionError, who, ": proj_type is \"", o.proj_type,
               "\", expected std, reverse_std, left, right or full");
  DROPIN_CHECK(o.svd == "exact" || o.svd == "randomized", OptionError, who, ": svd is \"", o.svd,
               "\", expected exact or randomized");
  if (!rule.natural) return;
  DROPIN_CHECK(rule.history >= 1, OptionError, who, ": natural_history is ", rule.history,
               ", expected at least 1");
  DROPIN_CHECK(rule.damping > 0, OptionError, who, ": damping is ", rule.damping,
               ", expected a positive number");
}

namespace {

// Which sides a parameter [m, n] is compressed on.
struct GaLoreSides {
  bool left, right;
};
GaLoreSides sides_of(const GaLoreAdamWOptions& o, const Tensor& p) {
  const bool tall = p.size(0) >= p.size(1);
  if (o.proj_type == "full") return {true, true};
  if (o.proj_type == "left") return {true, false};
  if (o.proj_type == "right") return {false, true};
  const bool right = o.proj_type == "std" ? tall : !tall;
  return {!right, right};
}
int64_t rank_of(const GaLoreAdamWOptions& o, const Tensor& p) {
  return std::min({o.rank, p.size(0), p.size(1)});
}
bool refresh_due(const GaLoreAdamWOptions& o, const NamedTensors& state, bool asked) {
  const auto done = static_cast<int64_t>(state.find("step").item());
  return asked || done % o.update_proj_gap == 0;
}

// Each column's entry of largest magnitude, the first on ties, becomes positive.
Tensor signed_columns(const Tensor& v) {
  const Tensor top = gather(v, 0, argmax(abs(v), 0, true));
  return v * where(top < 0.0, -1.0, ones_like(top));
}

// The r leading singular vectors of g [m, n], in float64: U [m, r] and V [n, r]. Decompositions are
// the CPU's.
std::pair<Tensor, Tensor> leading(const Tensor& g_in, int64_t r, bool exact, std::uint64_t seed) {
  const Tensor g = g_in.to(kCPU);
  const int64_t m = g.size(0), n = g.size(1);
  if (amax(abs(g)).item() == 0) return {eye(m, r, g_in.options()), eye(n, r, g_in.options())};
  const int64_t sketch = r + 8;
  Tensor basis;
  if (!exact && sketch < std::min(m, n)) {
    Generator random(seed);
    const Tensor start = randn({n, sketch}, g.dtype(), &random);
    basis = qr(matmul(g, start)).Q;
    for (int i = 0; i < 2; ++i) basis = qr(matmul(g, qr(matmul(g.mT(), basis)).Q)).Q;
  }
  const SVD s = svd(basis.defined() ? matmul(basis.mT(), g) : g);
  const Tensor u = basis.defined() ? matmul(basis, s.U) : s.U;
  return {signed_columns(u.narrow(1, 0, r)).to(g_in.device()),
          signed_columns(s.Vh.narrow(0, 0, r).mT()).to(g_in.device())};
}

// (damping I + H^T H)^{-1} of the rows H of the history, applied to the last: H's last row moves
// by the inverse of damping I + sum h h^T.
Tensor natural(const GaLoreRule& rule, const Tensor& core, NamedTensors& state) {
  const Tensor row = core.reshape({1, core.numel()}), old = state.find("history");
  const int64_t kept = std::min(old.size(0), rule.history - 1);
  const Tensor history = concat({old.narrow(0, old.size(0) - kept, kept), row});
  state.set("history", history);
  const Tensor wide = history.to(kFloat64);
  const int64_t k = history.size(0);
  const Tensor gram = matmul(wide, wide.mT()) + eye(k, k, wide.options()) * rule.damping;
  Tensor last = zeros({k, 1}, wide.options());
  last[k - 1].fill_(1);
  const Tensor weights = solve(gram.to(kCPU), last.to(kCPU)).to(core.device());
  return matmul(weights.mT(), wide).to(core.dtype()).reshape(core.sizes());
}

// What Adam makes of L, times its step size.
Tensor adam_direction(const GaLoreAdamWOptions& o, const Tensor& core, const NamedTensors& state,
                      double step) {
  Tensor m = state.find("exp_avg"), v = state.find("exp_avg_sq");
  m.mul_(o.betas[0]).add_(core, 1 - o.betas[0]);
  v.mul_(o.betas[1]).add_(square(core), 1 - o.betas[1]);
  const double size = o.correct_bias ? o.lr * std::sqrt(1 - std::pow(o.betas[1], step)) /
                                           (1 - std::pow(o.betas[0], step))
                                     : o.lr;
  return m / (sqrt(v) + o.eps) * size;
}

}  // namespace

bool galore_projects(const GaLoreAdamWOptions& o, const Tensor& p, std::size_t number) {
  if (p.dim() != 2 || o.rank == 0 || p.numel() == 0) return false;
  if (!o.galore_params) return true;
  const auto& chosen = *o.galore_params;
  return std::find(chosen.begin(), chosen.end(), static_cast<int64_t>(number)) != chosen.end();
}

NamedTensors galore_start(const GaLoreRule& rule, const GaLoreAdamWOptions& o, const Tensor& p,
                          std::size_t number) {
  const TensorOptions like{step_dtype(p.dtype()), p.device()};
  NamedTensors state{{"step", zeros({}, kFloat32)}};
  Shape core = p.sizes();
  if (galore_projects(o, p, number)) {
    const GaLoreSides sides = sides_of(o, p);
    const int64_t r = rank_of(o, p);
    if (sides.left) {
      state.set("proj.P", zeros({p.size(0), r}, like));
      core[0] = r;
    }
    if (sides.right) {
      state.set("proj.Q", zeros({p.size(1), r}, like));
      core[1] = r;
    }
    if (rule.natural) state.set("history", zeros({0, core.numel()}, like));
  }
  state.set("exp_avg", zeros(core, like));
  state.set("exp_avg_sq", zeros(core, like));
  return state;
}

void check_galore_gradient(const GaLoreRule& rule, const GaLoreAdamWOptions& o, const Tensor& p,
                           const Tensor& g, const NamedTensors& state, std::size_t number,
                           bool asked) {
  if (!galore_projects(o, p, number)) return;
  DROPIN_CHECK(g.sizes() == p.sizes(), ShapeError, rule.who, ": the gradient of parameter ", number,
               " is ", g.sizes(), ", expected ", p.sizes());
  if (state.size() > 0 && !refresh_due(o, state, asked)) return;
  DROPIN_CHECK(all(isfinite(g)).item<bool>(), StateError, rule.who, ": the gradient of parameter ",
               number, " is not finite, and a new subspace is due; expected finite numbers");
}

void check_history(const GaLoreRule& rule, std::size_t i, const Tensor& history,
                   const NamedTensors& first) {
  const Tensor want = first.find("history");
  DROPIN_CHECK(want.defined(), StateError, rule.who, ": state.", i,
               ".history is there, but the parameter is not projected");
  DROPIN_CHECK(history.dim() == 2 && history.size(1) == want.size(1) &&
                   history.size(0) <= rule.history && is_floating(history.dtype()),
               StateError, rule.who, ": state.", i, ".history is ", history.dtype(), " ",
               history.sizes(), ", expected floats [at most ", rule.history, ", ", want.size(1),
               "]");
}

void galore_step(const GaLoreRule& rule, const GaLoreAdamWOptions& o, const Tensor& p,
                 const Tensor& g_in, NamedTensors& state, std::size_t number, bool asked) {
  const DType dtype = step_dtype(p.dtype());
  const Tensor g = g_in.to(dtype);
  const bool projected = galore_projects(o, p, number);
  Tensor left = state.find("proj.P"), right = state.find("proj.Q"), count = state.find("step");
  if (projected && refresh_due(o, state, asked)) {
    const auto [u, v] = leading(g.to(kFloat64), rank_of(o, p), o.svd == "exact",
                                static_cast<std::uint64_t>(count.item()) * 1000003 + number);
    if (left.defined()) left.copy_(u);
    if (right.defined()) right.copy_(v);
  }
  Tensor core = g;
  if (left.defined()) core = matmul(left.mT(), core);
  if (right.defined()) core = matmul(core, right);
  if (projected && rule.natural) core = natural(rule, core, state);
  count.fill_(count.item() + 1);
  Tensor move = adam_direction(o, core, state, count.item());
  if (left.defined()) move = matmul(left, move);
  if (right.defined()) move = matmul(move, right.mT());
  update_as(dtype, p, [&](Tensor w) {
    w.add_(move, projected ? -o.scale : -1.0);
    if (o.weight_decay != 0) w.mul_(1 - o.lr * o.weight_decay);
  });
}

}  // namespace dropin::detail
