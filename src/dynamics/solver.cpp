#include "dynamics/solver.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/hd.h"

namespace dropin::dynamics {

const Pair& tsit5() {
  static const Pair pair{
      {0, 0.161, 0.327, 0.9, 0.9800255409045097, 1, 1},
      {{},
       {0.161},
       {-0.008480655492356989, 0.335480655492357},
       {2.8971530571054935, -6.359448489975075, 4.3622954328695815},
       {5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525},
       {5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401,
        -0.028269050394068383},
       {0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081,
        2.324710524099774}},
      {-0.00178001105222577714, -0.0008164344596567469, 0.007880878010261995, -0.1447110071732629,
       0.5823571654525552, -0.45808210592918697, 1.0 / 66}};
  return pair;
}

const Pair& dopri5() {
  static const Pair pair{
      {0, 1.0 / 5, 3.0 / 10, 4.0 / 5, 8.0 / 9, 1, 1},
      {{},
       {1.0 / 5},
       {3.0 / 40, 9.0 / 40},
       {44.0 / 45, -56.0 / 15, 32.0 / 9},
       {19372.0 / 6561, -25360.0 / 2187, 64448.0 / 6561, -212.0 / 729},
       {9017.0 / 3168, -355.0 / 33, 46732.0 / 5247, 49.0 / 176, -5103.0 / 18656},
       {35.0 / 384, 0, 500.0 / 1113, 125.0 / 192, -2187.0 / 6784, 11.0 / 84}},
      {71.0 / 57600, 0, -71.0 / 16695, 71.0 / 1920, -17253.0 / 339200, 22.0 / 525, -1.0 / 40}};
  return pair;
}

Tensor combined(const Tensor& u, const Tensors& ks, const double* weights, double h) {
  Tensor sum;
  for (std::size_t i = 0; i < ks.size(); ++i) {
    if (weights[i] == 0) continue;
    sum = sum.defined() ? add(sum, ks[i], h * weights[i]) : ks[i] * (h * weights[i]);
  }
  if (!sum.defined()) return u;
  return u.defined() ? u + sum : sum;
}

PairStep step(const Pair& pair, const Field& f, const Tensor& u, double t, double h,
              const Tensor& k1) {
  Tensors ks{k1};
  PairStep r;
  for (std::size_t i = 1; i < 7; ++i) {
    const Tensor g = combined(u, ks, pair.a[i], h);
    if (i == 5) r.g6 = g;
    if (i == 6) r.next = g;
    ks.push_back(f(g, t + pair.c[i] * h));
  }
  r.k6 = ks[5], r.k7 = ks[6];
  r.error = combined({}, ks, pair.e, h);
  return r;
}

Tensor error_norm(const Tensor& error, const Tensor& u, const Tensor& next, const Tolerance& tol) {
  const Tensor scale = maximum(abs(u), abs(next)) * tol.rtol + tol.atol;
  return norm(error / scale) *
         (1 / std::sqrt(static_cast<double>(std::max<int64_t>(1, u.numel()))));
}

double first_step(const Field& f, const Tensor& u, double t, const Tensor& f0, double span,
                  const Tolerance& tol) {
  no_grad guard;
  const Tensor scale = abs(u) * tol.rtol + tol.atol;
  auto size = [&](const Tensor& x) {
    return norm(x / scale).item() / std::sqrt(static_cast<double>(std::max<int64_t>(1, u.numel())));
  };
  const double most = std::abs(span), way = span < 0 ? -1 : 1;
  const double d0 = size(u), d1 = size(f0);
  const double h0 = std::min(d0 < 1e-5 || d1 < 1e-5 ? 1e-6 : 0.01 * d0 / d1, most);
  const Tensor f1 = f(add(u, f0, way * h0), t + way * h0);
  const double d2 = size(f1 - f0) / h0, m = std::max(d1, d2);
  const double h1 = m <= 1e-15 ? std::max(1e-6, 1e-3 * h0) : std::pow(0.01 / m, 0.2);
  return way * std::min({100 * h0, h1, most});
}

int64_t fixed_steps(double t0, double t1, double dt) {
  return static_cast<int64_t>(std::ceil(std::abs(t1 - t0) / dt - 1e-9));
}

Tensor advance(const std::string& solver, const Field& f, const Tensor& u, double t, double h) {
  const Tensor k1 = f(u, t);
  if (solver == "euler") return add(u, k1, h);
  if (solver == "rk4") {
    const Tensor k2 = f(add(u, k1, h / 2), t + h / 2), k3 = f(add(u, k2, h / 2), t + h / 2),
                 k4 = f(add(u, k3, h), t + h);
    const double weights[] = {1.0 / 6, 1.0 / 3, 1.0 / 3, 1.0 / 6};
    return combined(u, {k1, k2, k3, k4}, weights, h);
  }
  return step(solver == "dopri5" ? dopri5() : tsit5(), f, u, t, h, k1).next;
}

namespace {

// Fixed steps; a time between two of them is reached by a shorter step aside.
Trajectory solve_fixed(const Field& f, const Tensor& u0, double t0,
                       const std::vector<double>& stops, const SolveOptions& o) {
  const double t1 = stops.back(), way = t1 < t0 ? -1 : 1;
  const int64_t n = fixed_steps(t0, t1, o.dt);
  Trajectory r{{}, {t0}, {u0.detach()}};
  Tensor u = u0;
  std::size_t next = 0;
  const bool pair = o.solver == "tsit5" || o.solver == "dopri5";
  Tensor k1;  // of a pair: the last stage of the step before
  for (int64_t i = 0; i < n; ++i) {
    const double t = t0 + way * static_cast<double>(i) * o.dt,
                 end = i + 1 == n ? t1 : t0 + way * static_cast<double>(i + 1) * o.dt;
    for (; next < stops.size() && way * (end - stops[next]) > 1e-9 * std::abs(end - t); ++next) {
      const bool here = way * (stops[next] - t) <= 1e-9 * std::abs(end - t);
      r.saved.push_back(here ? u : advance(o.solver, f, u, t, stops[next] - t));
    }
    if (pair) {
      const PairStep s = step(o.solver == "dopri5" ? dopri5() : tsit5(), f, u, t, end - t,
                              k1.defined() ? k1 : f(u, t));
      u = s.next, k1 = s.k7;
    } else {
      u = advance(o.solver, f, u, t, end - t);
    }
    r.times.push_back(end);
    r.states.push_back(u.detach());
  }
  for (; next < stops.size(); ++next) r.saved.push_back(u);
  return r;
}

}  // namespace

Trajectory solve(const Field& f, const Tensor& u0, double t0, const std::vector<double>& stops,
                 const SolveOptions& o) {
  if (!o.adaptive) return solve_fixed(f, u0, t0, stops, o);
  const Pair& pair = o.solver == "dopri5" ? dopri5() : tsit5();
  Trajectory r{{}, {t0}, {u0.detach()}};
  double t = t0, h = 0;
  Tensor u = u0, k1;
  int64_t attempts = 0;
  for (const double stop : stops) {
    while (t != stop) {
      if (!k1.defined()) {
        k1 = f(u, t);
        h = std::abs(first_step(f, u.detach(), t, k1.detach(), stops.back() - t, o.tolerance));
      }
      if (++attempts > o.max_steps)
        fail<StateError>({"NeuralODE: ", o.max_steps, " steps reach only t = ", t, " of ",
                          stops.back(), "; allow more by max_steps, or a larger tolerance"});
      const double left = std::abs(stop - t), way = stop < t ? -1 : 1;
      const bool arrives = h >= left * (1 - 1e-12);
      const double now = arrives ? left : h;
      const PairStep s = step(pair, f, u, t, way * now, k1);
      double e;
      {
        no_grad guard;
        e = error_norm(s.error.detach(), u.detach(), s.next.detach(), o.tolerance).item();
      }
      const double factor =
          std::isfinite(e) ? std::clamp(e > 0 ? 0.9 * std::pow(e, -0.2) : 10.0, 0.2, 10.0) : 0.2;
      if (std::isfinite(e) && e <= 1) {
        t = arrives ? stop : t + way * now;
        u = s.next, k1 = s.k7;
        r.times.push_back(t);
        r.states.push_back(u.detach());
        h = arrives ? std::max(h, now * factor) : now * factor;
        continue;
      }
      h = now * std::min(factor, 0.9);
      const double least = 16 * std::numeric_limits<double>::epsilon() *
                           std::max({std::abs(t), std::abs(t0), std::abs(stops.back())});
      if (!(h >= least))
        fail<StateError>({"NeuralODE: the step at t = ", t, " has become ", h,
                          " without reaching the tolerance; the field may not be finite there"});
    }
    r.saved.push_back(u);
  }
  return r;
}

}  // namespace dropin::dynamics
