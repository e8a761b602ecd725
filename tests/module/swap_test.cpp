// What swap() does to optimizers, frozen parameters and places, over every pair of a family.
#include "dropin/model/transformer.h"
#include "dropin/module/sequential.h"
#include "dropin/norm/norm.h"
#include "dropin/projection/linear.h"
#include "dropin/registry/registry.h"
#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;

struct Pair {
  const ComponentInfo *from, *to;
};
// Every ordered pair of modules of one family.
std::vector<Pair> all_pairs() {
  std::vector<Pair> r;
  for (const ComponentInfo& a : registry().all())
    for (const ComponentInfo& b : registry().all())
      if (&a != &b && a.make_module && b.make_module && a.family == b.family) r.push_back({&a, &b});
  return r;
}

struct Holder : Module {
  explicit Holder(Box<Module> m) { add_child("child", std::move(m)); }
  std::string_view type() const override { return "Holder"; }
};

struct Swapped {
  Box<Holder> model;
  std::vector<std::pair<std::string, Tensor>> before;
  SwapReport report;
};
// A model of `from` with `to` in its place; null where these options do not allow it.
Swapped swapped(const Pair& p, bool frozen) {
  Swapped s;
  s.model = Box<Holder>(new Holder(make(p.from->name, sample_options(*p.from))));
  s.model->requires_grad_(!frozen);
  s.before = s.model->named_parameters();
  try {
    s.report = swap(*s.model, p.from->name, p.to->name);
  } catch (const Error&) {
    s.model = {};
  }
  return s;
}

TEST(Swap, CarriedParametersStayTheSameTensorsInEveryPair) {
  int pairs = 0, carried = 0;
  for (const Pair& p : all_pairs())
    for (const bool frozen : {false, true}) {
      const Swapped s = swapped(p, frozen);
      if (!s.model) continue;
      ++pairs;
      const std::string where = p.from->name + " -> " + p.to->name;
      StateDict old, now;
      for (auto& [n, t] : s.before) old.set(n, t);
      for (auto& [n, t] : s.model->named_parameters()) now.set(n, t);
      for (const std::string& n : s.report.instances[0].carried) {
        const Tensor a = old.find("child." + n), b = now.find("child." + n);
        if (!a.defined() || !b.defined()) continue;  // a buffer on one side
        EXPECT_TRUE(a.is_same(b)) << where << ": " << n;
        EXPECT_EQ(b.requires_grad(), !frozen) << where << ": " << n;
        ++carried;
      }
      std::vector<std::string> trainable;
      for (auto& [n, t] : now)
        if (frozen && t.requires_grad()) trainable.push_back(n.substr(6));
      if (frozen && !s.before.empty()) {
        EXPECT_EQ(trainable, s.report.instances[0].thawed) << where;
        for (const std::string& n : trainable)
          EXPECT_NE(s.report.str().find("trainable though"), std::string::npos) << where << n;
      }
    }
  EXPECT_GT(pairs, 100);
  EXPECT_GT(carried, 100);
}

TEST(Swap, AnOptimizerMadeBeforeTrainsWhatWasCarriedOrSaysWhy) {
  int trained = 0, dropped = 0, added = 0;
  for (const Pair& p : all_pairs()) {
    Box<Holder> model(new Holder(make(p.from->name, sample_options(*p.from))));
    const Tensors held = model->parameters();
    if (held.empty()) continue;
    SGD optimizer(held, {.lr = 1});
    try {
      swap(*model, p.from->name, p.to->name);
    } catch (const Error&) {
      continue;
    }
    const std::string where = p.from->name + " -> " + p.to->name;
    Tensors now = model->parameters();
    auto among = [](const Tensors& list, const Tensor& t) {
      for (const Tensor& x : list)
        if (x.is_same(t)) return true;
      return false;
    };
    bool any_dropped = false, any_added = false;
    for (const Tensor& t : held) any_dropped = any_dropped || !among(now, t);
    for (const Tensor& t : now) any_added = any_added || !among(held, t);
    for (const Tensor& t : now) t.set_grad(ones(t.sizes(), t.dtype()));
    std::vector<Tensor> before;
    for (const Tensor& t : now) before.push_back(t.detach().clone());
    if (any_dropped) {
      // whichever comes first among the held ones: one that went, or one beside new ones
      EXPECT_ERROR(
          optimizer.step(), StateError,
          (any_added ? "swap() of " : "was dropped from its model by swap() of ") + p.to->name);
      ++dropped;
    } else if (any_added) {
      EXPECT_ERROR(optimizer.step(), StateError, "added parameters that are not held: child.");
      ++added;
    }
    if (any_dropped || any_added) {
      for (std::size_t i = 0; i < now.size(); ++i)
        EXPECT_EQ(max_difference(now[i], before[i]), 0) << where << ": nothing was stepped";
      if (any_added)
        optimizer.add_param_group([&] {
          Tensors fresh;
          for (const Tensor& t : now)
            if (!among(held, t)) fresh.push_back(t);
          return fresh;
        }());
      else
        optimizer.accept_swap();
    }
    optimizer.step();
    for (std::size_t i = 0; i < now.size(); ++i)
      EXPECT_TRUE(now[i].numel() == 0 || max_difference(now[i], before[i]) > 0.5) << where;
    ++trained;
  }
  EXPECT_GT(trained, 50);
  EXPECT_GT(dropped, 5);
  EXPECT_GT(added, 5);
}

TEST(Swap, OptimizersMadeAfterSeeNothing) {
  Sequential s;
  s.add<LayerNorm>({.normalized_shape = {4}});
  AdamW before(s.parameters());
  swap(s, "LayerNorm", "RMSNorm");
  AdamW after(s.parameters());
  s(ones({2, 4})).sum().backward();
  after.step();
  EXPECT_ERROR(before.step(), StateError,
               "AdamW: parameter 1 (0.bias) was dropped from its model by swap() of RMSNorm for "
               "LayerNorm; make the optimizer after the swap");
  EXPECT_EQ(before.state_dict().find("state.0.step").defined(), false) << "no step was counted";
  before.accept_swap();
  before.step();
}

TEST(Swap, AChildReplacedByHandIsMissed) {
  Sequential s;
  s.add<Linear>({.in_features = 4, .out_features = 2}).add<LayerNorm>({.normalized_shape = {2}});
  SGD optimizer(s.parameters(), {.lr = 0.1});
  Box<Module> old = s.replace_child("1", Box<Module>(new RMSNorm({.normalized_shape = {2}})));
  s(ones({2, 4})).sum().backward();
  optimizer.step();  // the old one lives on
  old = {};
  optimizer.zero_grad();
  s(ones({2, 4})).sum().backward();
  const Tensor moved = s.parameters()[0].detach().clone();
  EXPECT_ERROR(optimizer.step(), StateError,
               "SGD: parameter 2 [2] is held by this optimizer alone: the module that had it was "
               "replaced or destroyed; make the optimizer anew of the model's parameters");
  EXPECT_EQ(max_difference(s.parameters()[0], moved), 0) << "nothing has changed";
}

TEST(Swap, AFrozenModelsOptimizerIsLeftAlone) {
  Sequential s;
  s.add<LayerNorm>({.normalized_shape = {4}}).add<Linear>({.in_features = 4, .out_features = 2});
  s.children()[0].second->requires_grad_(false);
  SGD optimizer(s.parameters(), {.lr = 0.1});
  const SwapReport r = swap(s, "LayerNorm", "RMSNorm");
  EXPECT_TRUE(r.instances[0].thawed.empty());
  s(ones({2, 4})).sum().backward();
  optimizer.step();
}

TEST(Swap, NewParametersInAFrozenModelAreReported) {
  Sequential s;
  s.add<Linear>({.in_features = 4, .out_features = 4})
      .add<LayerNorm>({.normalized_shape = {4}, .elementwise_affine = false})
      .add<LayerNorm>({.normalized_shape = {4}, .elementwise_affine = false});
  s.requires_grad_(false);
  const SwapReport r =
      swap(s, "LayerNorm", "RMSNorm", Json::parse(R"({"elementwise_affine": true})"));
  ASSERT_EQ(r.instances.size(), 2u);
  for (const SwapReport::Instance& i : r.instances)
    EXPECT_EQ(i.thawed, std::vector<std::string>{"weight"});
  EXPECT_FALSE(s.parameters()[0].requires_grad());
  EXPECT_TRUE(s.parameters()[2].requires_grad()) << "as a new module's parameters in torch";
}

TEST(Swap, KeepsAModeThatDiffersFromTheModelsAround) {
  for (const bool training : {true, false}) {
    Sequential s;
    s.add<LayerNorm>({.normalized_shape = {4}});
    s.train(!training);
    s.children()[0].second->train(training);
    swap(s, "LayerNorm", "RMSNorm");
    EXPECT_EQ(s.children()[0].second->is_training(), training);
  }
}

TEST(Swap, KeepsModeDtypeAndPlace) {
  for (const DType t : {kFloat32, kFloat64, kBFloat16}) {
    Sequential s;
    s.add<RMSNorm>({.normalized_shape = {4}});
    s.to(t).eval();
    const Tensor weight = s.parameters()[0];
    swap(s, "RMSNorm", "LayerNorm");
    EXPECT_FALSE(s.children()[0].second->is_training());
    for (const Tensor& p : s.parameters()) EXPECT_EQ(p.dtype(), t);
    EXPECT_TRUE(s.parameters()[0].is_same(weight));
  }
}

}  // namespace
}  // namespace dropin
