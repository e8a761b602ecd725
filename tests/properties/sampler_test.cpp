// What every sampler owes: its stream goes on from call to call, and over a saved state or a copy.
#include "properties/members.h"

namespace dropin::testing {
namespace {

class EverySampler : public ::testing::TestWithParam<Member> {};
INSTANTIATE_TEST_SUITE_P(Registry, EverySampler, ::testing::ValuesIn(members(is_sampler)), label);

Tensor drawn(Module& m, int64_t count) { return run(m, {{"count", scalar(count, kInt64)}}); }

TEST_P(EverySampler, TwoCallsGiveWhatOneGives) {
  Box<Module> a = made(GetParam(), kFloat32), b = made(GetParam(), kFloat32);
  manual_seed(7);
  const Tensor first = drawn(*a, 3), none = drawn(*a, 0), second = drawn(*a, 6);
  manual_seed(7);
  EXPECT_EQ(max_difference(concat({first, none, second}), drawn(*b, 9)), 0);
  EXPECT_EQ(none.size(0), 0);
  EXPECT_TRUE(all(isfinite(second)).item<bool>());
}

TEST_P(EverySampler, ASavedStateAndACopyGoOn) {
  Box<Module> a = made(GetParam(), kFloat32), b = made(GetParam(), kFloat32, 2);
  drawn(*a, 5);
  b->load_state_dict(a->state_dict());
  Box<Module> c = a->clone();
  manual_seed(7);
  const Tensor want = drawn(*a, 4);
  for (Module* m : {b.get(), c.get()}) {
    manual_seed(7);
    EXPECT_EQ(max_difference(drawn(*m, 4), want), 0);
  }
}

TEST_P(EverySampler, RefusesBadInputsAndOptions) {
  Box<Module> m = made(GetParam(), kFloat32);
  EXPECT_ERROR(m->call({}), StateError, "no tensor \"count\"");
  for (const BadInput& bad : registry().family(*GetParam().info).bad_inputs(m->options_json()))
    EXPECT_ERROR(m->call(bad.inputs), Error, bad.says);
  Json o = GetParam().options;
  o.set("no_such_option", 1);
  EXPECT_ERROR(make(GetParam().info->name, o), OptionError, "unknown option \"no_such_option\"");
}

}  // namespace
}  // namespace dropin::testing
