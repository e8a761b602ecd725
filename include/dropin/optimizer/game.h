// Games: several players, each with parameters, a loss and an optimizer of its own.
#pragma once
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "dropin/optimizer/optimizer.h"

namespace dropin {

/// Differentiable games, as GANs are. Optimizers stay the caller's and must live as long.
class Game {
 public:
  /// loss() computes the player's loss, a scalar, from the parameters as they are now. OptionError
  /// on a name or a parameter that another player has, on a parameter that `optimizer` does not
  /// hold, and on an optimizer that needs several gradients for a step.
  void add_player(std::string name, const Tensors& params, std::function<Tensor()> loss,
                  Optimizer& optimizer);
  /// One round. "simultaneous": all gradients at the same point, then every player steps.
  /// "alternating": player after player, each sees the new parameters of those before. A loss gives
  /// gradients to its player's parameters only. Returns the losses. AutogradError naming a player
  /// whose loss depends on none of its parameters; in simultaneous play, nothing has moved then.
  Tensors step(std::string_view mode = "simultaneous");
  /// Players, in order.
  std::vector<std::string> players() const;

 private:
  struct Player {
    std::string name;
    Tensors params;
    std::function<Tensor()> loss;
    Optimizer* optimizer;
  };
  /// The player's loss and gradients.
  static std::pair<Tensor, Tensors> gradients(const Player& p);
  static void move(const Player& p, const Tensors& gradients);
  std::vector<Player> players_;
};

struct LinearGameOptions {
  Json optimizer = Json::parse(R"({"name": "SGD", "lr": 0.1})");
  std::vector<int64_t> players = {};
  std::string mode = "simultaneous";
  int64_t steps = 1;
  static void fields(auto&& f) {
    using O = LinearGameOptions;
    f("optimizer", &O::optimizer, "an optimizer's name and options");
    f("players", &O::players, "how many of the parameters each player has; empty: one has all");
    f("mode", &O::mode, "simultaneous or alternating");
    f("steps", &O::steps, "rounds");
  }
};
struct LinearGameResult {
  Tensor y;         ///< [n]: where the players end
  Tensor distance;  ///< [steps]: from 0, after each round
};
/// A game whose joint gradient at w is M w + b, player after player. M [n, n], b and w [n].
/// make(params, options) makes the optimizer of some parameters; one that needs several gradients
/// for a step plays for all at once.
LinearGameResult linear_game_rollout(
    const Tensor& M, const Tensor& b, const Tensor& w, const LinearGameOptions& o,
    const std::function<Box<Optimizer>(const Tensors&, const Json&)>& make);

}  // namespace dropin
