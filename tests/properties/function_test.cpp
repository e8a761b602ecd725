// What every registered function owes: the same result again, gradients where it has any, its
// declared invariances, and words for inputs that are empty, missing or of the wrong kind.
#include "dropin/core/parallel.h"
#include "properties/members.h"

namespace dropin::testing {
namespace {

class EveryFunction : public ::testing::TestWithParam<Member> {
 public:
  static NamedTensors call(const NamedTensors& in) {
    return GetParam().info->call(GetParam().options, in);
  }
};
INSTANTIATE_TEST_SUITE_P(Registry, EveryFunction, ::testing::ValuesIn(functions()), label);

void expect_same(const NamedTensors& got, const NamedTensors& want, double tolerance = 0) {
  ASSERT_EQ(got.size(), want.size());
  for (const auto& [name, t] : want)
    EXPECT_LE(max_difference(got.find(name), t), tolerance) << name;
}

TEST_P(EveryFunction, GivesTheSameAgainOnAnyNumberOfThreads) {
  const NamedTensors in = inputs_for(GetParam(), -1, kFloat32).all;
  const NamedTensors want = call(in);
  EXPECT_GT(want.size(), 0u);
  const int before = get_num_threads();
  for (const int threads : {1, 2}) {
    set_num_threads(threads);
    const NamedTensors got = call(in);
    set_num_threads(before);
    expect_same(got, want);
  }
}

TEST_P(EveryFunction, NonContiguousInputsGiveTheSame) {
  const Inputs in = inputs_for(GetParam(), -1, kFloat32);
  NamedTensors strided;
  for (const auto& [name, t] : in.all)
    strided.set(name, t.dim() > 1    ? t.transpose(0, -1).contiguous().transpose(0, -1)
                      : t.dim() == 1 ? concat({t.unsqueeze(1), t.unsqueeze(1)}, 1).select(1, 0)
                                     : t);
  expect_same(call(strided), call(in.all), 1e-6);
}

TEST_P(EveryFunction, GradientsAgreeWithDifferences) {
  const Inputs in = inputs_for(GetParam(), -1, kFloat64);
  if (GetParam().traits().surrogate_gradient) GTEST_SKIP() << "not the derivative by design";
  Tensors leaves;
  NamedTensors given;
  for (const auto& [name, t] : in.all) {
    const Tensor leaf = is_floating(t.dtype()) ? t.clone().requires_grad_() : t;
    given.set(name, leaf);
    if (leaf.requires_grad()) leaves.push_back(leaf);
  }
  auto weighed = [](const NamedTensors& out) {  // the differentiable results as one number
    Tensor total;
    std::uint64_t seed = 9;
    for (const auto& [name, t] : out)
      if (t.requires_grad() || !grad_enabled()) {
        if (!is_floating(t.dtype())) continue;
        const Tensor s = sum(t * random(t.sizes(), t.dtype(), ++seed));
        total = total.defined() ? total + s : s;
      }
    return total;
  };
  const NamedTensors out = call(given);
  const Tensor total = weighed(out);
  if (!total.defined()) GTEST_SKIP() << "it has no gradient";
  const Tensors gradients = grad({total}, leaves, {}, false, false, true);
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    const Tensor base = leaves[i].detach().clone(), u = random(base.sizes(), kFloat64, 30 + i);
    auto value = [&](double step) {
      leaves[i].set_data(base + u * step);
      const NamedTensors y = call(given);
      const double v = weighed(y).item();
      leaves[i].set_data(base);
      return v;
    };
    const double h = 1e-6, numeric = (value(h) - value(-h)) / (2 * h);
    const double analytic = gradients[i].defined() ? sum(gradients[i] * u).item() : 0;
    EXPECT_NEAR(analytic, numeric, 1e-5 * std::max(1.0, std::abs(numeric))) << "input " << i;
  }
}

TEST_P(EveryFunction, DeclaredInvariancesHold) {
  if (GetParam().info->invariances.empty()) GTEST_SKIP() << "none declared";
  const NamedTensors in = inputs_for(GetParam(), -1, kFloat32).all, want = call(in);
  for (const Invariance& v : GetParam().info->invariances) {
    SCOPED_TRACE(v.name);
    expect_same(call(v.change(in)), v.expect ? v.expect(want) : want, v.tolerance);
  }
}

TEST_P(EveryFunction, EmptyAndLengthOneInputsGiveResultsOrWords) {
  for (const int64_t length : {0, 1}) {
    try {
      const Inputs in = inputs_for(GetParam(), -1, kFloat32, 5, length);
      EXPECT_GT(call(in.all).size(), 0u) << "length " << length;
    } catch (const Error& e) {  // a function may ask for a value, in words
      EXPECT_NE(std::string(e.what()).find("expected"), std::string::npos) << e.what();
    }
  }
}

TEST_P(EveryFunction, NamesAMissingInput) {
  const Inputs in = inputs_for(GetParam(), -1, kFloat32);
  for (const auto& [missing, unused] : in.all) {
    NamedTensors rest;
    for (const auto& [name, t] : in.all)
      if (name != missing) rest.set(name, t);
    try {
      call(rest);  // an optional one
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(missing), std::string::npos) << e.what();
    }
  }
  if (in.all.size()) {
    EXPECT_ERROR(call({}), StateError, GetParam().info->made_as);
  }
}

TEST_P(EveryFunction, RefusesInputsOfTheWrongShapeInWords) {
  const Inputs in = inputs_for(GetParam(), -1, kFloat32);
  for (const auto& [name, t] : in.all) {
    NamedTensors bad = in.all;
    Shape more = t.sizes();
    more.push_back(3);
    bad.set(name, zeros(more, {t.dtype(), t.device()}));
    try {
      call(bad);  // any shape may be right
    } catch (const Error& e) {
      EXPECT_GT(std::string(e.what()).size(), 20u) << e.what();
    }
  }
}

TEST_P(EveryFunction, RefusesUnknownOptionsAndWrongTypes) {
  const NamedTensors in = inputs_for(GetParam()).all;
  Json o = GetParam().options;
  o.set("no_such_option", 1);
  EXPECT_ERROR(GetParam().info->call(o, in), OptionError, "unknown option \"no_such_option\"");
  for (const FieldInfo& f : GetParam().info->options) {
    if (f.type == "any") continue;
    Json wrong = GetParam().options;
    wrong.set(f.name, Json::object());
    EXPECT_ERROR(GetParam().info->call(wrong, in), OptionError, "option " + f.name);
  }
}

}  // namespace
}  // namespace dropin::testing
