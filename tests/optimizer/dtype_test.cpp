// Every optimizer over parameters of every floating-point type.
#include "dropin/projection/linear.h"
#include "dropin/registry/registry.h"
#include "support.h"

namespace dropin {
namespace {

using testing::expect_values;
using testing::max_difference;
using testing::random;

std::vector<const ComponentInfo*> all_optimizers() {
  std::vector<const ComponentInfo*> r;
  for (const ComponentInfo& c : registry().all())
    if (c.kind == ComponentKind::Optimizer) r.push_back(&c);
  return r;
}
bool has_option(const ComponentInfo& c, std::string_view option) {
  for (const FieldInfo& f : c.options)
    if (f.name == option) return true;
  return false;
}
// Options that reach every branch of a step, for the optimizers that know them.
Json options_of(const ComponentInfo& c) {
  Json o = Json::parse(R"({"lr": 0.03})");
  const Json more = Json::parse(
      R"({"weight_decay": 0.1, "momentum": 0.9, "amsgrad": true, "percentile_clipping": 50})");
  for (const auto& [k, v] : more.items())
    if (has_option(c, k)) o.set(k, v);
  return o;
}
const Shape kLarge{66, 64};  // above min_8bit_size: one-byte states
const DType kFloating[] = {kFloat32, kFloat64, kBFloat16, kFloat16};

TEST(EveryOptimizer, StepsEveryTypeInFloat32AndRoundsOnce) {
  for (const ComponentInfo* c : all_optimizers())
    for (const DType dtype : kFloating)
      for (const Shape& shape : {kLarge, Shape{5}}) {
        const std::string where = c->name + " " + name(dtype);
        Tensor p = random(shape, kFloat32).to(dtype).clone().requires_grad_();
        Tensor q = p.detach().to(kFloat32).clone().requires_grad_();  // the same in float32
        auto mine = c->make_optimizer({p}, options_of(*c)),
             reference = c->make_optimizer({q}, options_of(*c));
        for (int step = 1; step <= 3; ++step) {
          const Tensor before = p.detach().clone(),
                       g = random(shape, kFloat32, static_cast<std::uint64_t>(step)).to(dtype);
          if (dtype != kFloat64) {
            no_grad guard;
            q.copy_(p);
          }
          p.set_grad(g.clone());
          q.set_grad(g.to(kFloat32).clone());
          mine->step();
          reference->step();
          EXPECT_EQ(p.dtype(), dtype);
          EXPECT_GT(max_difference(p, before), 0) << where;
          // in float64 against float32 throughout; else against float32, rounded after each step
          EXPECT_LE(max_difference(p, q.detach().to(dtype)), dtype == kFloat64 ? 1e-5 : 0)
              << where << ", step " << step;
        }
        for (const auto& [n, t] : mine->state_dict())
          if (n.rfind("state.0.", 0) == 0 && t.sizes() == shape && is_floating(t.dtype())) {
            EXPECT_EQ(t.dtype(), dtype == kFloat64 && c->name.find("8bit") == std::string::npos
                                     ? kFloat64
                                     : kFloat32)
                << where << " " << n;
          }
      }
}

TEST(EveryOptimizer, RefusesOtherTypesWhenItIsMade) {
  for (const ComponentInfo* c : all_optimizers())
    for (const DType dtype : {kInt8, kUInt8, kInt32, kInt64, kBool}) {
      Tensor good = zeros({2}).requires_grad_();
      const std::string text =
          c->name + ": parameter 1 is " + name(dtype) + ", expected a floating-point type";
      EXPECT_ERROR(c->make_optimizer({good, zeros({2}, dtype)}, options_of(*c)), DTypeError, text);
      auto o = c->make_optimizer({good}, options_of(*c));
      EXPECT_ERROR(o->add_param_group({zeros({2}, dtype)}), DTypeError, text);
      EXPECT_EQ(o->param_groups().size(), 1u) << "nothing was added";
    }
}

TEST(EveryOptimizer, StateFollowsAModuleThatIsConverted) {
  for (const ComponentInfo* c : all_optimizers())
    for (const DType from : kFloating)
      for (const DType to : kFloating) {
        if (from == to) continue;
        const std::string where = c->name + " " + name(from) + " -> " + name(to);
        manual_seed(3);
        Linear layer({.in_features = 4, .out_features = 3});
        layer.to(from);
        // The same in the wider types throughout; both begin where `from` and `to` can stand.
        Linear wide({.in_features = 4, .out_features = 3});
        wide.load_state_dict(layer.state_dict());
        wide.to(kFloat64);
        auto mine = c->make_optimizer(layer.parameters(), options_of(*c)),
             reference = c->make_optimizer(wide.parameters(), options_of(*c));
        // numbers that every type holds, of other directions each time
        auto pattern = [](const Tensor& p, int64_t stride) {
          return (remainder(arange(p.numel()) * stride, 5).to(p.dtype()) * 0.25 - 0.375)
              .reshape(p.sizes());
        };
        auto push = [&](int64_t stride) {
          for (const Tensor& p : layer.parameters()) p.set_grad(pattern(p, stride));
          for (const Tensor& p : wide.parameters()) p.set_grad(pattern(p, stride));
          mine->step();
          reference->step();
        };
        push(7);
        layer.to(to);
        push(3);
        if (const Tensor count = mine->state_dict().find("state.0.step"); count.defined()) {
          EXPECT_EQ(count.item(), 2) << where;
        }
        double worst = 0;
        for (std::size_t i = 0; i < 2; ++i)
          worst = std::max(worst, max_difference(layer.parameters()[i], wide.parameters()[i]));
        // three roundings of values below 1 to 8 bits
        EXPECT_LT(worst, from == kBFloat16 || to == kBFloat16 ? 8e-3 : 2e-3) << where;
      }
}

TEST(EveryOptimizer, AParameterOfAnotherShapeIsNamedBeforeAnythingChanges) {
  for (const ComponentInfo* c : all_optimizers()) {
    Tensor a = zeros({3}).requires_grad_(), b = zeros({3}).requires_grad_();
    auto o = c->make_optimizer({a, b}, options_of(*c));
    a.set_grad(ones({3}));
    b.set_grad(ones({3}));
    o->step();
    if (!o->state_bytes()) continue;
    b.set_data(zeros({4}));
    a.set_grad(ones({3}));
    b.set_grad(ones({4}));
    const Tensor before = a.detach().clone();
    EXPECT_ERROR(o->step(), StateError,
                 c->name + ": parameter 1 is [4] now, its state is of [3]; make a new optimizer");
    EXPECT_EQ(max_difference(a, before), 0);
    if (const Tensor count = o->state_dict().find("state.0.step"); count.defined()) {
      EXPECT_EQ(count.item(), 1);
    }
  }
}

TEST(Clipping, NormsOf16BitGradientsAreFloat32) {
  for (const DType dtype : {kBFloat16, kFloat16}) {
    Tensor p = zeros({301}, dtype).requires_grad_();
    p.set_grad(ones({301}, dtype));
    EXPECT_NEAR(clip_grad_norm_({p}, 1e9), std::sqrt(301.0), 1e-5) << name(dtype);
    p.set_grad(full({301}, 49152, dtype));  // its norm is beyond float16
    EXPECT_NEAR(clip_grad_norm_({p}, 1), 49152 * std::sqrt(301.0), 1);
    const Tensor want = full({301}, 49152 / (49152 * std::sqrt(301.0))).to(dtype);
    EXPECT_EQ(max_difference(p.grad(), want), 0) << "rounded once";
  }
}

TEST(Clipping, ANormThatIsNoNumberIsSeenInEveryGradient) {
  Tensor a = zeros({1}).requires_grad_(), b = zeros({1}).requires_grad_();
  a.set_grad(full({1}, NAN));
  b.set_grad(ones({1}));
  EXPECT_TRUE(std::isnan(clip_grad_norm_({a, b}, 1)));
  EXPECT_TRUE(std::isnan(b.grad().item())) << "torch multiplies by the NaN";
}

}  // namespace
}  // namespace dropin
