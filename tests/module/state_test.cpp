// Named tensors and what loading takes: many names, kinds of dtypes.
#include <chrono>

#include "dropin/optimizer/optimizer.h"
#include "dropin/projection/linear.h"
#include "support.h"

namespace dropin {
namespace {

using testing::expect_values;

std::string order(const NamedTensors& n) {
  std::string s;
  for (const auto& [name, t] : n) s += name + " ";
  return s;
}

TEST(NamedTensors, AreReadByName) {
  Linear layer({.in_features = 2, .out_features = 3});
  const StateDict s = layer.state_dict();
  EXPECT_EQ(s["weight"].sizes(), (Shape{3, 2}));
  EXPECT_TRUE(s.at("bias").is_same(s.find("bias")));
  EXPECT_FALSE(s.find("wieght").defined());
  EXPECT_ERROR(s["wieght"], StateError, "at: no tensor \"wieght\"; given: weight, bias");
  EXPECT_ERROR(StateDict().at("a"), StateError, "no tensor \"a\"; given: none");
  StateDict taken = s;
  taken.take("bias");
  EXPECT_ERROR(taken["bias"], StateError, "given: weight");
}

TEST(NamedTensors, KeepOrderWhileEntriesComeAndGo) {
  for (const int n : {5, 16, 17, 200}) {
    NamedTensors s;
    std::vector<std::pair<std::string, int>> want;
    for (int i = 0; i < n; ++i) {
      s.set("t" + std::to_string(i), scalar(i));
      want.emplace_back("t" + std::to_string(i), i);
    }
    auto check = [&](int line) {
      ASSERT_EQ(s.size(), want.size()) << n << ", line " << line;
      std::size_t k = 0;
      for (const auto& [name, t] : s) {
        ASSERT_EQ(name, want[k].first) << n << ", line " << line;
        ASSERT_EQ(t.item(), want[k].second) << n << ", line " << line;
        ASSERT_EQ(s.find(name).item(), want[k].second);
        ++k;
      }
      ASSERT_EQ(k, want.size());
    };
    for (int i = 0; i < n; i += 3) {
      EXPECT_EQ(s.take("t" + std::to_string(i)).item(), i);
      EXPECT_FALSE(s.contains("t" + std::to_string(i)));
      EXPECT_FALSE(s.take("t" + std::to_string(i)).defined());
      want.erase(std::find(want.begin(), want.end(), std::pair("t" + std::to_string(i), i)));
    }
    check(__LINE__);
    s.set("t0", scalar(-1));  // taken out and put back: at the end
    want.emplace_back("t0", -1);
    s.set("t1", scalar(-2));  // replaced where it is
    want[0].second = -2;
    check(__LINE__);
    const NamedTensors copy = s;
    while (want.size() > 2) {
      s.take(want.front().first);
      want.erase(want.begin());
    }
    check(__LINE__);
    for (int i = 0; i < 40; ++i) {
      s.set("u" + std::to_string(i), scalar(i));
      want.emplace_back("u" + std::to_string(i), i);
    }
    check(__LINE__);
    EXPECT_EQ(copy.find("t1").item(), -2) << "copies are their own";
    EXPECT_ERROR(s.get("none", "me"), StateError, "me: no tensor \"none\"; given: ");
  }
  NamedTensors empty;
  EXPECT_EQ(order(empty), "");
  EXPECT_FALSE(empty.contains(""));
  empty.set("a", {});
  EXPECT_ERROR(empty.get("a", "me"), StateError, "no tensor \"a\"; given: a");
}

struct Experts : Module {
  explicit Experts(int n) {
    for (int i = 0; i < n; ++i) parameter("expert_" + std::to_string(i) + "_weight", full({1}, i));
  }
  std::string_view type() const override { return "Experts"; }
};

TEST(State, ManyTensorsTakeNoLongerThanMakingThem) {
  const auto seconds = [](auto f) {
    const auto start = std::chrono::steady_clock::now();
    f();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  const int n = 31337;  // where a walk for every name takes some hundred times as long
  Experts m(n);
  Adam adam(m.parameters());
  for (auto& p : m.parameters()) p.set_grad(ones({1}));
  adam.step();
  StateDict s, o;
  const double make = seconds([&] {
    std::vector<std::pair<std::string, Tensor>> all;
    for (int i = 0; i < n; ++i) all.emplace_back("expert_" + std::to_string(i), full({1}, i));
  });
  EXPECT_LT(seconds([&] { s = m.state_dict(); }), 20 * make);
  EXPECT_LT(seconds([&] { m.load_state_dict(s); }), 20 * make);
  EXPECT_LT(seconds([&] { o = adam.state_dict(); }), 40 * make) << "three entries each";
  EXPECT_LT(seconds([&] { adam.load_state_dict(o); }), 60 * make);
  EXPECT_EQ(o.size(), 3u * n + 8);
  std::vector<std::string> names;
  for (const auto& [name, t] : s) names.push_back(name);
  EXPECT_LT(seconds([&] {
              for (const std::string& name : names) s.take(name);
            }),
            20 * make);
  EXPECT_EQ(s.size(), 0u);
}

TEST(State, KindsOfDtypesAreNotMixedUp) {
  struct Typed : Module {
    explicit Typed(DType t) { buffer("value", zeros({2}, t)); }
    std::string_view type() const override { return "Typed"; }
  };
  const DType all[] = {kFloat32, kFloat64, kBFloat16, kFloat16, kInt8, kUInt8, kInt32, kInt64};
  for (const DType to : all)
    for (const DType from : all) {
      Typed m(to);
      const StateDict state{{"value", ones({2}, from)}};
      if (is_floating(to) == is_floating(from)) {
        m.load_state_dict(state);
        expect_values(m.state_dict().find("value"), {1, 1});
        continue;
      }
      EXPECT_ERROR(m.load_state_dict(state), StateError,
                   std::string("mis-typed: value is ") + name(from) + ", expected " + name(to));
      const LoadReport r = m.load_state_dict(state, /*strict=*/false);
      EXPECT_EQ(r.mistyped.size(), 1u);
      EXPECT_TRUE(r.missing.empty() && r.unexpected.empty());
      expect_values(m.state_dict().find("value"), {0, 0});
    }
}

}  // namespace
}  // namespace dropin
