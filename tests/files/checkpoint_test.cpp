// Training checkpoints: what a resumed run finds again.
#include "dropin/serialize/checkpoint.h"

#include "dropin/projection/linear.h"
#include "dropin/registry/registry.h"
#include "dropin/serialize/safetensors.h"
#include "files/temporary.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::TemporaryFolder;

struct Training {
  Linear model{{.in_features = 3, .out_features = 2}};
  Tensor extra = ones({70, 70}).requires_grad_();
  Box<Optimizer> optimizer;
  explicit Training(const ComponentInfo& c, double lr = 0.01) {
    Json options = Json::object();
    options.set("lr", lr);
    optimizer = c.make_optimizer(model.parameters(), options);
    optimizer->add_param_group({extra}, Json::parse(R"({"lr": 0.0001, "weight_decay": 0.5})"));
  }
  void step() {
    for (int64_t stage = 0; stage < optimizer->stages(); ++stage) {
      optimizer->zero_grad();
      model(randn({4, 3})).square().sum().backward();
      extra.set_grad(randn({70, 70}));
      optimizer->step();
    }
  }
};

TEST(Checkpoint, AResumedRunIsTheRun) {
  for (const ComponentInfo& c : registry().all()) {
    if (c.kind != ComponentKind::Optimizer) continue;
    TemporaryFolder dir;
    manual_seed(1);
    Training run(c);
    run.step();
    run.optimizer->set_lr(0.005);
    run.optimizer->set_options(1, Json::parse(R"({"weight_decay": 0.125})"));
    run.step();
    TrainingState state;
    state.step = 2;
    state.generator = default_generator();
    state.notes.set("loss_scaler", Json::parse(R"({"scale": 65536, "good_steps": 2})"));
    state.notes.set("schedule", Json::parse(R"({"last_epoch": 2, "T_max": 10})"));
    state.notes.set("data", Json::parse(R"({"epoch": 0, "position": 8})"));
    save_checkpoint(dir / "c", run.model, *run.optimizer, state);
    run.step();

    manual_seed(99);
    Training resumed(c, 0.9);  // other options than the run's
    {
      no_grad guard;
      resumed.extra.zero_();
    }
    const TrainingState found = load_checkpoint(dir / "c", resumed.model, *resumed.optimizer);
    {
      no_grad guard;  // the extra tensor is the test's own, and is not in the model
      resumed.extra.copy_(run.extra);
    }
    EXPECT_EQ(found.step, 2);
    EXPECT_TRUE(found.notes == state.notes);
    EXPECT_EQ(resumed.optimizer->lr(), 0.005) << c.name;
    EXPECT_DOUBLE_EQ(resumed.optimizer->lr(1), 0.00005);
    EXPECT_EQ(resumed.optimizer->param_groups()[1].options.find("weight_decay")->as_double(),
              0.125);
    default_generator() = found.generator;
    resumed.step();
    EXPECT_EQ(max_difference(resumed.model.weight(), run.model.weight()), 0) << c.name;
    EXPECT_EQ(max_difference(resumed.model.bias(), run.model.bias()), 0) << c.name;
  }
}

TEST(Checkpoint, OtherGroupsAndModelsAreRefusedWithNothingChanged) {
  TemporaryFolder dir;
  const ComponentInfo& adam = registry().find("Adam");
  Training run(adam);
  run.step();
  save_checkpoint(dir / "c", run.model, *run.optimizer, TrainingState());
  Linear model({.in_features = 3, .out_features = 2});
  const Tensor before = model.weight().detach().clone();
  Adam one(model.parameters(), {.lr = 0.25});
  EXPECT_ERROR(load_checkpoint(dir / "c", model, one), StateError,
               "the state has 2 parameter groups (of 2, 1 parameters");
  EXPECT_EQ(max_difference(model.weight(), before), 0);
  Linear other({.in_features = 3, .out_features = 2, .bias = false});
  Adam two({model.weight(), model.bias()}, {.lr = 0.25});
  two.add_param_group({run.extra});
  EXPECT_ERROR(load_checkpoint(dir / "c", other, two), StateError, "unexpected: bias");
  EXPECT_EQ(two.lr(), 0.25) << "the optimizer is as it was";
  EXPECT_FALSE(two.state_dict().contains("state.0.step"));
}

}  // namespace
}  // namespace dropin
