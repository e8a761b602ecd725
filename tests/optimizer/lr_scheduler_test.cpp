// Schedules against torch's numbers; plateaus, early stopping, averages of weights.
#include "dropin/optimizer/lr_scheduler.h"

#include <memory>

#include "dropin/module/averaged_model.h"
#include "dropin/module/sequential.h"
#include "dropin/norm/norm.h"
#include "dropin/projection/linear.h"
#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;

struct Case {
  const char* name;
  std::vector<std::vector<double>> groups;  ///< lr, momentum, lr, ... by epoch
};
const std::vector<Case> kCases = {
#include "schedules.inc"
};

using Schedules = std::vector<std::unique_ptr<LRScheduler>>;

template <class T, class... A>
Schedules only(Optimizer& o, A&&... args) {
  Schedules r;
  r.push_back(std::make_unique<T>(o, std::forward<A>(args)...));
  return r;
}
// The last one is stepped.
Schedules made(const std::string& name, Optimizer& o) {
  if (name == "LambdaLR")
    return only<LambdaLR>(o, [](int64_t e) { return std::pow(0.95, double(e)); });
  if (name == "StepLR") return only<StepLR>(o, StepLROptions{3, 0.5});
  if (name == "MultiStepLR") return only<MultiStepLR>(o, MultiStepLROptions{{2, 5, 5, 11}, 0.1});
  if (name == "ExponentialLR") return only<ExponentialLR>(o, 0.9);
  if (name == "LinearLR") return only<LinearLR>(o);
  if (name == "LinearLR to 0") return only<LinearLR>(o, LinearLROptions{1, 0, 7});
  if (name == "ConstantLR") return only<ConstantLR>(o, ConstantLROptions{0.25, 3});
  if (name == "PolynomialLR") return only<PolynomialLR>(o, PolynomialLROptions{9, 2});
  if (name == "CosineAnnealingLR")
    return only<CosineAnnealingLR>(o, CosineAnnealingLROptions{6, 0.001});
  if (name == "CosineAnnealingWarmRestarts")
    return only<CosineAnnealingWarmRestarts>(o, CosineAnnealingWarmRestartsOptions{3, 2, 0.002});
  if (name == "CosineAnnealingWarmRestarts, 1")
    return only<CosineAnnealingWarmRestarts>(o, CosineAnnealingWarmRestartsOptions{4});
  if (name == "OneCycleLR")
    return only<OneCycleLR>(o, OneCycleLROptions{.max_lr = {0.5}, .total_steps = 16});
  if (name == "OneCycleLR, three phases")
    return only<OneCycleLR>(o, OneCycleLROptions{.max_lr = {0.5, 0.1},
                                                 .total_steps = 16,
                                                 .pct_start = 0.4,
                                                 .anneal_strategy = "linear",
                                                 .div_factor = 10,
                                                 .three_phase = true});
  Schedules all;
  all.push_back(std::make_unique<LinearLR>(o, LinearLROptions{0.1, 1, 4}));
  all.push_back(std::make_unique<CosineAnnealingLR>(o, CosineAnnealingLROptions{6}));
  const std::vector<LRScheduler*> both = {all[0].get(), all[1].get()};
  all.push_back(std::make_unique<SequentialLR>(o, both, std::vector<int64_t>{4}));
  return all;
}

SGD two_groups() {
  SGD o({zeros({1}).requires_grad_()}, {.lr = 0.1, .momentum = 0.9});
  o.add_param_group({zeros({1}).requires_grad_()}, Json::parse(R"({"lr": 0.02})"));
  return o;
}
double momentum(const Optimizer& o, std::size_t group) {
  return o.param_groups()[group].options.find("momentum")->as_double();
}

TEST(Schedules, RatesOfEveryEpochAsTorch) {
  for (const Case& c : kCases) {
    SGD o = two_groups();
    const Schedules s = made(c.name, o);
    for (std::size_t epoch = 0; epoch < 16; ++epoch) {
      for (std::size_t g = 0; g < 2; ++g) {
        const std::string at = std::string(c.name) + " at " + std::to_string(epoch);
        EXPECT_NEAR(o.lr(g), c.groups[g][2 * epoch], 1e-14) << at;
        EXPECT_NEAR(momentum(o, g), c.groups[g][2 * epoch + 1], 1e-14) << at;
      }
      s.back()->step();
    }
  }
  EXPECT_EQ(kCases.size(), 14u);
}

TEST(Schedules, GoOnFromACheckpoint) {
  for (const Case& c : kCases) {
    SGD o = two_groups(), resumed = two_groups();
    const Schedules s = made(c.name, o), t = made(c.name, resumed);
    for (int i = 0; i < 5; ++i) s.back()->step();
    resumed.load_state_dict(o.state_dict());
    t.back()->load_state_dict(s.back()->state_dict());
    for (int i = 0; i < 5; ++i) {
      s.back()->step();
      t.back()->step();
      EXPECT_EQ(o.lr(0), resumed.lr(0)) << c.name;
      EXPECT_EQ(o.lr(1), resumed.lr(1)) << c.name;
    }
  }
}

TEST(Schedules, BadOptionsAreNamed) {
  SGD o = two_groups();
  EXPECT_ERROR(StepLR(o, {}), OptionError, "StepLR: step_size is 0, expected at least 1");
  EXPECT_ERROR(MultiStepLR(o, {{5, 2}}), OptionError, "MultiStepLR: the milestones fall");
  EXPECT_ERROR(OneCycleLR(o, {.max_lr = {1, 2, 3}, .total_steps = 4}), OptionError,
               "OneCycleLR: max_lr has 3 entries for 2 groups");
  EXPECT_ERROR(SequentialLR(o, {}, {}), OptionError, "SequentialLR: 0 schedules");
  EXPECT_ERROR(LambdaLR(o, LambdaLR::Function()), OptionError, "LambdaLR: a function is empty");
  OneCycleLR cycle(o, {.max_lr = {1}, .total_steps = 2});
  cycle.step();
  cycle.step();
  const double before = o.lr();
  EXPECT_ERROR(cycle.step(), StateError, "OneCycleLR: step 3 is beyond total_steps, which is 2");
  EXPECT_EQ(o.lr(), before);
  EXPECT_EQ(cycle.last_epoch(), 2);
}

// Rates by hand from torch's rule: more than `patience` epochs that are not better.
TEST(Schedules, APlateauLowersTheRate) {
  SGD o = two_groups();
  ReduceLROnPlateau s(o, {.factor = 0.5, .patience = 1, .threshold = 0.1, .cooldown = 1});
  std::vector<double> rates;
  for (const double v : std::vector<double>{1, 0.95, 0.91, 0.5, NAN, 0.5, 0.5, 0.5, 0.5}) {
    s.step(v);
    rates.push_back(o.lr());
  }
  EXPECT_EQ(rates, (std::vector<double>{.1, .1, .05, .05, .05, .025, .025, .025, .0125}));
  EXPECT_DOUBLE_EQ(o.lr(1), 0.02 / 8);
  EXPECT_EQ(s.best(), 0.5);
  ReduceLROnPlateau other(o, {});
  other.load_state_dict(s.state_dict());
  EXPECT_EQ(other.best(), 0.5);
  EXPECT_ERROR(ReduceLROnPlateau(o, {.factor = 1}), OptionError, "factor is 1, expected below 1");
}

TEST(Schedules, EarlyStoppingCountsWhatIsNotBetter) {
  EarlyStopping stop({.patience = 2, .min_delta = 0.1});
  EXPECT_FALSE(stop.step(1));
  EXPECT_FALSE(stop.step(0.95));
  EXPECT_FALSE(stop.step(0.8));
  EXPECT_FALSE(stop.step(NAN));
  EXPECT_TRUE(stop.step(0.75));
  EXPECT_EQ(stop.best(), 0.8);
  EarlyStopping up({.patience = 1, .mode = "max"});
  EXPECT_FALSE(up.step(0.1));
  EXPECT_FALSE(up.step(0.2));
  EXPECT_TRUE(up.step(0.2));
}

Sequential net() {
  Sequential s;
  s.add<Linear>({.in_features = 2, .out_features = 3});
  s.add<BatchNorm2d>({.num_features = 3});
  return s;
}
void set_all(Module& m, double value) {
  no_grad guard;
  for (const auto& [n, t] : m.state_dict())
    if (is_floating(t.dtype())) Tensor(t).fill_(value);
}

TEST(Schedules, MeansOfWeights) {
  Sequential model = net();
  AveragedModel moving(model, {.decay = 0.9}), plain(model, {.average = true, .use_buffers = true});
  double mean = 0, sum = 0;
  for (int i = 0; i < 4; ++i) {
    const double v = 1 + i * i;
    set_all(model, v);
    moving.update_parameters(model);
    plain.update_parameters(model);
    mean = i ? 0.9 * mean + 0.1 * v : v;
    sum += v;
    for (const auto& [n, t] : moving.module().named_parameters())
      EXPECT_LT(max_difference(t, full(t.sizes(), mean)), 1e-5) << n;
    for (const auto& [n, t] : plain.module().named_parameters())
      EXPECT_LT(max_difference(t, full(t.sizes(), sum / (i + 1))), 1e-5) << n;
    const Tensor copied = moving.module().state_dict().find("1.running_mean"),
                 averaged = plain.module().state_dict().find("1.running_mean");
    EXPECT_EQ(copied.to_vector()[0], v);
    EXPECT_NEAR(averaged.to_vector()[0], sum / (i + 1), 1e-5);
  }
  EXPECT_FALSE(moving.module().parameters()[0].requires_grad());
  AveragedModel again(model);
  again.load_state_dict(moving.state_dict());
  EXPECT_EQ(again.n_averaged(), 4);
  EXPECT_EQ(max_difference(again.module().parameters()[0], moving.module().parameters()[0]), 0);
  Sequential other;
  other.add<Linear>({.in_features = 2, .out_features = 3});
  EXPECT_ERROR(moving.update_parameters(other), StateError,
               "AveragedModel: the model has 2 parameters, expected 4 as when it was copied");
}

}  // namespace
}  // namespace dropin
