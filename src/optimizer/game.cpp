#include "dropin/optimizer/game.h"

#include "dropin/ops/matmul.h"
#include "dropin/ops/reduce.h"
#include "dropin/ops/shape.h"

namespace dropin {

namespace {
void check_mode(std::string_view who, std::string_view mode) {
  DROPIN_CHECK(mode == "simultaneous" || mode == "alternating", OptionError, who, ": mode is \"",
               mode, "\", expected simultaneous or alternating");
}
bool has(const Tensors& list, const Tensor& t) {
  for (const Tensor& x : list)
    if (x.is_same(t)) return true;
  return false;
}
}  // namespace

void Game::add_player(std::string name, const Tensors& params, std::function<Tensor()> loss,
                      Optimizer& optimizer) {
  DROPIN_CHECK(!params.empty() && loss, OptionError, "Game: player \"", name,
               "\" has no parameters or no loss, expected both");
  DROPIN_CHECK(optimizer.stages() == 1, OptionError, "Game: player \"", name,
               "\": ", optimizer.type(), " takes ", optimizer.stages(),
               " gradients for a step, expected 1; it can play for all at once only");
  Tensors held;
  for (const ParamGroup& g : optimizer.param_groups())
    held.insert(held.end(), g.params.begin(), g.params.end());
  for (const Player& p : players_)
    DROPIN_CHECK(p.name != name, OptionError, "Game: there is a player \"", name, "\" already");
  for (std::size_t i = 0; i < params.size(); ++i) {
    for (const Player& p : players_)
      DROPIN_CHECK(!has(p.params, params[i]), OptionError, "Game: parameter ", i, " of player \"",
                   name, "\" is one of player \"", p.name, "\"");
    DROPIN_CHECK(has(held, params[i]), OptionError, "Game: parameter ", i, " of player \"", name,
                 "\" is not held by its optimizer");
  }
  players_.push_back({std::move(name), params, std::move(loss), &optimizer});
}

std::pair<Tensor, Tensors> Game::gradients(const Player& p) {
  enable_grad guard;
  const Tensor loss = p.loss();
  DROPIN_CHECK(loss.defined() && loss.numel() == 1, ShapeError, "Game: the loss of player \"",
               p.name, "\" is ", loss.defined() ? loss.sizes().str() : "undefined",
               ", expected a scalar");
  const auto none = [&] {
    fail<AutogradError>(
        {"Game: the loss of player \"", p.name, "\" gives no gradient to its parameters"});
  };
  if (!loss.requires_grad()) none();
  const Tensors g = grad({loss}, p.params, {}, false, false, true);
  bool any = false;
  for (const Tensor& t : g) any = any || t.defined();
  if (!any) none();
  return {loss.detach(), g};
}

void Game::move(const Player& p, const Tensors& g) {
  for (std::size_t i = 0; i < g.size(); ++i) p.params[i].set_grad(g[i]);
  p.optimizer->step();
}

Tensors Game::step(std::string_view mode) {
  check_mode("Game", mode);
  DROPIN_CHECK(!players_.empty(), StateError, "Game: there are no players");
  Tensors losses;
  std::vector<Tensors> all;
  for (const Player& p : players_) {
    auto [loss, g] = gradients(p);
    losses.push_back(loss);
    if (mode == "alternating")
      move(p, g);
    else
      all.push_back(std::move(g));
  }
  for (std::size_t i = 0; i < all.size(); ++i) move(players_[i], all[i]);
  return losses;
}

std::vector<std::string> Game::players() const {
  std::vector<std::string> names;
  for (const Player& p : players_) names.push_back(p.name);
  return names;
}

LinearGameResult linear_game_rollout(
    const Tensor& M, const Tensor& b, const Tensor& w, const LinearGameOptions& o,
    const std::function<Box<Optimizer>(const Tensors&, const Json&)>& make) {
  const char* who = "LinearGameRollout";
  DROPIN_CHECK(w.dim() == 1 && is_floating(w.dtype()), ShapeError, who, ": w is ", w.dtype(), " ",
               w.sizes(), ", expected floats [n]");
  const int64_t n = w.size(0);
  DROPIN_CHECK(M.sizes() == (Shape{n, n}) && b.sizes() == Shape{n} && M.dtype() == w.dtype() &&
                   b.dtype() == w.dtype(),
               ShapeError, who, ": M is ", M.dtype(), " ", M.sizes(), " and b ", b.dtype(), " ",
               b.sizes(), ", expected ", w.dtype(), " [", n, ", ", n, "] and [", n, "]");
  check_mode(who, o.mode);
  DROPIN_CHECK(o.steps >= 0, OptionError, who, ": steps is ", o.steps, ", expected at least 0");
  const std::vector<int64_t> players = o.players.empty() ? std::vector<int64_t>{n} : o.players;
  int64_t total = 0;
  for (const int64_t size : players) {
    DROPIN_CHECK(size > 0, OptionError, who, ": a player has ", size,
                 " parameters, expected at least 1");
    total += size;
  }
  DROPIN_CHECK(total == n && n > 0, OptionError, who, ": the players have ", total,
               " parameters, expected n = ", n);
  no_grad guard;
  Tensors slices;
  std::vector<int64_t> from;
  for (int64_t first = 0; const int64_t size : players) {
    slices.push_back(w.narrow(0, first, size).detach().clone());
    from.push_back(first);
    first += size;
  }
  auto place = [&](std::size_t p) {
    const Tensor g = matmul(M, concat(slices)) + b;
    slices[p].set_grad(g.narrow(0, from[p], slices[p].numel()).clone());
  };
  Box<Optimizer> joint = make(slices, o.optimizer);
  const bool whole = joint->stages() > 1;
  DROPIN_CHECK(!whole || o.mode == "simultaneous", OptionError, who, ": ", joint->type(),
               " steps all players at once, expected mode simultaneous");
  std::vector<Box<Optimizer>> own;
  if (!whole)
    for (const Tensor& s : slices) own.push_back(make({s}, o.optimizer));
  Tensors distances;
  for (int64_t k = 0; k < o.steps; ++k) {
    for (int64_t stage = 0; whole && stage < joint->stages(); ++stage) {
      for (std::size_t p = 0; p < slices.size(); ++p) place(p);
      joint->step();
    }
    if (o.mode == "simultaneous")
      for (std::size_t p = 0; p < own.size(); ++p) place(p);
    for (std::size_t p = 0; p < own.size(); ++p) {
      if (o.mode == "alternating") place(p);
      own[p]->step();
    }
    distances.push_back(norm(concat(slices)));
  }
  return {concat(slices), distances.empty() ? zeros({0}, w.options()) : stack(distances)};
}

}  // namespace dropin
