#include "dropin/sequence/all_to_first_attention.h"

#include "dropin/registry/registry.h"
#include "dropin/sequence/multihead_attention.h"
#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

TEST(AllToFirstAttention, TheReferenceFrameGetsItsOwnAttention) {
  MultiheadAttention plain({.embed_dim = 8, .num_heads = 2});
  for (const int64_t r : {0, 2}) {
    AllToFirstAttention m({.embed_dim = 8, .num_heads = 2, .reference_frame = r, .qkv_bias = true});
    m.load_state_dict(plain.state_dict());
    const Tensor x = random({2, 4, 6, 8}, kFloat32), y = m(x);
    EXPECT_LT(max_difference(y.select(1, r), plain(x.select(1, r))), 1e-6);
    for (const int64_t f : {1, 3}) {  // queries of f, keys and values of r
      const Tensor want = plain.attend(x.select(1, f), x.select(1, r), x.select(1, r)).y;
      EXPECT_LT(max_difference(y.select(1, f), want), 1e-6);
    }
    AllToFirstAttention flat(
        {.embed_dim = 8, .num_heads = 2, .num_frames = 4, .reference_frame = r, .qkv_bias = true});
    flat.load_state_dict(plain.state_dict());
    EXPECT_EQ(max_difference(flat(x.reshape({8, 6, 8})).reshape({2, 4, 6, 8}), y), 0);
  }
}

TEST(AllToFirstAttention, ABackgroundThatStaysGivesTheSame) {
  AllToFirstAttention m({.embed_dim = 16, .num_heads = 2});
  const Tensor first = random({1, 1, 10, 16}, kFloat32, 1);
  Tensor x = first.expand({1, 5, 10, 16}).clone();
  x.narrow(1, 1, 4).narrow(2, 0, 2).copy_(random({1, 4, 2, 16}, kFloat32, 2));
  const Tensor y = m(x);
  for (int64_t f = 1; f < 5; ++f) {
    EXPECT_LT(max_difference(y[0][f].narrow(0, 2, 8), y[0][0].narrow(0, 2, 8)), 1e-6);
    EXPECT_GT(max_difference(y[0][f].narrow(0, 0, 2), y[0][0].narrow(0, 0, 2)), 1e-3);
  }
}

TEST(AllToFirstAttention, GradientsReachTheOwnAndTheReferenceFrame) {
  AllToFirstAttention m({.embed_dim = 8, .num_heads = 2, .reference_frame = 1});
  const Tensor x = random({1, 4, 3, 8}, kFloat32).requires_grad_();
  const Tensor g = grad({sum(square(m(x).select(1, 2)))}, {x})[0];
  for (int64_t f = 0; f < 4; ++f) EXPECT_EQ(amax(abs(g[0][f])).item() > 0, f == 1 || f == 2) << f;
}

TEST(AllToFirstAttention, MaskedReferencesAndEmptyFrames) {
  AllToFirstAttention m({.embed_dim = 8, .num_heads = 2, .residual = true});
  const Tensor x = random({2, 3, 5, 8}, kFloat32);
  const Tensor y = m(x, {.key_padding_mask = ones({2, 5}, kBool)});
  EXPECT_LT(max_difference(y, x + m.state_dict().find("out_proj.bias")), 1e-6);
  EXPECT_EQ(m(zeros({2, 0, 5, 8})).sizes(), (Shape{2, 0, 5, 8}));
  EXPECT_EQ(m(zeros({2, 3, 0, 8})).sizes(), (Shape{2, 3, 0, 8}));
  Tensor bad = x.clone();
  bad[0][1].fill_(std::nan(""));
  const Tensor z = m(bad);
  EXPECT_TRUE(all(isfinite(z[0][0])).item<bool>()) << "NaN stays in its frame";
  EXPECT_FALSE(any(isfinite(z[0][1])).item<bool>());
}

TEST(AllToFirstAttention, PicturesKeepTheirShape) {
  AllToFirstAttention m({.embed_dim = 6, .num_heads = 2, .num_frames = 3});
  const Tensor x = random({6, 6, 2, 4}, kFloat32), y = m.forward_pictures(x);
  EXPECT_EQ(y.sizes(), x.sizes());
  EXPECT_LT(max_difference(y.flatten(2).mT(), m(x.flatten(2).mT())), 1e-7);
}

TEST(AllToFirstAttention, ASwapKeepsTheBiases) {
  const Json options = Json::parse(R"({"embed_dim": 8, "num_heads": 2, "bias": true})");
  const Json r = AllToFirstAttention::options_from("MultiheadAttention", options, Json::object());
  EXPECT_TRUE(r.find("qkv_bias")->as_bool());
  EXPECT_TRUE(r.find("out_bias")->as_bool());
  AllToFirstAttention m({.embed_dim = 8, .num_heads = 2});
  StateDict theirs;
  for (const char* name : {"to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight"})
    theirs.set(name, random({8, 8}, kFloat32));
  theirs.set("to_out.0.bias", random({8}, kFloat32));
  EXPECT_EQ(m.load_state_dict(theirs).renamed.size(), 5u);
}

TEST(AllToFirstAttention, NamesWhatDoesNotFit) {
  using M = AllToFirstAttention;
  EXPECT_ERROR(M({.embed_dim = 8, .num_heads = 3}), OptionError, "not divisible");
  EXPECT_ERROR(M({.embed_dim = 8, .num_heads = 2, .num_frames = 2, .reference_frame = 2}),
               OptionError, "reference_frame is 2");
  EXPECT_ERROR(M({.embed_dim = 8, .num_heads = 2, .reference_frame = -1}), OptionError,
               "reference_frame is -1");
  EXPECT_ERROR(M({.embed_dim = 8, .num_heads = 2, .rescale_output_factor = 0}), OptionError,
               "rescale_output_factor is 0");
  M m({.embed_dim = 8, .num_heads = 2, .reference_frame = 3}),
      flat({.embed_dim = 8, .num_heads = 2, .num_frames = 4});
  EXPECT_ERROR(m(zeros({6, 5, 8})), OptionError, "num_frames given");
  EXPECT_ERROR(m(zeros({2, 3, 5, 8})), ShapeError, "reference_frame = 3");
  EXPECT_ERROR(flat(zeros({6, 5, 8})), ShapeError, "divisible by num_frames = 4");
  EXPECT_ERROR(flat(zeros({8, 5, 8}), {.key_padding_mask = zeros({8, 5}, kBool)}), ShapeError,
               "key_padding_mask is [8, 5], expected [2, 5]");
}

}  // namespace
}  // namespace dropin
