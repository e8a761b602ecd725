// A swap never changes silently what a model means: causality is kept or asked for by name, and
// options that the new component cannot honour stand in the report.
#include "dropin/sequence/multihead_attention.h"
#include "properties/members.h"

namespace dropin::testing {
namespace {

struct Holder : Module {
  explicit Holder(Box<Module> m) { add_child("mixer", std::move(m)); }
  std::string_view type() const override { return "Holder"; }
  SequenceMixer& mixer() const { return dynamic_cast<SequenceMixer&>(*children()[0].second); }
};

class EveryReplacement : public ::testing::TestWithParam<Member> {};
INSTANTIATE_TEST_SUITE_P(Registry, EveryReplacement,
                         ::testing::ValuesIn(modules_of<SequenceMixer>()), label);

TEST_P(EveryReplacement, KeepsCausalityOrAsks) {
  const std::string& to = GetParam().info->name;
  if (to == type_name<MultiheadAttention>()) GTEST_SKIP() << "is what is replaced here";
  for (const bool causal : {false, true}) {
    auto model = [&] {
      return Holder(
          Box<Module>(new MultiheadAttention({.embed_dim = 8, .num_heads = 2, .causal = causal})));
    };
    Json options = GetParam().options;  // of the member, but for what is asked here
    Json silent = Json::object();
    for (const auto& [k, v] : options.items())
      if (k != "causal") silent.set(k, v);
    Holder m = model();
    try {
      swap(m, "MultiheadAttention", to, silent);
      EXPECT_EQ(m.mixer().causal(), causal) << "silently another model";
    } catch (const OptionError& e) {
      const std::string words = e.what();
      EXPECT_NE(words.find("the future"), std::string::npos) << words;
      EXPECT_EQ(m.mixer().causal(), causal) << "nothing was replaced";
      Json named = silent;
      named.set("causal", !causal);
      swap(m, "MultiheadAttention", to, named);
      EXPECT_EQ(m.mixer().causal(), !causal);
      Holder again = model();
      named.set("causal", causal);
      EXPECT_ERROR(swap(again, "MultiheadAttention", to, named), OptionError, "is not to be had");
    }
  }
}

TEST(SwapReport, NamesTheOptionsThatAreLost) {
  Holder m(Box<Module>(new MultiheadAttention(
      {.embed_dim = 8, .num_heads = 2, .causal = true, .rope = "half", .alibi = true})));
  const SwapReport r = swap(m, "MultiheadAttention", "LatentAttention");
  const std::vector<std::string> want = {"rope = \"half\", now none", "alibi = true, now none"};
  EXPECT_EQ(r.instances[0].changed, want);
  EXPECT_NE(r.str().find("NOTE mixer: rope = \"half\", now none"), std::string::npos) << r.str();

  struct Net : Module {
    Net() { add_child("act", make("GELU", Json::parse(R"({"approximate": "tanh"})"))); }
    std::string_view type() const override { return "Net"; }
  } net;
  EXPECT_EQ(swap(net, "GELU", "FewBitGELU").instances[0].changed,
            std::vector<std::string>{"approximate = \"tanh\", now none"});

  Holder kept(Box<Module>(
      new MultiheadAttention({.embed_dim = 8, .num_heads = 2, .causal = true, .rope = "half"})));
  EXPECT_TRUE(swap(kept, "MultiheadAttention", "LongformerAttention",
                   Json::parse(R"({"window": 2, "global_attention": false})"))
                  .instances[0]
                  .changed.empty());
}

}  // namespace
}  // namespace dropin::testing
