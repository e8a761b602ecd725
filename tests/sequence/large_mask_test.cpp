// Masks by large numbers: every score path at masks that leave nothing of a score beside them,
// against a reference in float64 that rounds a score as the path does and nothing else.
#include <limits>

#include "dropin/ops/attention.h"
#include "dropin/ops/latent.h"
#include "support.h"

namespace dropin {
namespace {

using testing::device;
using testing::max_difference;

constexpr double kInf = std::numeric_limits<double>::infinity(), kLeast = -3.4028234663852886e38;

// Multiples of 1/2, small: scores are exact in float32, also beside 1e4.
Tensor halves(const Shape& s, std::uint64_t seed) {
  Generator g(seed);
  return round(rand(s, kFloat64, &g) * 4 - 2) / 2;
}

struct Path {
  std::string name;
  int64_t queries, keys, key_heads;
  std::vector<AttentionParams> patterns;  // several: a mixture
};
void PrintTo(const Path& p, std::ostream* os) { *os << p.name; }
struct Mask {
  std::string name;
  double value;
  bool whole_rows;  // else every third key of a row, by its number
};
void PrintTo(const Mask& m, std::ostream* os) { *os << m.name; }
struct Narrow {
  std::string name;
  DType dtype;
  double tolerance;  // of the largest value: the dtype's rounding of results
};

void PrintTo(const Narrow& n, std::ostream* os) { *os << n.name; }

std::vector<Path> paths() {
  AttentionParams dilated{.causal = true, .segment = 40, .step = {2, 3}, .first = {1, 0}},
      segments{.causal = true, .segment = 12, .step = {1, 1}, .first = {0, 0}};
  return {{"dense", 70, 130, 1, {{}}},
          {"causal", 90, 90, 2, {{.causal = true}}},
          {"decode", 3, 200, 1, {{.causal = true}}},
          {"alibi", 66, 66, 2, {{.causal = true, .alibi = true}}},
          {"window", 150, 150, 2, {{.window_left = 20, .window_right = 9}}},
          {"strands", 90, 90, 2, {{.window_left = 3, .window_right = 3, .step = {2, 3}}}},
          {"sigmoid", 70, 70, 2, {{.causal = true, .sigmoid_bias = -2.0}}},
          {"dilated", 90, 90, 2, {segments, dilated}}};
}
std::vector<Mask> masks() {
  return {{"1e4", -1e4, true},        {"1e9", -1e9, true},          {"least", kLeast, true},
          {"minus_inf", -kInf, true}, {"plus_inf", kInf, true},     {"some_1e4", -1e4, false},
          {"some_1e9", -1e9, false},  {"some_least", kLeast, false}};
}
std::vector<Narrow> dtypes() {
  return {{"float64", kFloat64, 1e-12},
          {"float32", kFloat32, 3e-6},
          {"bfloat16", kBFloat16, 8e-3},
          {"float16", kFloat16, 1e-3}};
}

// Rows of 5 are masked as a whole and their neighbours not, or every third key of all rows.
Tensor mask_of(const Mask& m, int64_t queries, int64_t keys) {
  Tensor t = zeros({queries, keys}, kFloat64);
  for (int64_t i = 0; i < queries; ++i)
    for (int64_t j = 0; j < keys; ++j)
      if (m.whole_rows ? i % 5 == 2 : (i + j) % 3 == 0) t.data<double>()[i * keys + j] = m.value;
  return t;
}

struct Outcome {
  Tensor o, gq, gk, gv;
};

// How often query i sees key j in head h.
double seen(const Path& path, int64_t h, int64_t i, int64_t j) {
  double count = 0;
  for (const AttentionParams& p : path.patterns) {
    const auto head = static_cast<std::size_t>(h);
    const int64_t step = p.step.empty() ? 1 : p.step[head],
                  segment = p.segment ? p.segment : path.keys,
                  at = i + (p.causal ? path.keys - path.queries : 0), u = at % segment,
                  w = j % segment, apart = w / step - u / step;
    const bool together = p.step.empty() || (at / segment == j / segment && u % step == w % step &&
                                             (p.first.empty() || u % step == p.first[head]));
    const int64_t distance = p.step.empty() ? j - at : apart;
    count += together && !(p.causal && distance > 0) &&
             !(p.window_left && distance < -*p.window_left) &&
             !(p.window_right && distance > *p.window_right);
  }
  return count;
}

// The definition, pair by pair: p = exp(s - max) / sum, and its gradients. A score is rounded to
// float32 (`narrow`) where the mask is added.
Outcome reference(const Path& path, const Tensor& q, const Tensor& k, const Tensor& v,
                  const Tensor& mask, const Tensor& go, bool narrow) {
  const int64_t heads = q.size(1), d = q.size(3), lq = path.queries, lk = path.keys,
                group = heads / path.key_heads;
  Outcome r{zeros(q.sizes(), kFloat64), zeros(q.sizes(), kFloat64), zeros(k.sizes(), kFloat64),
            zeros(k.sizes(), kFloat64)};
  const AttentionParams& first = path.patterns[0];
  const std::vector<double> slopes = alibi_slopes(heads, kFloat64).to_vector();
  for (int64_t h = 0; h < heads; ++h)
    for (int64_t i = 0; i < lq; ++i) {
      auto row = [&](const Tensor& t, int64_t l) {
        const int64_t own = t.size(1) == heads ? h : h / group;
        return t.data<double>() + (own * t.size(2) + l) * d;
      };
      std::vector<double> s(static_cast<std::size_t>(lk)), p(s.size()), dp(s.size());
      double top = -kInf, total = 0, mean = 0;
      for (int64_t j = 0; j < lk; ++j) {
        const auto at = static_cast<std::size_t>(j);
        for (int64_t c = 0; c < d; ++c) {
          s[at] += row(q, i)[c] * row(k, j)[c] / 4;
          dp[at] += row(go, i)[c] * row(v, j)[c];
        }
        if (first.alibi)
          s[at] -=
              slopes[static_cast<std::size_t>(h)] * std::abs(static_cast<double>(i + lk - lq - j));
        s[at] += first.sigmoid_bias.value_or(0) + mask.data<double>()[i * lk + j];
        if (narrow) s[at] = static_cast<double>(static_cast<float>(s[at]));
        p[at] = s[at] == -kInf ? 0 : seen(path, h, i, j);
        if (p[at] > 0) top = std::max(top, s[at]);
      }
      for (std::size_t j = 0; j < s.size(); ++j) {
        if (p[j] == 0) continue;
        p[j] *= first.sigmoid_bias ? 1 / (1 + std::exp(-s[j])) : std::exp(s[j] - top);
        total += p[j];
      }
      if (first.sigmoid_bias || total == 0) total = 1;
      for (std::size_t j = 0; j < s.size(); ++j)
        if (p[j] != 0) p[j] /= total, mean += p[j] * dp[j];
      for (int64_t j = 0; j < lk; ++j) {
        const double w = p[static_cast<std::size_t>(j)];
        if (w == 0) continue;
        const double own = dp[static_cast<std::size_t>(j)],
                     slope = first.sigmoid_bias ? w * (1 - w) * own : w * (own - mean);
        for (int64_t c = 0; c < d; ++c) {
          row(r.o, i)[c] += w * row(v, j)[c];
          row(r.gv, j)[c] += w * row(go, i)[c];
          row(r.gq, i)[c] += slope * row(k, j)[c] / 4;
          row(r.gk, j)[c] += slope * row(q, i)[c] / 4;
        }
      }
    }
  return r;
}

Outcome measured(const Path& path, const Tensor& q_in, const Tensor& k_in, const Tensor& v_in,
                 const Tensor& mask, const Tensor& go, DType dtype, bool plain) {
  auto own = [&](const Tensor& t) { return t.to(dtype).to(device()).clone(); };
  Tensor q = own(q_in), k = own(k_in), v = own(v_in);
  for (Tensor* t : {&q, &k, &v}) t->requires_grad_();
  std::vector<AttentionParams> patterns = path.patterns;
  for (AttentionParams& p : patterns) {
    p.scale = 0.25;
    p.attn_mask = mask.to(dtype == kFloat64 ? kFloat64 : kFloat32).to(device());
  }
  Tensor o;
  if (patterns.size() > 1)
    o = plain ? plain::attention_mixture(q, k, v, patterns).o
              : attention_mixture(q, k, v, patterns).o;
  else
    o = plain ? plain::attention(q, k, v, patterns[0]) : attention(q, k, v, patterns[0]);
  o.backward(go.to(dtype).to(device()));
  auto wide = [](const Tensor& t) { return t.detach().to(Device{}).to(kFloat64); };
  return {wide(o), wide(q.grad()), wide(k.grad()), wide(v.grad())};
}

class LargeMask : public ::testing::TestWithParam<std::tuple<Path, Mask, Narrow>> {};

TEST_P(LargeMask, OutputsAndGradientsAreTheFormulas) {
  const auto& [path, mask, narrow] = GetParam();
  const int64_t heads = 2, d = 16;
  const Tensor q = halves({1, heads, path.queries, d}, 1),
               k = halves({1, path.key_heads, path.keys, d}, 2),
               v = halves({1, path.key_heads, path.keys, d}, 3),
               go = halves({1, heads, path.queries, d}, 4),
               added = mask_of(mask, path.queries, path.keys);
  const Outcome want = reference(path, q, k, v, added, go, narrow.dtype != kFloat64);
  for (const bool plain : {false, true}) {
    if (plain && item_size(narrow.dtype) == 2) continue;  // it rounds every step to 16 bits
    const Outcome got = measured(path, q, k, v, added, go, narrow.dtype, plain);
    const std::pair<const char*, std::pair<const Tensor*, const Tensor*>> all[] = {
        {"o", {&got.o, &want.o}},
        {"gradient of q", {&got.gq, &want.gq}},
        {"gradient of k", {&got.gk, &want.gk}},
        {"gradient of v", {&got.gv, &want.gv}}};
    for (const auto& [what, two] : all) {
      const auto [a, b] = two;
      // +inf makes a softmax row NaN, as in torch, and with it what the row sees; the definition of
      // a mixture multiplies that NaN by the zeros of what it does not see
      if (mask.value == kInf && path.patterns.size() > 1 && (plain || narrow.dtype == kFloat64) &&
          (a == &got.gk || a == &got.gv))
        continue;
      const double size = std::max(1.0, amax(where(isfinite(*b), abs(*b), 0.0)).item());
      EXPECT_LT(max_difference(*a, *b), narrow.tolerance * size)
          << what << (plain ? " of the definition" : "");
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Paths, LargeMask,
                         ::testing::Combine(::testing::ValuesIn(paths()),
                                            ::testing::ValuesIn(masks()),
                                            ::testing::ValuesIn(dtypes())),
                         [](const auto& info) {
                           return std::get<0>(info.param).name + "_" +
                                  std::get<1>(info.param).name + "_" + std::get<2>(info.param).name;
                         });

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
