// The floor: our kernels against our own plain paths, in one process and in turn, with much slack.
// A kernel that is no longer found, or fell to its fallback, fails here; a machine that is merely
// slow or shared does not: ratios are of the best times, and a row may try again.
#include <cmath>

#include "dropin/activation/fewbit.h"
#include "dropin/convolution/mix_conv.h"
#include "dropin/data/tasks.h"
#include "dropin/detection/suppression.h"
#include "dropin/optimizer/optimizer8bit.h"
#include "dropin/projection/bitlinear.h"
#include "dropin/projection/linear.h"
#include "evidence/timing.h"
#include "support.h"

namespace dropin {
namespace {

using evidence::Call;
using evidence::Threads;

Tensor normal(const Shape& s, std::uint64_t seed = 1) {
  Generator g(seed);
  return randn(s, kFloat32, &g);
}

/// agreed: what a quiet machine shows; 0.85 of it must be seen in one of four tries of a few
/// rounds.
void expect_ratio(const char* what, double agreed, const Call& ours, const Call& theirs) {
  double best = 0;
  for (int attempt = 0; attempt < 4 && best < 0.85 * agreed; ++attempt)
    best = std::max(best,
                    evidence::contest(ours, theirs, {.rounds = 5, .min_time = 0.005}).best_ratio);
  EXPECT_GE(best, 0.85 * agreed) << what << ": " << best << "x of the plain path, agreed " << agreed
                                 << "x";
  std::printf("%-60s %6.2fx, agreed %.2fx\n", what, best, agreed);
}

Call quiet(std::function<void()> f) {
  return [f] {
    no_grad guard;
    f();
  };
}

TEST(Floor, Attention) {
  const Threads one(1);
  const Tensor q = normal({1, 4, 1024, 64}, 1), k = normal({1, 4, 1024, 64}, 2),
               v = normal({1, 4, 1024, 64}, 3);
  const AttentionParams window{.window_left = 64, .window_right = 64}, causal{.causal = true};
  expect_ratio("causal over dense", 1.6, quiet([=] { attention(q, k, v, causal); }),
               quiet([=] { attention(q, k, v); }));
  expect_ratio("a window of 64 over dense, L = 1024", 3, quiet([=] { attention(q, k, v, window); }),
               quiet([=] { attention(q, k, v); }));
  const Tensor p = softmax(normal({1, 4, 512, 64}, 4), -1), kk = normal({1, 4, 512, 64}, 5),
               vv = normal({1, 4, 512, 64}, 6);
  expect_ratio("causal latent attention over its definition", 8,
               quiet([=] { latent_attention(p, kk, vv, true); }),
               quiet([=] { plain::latent_attention(p, kk, vv, true); }));
}

TEST(Floor, LongConvolution) {
  const Threads one(1);
  const Tensor u = normal({1, 64, 4096}, 1), h = normal({64, 4096}, 2), d = normal({64}, 3);
  const ConvParams narrow{.pad_begin = {0, 255}, .pad_end = {0, 0}, .groups = 64};
  const Tensor w = normal({64, 1, 1, 256}, 4), x = u.unsqueeze(2);
  // against a direct convolution of a sixteenth of the length, which costs 256 products per value
  expect_ratio("fft_conv of 4096 over a direct convolution of 256", 1.6,
               quiet([=] { fft_conv(u, h, d); }), quiet([=] { conv2d(x, w, {}, narrow); }));
}

TEST(Floor, Products) {
  const Threads one(1);
  const Tensor a = normal({512, 512}, 1), b = normal({512, 512}, 2), wide = a.to(kFloat64),
               wide_b = b.to(kFloat64);
  expect_ratio("a product in float32 over float64", 1.4, quiet([=] { matmul(a, b); }),
               quiet([=] { matmul(wide, wide_b); }));
}

TEST(Floor, Normalisation) {
  const Threads one(1);
  const Tensor x = normal({512, 512}, 1), w = ones({512}), b = zeros({512});
  expect_ratio("layer_norm over its definition", 2, quiet([=] { layer_norm(x, {512}, w, b); }),
               quiet([=] { plain::layer_norm(x, {512}, w, b, 1e-5); }));
  expect_ratio("softmax over exp and sum", 1.4, quiet([=] { softmax(x, -1); }), quiet([=] {
                 const Tensor e = exp(x - amax(x, {1}, true));
                 e / sum(e, {1}, true);
               }));
}

TEST(Floor, LowPrecision) {
  const Threads one(1);
  const Tensor x = normal({1, 2048}, 1);
  auto linear = std::make_shared<Linear>(
      LinearOptions{.in_features = 2048, .out_features = 2048, .bias = false});
  auto bits = std::make_shared<BitLinear>(BitLinearOptions{
      .in_features = 2048, .out_features = 2048, .bias = false, .variant = "b1.58"});
  bits->eval();
  bits->pack(true);
  expect_ratio("packed BitLinear over Linear, one token", 2.5, quiet([=] { (*bits)(x); }),
               quiet([=] { (*linear)(x); }));
  const Tensor y = normal({256, 1024}, 2);
  expect_ratio("quantize_mx over eight passes of copying", 1, quiet([=] { quantize_mx(y, {}); }),
               quiet([=] {
                 for (int i = 0; i < 8; ++i) y.clone();
               }));
  auto few = std::make_shared<FewBitGELU>();
  auto train = [](const Tensor& x, auto f) -> Call {
    const Tensor leaf = x.detach().clone().requires_grad_(), g = ones_like(x);
    return [=] {
      leaf.set_grad({});
      f(leaf).backward(g);
    };
  };
  expect_ratio("FewBitGELU with backward over GELU", 0.7,
               train(y, [few](const Tensor& t) { return (*few)(t); }),
               train(y, [](const Tensor& t) { return gelu(t); }));
  auto parameter = [](std::uint64_t seed) {
    Tensor p = normal({1 << 18}, seed).requires_grad_();
    p.set_grad(normal({1 << 18}, seed + 1));
    return p;
  };
  auto eight = std::make_shared<AdamW8bit>(Tensors{parameter(1)}, AdamW8bitOptions{.lr = 1e-6});
  const Tensor p = normal({1 << 18}, 5), g = normal({1 << 18}, 6), m = zeros({1 << 18}),
               v = zeros({1 << 18});
  expect_ratio(
      "AdamW8bit over Adam's formulas in operations", 1.2, [=] { eight->step(); }, quiet([=] {
        const Tensor m2 = m * 0.9 + g * 0.1, v2 = v * 0.999 + square(g) * 0.001;
        p * 0.999 - (m2 / (sqrt(v2) + 1e-8)) * 1e-3;
      }));
}

TEST(Floor, Vision) {
  const Threads one(1);
  const Tensor x = normal({1, 32, 40, 40}, 1), g = normal({1, 32, 40, 40}, 2);
  std::vector<DepthwiseGroup> groups;
  for (const int64_t k : {3, 5, 7, 9})
    groups.push_back(
        {normal({8, 1, k, k}, 3).requires_grad_(), {}, {k / 2, k / 2}, {k / 2, k / 2}});
  auto both = [=](auto f) -> Call {
    const Tensor leaf = x.detach().clone().requires_grad_();
    return [=] {
      leaf.set_grad({});
      for (const DepthwiseGroup& d : groups) d.weight.set_grad({});
      f(leaf).backward(g);
    };
  };
  const Tensor w = normal({32, 1, 9, 9}, 4).requires_grad_();
  expect_ratio("MixConv 3, 5, 7, 9 with backward over 9x9", 1.3,
               both([=](const Tensor& t) { return mixed_depthwise_conv2d(t, groups); }),
               both([=](const Tensor& t) {
                 w.set_grad({});
                 return conv2d(t, w, {}, {.pad_begin = {4, 4}, .pad_end = {4, 4}, .groups = 32});
               }));
  const Tensor z = normal({1, 16, 24, 24}, 5), offset = normal({1, 18, 24, 24}, 6),
               dense = normal({16, 16, 3, 3}, 7);
  const ConvParams p{.pad_begin = {1, 1}, .pad_end = {1, 1}};
  expect_ratio("deformable convolution over its definition", 4,
               quiet([=] { deform_conv2d(z, offset, {}, dense, {}, p); }),
               quiet([=] { plain::deform_conv2d(z, offset, {}, dense, {}, p); }));
  const BoxScene s = box_scene(1000, 0);
  expect_ratio(
      "nms over the matrix of overlaps", 20, quiet([=] { nms(s.boxes, s.scores, {}); }), quiet([=] {
        const Tensor b = s.boxes,
                     low = maximum(b.unsqueeze(1).slice(2, 0, 2), b.unsqueeze(0).slice(2, 0, 2)),
                     high = minimum(b.unsqueeze(1).slice(2, 2, 4), b.unsqueeze(0).slice(2, 2, 4));
        const Tensor wh = clamp(high - low, 0, 1e30);
        wh.select(2, 0) * wh.select(2, 1);
      }));
}

}  // namespace
}  // namespace dropin
