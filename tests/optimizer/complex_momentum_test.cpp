#include "dropin/optimizer/complex_momentum.h"

#include <cmath>
#include <numbers>

#include "dropin/optimizer/game.h"
#include "dropin/optimizer/runge_kutta.h"
#include "dropin/registry/registry.h"
#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

Tensor leaf(std::uint64_t seed, DType dtype = kFloat64) {
  return random({3, 4}, dtype, seed).requires_grad_();
}
template <class A, class B>
double apart_after(A& a, const Tensor& p, B& b, const Tensor& q, int steps) {
  for (int i = 0; i < steps; ++i) {
    const Tensor g = random({3, 4}, kFloat64, static_cast<std::uint64_t>(20 + i));
    p.set_grad(g.clone());
    q.set_grad(g.clone());
    a.step();
    b.step();
  }
  return max_difference(p, q);
}

TEST(ComplexMomentum, WithoutArgumentItIsSgd) {
  const Tensor p = leaf(1), q = leaf(1);
  ComplexMomentum mine({p}, {.lr = 0.1, .beta_abs = 0.8, .beta_arg = 0, .weight_decay = 0.05});
  SGD other({q}, {.lr = 0.1, .momentum = 0.8, .weight_decay = 0.05});
  EXPECT_LT(apart_after(mine, p, other, q, 6), 1e-12);
}

TEST(ComplexMomentum, WeighsOldGradientsByTheCosine) {
  Tensor p = zeros({1}, kFloat64).requires_grad_();
  ComplexMomentum o({p}, {.lr = 0.1, .lr_imag = 0.05, .beta_abs = 0.7, .beta_arg = 0.9});
  double before = 0;
  for (int k = 0; k < 6; ++k) {
    p.set_grad(full({1}, k == 0 ? 1.0 : 0.0, kFloat64));
    o.step();
    const double moved = p.item() - before, size = std::pow(0.7, k);
    EXPECT_NEAR(moved, -size * (0.1 * std::cos(0.9 * k) - 0.05 * std::sin(0.9 * k)), 1e-12) << k;
    before = p.item();
  }
}

TEST(ComplexAdam, WithoutArgumentItIsAdam) {
  const Tensor p = leaf(1), q = leaf(1);
  ComplexAdam mine({p}, {.beta1_arg = 0, .weight_decay = 0.1});
  Adam other({q}, {.weight_decay = 0.1});
  EXPECT_LT(apart_after(mine, p, other, q, 6), 1e-12);
  const Tensor r = leaf(2), s = leaf(2);
  ComplexAdam decoupled({r}, {.beta1_arg = 0, .weight_decay = 0.1, .decoupled_weight_decay = true});
  AdamW decays({s}, {.weight_decay = 0.1});
  EXPECT_LT(apart_after(decoupled, r, decays, s, 6), 1e-12);
}

double distance(const char* optimizer, const char* mode, int64_t rounds) {
  LinearGameOptions o;
  o.players = {1, 1};
  o.mode = mode;
  o.steps = rounds;
  const Json spec = Json::parse(optimizer);
  const LinearGameResult r = linear_game_rollout(
      tensor({0, 1, -1, 0}, {2, 2}, kFloat64), zeros({2}, kFloat64), ones({2}, kFloat64), o,
      [&](const Tensors& p, const Json&) {
        return make_optimizer(spec.find("name")->as_string(), p, *spec.find("options"));
      });
  return r.distance[rounds - 1].item();
}

TEST(ComplexMomentum, ConvergesWherePositiveMomentumTurnsAway) {
  const char* complex =
      R"({"name": "ComplexMomentum", "options": {"lr": 0.1, "beta_abs": 0.9, "beta_arg": 0.7853981633974483}})";
  EXPECT_NEAR(distance(complex, "simultaneous", 100), 0.585, 5e-4);
  EXPECT_NEAR(distance(complex, "simultaneous", 500), 0.0169, 5e-5);
  EXPECT_NEAR(distance(complex, "alternating", 500), 0.0058, 5e-5);
  const char* positive = R"({"name": "SGD", "options": {"lr": 0.1, "momentum": 0.9}})";
  EXPECT_NEAR(distance(positive, "simultaneous", 100) / 6.2e7, 1, 0.01);
  const char* none = R"({"name": "SGD", "options": {"lr": 0.1}})";
  EXPECT_NEAR(distance(none, "simultaneous", 200), 3.825, 5e-4);
  EXPECT_NEAR(distance(none, "alternating", 200), 1.356, 5e-4);
}

TEST(ComplexMomentum, RefusesWhatDoesNotFitInWords) {
  const Tensor p = leaf(1);
  EXPECT_ERROR(ComplexMomentum({p}, {.beta_abs = 1}), OptionError, "beta_abs is 1");
  EXPECT_ERROR(ComplexMomentum({p}, {.lr = -1}), OptionError, "lr is -1");
  EXPECT_ERROR(ComplexAdam({p}, {.beta2 = 1}), OptionError, "beta2 is 1");
  EXPECT_ERROR(ComplexAdam({p}, {.eps = -1}), OptionError, "eps is -1");
  EXPECT_ERROR(ComplexAdam({}, {}), OptionError, "no parameters");
}

TEST(Game, PlaysAsTheLinearRolloutDoes) {
  for (const char* mode : {"simultaneous", "alternating"}) {
    Tensor x = ones({1}, kFloat64).requires_grad_(), y = ones({1}, kFloat64).requires_grad_();
    ComplexMomentum a({x}, {.lr = 0.1}), b({y}, {.lr = 0.1});
    Game game;
    game.add_player(
        "x", {x}, [&] { return sum(x * y); }, a);
    game.add_player(
        "y", {y}, [&] { return -sum(x * y); }, b);
    for (int i = 0; i < 50; ++i) game.step(mode);
    const char* spec = R"({"name": "ComplexMomentum", "options": {"lr": 0.1}})";
    EXPECT_NEAR(norm(concat({x.detach(), y.detach()})).item(), distance(spec, mode, 50), 1e-12);
  }
}

TEST(Game, RefusesSharedParametersAndSilentPlayers) {
  Tensor x = ones({1}).requires_grad_(), y = ones({1}).requires_grad_();
  SGD a({x}, {.lr = 0.1}), b({y}, {.lr = 0.1});
  RungeKuttaOptimizer whole({y}, {});
  Game game;
  EXPECT_ERROR(game.step(), StateError, "no players");
  game.add_player(
      "one", {x}, [&] { return sum(x); }, a);
  EXPECT_ERROR(game.add_player(
                   "two", {x}, [&] { return sum(x); }, a),
               OptionError, "parameter 0 of player \"two\" is one of player \"one\"");
  EXPECT_ERROR(game.add_player(
                   "one", {y}, [&] { return sum(y); }, b),
               OptionError, "already");
  EXPECT_ERROR(game.add_player(
                   "two", {y}, [&] { return sum(y); }, a),
               OptionError, "not held");
  EXPECT_ERROR(game.add_player(
                   "two", {y}, [&] { return sum(y); }, whole),
               OptionError, "takes 2 gradients");
  game.add_player(
      "two", {y}, [&] { return sum(x); }, b);
  EXPECT_ERROR(game.step(), AutogradError, "player \"two\" gives no gradient");
  EXPECT_EQ(x.item(), 1) << "nobody has moved";
  EXPECT_ERROR(game.step("at once"), OptionError, "mode is \"at once\"");
}

}  // namespace
}  // namespace dropin
