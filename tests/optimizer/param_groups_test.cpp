// Options per group: set, scheduled, saved and restored; closures; parameters' numbers.
#include "dropin/optimizer/optimizer.h"
#include "dropin/projection/linear.h"
#include "dropin/registry/registry.h"
#include "support.h"

namespace dropin {
namespace {

using testing::expect_values;
using testing::max_difference;
using testing::random;

Tensor parameter(const Shape& s, std::uint64_t seed = 1) {
  return random(s, kFloat32, seed).clone().requires_grad_();
}
double option(const Optimizer& o, std::size_t group, const char* name) {
  return o.param_groups()[group].options.find(name)->as_double();
}
std::vector<const ComponentInfo*> all_optimizers() {
  std::vector<const ComponentInfo*> r;
  for (const ComponentInfo& c : registry().all())
    if (c.kind == ComponentKind::Optimizer) r.push_back(&c);
  return r;
}

TEST(Groups, SchedulesKeepTheirRatio) {
  Adam o({parameter({1})}, {.lr = 1e-3});
  o.add_param_group({parameter({1})}, Json::parse(R"({"lr": 1e-5})"));
  for (const double lr : {5e-5, 0.0, 1e-3}) {
    o.set_lr(lr);
    EXPECT_DOUBLE_EQ(o.lr(), lr);
    EXPECT_DOUBLE_EQ(o.lr(1), lr / 100) << "also after a rate of 0";
  }
  o.set_lr(1, 0.5);
  EXPECT_DOUBLE_EQ(o.lr(0), 1e-3);
  EXPECT_DOUBLE_EQ(o.lr(1), 0.5);
  o.scale_lr(0.1);
  o.scale_lr(0.1);
  EXPECT_DOUBLE_EQ(o.lr(0), 1e-4) << "of the initial rate, not of the last";
  EXPECT_DOUBLE_EQ(o.lr(1), 1e-6);
  o.set_options(1, Json::parse(R"({"lr": 2e-3})"));
  o.set_lr(1e-2);
  EXPECT_DOUBLE_EQ(o.lr(1), 2e-2) << "a new initial rate";
}

// Some papers' steps must be positive.
bool refuses_a_rate_of_zero(const ComponentInfo& c) {
  try {
    c.make_optimizer({parameter({1})}, Json::parse(R"({"lr": 0})"));
  } catch (const OptionError& e) {
    EXPECT_NE(std::string(e.what()).find("lr is 0"), std::string::npos) << e.what();
    return true;
  }
  return false;
}

TEST(Groups, RefusedRatesChangeNothing) {
  for (const ComponentInfo* c : all_optimizers()) {
    if (refuses_a_rate_of_zero(*c)) continue;
    auto o = c->make_optimizer({parameter({1})}, Json::parse(R"({"lr": 0})"));
    o->add_param_group({parameter({1})}, Json::parse(R"({"lr": 0.25})"));
    EXPECT_ERROR(o->set_lr(0.5), OptionError,
                 c->name + ": set_lr: the first group began with lr 0");
    EXPECT_ERROR(o->set_lr(1, -1), OptionError, "lr is -1");
    EXPECT_ERROR(o->set_lr(2, 1), OptionError, "set_lr: there is no group 2, only 2");
    EXPECT_ERROR(o->lr(7), OptionError, "there is no group 7");
    EXPECT_ERROR(o->scale_lr(-2), OptionError, "lr is -0.5");
    EXPECT_ERROR(o->set_lr(0, NAN), OptionError, "lr is nan");
    EXPECT_EQ(o->lr(0), 0);
    EXPECT_EQ(o->lr(1), 0.25);
  }
}

TEST(Groups, OptionsChangeAfterConstruction) {
  Tensor a = parameter({3}), b = a.detach().clone().requires_grad_();
  SGD late({a}, {.lr = 0.1}), early({b}, {.lr = 0.2, .momentum = 0.5, .weight_decay = 0.1});
  late.set_options(0, Json::parse(R"({"lr": 0.2, "momentum": 0.5, "weight_decay": 0.1})"));
  for (int i = 0; i < 2; ++i) {
    a.set_grad(ones({3}));
    b.set_grad(ones({3}));
    late.step();
    early.step();
  }
  EXPECT_EQ(max_difference(a, b), 0);
  EXPECT_ERROR(late.set_options(0, Json::parse(R"({"rate": 1})")), OptionError,
               "unknown option \"rate\"");
  EXPECT_ERROR(late.set_options(0, Json::parse(R"({"momentum": -1})")), OptionError,
               "momentum is -1");
  EXPECT_ERROR(late.set_options(3, Json::object()), OptionError, "there is no group 3");
  EXPECT_EQ(option(late, 0, "momentum"), 0.5);
  Tensor p = parameter({5000});
  auto eight = make_optimizer("Adam8bit", {p});
  p.set_grad(ones({5000}));
  eight->step();
  EXPECT_ERROR(eight->set_options(0, Json::parse(R"({"block_size": 128})")), StateError,
               "block_size");
  EXPECT_EQ(option(*eight, 0, "block_size"), 256);
  eight->set_options(0, Json::parse(R"({"betas": [0.5, 0.9]})"));
  eight->step();
}

TEST(Groups, EveryOptimizersOptionsAreInItsState) {
  for (const ComponentInfo* c : all_optimizers()) {
    Tensor a = parameter({3}), b = parameter({2});
    auto one = c->make_optimizer({a}, Json::parse(R"({"lr": 0.1, "weight_decay": 0.25})"));
    one->add_param_group({b}, Json::parse(R"({"lr": 0.001})"));
    one->set_lr(0.05);
    auto two = c->make_optimizer({a}, Json::parse(R"({"lr": 1})"));
    two->add_param_group({b});
    two->load_state_dict(one->state_dict());
    for (std::size_t k = 0; k < 2; ++k) {
      EXPECT_TRUE(two->param_groups()[k].options == one->param_groups()[k].options)
          << c->name << two->param_groups()[k].options.dump();
      EXPECT_EQ(two->param_groups()[k].initial_lr, one->param_groups()[k].initial_lr);
    }
    EXPECT_DOUBLE_EQ(two->lr(1), 0.0005);
    two->set_lr(0.1);
    EXPECT_DOUBLE_EQ(two->lr(1), 0.001) << "the schedule goes on with the same ratio";
    const StateDict s = one->state_dict();
    EXPECT_EQ(s.find("param_groups.1.params").to_vector<int>(), std::vector<int>{1});
    EXPECT_EQ(s.find("param_groups.0.weight_decay").item(), 0.25);
    EXPECT_EQ(s.find("param_groups.0.lr").dtype(), kFloat64);
  }
}

struct OddOptions {
  double lr = 1;
  std::string name = "none";
  std::vector<int64_t> sizes = {};
  std::optional<double> bound = std::nullopt;
  int64_t large = (int64_t{1} << 60) + 1;
  bool on = false;
  static void fields(auto&& f) {
    using O = OddOptions;
    f("lr", &O::lr, "");
    f("name", &O::name, "");
    f("sizes", &O::sizes, "");
    f("bound", &O::bound, "");
    f("large", &O::large, "");
    f("on", &O::on, "");
  }
};
/// A user's optimizer with options of every kind, by the signature without numbers.
class Odd : public OptimizerOf<Odd, OddOptions> {
 public:
  explicit Odd(const Tensors& params, const OddOptions& o = {}) : OptimizerOf(params, o) {}
  static void check(const OddOptions& o) {
    DROPIN_CHECK(o.lr >= 0, OptionError, "Odd: lr is ", o.lr);
  }
  NamedTensors start(const OddOptions&, const Tensor& p) const {
    return {{"sum", zeros(p.sizes(), p.options())}};
  }
  void update_one(const OddOptions& o, const Tensor& p, const Tensor& g, NamedTensors& state,
                  bool) {
    state.find("sum").add_(g);
    Tensor(p).add_(state.find("sum"), -o.lr);
  }
};

TEST(Groups, OptionsOfEveryKindSurvive) {
  Odd one({parameter({2})}, {.lr = 0.1 + 0.2,
                             .name = "a \"b\" \xc3\xa9",
                             .sizes = {3, 1},
                             .bound = 0.1,
                             .large = (int64_t{1} << 60) + 3,
                             .on = true});
  Odd two({parameter({2})});
  two.load_state_dict(one.state_dict());
  EXPECT_TRUE(two.param_groups()[0].options == one.param_groups()[0].options)
      << two.param_groups()[0].options.dump();
  Odd three({parameter({2})});
  two.load_state_dict(three.state_dict());
  EXPECT_TRUE(two.param_groups()[0].options == three.param_groups()[0].options)
      << two.param_groups()[0].options.dump();
}

TEST(Groups, AStateOfOtherGroupsIsRefusedByName) {
  Tensor a = parameter({3}), b = parameter({2});
  AdamW two({a}, {.lr = 0.5});
  two.add_param_group({b});
  a.set_grad(ones({3}));
  two.step();
  const StateDict before = two.state_dict();
  auto refuse = [&](const StateDict& s, const std::string& text) {
    EXPECT_ERROR(two.load_state_dict(s), StateError, text);
    EXPECT_EQ(two.lr(), 0.5);
    EXPECT_EQ(two.state_dict().size(), before.size());
    EXPECT_EQ(two.state_dict().find("state.0.step").item(), 1);
  };
  refuse(AdamW({a, b}).state_dict(),
         "AdamW: the state has 1 parameter groups (of 2 parameters; -1: no params entry), this "
         "optimizer 2 (of 1, 1)");
  SGD sgd({a});
  sgd.add_param_group({b});
  refuse(sgd.state_dict(), "param_groups.0: AdamW: unknown option \"momentum\"");
  auto changed = [&](const char* n, const Tensor& t) {
    StateDict s;
    for (const auto& [k, v] : before) s.set(k, v);
    s.set(n, t);
    return s;
  };
  refuse(changed("param_groups.0.lr", scalar(-1, kFloat64)), "param_groups.0: AdamW: lr is -1");
  refuse(changed("param_groups.0.betas", zeros({2, 2})), "param_groups.0.betas: ");
  refuse(changed("param_groups.x.lr", scalar(1)), "unexpected entry \"param_groups.x.lr\"");
  refuse(changed("param_groups.999999999.lr", scalar(1)), "group 999999999");
  refuse(changed("state.0.exp_avg", zeros({3}, kUInt8)), "state.0.exp_avg is uint8, expected");
  refuse(changed("state.0.exp_avg", zeros({4})), "state.0.exp_avg is [4], expected [3]");
  refuse(changed("state.9.exp_avg", zeros({4})), "unexpected entry \"state.9.exp_avg\"");
  two.load_state_dict(changed("param_groups.0.fused", full({}, 1, kBool)));  // torch's switches
  StateDict bare;  // of an older version: the options stay
  for (const auto& [k, v] : before)
    if (k.rfind("state.", 0) == 0) bare.set(k, v);
  two.load_state_dict(bare);
  EXPECT_EQ(two.lr(), 0.5);
  StateDict wide;  // a state in another floating-point type takes the optimizer's
  for (const auto& [k, v] : before)
    wide.set(k, k.find("exp_avg") != std::string::npos ? v.to(kBFloat16) : v);
  two.load_state_dict(wide);
  EXPECT_EQ(two.state_dict().find("state.0.exp_avg").dtype(), kFloat32);
}

TEST(Step, ClosureComputesTheLossOfTheStep) {
  for (const ComponentInfo* c : all_optimizers()) {
    Tensor p = full({3}, 2).requires_grad_();
    auto o = c->make_optimizer({p}, Json::parse(R"({"lr": 0.125})"));
    int calls = 0;
    no_grad guard;  // the closure records all the same
    const Tensor loss = o->step([&] {
      ++calls;
      o->zero_grad();
      Tensor l = (p * p).sum();
      l.backward();
      return l;
    });
    EXPECT_EQ(calls, o->stages()) << c->name;
    EXPECT_EQ(loss.item(), 12) << c->name << ": the loss before the step";
    if (o->stages() == 1) expect_values(p.grad(), {4, 4, 4});
    EXPECT_LT(p.to_vector()[0], 2) << c->name;
    EXPECT_ERROR(o->step([]() -> Tensor { fail<Error>({"no loss"}); }), Error, "no loss");
    EXPECT_ERROR(o->step(std::function<Tensor()>()), OptionError, "the closure is empty");
  }
}

/// A user's optimizer that asks for the parameter's number: it counts how often each was updated.
class Numbered : public OptimizerOf<Numbered, SGDOptions> {
 public:
  explicit Numbered(const Tensors& params) : OptimizerOf(params, SGDOptions{.lr = 1}) {}
  static void check(const SGDOptions&) {}
  NamedTensors start(const SGDOptions&, const Tensor&, std::size_t number) const {
    return {{"number", scalar(static_cast<double>(number))}};
  }
  void update_one(const SGDOptions& o, const Tensor& p, const Tensor&, NamedTensors& state, bool,
                  std::size_t number) {
    EXPECT_EQ(state.find("number").item(), static_cast<double>(number));
    Tensor(p).add_(-o.lr * static_cast<double>(number));
  }
};

TEST(Step, UsersOptimizersAreToldTheNumber) {
  Tensor a = zeros({1}).requires_grad_(), b = zeros({2}).requires_grad_(),
         c = zeros({3}).requires_grad_(), skipped = zeros({1}).requires_grad_();
  Numbered o({a, skipped, b});
  o.add_param_group({c}, Json::parse(R"({"lr": 2})"));
  for (const Tensor& p : {a, b, c}) p.set_grad(ones(p.sizes()));
  o.step();
  expect_values(a.detach(), {0});
  expect_values(b.detach(), {-2, -2});
  expect_values(c.detach(), {-6, -6, -6});
  Odd odd({a});
  odd.step();
  odd.step();
  expect_values(a.detach(), {-3}, 1e-6);
}

TEST(Step, SeveralOptimizersShareAModel) {
  manual_seed(1);
  Linear both({.in_features = 3, .out_features = 2});
  auto alone = both.clone();
  Tensors mine = both.parameters(), theirs = alone->parameters();
  Adam weights({mine[0]}, {.lr = 0.1});
  auto biases = make_optimizer("SGD8bit", {mine[1]}, Json::parse(R"({"lr": 0.1})"));
  Adam other({theirs[0]}, {.lr = 0.1});
  auto last = make_optimizer("SGD8bit", {theirs[1]}, Json::parse(R"({"lr": 0.1})"));
  for (int i = 0; i < 3; ++i) {
    for (std::size_t k = 0; k < 2; ++k) {
      const Tensor g = random(mine[k].sizes(), kFloat32, 7 + k);
      mine[k].set_grad(g.clone());
      theirs[k].set_grad(g.clone());
    }
    weights.step();
    biases->step();
    last->step();  // the order does not matter
    other.step();
  }
  for (std::size_t k = 0; k < 2; ++k) EXPECT_EQ(max_difference(mine[k], theirs[k]), 0);
}

}  // namespace
}  // namespace dropin
