// Attention and long convolutions on both devices.
#include <sys/wait.h>
#include <unistd.h>
#include <functional>

#include "cuda/both_devices.h"
#include "dropin/dispatch/devices.h"
#include "dropin/ops/ops.h"
#include "dropin/registry/registry.h"
#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;

TEST_F(Cuda, AttentionOfEveryPattern) {
  const int64_t L = 150;
  for (const int64_t D : {8, 64, 72, 128, 160}) {  // beyond 128 without the tiled kernel
    const Tensors qkv{noise({2, 2, L, D}), noise({2, 2, L, D}, kFloat32, 2),
                      noise({2, 2, L, D}, kFloat32, 3)};
    auto run = [&](const char* what, const std::function<AttentionParams(const Device&)>& make,
                   const Tensors& in, double tolerance) {
      agrees(
          what, in,
          [&](const Tensors& v) { return attention(v[0], v[1], v[2], make(v[0].device())); },
          tolerance);
    };
    auto fixed = [](AttentionParams p) { return [p](const Device&) { return p; }; };
    run("dense", fixed({}), qkv, 5e-5);
    if (D == 72 || D >= 128) continue;
    AttentionParams causal, window, alibi, sigmoid, strands;
    causal.causal = true;
    window.window_left = 20, window.window_right = 5;
    alibi.alibi = true, alibi.causal = true;
    sigmoid.sigmoid_bias = -5.0;
    strands.step = {3, 1}, strands.first = {1, 0}, strands.segment = 64;
    run("causal", fixed(causal), qkv, 5e-5);
    run("window", fixed(window), qkv, 5e-5);
    run("alibi", fixed(alibi), qkv, 5e-5);
    run("sigmoid", fixed(sigmoid), qkv, 5e-5);
    run("strands", fixed(strands), qkv, 5e-5);
    run(
        "padding",
        [&](const Device& d) {
          AttentionParams p;
          Tensor pad = zeros({2, L}, {kBool, d});
          pad[0].narrow(0, 100, 50).fill_(1);
          p.key_padding_mask = pad;
          return p;
        },
        qkv, 5e-5);
    run(
        "added and forbidden",
        [&](const Device& d) {
          AttentionParams p;
          p.attn_mask = masked_fill(noise({2, L, L}, kFloat32, 8),
                                    noise({2, L, L}, kFloat32, 9) > 1.5, -INFINITY)
                            .to(d);
          return p;
        },
        qkv, 5e-5);
    run("shared keys, another length", fixed({}),
        {noise({2, 4, 33, D}), noise({2, 2, 70, D}, kFloat32, 2),
         noise({2, 2, 70, D}, kFloat32, 3)},
        5e-5);
    for (const DType t : {kBFloat16, kFloat16})
      run("16 bits", fixed(causal), {qkv[0].to(t), qkv[1].to(t), qkv[2].to(t)}, 3e-2);
  }
}

TEST_F(Cuda, WhatIsNotSeenDoesNotLeak) {
  Tensor v = noise({1, 1, 70, 16}, kFloat32, 3);
  v.select(2, 40).fill_(NAN);
  v.select(2, 60).fill_(INFINITY);
  AttentionParams p;
  p.causal = true;
  const Tensor q = noise({1, 1, 70, 16}), k = noise({1, 1, 70, 16}, kFloat32, 2);
  EXPECT_LT(max_difference(attention(q, k, v, p),
                           attention(q.to(kCUDA), k.to(kCUDA), v.to(kCUDA), p).to(kCPU)),
            1e-5);
}

TEST_F(Cuda, LatentAndLongConvolutions) {
  for (const bool causal : {true, false})
    for (const int64_t t : {1, 64, 150})
      for (const int64_t n : {5, 80})  // beyond 64 latents without the kernel
        agrees(
            "latent",
            {softmax(noise({2, 2, t, n}), -1), noise({2, 2, t, n}, kFloat32, 2),
             noise({2, 2, t, 24}, kFloat32, 3)},
            [&](const Tensors& v) { return latent_attention(v[0], v[1], v[2], causal); }, 1e-4);
  for (const int64_t l : {1, 2, 31, 64, 100, 300}) {
    agrees(
        "fft_conv",
        {noise({2, 3, l}), noise({3, l}, kFloat32, 2), noise({3}, kFloat32, 3),
         noise({3, l}, kFloat32, 4), noise({2, 3, l}, kFloat32, 5), noise({2, 3, l}, kFloat32, 6)},
        [](const Tensors& v) {
          return fft_conv(v[0], v[1], v[2], {.k_rev = v[3], .pre_gate = v[4], .post_gate = v[5]});
        },
        1e-4);
    agrees("short", {noise({2, l, 5}), noise({5, 1, 3}, kFloat32, 2), noise({5}, kFloat32, 3)},
           [](const Tensors& v) { return causal_depthwise_conv(v[0], v[1], v[2]); });
  }
  for (const int64_t n : {1, 2, 12, 64, 100})
    agrees(
        "fft", {noise({3, n, 4})}, [](const Tensors& v) { return rfft(v[0], 0, 1); }, 1e-5);
}

TEST_F(Cuda, LearnedDistancesAndGridsAreComposed) {
  const Tensor q = noise({1, 2, 12, 8}, kFloat32, 1), k = noise({1, 2, 12, 8}, kFloat32, 2),
               v = noise({1, 2, 12, 8}, kFloat32, 3);
  for (const bool grid : {false, true}) {
    AttentionParams p;
    if (grid) {
      p.grid_bias = noise({2, 5, 7}, kFloat32, 4);
      p.grid_bias.narrow(1, 0, 2).fill_(-INFINITY);
      p.grid_places = stack({arange(4) * 0, arange(4)}, 1);
    } else {
      p.relative = noise({5, 8}, kFloat32, 4);
      p.relative_values = noise({5, 8}, kFloat32, 5);
      p.relative_middle = 2;
      p.relative_of_keys = true;
    }
    AttentionParams there = p;
    for (Tensor* t : {&there.relative, &there.relative_values, &there.grid_bias})
      if (t->defined()) *t = t->to(kCUDA);
    EXPECT_FALSE(attention_is_tiled(q.to(kCUDA), k.to(kCUDA), v.to(kCUDA), there));
    EXPECT_LT(max_difference(attention(q, k, v, p),
                             attention(q.to(kCUDA), k.to(kCUDA), v.to(kCUDA), there).to(kCPU)),
              1e-5);
  }
}

}  // namespace
}  // namespace dropin
