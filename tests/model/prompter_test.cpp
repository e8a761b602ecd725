// Prompter: prompts do not see each other, the cache is the image, bad input.
#include "dropin/model/prompter.h"
#include "support.h"

namespace dropin::testing {
namespace {

Tensor boxes(int64_t batch, int64_t count, std::uint64_t seed = 3) {
  const Tensor low = sigmoid(random({batch, count, 2}, kFloat64, seed)) * 0.5;
  return concat({low, low + 0.4}, 2);
}

TEST(Prompter, PromptsSeeThemselvesAndTheImageOnly) {
  manual_seed(1);
  Prompter p({.embed_dim = 12, .num_heads = 3, .out_dim = 5});
  p.to(kFloat64);
  const Tensor image = random({2, 7, 12}), four = boxes(2, 4);
  const Prompter::Result r = p.forward(image, four);
  const Prompter::Cache kept = p.cache(image);
  for (int64_t i = 0; i < 4; ++i)
    EXPECT_LT(max_difference(p.forward(kept, four.narrow(1, i, 1)).y, r.y.narrow(1, i, 1)), 1e-12);
  EXPECT_EQ(r.y.sizes(), (Shape{2, 4, 5}));
  EXPECT_EQ(r.hidden.sizes(), (Shape{2, 4, 12}));
  // without tokens a prompt attends to itself
  EXPECT_TRUE(all(isfinite(p.forward(zeros({2, 0, 12}, kFloat64), four).y)).item<bool>());
}

TEST(Prompter, OfBothTakesEither) {
  manual_seed(1);
  Prompter p({.embed_dim = 8, .prompt = "both", .text_dim = 3});
  p.to(kFloat64);
  const Tensor image = random({1, 4, 8}), text = random({1, 2, 3});
  EXPECT_EQ(p.forward(image, boxes(1, 2)).y.sizes(), (Shape{1, 2, 8}));
  EXPECT_EQ(p.forward(image, {}, text).y.sizes(), (Shape{1, 2, 8}));
  EXPECT_ERROR(p.forward(image, boxes(1, 2), text), StateError, "either boxes or text_features");
  EXPECT_ERROR(p.forward(image, {}), StateError, "either boxes or text_features");
}

TEST(Prompter, RefusesWhatItCannotMean) {
  EXPECT_ERROR(Prompter({.embed_dim = 8, .num_heads = 3}), OptionError, "num_heads 3");
  EXPECT_ERROR(Prompter({.embed_dim = 8, .prompt = "point"}), OptionError, "prompt is \"point\"");
  EXPECT_ERROR(Prompter({.embed_dim = 8, .prompt = "text"}), OptionError, "text_dim is 0");
  Prompter p({.embed_dim = 8});
  const Tensor image = random({1, 4, 8}, kFloat32);
  auto with = [&](const std::vector<double>& box) { p.forward(image, tensor(box, {1, 1, 4})); };
  with({0, 0, 1, 1});
  EXPECT_ERROR(with({0, 0, 1.1, 1}), Error, "from 0 to 1");
  EXPECT_ERROR(with({0.5, 0, 0.4, 1}), Error, "x1 <= x2");
  EXPECT_ERROR(with({0, NAN, 1, 1}), Error, "from 0 to 1");
  EXPECT_ERROR(p.forward(image, {}, random({1, 1, 3}, kFloat32)), OptionError, "prompt is \"box\"");
  EXPECT_ERROR(p.forward(random({1, 4, 9}, kFloat32), boxes(1, 1)), ShapeError, "embed_dim = 8");
}

}  // namespace
}  // namespace dropin::testing
