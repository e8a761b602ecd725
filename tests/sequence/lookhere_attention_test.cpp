#include "dropin/sequence/lookhere_attention.h"

#include "dropin/registry/registry.h"
#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

LookHereBiasOptions table(const std::string& groups, int64_t heads, int64_t h, int64_t w) {
  LookHereBiasOptions o;
  o.grid = {h, w};
  o.num_heads = heads;
  o.head_directions = groups;
  o.prefix_tokens = 0;
  return o;
}

TEST(LookHereBias, SharesOfVisiblePairsAreThePapers) {
  const std::pair<const char*, double> rows[] = {{"none", 100},      {"halves", 53.6},
                                                 {"corners", 28.7},  {"triangles", 27.5},
                                                 {"eighths1", 15.7}, {"eighths2", 15.7}};
  for (const auto& [name, percent] : rows) {
    const Tensor seen = (lookhere_bias(table(name, 4, 14, 14)) > -1e38).to(kFloat64);
    EXPECT_NEAR(100 * mean(seen).item(), percent, 0.05) << name;
    EXPECT_EQ(mean(seen.diagonal(0, 1, 2)).item(), 1) << name << ": the own patch is seen";
  }
}

TEST(LookHereBias, ViewsOfEighthsHardlyOverlap) {
  LookHereBiasOptions o = table("eighths1-eighths2-none", 12, 14, 14);
  const Tensor seen = (lookhere_bias(o) > -1e38).to(kFloat64);
  double worst = 0, total = 0;
  int pairs = 0;
  for (int a = 0; a < 8; ++a)
    for (int b = 0; b < a; ++b, ++pairs) {
      const double common = sum(seen[a] * seen[b]).item(),
                   share = common / sum(maximum(seen[a], seen[b])).item();
      worst = std::max(worst, share);
      total += share;
    }
  EXPECT_NEAR(worst, 0.139, 1e-3);
  EXPECT_NEAR(total / pairs, 0.045, 1e-3);
}

TEST(LookHereBias, ASmallerGridIsAPartOfALargerOne) {
  for (const char* name :
       {"none", "halves", "corners", "triangles", "diagonals", "eighths1", "eighths2", "zero",
        "none1zero3", "none2zero2", "none3zero1", "zerohalves", "zerocorners", "zerotriangles"}) {
    const Tensor small = lookhere_bias(table(name, 4, 3, 5)).reshape({4, 3, 5, 3, 5}),
                 large = lookhere_bias(table(name, 4, 6, 7)).reshape({4, 6, 7, 6, 7}),
                 part = large.narrow(1, 2, 3).narrow(3, 2, 3).narrow(2, 1, 5).narrow(4, 1, 5);
    EXPECT_EQ(max_difference(small, part), 0) << name;
  }
}

TEST(LookHereBias, CostsAndSlopes) {
  // one row of patches: up, down and all see it whole
  LookHereBiasOptions o = table("none", 8, 1, 4);
  o.slope = 2;
  const Tensor flat = lookhere_bias(o).select(1, 0).select(1, 3);  // distance 3
  testing::expect_values(
      flat, {-1.5, -1.5, -6.0 / 16, -6.0 / 16, -6.0 / 64, -6.0 / 64, -6.0 / 256, -6.0 / 256});
  o = table("halves", 8, 4, 1);
  const Tensor down = lookhere_bias(o).select(1, 0).select(1, 3);  // the key lies below
  testing::expect_values(down.slice(0, 1, kEnd, 4), {-1.5, -0.75});
  EXPECT_LT(down[0].item(), -3e38);
  o.fill_with = "max";
  EXPECT_FLOAT_EQ(lookhere_bias(o)[0][0][1].item<float>(), -1.5f);
  o.fill_with = "zero";
  EXPECT_EQ(lookhere_bias(o)[0][0][3].item(), 0);
  o = table("none", 4, 1, 4);
  o.distance = "sqrt";
  EXPECT_NEAR(lookhere_bias(o)[0][0][3].item(), -std::sqrt(3.0) / 4, 1e-6);
  o.distance = "square";
  EXPECT_NEAR(lookhere_bias(o)[0][0][3].item(), -9.0 / 4, 1e-6);
  o = table("center", 4, 2, 3);
  EXPECT_NEAR(lookhere_bias(o)[0][4][0].item(), -std::sqrt(1.25) / 4, 1e-6);
  EXPECT_NEAR(lookhere_bias(o)[0][0][1].item(), -0.5 / 4, 1e-6);
}

TEST(LookHereBias, NeighboursOfOneNameAreOneGroup) {
  const Tensor two = lookhere_bias(table("corners-corners", 12, 2, 3)),
               one = lookhere_bias(table("corners", 12, 2, 3));
  EXPECT_EQ(max_difference(two, one), 0);
}

TEST(LookHereBias, NamesWhatDoesNotFit) {
  auto call = [](const char* changes) {
    Json o = Json::parse(R"({"grid": [2, 2], "num_heads": 4})");
    const Json more = Json::parse(changes);
    for (const auto& [k, v] : more.items()) o.set(k, v);
    return registry().find("lookhere_bias").call(o, {});
  };
  EXPECT_ERROR(call(R"({"head_directions": "halves-up"})"), OptionError, "\"up\" is no group");
  EXPECT_ERROR(call(R"({"head_directions": ""})"), OptionError, "is no group");
  EXPECT_ERROR(call(R"({"head_directions": "halves-none"})"), OptionError, "num_heads 4 and 2");
  EXPECT_ERROR(call(R"({"num_heads": 6})"), OptionError, "num_heads 6 and 1 groups");
  EXPECT_ERROR(call(R"({"num_heads": 6, "head_directions": "none-halves"})"), OptionError,
               "gives 2 heads to \"halves\"");
  EXPECT_ERROR(call(R"({"grid": [0, 2]})"), OptionError, "grid must be [rows, columns]");
  EXPECT_ERROR(call(R"({"grid": [2]})"), OptionError, "grid must be [rows, columns]");
  EXPECT_ERROR(call(R"({"distance": "cubic"})"), OptionError, "distance is \"cubic\"");
  EXPECT_ERROR(call(R"({"fill_with": "none"})"), OptionError, "fill_with is \"none\"");
  EXPECT_ERROR(call(R"({"prefix_tokens": -1})"), OptionError, "prefix_tokens is -1");
}

LookHereAttentionOptions layer(const std::string& groups, int64_t h, int64_t w) {
  LookHereAttentionOptions o;
  static_cast<LookHereBiasOptions&>(o) = table(groups, 4, h, w);
  o.embed_dim = 8;
  return o;
}

TEST(LookHereAttention, IsAttentionWithTheTable) {
  for (const DType type : {kFloat32, kFloat64}) {
    LookHereAttentionOptions o = layer("triangles", 3, 4);
    o.prefix_tokens = 1;
    LookHereAttention m(o);
    m.to(type);
    const Tensor x = random({2, 13, 8}, type);
    auto p = [&](const char* name) { return m.state_dict().find(name); };
    auto heads = [&](const std::string& name) {
      return split_heads(linear(x, p((name + ".weight").c_str()), p((name + ".bias").c_str())), 4);
    };
    const Tensor all = plain::attention(heads("q_proj"), heads("k_proj"), heads("v_proj"),
                                        {.attn_mask = lookhere_bias(o).unsqueeze(0)}),
                 want = linear(merge_heads(all), p("out_proj.weight"), p("out_proj.bias"));
    EXPECT_LT(max_difference(m(x), want), 1e-6);
  }
}

TEST(LookHereAttention, AnotherGridKeepsTheParameters) {
  LookHereAttention small(layer("corners", 2, 3)), large(layer("corners", 5, 4));
  large.load_state_dict(small.state_dict());
  EXPECT_ERROR(small.set_grid(0, 4, 1), OptionError, "grid must be");
  EXPECT_EQ(small(random({1, 6, 8}, kFloat32)).size(1), 6) << "nothing was changed";
  small.set_grid(5, 4, 1);
  const Tensor x = random({1, 20, 8}, kFloat32);
  EXPECT_EQ(max_difference(small(x), large(x)), 0);
  EXPECT_EQ(max_difference((*small.clone()).call({{"x", x}}).find("y"), large(x)), 0);
  EXPECT_ERROR(small(random({1, 6, 8}, kFloat32)), ShapeError,
               "expected [B, 20, 8] because grid = [5, 4]");
  EXPECT_EQ(small.state_dict().size(), 8u) << "the table is not saved";
}

TEST(LookHereAttention, OfficialNamesLoad) {
  LookHereAttention m(layer("corners", 2, 3));
  StateDict theirs;
  theirs.set("qkv.weight", random({24, 8}, kFloat32));
  theirs.set("qkv.bias", random({24}, kFloat32));
  theirs.set("proj.weight", random({8, 8}, kFloat32));
  theirs.set("proj.bias", random({8}, kFloat32));
  m.load_state_dict(theirs);
  EXPECT_EQ(max_difference(m.state_dict().find("v_proj.weight"),
                           theirs.find("qkv.weight").narrow(0, 16, 8)),
            0);
}

}  // namespace
}  // namespace dropin
