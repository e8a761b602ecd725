// Masks by large numbers: every score path at masks that leave nothing of a score beside them,
// against a reference in float64 that rounds a score as the path does and nothing else.
#include "dropin/ops/attention.h"
#include "sequence/large_masks.h"
#include "support.h"

namespace dropin {
namespace {

using testing::device;
using testing::max_difference;

struct Path {
  std::string name;
  int64_t queries, keys, key_heads;
  std::vector<AttentionParams> patterns;  // several: a mixture
};

void PrintTo(const Path& p, std::ostream* os) { *os << p.name; }

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

std::vector<Narrow> dtypes() {
  return {{"float64", kFloat64, 1e-12},
          {"float32", kFloat32, 3e-6},
          {"bfloat16", kBFloat16, 8e-3},
          {"float16", kFloat16, 1e-3}};
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

}  // namespace
}  // namespace dropin
