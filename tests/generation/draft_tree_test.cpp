// Trees of drafts and their verification, by hand.
#include "dropin/generation/draft_tree.h"

#include <cmath>

#include "generation/models.h"

namespace dropin::testing {
namespace {

using Ids = std::vector<int64_t>;

DraftTree small_tree() {
  return draft_tree(std::vector<Ids>{{0}, {1}, {2}, {0, 0}, {0, 1}, {1, 0}, {0, 0, 0}});
}

TEST(DraftTree, TheNamedOneHas63Drafts) {
  const DraftTree t = draft_tree(Json("mc_sim_7b_63"));
  EXPECT_EQ(t.size(), 64);
  EXPECT_EQ(t.max_depth(), 4);
  int64_t parents = 0, leaves = 0;
  std::vector<bool> has(64);
  for (int64_t i = 1; i < 64; ++i) has[static_cast<std::size_t>(t.parent[i])] = true;
  for (const bool h : has) ++(h ? parents : leaves);
  EXPECT_EQ(parents, 22);
  EXPECT_EQ(static_cast<int64_t>(t.paths.size()), leaves);
  for (int64_t a = 0; a < 64; ++a) {
    EXPECT_TRUE(t.sees(a, 0) && t.sees(a, a));
    int64_t seen = 0;
    for (int64_t b = 0; b < 64; ++b) seen += t.sees(a, b);
    EXPECT_EQ(seen, t.depth[static_cast<std::size_t>(a)] + 1);
  }
  EXPECT_EQ(t.up_to(1).size(), 11);
  EXPECT_EQ(t.up_to(0).paths.size(), 0u);
}

TEST(DraftTree, GrowsWhereDraftsAreRight) {
  const Tensor acc = tensor({0.5, 0.3, 0.1, 0.6, 0.2, 0.05}, {2, 3}, kFloat64);
  // products: [0] .5, [1] .3, [0,0] .3 (longer, so after), [1,0] .18, [0,1] .1, [2] .1
  EXPECT_EQ(tree_from_accuracy(acc, 6), (std::vector<Ids>{{0}, {1}, {0, 0}, {1, 0}, {2}, {0, 1}}));
  EXPECT_EQ(tree_from_accuracy(acc, 100).size(), 12u);
  EXPECT_ERROR(tree_from_accuracy(acc, 0), OptionError, "n is 0");
}

TEST(DraftTree, RefusesInWords) {
  auto refused = [](const std::vector<Ids>& choices, const char* says) {
    EXPECT_ERROR(draft_tree(choices), OptionError, says);
  };
  refused({{0, 0}}, "prefix");
  refused({{0}, {0}}, "twice");
  refused({{}}, "empty");
  refused({{-1}}, "negative");
  EXPECT_ERROR(draft_tree(Json("medusa")), OptionError, "mc_sim_7b_63");
  EXPECT_ERROR(draft_tree(Json::parse("[[0.5]]")), OptionError, "lists of ranks");
}

TEST(VerifyDraftTree, SampleDrawsTheBasesDistribution) {
  const DraftTree t = small_tree();
  const Tensor tokens = whole({0, 1, 2, 3, 1, 2, 0, 4}), logits = random({8, 5}, kFloat64, 3);
  const Tensor p = softmax(logits[0] / 0.9, -1);
  std::vector<double> counts(5);
  constexpr int n = 4000;
  for (int i = 0; i < n; ++i) {
    Generator g(static_cast<std::uint64_t>(i));
    const Verified v = verify_draft_tree(
        t, tokens, logits, {.acceptance = "sample", .temperature = 0.9}, rand({4}, kFloat64, &g));
    const int64_t first = v.path.size() > 1 ? tokens[v.path[1]].item<int64_t>() : v.next_token;
    counts[static_cast<std::size_t>(first)] += 1;
  }
  for (int64_t i = 0; i < 5; ++i)
    EXPECT_NEAR(counts[static_cast<std::size_t>(i)] / n, p[i].item(), 0.03) << i;
}

TEST(VerifyDraftTree, GreedyFollowsTheArgmaxDown) {
  const DraftTree t = small_tree();
  Tensor logits = zeros({8, 5}, kFloat64);
  const Tensor tokens = whole({0, 1, 2, 3, 1, 2, 0, 4});
  logits[0][1] = 1.0;  // node 1, then its children 4 (token 1) and 5 (token 2)
  logits[1][2] = 1.0;
  logits[5][3] = 1.0;
  const Verified v = verify_draft_tree(t, tokens, logits, {});
  EXPECT_EQ(v.path, (Ids{0, 1, 5}));
  EXPECT_EQ(v.next_token, 3);
  const Verified banned = verify_draft_tree(t, tokens, logits, {}, {},
                                            [](int64_t position, const Ids& path, double* z) {
                                              if (position == 1 && path == Ids{0, 1})
                                                z[2] = -INFINITY;
                                            });
  EXPECT_EQ(banned.path, (Ids{0, 1})) << "its argmax is token 0 then";
  EXPECT_EQ(banned.next_token, 0);
}

TEST(VerifyDraftTree, TypicalTakesGoodNodesOnly) {
  const DraftTree t = draft_tree(std::vector<Ids>{{0}, {1}, {0, 0}});
  const Tensor tokens = whole({0, 1, 2, 3});
  Tensor logits = log(full({4, 4}, 0.01, kFloat64));
  logits[0] = log(tensor({0.01, 0.2, 0.78, 0.01}, kFloat64));
  logits[1] = log(tensor({0.5, 0.3, 0.15, 0.05}, kFloat64));  // 0.05 is below both limits
  const VerifyOptions o{.acceptance = "typical", .temperature = 1};
  EXPECT_EQ(verify_draft_tree(t, tokens, logits, o).path, (Ids{0, 2})) << "the likelier one";
  VerifyOptions strict = o;
  strict.posterior_threshold = 0.9;
  strict.posterior_alpha = 2;
  const Verified none = verify_draft_tree(t, tokens, logits, strict);
  EXPECT_EQ(none.path, Ids{0});
  EXPECT_EQ(none.next_token, 2);
}

TEST(VerifyDraftTree, RefusesInWords) {
  const DraftTree t = small_tree();
  const Tensor tokens = zeros({8}, kInt64), logits = zeros({8, 5});
  EXPECT_ERROR(verify_draft_tree(t, tokens, logits, {.temperature = 1}), OptionError,
               "temperature");
  EXPECT_ERROR(verify_draft_tree(t, tokens, logits, {.acceptance = "sample"}), OptionError,
               "temperature");
  EXPECT_ERROR(verify_draft_tree(t, tokens, logits, {.acceptance = "all"}), OptionError,
               "acceptance");
  const VerifyOptions sample{.acceptance = "sample", .temperature = 1};
  EXPECT_ERROR(verify_draft_tree(t, tokens, logits, sample), StateError, "uniforms");
  EXPECT_ERROR(verify_draft_tree(t, tokens, logits, sample, zeros({3})), ShapeError, "uniforms");
  EXPECT_ERROR(verify_draft_tree(t, tokens, logits, sample, ones({4})), OptionError, "[0, 1)");
  EXPECT_ERROR(verify_draft_tree(t, tokens + 5, logits, {}), IndexError, "tokens");
  EXPECT_ERROR(verify_draft_tree(t, tokens, zeros({7, 5}), {}), ShapeError, "logits");
  EXPECT_ERROR(verify_draft_tree(t, tokens, full({8, 5}, std::nan("")), {}), OptionError, "node 0");
}

}  // namespace
}  // namespace dropin::testing
