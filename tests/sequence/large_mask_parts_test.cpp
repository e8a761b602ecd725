// Masks of large numbers in parts that are merged, in latent scores and in logsumexp.
#include "dropin/ops/attention.h"
#include "dropin/ops/latent.h"
#include "sequence/large_masks.h"
#include "support.h"

namespace dropin {
namespace {

using testing::device;
using testing::max_difference;

// o and the gradients of q, k and v of a function of them.
template <class F>
Tensors with_gradients(const Tensors& in, const Tensor& go, DType dtype, F&& f) {
  Tensors x;
  for (const Tensor& t : in) x.push_back(t.to(dtype).to(device()).clone().requires_grad_());
  const Tensor o = f(x);
  o.backward(go.to(dtype).to(device()));
  Tensors r{o.detach()};
  for (const Tensor& t : x) r.push_back(t.grad());
  for (Tensor& t : r) t = t.to(Device{}).to(kFloat64);
  return r;
}

TEST(LargeMask, MergedPartsAreTheWhole) {
  const Tensors in{halves({1, 2, 20, 16}, 1), halves({1, 2, 150, 16}, 2),
                   halves({1, 2, 150, 16}, 3)};
  const Tensor go = halves({1, 2, 20, 16}, 4);
  for (const Mask& m : masks()) {
    if (m.value == kInf) continue;
    for (const DType dtype : {kFloat32, kFloat64}) {
      const Tensor mask = mask_of(m, 20, 150).to(dtype).to(device());
      const Tensors whole = with_gradients(in, go, dtype, [&](const Tensors& x) {
        return attention(x[0], x[1], x[2], {.attn_mask = mask});
      });
      for (const bool plain : {false, true}) {
        const Tensors parts = with_gradients(in, go, dtype, [&](const Tensors& x) {
          std::vector<AttentionWithLse> parts;
          for (const auto& [from, n] : {std::pair{0, 7}, {7, 100}, {107, 43}}) {
            const AttentionParams p{.attn_mask = mask.narrow(1, from, n)};
            const Tensor k = x[1].narrow(2, from, n), v = x[2].narrow(2, from, n);
            AttentionWithLse a;
            if (plain)
              a.o = plain::attention(x[0], k, v, p, nullptr, &a.lse, &a.rest);
            else
              a = attention_with_lse(x[0], k, v, p);
            parts.push_back(a);
          }
          return merge_attention(parts).o;
        });
        for (std::size_t i = 0; i < 4; ++i)
          EXPECT_LT(max_difference(parts[i], whole[i]),
                    (dtype == kFloat64 ? 1e-13 : 2e-6) * std::max(1.0, amax(abs(whole[i])).item()))
              << "oqkv"[i] << " " << m.name << " " << name(dtype) << (plain ? " definition" : "");
      }
    }
  }
}

// y_t = sum_l p_tl sum_s w_ls v_s: the definition of latent attention in float64, score by score.
Tensor latent_reference(const Tensors& x, bool causal) {
  const Tensor p = x[0], k = x[1], v = x[2];
  const int64_t t = k.size(2);
  const Tensor i = arange(t).to(k.device()),
               later = i.reshape({1, -1}) > i.reshape({-1, 1});  // [t, s]
  Tensor s = k.transpose(2, 3).unsqueeze(3);                     // [B, H, N, 1, s]
  s = s.expand({k.size(0), k.size(1), k.size(3), t, t});
  if (causal) s = masked_fill(s, later, -kInf);
  const Tensor blind = all(s.detach() == -kInf, {-1}, true);
  const Tensor w = masked_fill(softmax(masked_fill(s, blind, 0), -1), blind, 0);
  return sum((p.transpose(2, 3).unsqueeze(-1) * w).unsqueeze(-1) * v.unsqueeze(2).unsqueeze(2),
             {2, 4});
}

TEST(LargeMask, LatentScores) {
  for (const bool causal : {true, false})
    for (const Mask& m : masks()) {
      if (m.value == kInf || m.value == -kInf) continue;
      Tensor k = halves({1, 2, 150, 3}, 2);
      // a latent whose scores are all large, one with some, one with none
      k.select(3, 0).add_(m.value);
      k.select(3, 1).narrow(2, 40, 70).add_(m.value);
      const Tensors in{softmax(halves({1, 2, 150, 3}, 1), -1), k, halves({1, 2, 150, 8}, 3)};
      const Tensor go = halves({1, 2, 150, 8}, 4);
      Tensors rounded = in;  // float32 rounds the score; nothing else may differ
      rounded[1] = k.to(kFloat32).to(kFloat64);
      for (const DType dtype : {kFloat32, kFloat64}) {
        const Tensors want =
            with_gradients(dtype == kFloat32 ? rounded : in, go, kFloat64,
                           [&](const Tensors& x) { return latent_reference(x, causal); });
        for (const bool plain : {false, true}) {
          const Tensors got = with_gradients(in, go, dtype, [&](const Tensors& x) {
            return plain ? plain::latent_attention(x[0], x[1], x[2], causal)
                         : latent_attention(x[0], x[1], x[2], causal);
          });
          for (std::size_t i = 0; i < 4; ++i)
            EXPECT_LT(max_difference(got[i], want[i]),
                      (dtype == kFloat64 ? 1e-12 : 1e-5) * std::max(1.0, amax(abs(want[i])).item()))
                << "opkv"[i] << " " << m.name << " " << name(dtype) << causal << plain;
        }
      }
    }
}

TEST(LargeMask, LogsumexpHasTheGradientOfItsWeights) {
  for (const double value : {0.0, -1e4, -1e9, kLeast})
    for (const DType dtype : {kFloat32, kFloat64}) {
      Tensor x = full({2, 64, 3}, value, {dtype, device()}).requires_grad_();
      sum(logsumexp(x, {1})).backward();
      EXPECT_LT(max_difference(x.grad(), full(x.sizes(), 1.0 / 64, x.options())), 1e-7) << value;
    }
}

}  // namespace
}  // namespace dropin
