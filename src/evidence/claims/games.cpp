#include <fmt/format.h>

#include <cmath>

#include "dropin/optimizer/complex_momentum.h"
#include "dropin/optimizer/game.h"
#include "dropin/optimizer/runge_kutta.h"
#include "evidence/claims.h"
#include "evidence/claims/tensors.h"

namespace dropin::evidence {
namespace {

// The distance from the equilibrium after some rounds of two players of one number each.
template <class Make>
double played(const Tensor& m, const char* mode, int64_t rounds, Make make) {
  LinearGameOptions o;
  o.players = {1, 1};
  o.mode = mode;
  o.steps = rounds;
  const LinearGameResult r =
      linear_game_rollout(m, zeros({2}, kFloat64), ones({2}, kFloat64), o,
                          [&](const Tensors& p, const Json&) { return Box<Optimizer>(make(p)); });
  return r.distance[rounds - 1].item();
}

// ComplexMomentum: x y, of which one player wants less and the other more

void turning(Findings& f, const ClaimData&) {
  const Tensor game = tensor({0, 1, -1, 0}, {2, 2}, kFloat64);
  auto momentum = [&](double size, double argument, const char* mode, int64_t rounds) {
    return played(game, mode, rounds, [&](const Tensors& p) {
      return new ComplexMomentum(p, {.lr = 0.1, .beta_abs = size, .beta_arg = argument});
    });
  };
  constexpr double kPi = 3.141592653589793;
  for (const char* mode : {"simultaneous", "alternating"}) {
    f.below(fmt::format("{}, 500 rounds, 0.9 exp(i pi / 4): distance", mode),
            momentum(0.9, kPi / 4, mode, 500), 0.02);
    f.above(fmt::format("{}, 500 rounds, 0.9", mode), momentum(0.9, 0, mode, 500), 1e30);
  }
  f.above("simultaneous, without momentum", momentum(0, 0, "simultaneous", 500), 10);
  f.above("simultaneous, -0.5", momentum(0.5, kPi, "simultaneous", 500), 1.9);
  f.below("alternating, -0.5: on this game as good a choice",
          momentum(0.5, kPi, "alternating", 500), 1);
  double best = 0;
  for (const double size : {0.1, 0.3, 0.5, 0.7, 0.9})
    best = std::max(best, 1 / momentum(size, 0, "simultaneous", 200));
  f.below("simultaneous, any positive momentum, 200 rounds: 1 / distance", best, 0.3);
}

// RungeKuttaOptimizer: a rotation that is hardly damped

void stability(Findings& f, const ClaimData&) {
  const Tensor game = tensor({0.05, 1, -1, 0.05}, {2, 2}, kFloat64);
  auto after = [&](const char* method, double lr, int64_t steps) {
    return played(game, "simultaneous", steps, [&](const Tensors& p) {
      return new RungeKuttaOptimizer(p, {.lr = lr, .method = method});
    });
  };
  f.above("200 steps at 0.2: distance by gradient descent", after("euler", 0.2, 200), 10);
  f.near("  by rk2", after("rk2", 0.2, 200), 0.191, 1e-3);
  f.near("200 steps at 0.5: by rk2", after("rk2", 0.5, 200), 0.0256, 1e-4);
  f.near("  by rk4", after("rk4", 0.5, 200), 0.00944, 1e-5);
  f.below("200 gradients: rk4 at 2", after("rk4", 2, 50), 1e-8);
  f.below("  rk2 at 0.5", after("rk2", 0.5, 100), 0.2);
  double descent = 10;
  for (const double lr : {0.01, 0.02, 0.03, 0.04, 0.05, 0.06})
    descent = std::min(descent, after("euler", lr, 200));
  f.above("  gradient descent at the best of six rates", descent, 1);
}

}  // namespace

void game_claims(Claims& all) {
  all.push_back({{"ComplexMomentum"},
                 "",
                 "complex momentum converges on games where positive momentum turns away",
                 "proof for bilinear zero-sum games",
                 turning,
                 ""});
  all.push_back({{"RungeKuttaOptimizer"},
                 "",
                 "steps of higher order stay stable at rates where descent turns away",
                 "up to 3.5 % better accuracy in half the iterations",
                 stability,
                 ""});
}

}  // namespace dropin::evidence
