// What every sequence mixer owes its family besides.
#include "dropin/sequence/contract.h"
#include "properties/members.h"

namespace dropin::testing {
namespace {

class EveryMixer : public ::testing::TestWithParam<Member> {};
INSTANTIATE_TEST_SUITE_P(Registry, EveryMixer, ::testing::ValuesIn(modules_of<SequenceMixer>()),
                         label);

SequenceMixer& mixer(Module& m) { return dynamic_cast<SequenceMixer&>(m); }

Tensor x_for(const Member& m, int64_t batch, int64_t length = 9) {
  return inputs_for(m, batch, kFloat64, 5, length).x();
}
Tensor run(Module& m, const Tensor& x) { return testing::run(m, NamedTensors{{"x", x}}); }

TEST_P(EveryMixer, KeepsTheShape) {
  Box<Module> m = made(GetParam());
  if (GetParam().traits().fixed_length) {
    const Tensor x = x_for(GetParam(), 2);
    EXPECT_EQ(run(*m, x).sizes(), x.sizes());
  } else {
    for (const int64_t l : {1, 2, 7, 16})
      EXPECT_EQ(run(*m, x_for(GetParam(), 2, l)).sizes(), (Shape{2, l, 8}));
  }
  try {
    EXPECT_EQ(run(*m, zeros({2, 0, 8}, {kFloat64, device()})).sizes(), (Shape{2, 0, 8}));
  } catch (const ShapeError& e) {  // a member may ask for a token, in words
    EXPECT_NE(std::string(e.what()).find("expected"), std::string::npos) << e.what();
  }
}

TEST_P(EveryMixer, CausalMembersIgnoreTheFuture) {
  Box<Module> m = made(GetParam());
  m->eval();
  if (!mixer(*m).causal()) {
    Json o = GetParam().options;
    bool has = false;
    for (const FieldInfo& f : GetParam().info->options) has = has || f.name == "causal";
    if (!has) GTEST_SKIP() << "not causal";
    o.set("causal", true);
    try {
      manual_seed(1);
      m = make(GetParam().info->name, o);
    } catch (const OptionError& e) {
      GTEST_SKIP() << e.what();
    }
    m->to(kFloat64);
    m->to(device());
    m->eval();
    if (!mixer(*m).causal()) GTEST_SKIP() << "does not claim to hide the future";
  }
  const Tensor x = x_for(GetParam(), 1, 12), y = run(*m, x);
  for (const int64_t cut : {1, 5, 11}) {
    Tensor changed = x.clone();
    changed.narrow(1, cut, 12 - cut).copy_(random({1, 12 - cut, 8}, kFloat64, 77));
    EXPECT_LT(max_difference(run(*m, changed).narrow(1, 0, cut), y.narrow(1, 0, cut)), 1e-10)
        << "changed from " << cut;
  }
}

TEST_P(EveryMixer, PaddingDoesNotMatter) {
  Box<Module> m = made(GetParam());
  m->eval();
  if (GetParam().traits().takes_no_mask) {
    const Tensor x = x_for(GetParam(), 2);
    const Tensor none = zeros({x.size(0), x.size(1)}, {kBool, device()});
    EXPECT_ERROR(mixer(*m).forward(x, {.key_padding_mask = none}), OptionError,
                 "key_padding_mask is not supported");
    return;
  }
  const Tensor x = x_for(GetParam(), 2, 8);
  const Tensor pad =
      tensor({0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0}, {2, 8}, {kBool, device()});
  const Tensor y = mixer(*m).forward(x, {.key_padding_mask = pad});
  Tensor other = x.clone();
  other[0].narrow(0, 6, 2).fill_(1e3);
  const Tensor z = mixer(*m).forward(other, {.key_padding_mask = pad});
  EXPECT_LT(max_difference(z[0].narrow(0, 0, 6), y[0].narrow(0, 0, 6)), 1e-9);
  EXPECT_LT(max_difference(z[1], y[1]), 1e-12);
  other[0].narrow(0, 6, 2).fill_(std::nan(""));
  const Tensor n = mixer(*m).forward(other, {.key_padding_mask = pad});
  EXPECT_LT(max_difference(n[0].narrow(0, 0, 6), y[0].narrow(0, 0, 6)), 1e-9)
      << "NaN at padded keys leaked";
  EXPECT_ERROR(mixer(*m).forward(x, {.key_padding_mask = pad.to(kFloat32)}), DTypeError,
               "key_padding_mask is float32, expected bool");
  EXPECT_ERROR(mixer(*m).forward(x, {.key_padding_mask = zeros({2, 7}, {kBool, device()})}),
               ShapeError, "key_padding_mask is [2, 7]");
}

TEST_P(EveryMixer, ASampleOfPaddingAloneLeavesTheOthersAlone) {
  if (GetParam().traits().takes_no_mask) GTEST_SKIP() << "refused, see above";
  Box<Module> m = made(GetParam());
  m->eval();
  const Tensor x = x_for(GetParam(), 2, 6);
  Tensor pad = zeros({2, 6}, {kBool, device()});
  const Tensor want = mixer(*m).forward(x, {.key_padding_mask = pad});
  pad[0].fill_(1);
  EXPECT_LT(max_difference(mixer(*m).forward(x, {.key_padding_mask = pad})[1], want[1]), 1e-12);
}

TEST_P(EveryMixer, StepEqualsForward) {
  Json o = GetParam().options;
  for (const FieldInfo& f : GetParam().info->options)
    if (f.name == "causal") o.set("causal", true);
  Box<Module> m;
  Box<SequenceState> state;
  try {
    manual_seed(1);
    m = make(GetParam().info->name, o);
    m->to(kFloat64);
    m->to(device());
    m->eval();
    state = mixer(*m).init_state(2, 9);
  } catch (const OptionError& e) {
    GTEST_SKIP() << e.what();
  }
  const Tensor x = x_for(GetParam(), 2), y = run(*m, x).detach();
  EXPECT_LT(max_difference(mixer(*m).step(x.narrow(1, 0, 4), *state), y.narrow(1, 0, 4)), 1e-8);
  for (int64_t t = 4; t < 9; ++t)
    EXPECT_LT(max_difference(mixer(*m).step(x.narrow(1, t, 1), *state), y.narrow(1, t, 1)), 1e-8)
        << "token " << t;
  EXPECT_ERROR(mixer(*m).step(zeros({3, 1, 8}, {kFloat64, device()}), *state), ShapeError,
               "batch 3");
}

}  // namespace
}  // namespace dropin::testing
