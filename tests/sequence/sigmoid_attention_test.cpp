#include "dropin/sequence/sigmoid_attention.h"

#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

TEST(SigmoidAttention, TheBiasKeepsTheOutputsSize) {  // the mechanism of the paper's -log n, to 3 %
                                                      // of the figures of the reproduction
  const double without[] = {1.03e3, 4.09e3, 1.64e4}, with[] = {13.1, 13.3, 13.1};
  int i = 0;
  for (const int64_t n : {256, 1024, 4096}) {
    const Tensor q = random({1, 1, n, 64}, kFloat32, 1), k = random({1, 1, n, 64}, kFloat32, 2),
                 v = random({1, 1, n, 64}, kFloat32, 3) + 1.0;
    auto size = [&](const AttentionParams& p) {
      return mean(norm(attention(q, k, v, p), {-1})).item();
    };
    EXPECT_NEAR(size({}), 8.0, 0.03 * 8.0) << n;
    EXPECT_NEAR(size({.sigmoid_bias = -std::log(static_cast<double>(n))}), with[i], 0.03 * with[i])
        << n;
    EXPECT_NEAR(size({.sigmoid_bias = 0}), without[i], 0.03 * without[i]) << n;
    ++i;
  }
}

TEST(SigmoidAttention, PartsOfTheKeysAddUp) {
  const Tensor q = random({1, 2, 50, 16}, kFloat32, 1), k = random({1, 2, 400, 16}, kFloat32, 2),
               v = random({1, 2, 400, 16}, kFloat32, 3);
  const AttentionParams p{.sigmoid_bias = -6};
  Tensor total = zeros({1, 2, 50, 16});
  for (int64_t at = 0; at < 400; at += 100)
    total = total + attention(q, k.narrow(2, at, 100), v.narrow(2, at, 100), p);
  EXPECT_LT(max_difference(total, attention(q, k, v, p)), 1e-6);
}

TEST(SigmoidAttention, OneKeyIsWeighedNotCopied) {
  const Tensor q = ones({1, 1, 1, 4}), k = zeros({1, 1, 1, 4}), v = full({1, 1, 1, 4}, 3);
  testing::expect_values(attention(q, k, v, {.sigmoid_bias = 0}), {1.5, 1.5, 1.5, 1.5});
}

TEST(SigmoidAttention, SmallWeightsKeepTheirRelativeAccuracy) {
  const Tensor q = full({1, 1, 1, 1}, 1), v = ones({1, 1, 1, 1});
  for (const double s : {-80.0, -40.0, -12.0, -1.0, 5.0, 60.0}) {
    const double got =
                     attention(q, full({1, 1, 1, 1}, s), v, {.scale = 1, .sigmoid_bias = 0}).item(),
                 want = 1 / (1 + std::exp(-s));
    EXPECT_NEAR(got / want, 1, 1e-6) << s;
  }
  for (const double s : {-3e38, 3e38})
    EXPECT_FLOAT_EQ(
        attention(q, full({1, 1, 1, 1}, s), v, {.scale = 1, .sigmoid_bias = 0}).item<float>(),
        s > 0 ? 1.0f : 0.0f);
}

TEST(SigmoidAttention, PaddedKeysGiveNothingButCountInLogN) {
  SigmoidAttention m({.embed_dim = 8, .num_heads = 2}),
      fixed({.embed_dim = 8, .num_heads = 2, .sigmoid_bias = -std::log(6.0)});
  fixed.load_state_dict(m.state_dict());
  const Tensor x = random({1, 6, 8}, kFloat32);
  Tensor pad = zeros({1, 6}, kBool);
  pad.narrow(1, 4, 2).fill_(1);
  EXPECT_LT(
      max_difference(m(x, {.key_padding_mask = pad}).narrow(1, 0, 4), fixed(x.narrow(1, 0, 4))),
      1e-6);
}

TEST(SigmoidAttention, ALearnedBiasStartsWhereTheFixedOneStandsAndLearns) {
  for (const DType type : {kFloat32, kFloat64}) {
    SigmoidAttention fixed({.embed_dim = 8, .num_heads = 2, .max_seq_len = 32}),
        learned({.embed_dim = 8, .num_heads = 2, .max_seq_len = 32, .learned_bias = true});
    learned.load_state_dict(fixed.state_dict(), false);
    fixed.to(type);
    learned.to(type);
    const Tensor x = random({1, 9, 8}, type);
    EXPECT_LT(max_difference(fixed(x), learned(x)), 1e-6);
    sum(square(learned(x))).backward();
    for (auto& [name, p] : learned.named_parameters())
      if (name == "sigmoid_bias") {
        ASSERT_TRUE(p.grad().defined());
        EXPECT_GT(amin(abs(p.grad())).item(), 0);
      }
  }
}

TEST(SigmoidAttention, StepsEqualForwardWithAFixedBias) {
  SigmoidAttention m({.embed_dim = 16,
                      .num_heads = 2,
                      .causal = true,
                      .rope = "half",
                      .alibi = true,
                      .max_seq_len = 40,
                      .qk_norm = true,
                      .window = {5, -1}});
  m.eval();
  no_grad guard;
  const Tensor x = random({2, 30, 16}, kFloat32), y = m(x);
  Box<SequenceState> s = m.init_state(2, 30);
  EXPECT_LT(max_difference(m.step(x.narrow(1, 0, 7), *s), y.narrow(1, 0, 7)), 1e-5);
  for (int64_t t = 7; t < 30; ++t)
    EXPECT_LT(max_difference(m.step(x.narrow(1, t, 1), *s), y.narrow(1, t, 1)), 1e-5) << t;
}

TEST(SigmoidAttention, OfficialNamesLoad) {
  SigmoidAttention m({.embed_dim = 8, .num_heads = 2, .layer_scale = 1e-4});
  StateDict theirs;
  theirs.set("qkv.weight", random({24, 8}, kFloat32));
  theirs.set("qkv.bias", random({24}, kFloat32));
  theirs.set("proj.weight", random({8, 8}, kFloat32));
  theirs.set("proj.bias", random({8}, kFloat32));
  theirs.set("ls1.gamma", random({8}, kFloat32));
  m.load_state_dict(theirs);
  EXPECT_EQ(max_difference(m.state_dict().find("k_proj.weight"),
                           theirs.find("qkv.weight").narrow(0, 8, 8)),
            0);
  EXPECT_EQ(max_difference(m.state_dict().find("layer_scale"), theirs.find("ls1.gamma")), 0);
}

TEST(SigmoidAttention, NamesWhatDoesNotFit) {
  EXPECT_ERROR(SigmoidAttention({.embed_dim = 8, .num_heads = 2, .sigmoid_bias = "log"}),
               OptionError, "sigmoid_bias is \"log\", expected a number or \"-log_n\"");
  EXPECT_ERROR(SigmoidAttention({.embed_dim = 8, .num_heads = 2, .max_seq_len = -1}), OptionError,
               "max_seq_len is -1");
  EXPECT_ERROR(SigmoidAttention({.embed_dim = 8, .num_heads = 2, .hybrid_norm = "batch"}),
               OptionError, "hybrid_norm is \"batch\"");
  EXPECT_ERROR(SigmoidAttention({.embed_dim = 8, .num_heads = 2, .layer_scale = -1}), OptionError,
               "layer_scale is -1");
  EXPECT_ERROR(SigmoidAttention({.embed_dim = 8, .num_heads = 2, .window = {-2, 0}}), OptionError,
               "window must be");
  EXPECT_ERROR(SigmoidAttention({.embed_dim = 6, .num_heads = 2, .rope = "half"}), OptionError,
               "is odd");
  SigmoidAttention m({.embed_dim = 8, .num_heads = 2}),
      causal({.embed_dim = 8, .num_heads = 2, .causal = true});
  EXPECT_ERROR(m.attend(zeros({1, 2, 8}), zeros({1, 0, 8}), zeros({1, 0, 8})), ShapeError,
               "at least one key because sigmoid_bias = \"-log_n\"");
  EXPECT_ERROR(m(zeros({1, 2, 8}), {.attn_mask = zeros({2, 2})}), DTypeError,
               "attn_mask is float32, expected bool");
  EXPECT_ERROR(causal.init_state(1, 4), OptionError, "give max_seq_len");
}

}  // namespace
}  // namespace dropin
