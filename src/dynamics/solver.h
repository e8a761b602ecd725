// Solvers of du/dt = f(u, t): pairs of explicit Runge-Kutta methods, fixed and adaptive steps.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "dropin/ops/ops.h"

namespace dropin::dynamics {

using Field = std::function<Tensor(const Tensor& u, double t)>;

/// Seven stages, the last of which is the first of the next step. next = u + h sum a[6][i] k_i,
/// error = h sum e[i] k_i.
struct Pair {
  double c[7], a[7][6], e[7];
};
const Pair& tsit5();
const Pair& dopri5();

struct PairStep {
  Tensor next, error;
  Tensor k6, k7, g6;  ///< the last two stages, and where the one before the last was taken
};
/// u + sum h weights[i] ks[i].
Tensor combined(const Tensor& u, const Tensors& ks, const double* weights, double h);
/// One step from u, whose k_1 = f(u, t) is given.
PairStep step(const Pair& pair, const Field& f, const Tensor& u, double t, double h,
              const Tensor& k1);

struct Tolerance {
  double atol, rtol;
};
/// The root mean square of error over atol + rtol max(|u|, |next|).
Tensor error_norm(const Tensor& error, const Tensor& u, const Tensor& next, const Tolerance& tol);
/// The size of a first step from u at t, f0 = f(u, t), of at most |span|, with span's sign.
double first_step(const Field& f, const Tensor& u, double t, const Tensor& f0, double span,
                  const Tolerance& tol);

struct SolveOptions {
  std::string solver = "tsit5";
  bool adaptive = true;
  double dt = 0;
  Tolerance tolerance{1e-6, 1e-6};
  int64_t max_steps = 1000;
};
/// Accepted steps: state i at times[i], detached.
struct Trajectory {
  Tensors saved;              ///< recorded, at each asked time
  std::vector<double> times;  ///< from t0 to t1
  Tensors states;
};
/// From u at t0 to t1 (either direction), saving at `stops`, which are sorted in that direction
/// and end with t1. StateError when it takes more than max_steps or its steps vanish.
Trajectory solve(const Field& f, const Tensor& u, double t0, const std::vector<double>& stops,
                 const SolveOptions& o);
/// One step of size h by the named solver.
Tensor advance(const std::string& solver, const Field& f, const Tensor& u, double t, double h);

/// How many steps of dt there are, and where step i begins; the last may be shorter.
int64_t fixed_steps(double t0, double t1, double dt);

}  // namespace dropin::dynamics
