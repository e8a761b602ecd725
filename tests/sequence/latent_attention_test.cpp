#include "dropin/sequence/latent_attention.h"

#include "dropin/ops/latent.h"
#include "dropin/registry/registry.h"
#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

struct LatentCase {
  std::string name;
  int64_t tokens, latents, width;
  bool causal;
  double spread;  ///< of the scores
  bool padded = false;
  int64_t chunk = 64;
};
void PrintTo(const LatentCase& c, std::ostream* os) { *os << c.name; }

class Latent : public ::testing::TestWithParam<LatentCase> {};
INSTANTIATE_TEST_SUITE_P(
    Cases, Latent,
    ::testing::Values(LatentCase{"causal", 200, 16, 24, true, 1},
                      LatentCase{"causal_odd", 131, 5, 13, true, 2},
                      LatentCase{"one_token", 1, 7, 8, true, 1},
                      LatentCase{"causal_steep", 150, 8, 16, true, 60},
                      LatentCase{"causal_padded", 130, 8, 16, true, 3, true},
                      LatentCase{"causal_small_chunks", 130, 8, 16, true, 3, false, 7},
                      LatentCase{"one_latent", 70, 1, 8, true, 1},
                      LatentCase{"bidirectional", 200, 16, 24, false, 1},
                      LatentCase{"bidirectional_steep", 140, 9, 13, false, 60},
                      LatentCase{"bidirectional_padded", 140, 8, 16, false, 2, true},
                      LatentCase{"empty", 0, 8, 16, true, 1}),
    [](const auto& i) { return i.param.name; });

TEST_P(Latent, EqualsTheDefinition) {
  const LatentCase& c = GetParam();
  const Shape scores{3, 2, c.tokens, c.latents}, values{3, 2, c.tokens, c.width};
  Tensor pad;
  if (c.padded) {  // scattered, leading, and a whole row
    pad = zeros({3, c.tokens}, kBool);
    for (int64_t t = 0; t < c.tokens; t += 3) pad[0].narrow(0, t, 1).fill_(1);
    pad[1].narrow(0, 0, 70).fill_(1);
    pad[2].fill_(1);
  }
  Tensors wide, narrow;
  for (const Tensor& t : {softmax(random(scores, kFloat32, 1), -1),
                          random(scores, kFloat32, 2) * c.spread, random(values, kFloat32, 3)}) {
    narrow.push_back(t.detach().clone().requires_grad_());
    wide.push_back(t.to(kFloat64).detach().requires_grad_());
  }
  const Tensor want = latent_attention(wide[0], wide[1], wide[2], c.causal, pad),
               got = latent_attention(narrow[0], narrow[1], narrow[2], c.causal, pad, c.chunk);
  EXPECT_LT(max_difference(want, got), 5e-6);
  if (c.tokens == 0) return;
  const Tensor g = random(want.sizes(), kFloat32, 4);
  want.backward(g.to(kFloat64));
  got.backward(g);
  for (std::size_t i = 0; i < 3; ++i)
    EXPECT_LT(max_difference(wide[i].grad(), narrow[i].grad()), 3e-5) << "pkv"[i];
}

TEST(LatentAttention, TheDefinitionIsAWeightedMean) {  // against the formula, pair by pair
  const Tensor p = softmax(random({1, 1, 40, 3}), -1), k = random({1, 1, 40, 3}, kFloat64, 2),
               v = random({1, 1, 40, 2}, kFloat64, 3);
  const Tensor o = latent_attention(p, k, v, true), w = exp(k);
  for (const int64_t t : {0, 1, 31, 32, 39}) {
    const Tensor seen = w.narrow(2, 0, t + 1),
                 mean = matmul((seen / sum(seen, {2}, true)).mT(), v.narrow(2, 0, t + 1));
    EXPECT_LT(max_difference(matmul(p.narrow(2, t, 1), mean), o.narrow(2, t, 1)), 1e-12) << t;
  }
}

TEST(LatentAttention, ScoresOfTwoHundredNeitherOverflowNorVanish) {
  Tensor k = zeros({1, 1, 130, 2});
  for (int64_t t = 0; t < 130; ++t) k.narrow(2, t, 1).fill_(t % 5 == 0 ? 200 : -200);
  const Tensor p = full({1, 1, 130, 2}, 0.5), v = random({1, 1, 130, 8}, kFloat32, 3);
  for (const bool causal : {true, false})
    EXPECT_LT(
        max_difference(latent_attention(p, k, v, causal),
                       latent_attention(p.to(kFloat64), k.to(kFloat64), v.to(kFloat64), causal)),
        1e-6);
}

TEST(LatentAttention, MaskedValuesDoNotLeak) {
  const Tensor p = softmax(random({1, 1, 80, 4}, kFloat32), -1),
               k = random({1, 1, 80, 4}, kFloat32, 2).clone(),
               v = random({1, 1, 80, 8}, kFloat32, 3).clone();
  Tensor pad = zeros({1, 80}, kBool);
  pad.narrow(1, 10, 5).fill_(1);
  for (const bool causal : {true, false}) {
    const Tensor y = latent_attention(p, k, v, causal, pad);
    Tensor dirty_k = k.clone(), dirty_v = v.clone();
    dirty_k.narrow(2, 10, 5).fill_(INFINITY);
    dirty_v.narrow(2, 10, 5).fill_(std::nan(""));
    EXPECT_EQ(max_difference(latent_attention(p, dirty_k, dirty_v, causal, pad), y), 0);
  }
}

TEST(LatentAttention,
     AConstantSequenceStaysAsItIs) {  // rows of the implied attention matrix sum to 1
  for (const bool causal : {true, false}) {
    LatentAttention m({.embed_dim = 16, .num_heads = 2, .num_latents = 6, .causal = causal});
    for (auto& [name, w] : m.named_parameters())
      if (name == "v_proj.weight" || name == "out_proj.weight") {
        no_grad guard;
        Tensor(w).copy_(eye(16));
      }
    const Tensor x = random({2, 1, 16}, kFloat32).expand({2, 90, 16});
    EXPECT_LT(max_difference(m.to(kFloat64).call({{"x", x.to(kFloat64)}}).get("y", "test"),
                             x.to(kFloat64)),
              1e-12);
    m.to(kFloat32);
    EXPECT_LT(max_difference(m(x), x), 1e-5) << "sums of 90 float32 weights";
  }
}

TEST(LatentAttention, PromptThenTokensEqualsForwardWhateverTheChunk) {
  for (const int64_t chunk : {1, 16, 64, 100}) {
    manual_seed(3);
    LatentAttention m({.embed_dim = 32, .num_heads = 4, .causal = true, .chunk_size = chunk});
    m.eval();
    no_grad guard;
    const Tensor x = random({2, 150, 32}, kFloat32), y = m(x);
    Box<SequenceState> s = m.init_state(2);
    EXPECT_LT(max_difference(m.forward(x.narrow(1, 0, 140), *s), y.narrow(1, 0, 140)), 1e-5);
    for (int64_t t = 140; t < 150; ++t)
      EXPECT_LT(max_difference(m.step(x.narrow(1, t, 1), *s), y.narrow(1, t, 1)), 1e-5) << t;
  }
  const Tensor state = latent_state(1, 4, 64, 64);
  EXPECT_EQ(state.numel() * 4, (2 * 256 + 256 * 64) * 4)
      << "67584 bytes at D = N = 256, H = 4, whatever the position";
}

TEST(LatentAttention, OfficialNamesAreTransposed) {
  LatentAttention m({.embed_dim = 8, .num_heads = 2, .num_latents = 4});
  StateDict theirs;
  for (const auto& [name, sizes] : {std::pair{"Wq", Shape{8, 4}},
                                    {"Wk", Shape{8, 4}},
                                    {"Wv", Shape{8, 8}},
                                    {"o_proj", Shape{8, 8}}})
    theirs.set(name, random(sizes, kFloat32));
  const LoadReport r = m.load_state_dict(theirs);
  ASSERT_EQ(r.renamed.size(), 4u);
  EXPECT_EQ(r.renamed[0], "Wq -> q_proj.weight, transposed");
  EXPECT_EQ(max_difference(m.state_dict().find("q_proj.weight"), theirs.find("Wq").mT()), 0);
}

TEST(LatentAttention, NamesWhatDoesNotFit) {
  EXPECT_ERROR(LatentAttention({.embed_dim = 8, .num_heads = 3}), OptionError,
               "embed_dim 8 is not divisible by num_heads 3");
  EXPECT_ERROR(LatentAttention({.embed_dim = 8, .num_heads = 4, .num_latents = 6}), OptionError,
               "num_latents 6 is not a positive multiple of num_heads 4");
  EXPECT_ERROR(LatentAttention({.embed_dim = 8, .num_heads = 4, .num_latents = 0}), OptionError,
               "num_latents 0");
  EXPECT_ERROR(LatentAttention({.embed_dim = 8, .num_heads = 2, .chunk_size = 0}), OptionError,
               "chunk_size is 0");
  LatentAttention both({.embed_dim = 8, .num_heads = 2}),
      causal({.embed_dim = 8, .num_heads = 2, .causal = true});
  EXPECT_ERROR(both.init_state(1), OptionError, "step() needs causal = true");
  Box<SequenceState> s = causal.init_state(2);
  EXPECT_ERROR(causal.step(zeros({3, 1, 8}), *s), ShapeError, "batch 3");
  EXPECT_ERROR(
      latent_attention(zeros({1, 1, 3, 2}), zeros({1, 1, 3, 4}), zeros({1, 1, 3, 2}), true),
      ShapeError, "expected [B, H, T, N] twice");
}

TEST(LatentAttention, WhatIsNotFiniteSpoilsNoEarlierToken) {
  LatentAttention m({.embed_dim = 16, .num_heads = 2, .num_latents = 8, .causal = true});
  const Tensor x = random({1, 40, 16}, kFloat32);
  const Tensor want = m(x);
  for (const double bad : {std::nan(""), static_cast<double>(INFINITY)}) {
    Tensor y = x.clone();
    y.select(1, 17).select(1, 3).fill_(bad);
    const Tensor got = m(y);
    EXPECT_LT(max_difference(got.slice(1, 0, 17), want.slice(1, 0, 17)), 1e-5);
    EXPECT_FALSE(std::isfinite(got.select(1, 17).to_vector()[0]));
  }
  EXPECT_EQ(make("LatteAttention", m.options_json())->type(), "LatentAttention");
}

}  // namespace
}  // namespace dropin
