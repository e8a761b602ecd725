#include "dropin/ops/attention.h"

#include <cmath>
#include <limits>

#include "dropin/ops/loss.h"
#include "dropin/ops/matmul.h"
#include "dropin/ops/reduce.h"
#include "dropin/ops/shape.h"
#include "ops/common.h"

namespace dropin {

namespace {

void check_heads(const char* who, const Tensor& q, const Tensor& k, const Tensor& v, const AttentionParams& p) {
  ops_detail::need_floating(who, q);
  if (q.dim() != 4 || k.dim() != 4 || v.dim() != 4) fail<ShapeError>({who, ": q, k, v are ", q.sizes(), ", ", k.sizes(), ", ", v.sizes(), ", expected [B, H, L, Dh]"});
  const bool fits = k.size(0) == q.size(0) && v.size(0) == q.size(0) && k.size(3) == q.size(3) && v.size(1) == k.size(1) && v.size(2) == k.size(2);
  if (!fits) fail<ShapeError>({who, ": q ", q.sizes(), ", k ", k.sizes(), " and v ", v.sizes(), " do not fit"});
  if (k.size(1) == 0 || q.size(1) % k.size(1)) fail<ShapeError>({who, ": ", q.size(1), " query heads are not a multiple of ", k.size(1), " key heads"});
  if (p.key_padding_mask.defined()) {
    if (p.key_padding_mask.dtype() != kBool) fail<DTypeError>({who, ": key_padding_mask is ", p.key_padding_mask.dtype(), ", expected bool (true = padding)"});
    const Shape want{q.size(0), k.size(2)};
    if (!(p.key_padding_mask.sizes() == want)) fail<ShapeError>({who, ": key_padding_mask is ", p.key_padding_mask.sizes(), ", expected ", want});
  }
  if (p.attn_mask.defined()) {
    if (p.attn_mask.dtype() != kBool && !is_floating(p.attn_mask.dtype())) fail<DTypeError>({who, ": attn_mask is ", p.attn_mask.dtype(), ", expected bool or floating point"});
    const Shape full{q.size(0), q.size(1), q.size(2), k.size(2)};
    if (p.attn_mask.dim() > 4 || !(broadcast_shapes(full, p.attn_mask.sizes(), who) == full))
      fail<ShapeError>({who, ": attn_mask is ", p.attn_mask.sizes(), ", expected something that broadcasts to ", full});
  }
}

// Probabilities times values in which masked keys may hold NaN or Inf: 0 * Inf must not leak, so what is not finite is added only where it is seen.
Tensor weighted_values(const Tensor& weights, const Tensor& v, bool masked) {
  if (!masked || all(isfinite(v)).item<bool>()) return matmul(weights, v);
  const Tensor finite = isfinite(v);
  const Tensor clean = matmul(weights, where(finite, v, 0.0));
  no_grad guard;
  const Tensor seen = (weights > 0.0).to(v.dtype());
  const double inf = std::numeric_limits<double>::infinity();
  auto reaches = [&](const Tensor& which) { return matmul(seen, which.to(v.dtype())) > 0.0; };
  const Tensor plus = reaches(v == inf), minus = reaches(v == -inf), bad = logical_or(reaches(isnan(v)), logical_and(plus, minus));
  const Tensor extra = where(bad, std::nan(""), where(plus, inf, where(minus, -inf, zeros_like(clean))));
  enable_grad on;
  return clean + extra;
}

}  // namespace

Tensor alibi_slopes(std::int64_t heads, const TensorOptions& o) {
  auto powers = [](std::int64_t n) {
    std::vector<double> s;
    for (std::int64_t h = 0; h < n; ++h) s.push_back(std::pow(2.0, -8.0 * static_cast<double>(h + 1) / static_cast<double>(n)));
    return s;
  };
  std::int64_t p = 1;
  while (2 * p <= heads) p *= 2;
  std::vector<double> s = powers(p), more = powers(2 * p);
  for (std::int64_t i = 0; static_cast<std::int64_t>(s.size()) < heads; i += 2) s.push_back(more[static_cast<std::size_t>(i)]);
  return tensor(s, o);
}

Tensor plain::attention(const Tensor& q, const Tensor& k_, const Tensor& v_, const AttentionParams& p, Tensor* weights) {
  check_heads("attention", q, k_, v_, p);
  const std::int64_t groups = q.size(1) / k_.size(1), lq = q.size(2), lk = k_.size(2);
  const Tensor k = groups > 1 ? repeat_interleave(k_, groups, 1) : k_, v = groups > 1 ? repeat_interleave(v_, groups, 1) : v_;
  const double scale = p.scale.value_or(1 / std::sqrt(static_cast<double>(q.size(3))));
  Tensor s = matmul(q * scale, k.mT());
  const Tensor i = arange(0, static_cast<double>(lq)).to(q.device()).unsqueeze(1), j = arange(0, static_cast<double>(lk)).to(q.device()).unsqueeze(0);
  if (p.alibi) {
    const Tensor distance = abs(i + static_cast<double>(lk - lq) - j).to(q.dtype());
    s = s - alibi_slopes(q.size(1), q.options()).reshape({-1, 1, 1}) * distance;
  }
  Tensor forbidden;
  auto forbid = [&](const Tensor& m) { forbidden = forbidden.defined() ? logical_or(forbidden, m) : m; };
  if (p.causal) forbid(j > i + static_cast<double>(p.causal_offset.value_or(lk - lq)));
  if (p.key_padding_mask.defined()) forbid(p.key_padding_mask.unsqueeze(1).unsqueeze(1));
  if (p.attn_mask.defined()) {
    if (p.attn_mask.dtype() == kBool) {
      forbid(p.attn_mask);
    } else {
      s = s + p.attn_mask.to(q.dtype());
      forbid(p.attn_mask.detach() == -std::numeric_limits<double>::infinity());
    }
  }
  Tensor prob;
  if (forbidden.defined()) {
    s = masked_fill(s, forbidden, -std::numeric_limits<double>::infinity());
    const Tensor blind = all(forbidden, {-1}, true);  // rows that see nothing
    prob = masked_fill(softmax(masked_fill(s, blind, 0), -1), blind, 0);
  } else {
    prob = lk ? softmax(s, -1) : s;
  }
  if (weights) *weights = prob;
  if (p.dropout_p > 0) prob = dropout(prob, p.dropout_p, true);
  return weighted_values(prob, v, forbidden.defined());
}

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionParams& p) { return plain::attention(q, k, v, p); }

Tensor scaled_dot_product_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& attn_mask, double dropout_p, bool is_causal, std::optional<double> scale) {
  AttentionParams p;
  p.scale = scale;
  p.causal = is_causal;
  p.causal_offset = 0;
  p.dropout_p = dropout_p;
  if (attn_mask.defined()) p.attn_mask = attn_mask.dtype() == kBool ? logical_not(attn_mask) : attn_mask;
  return attention(q, k, v, p);
}

Tensor rope(const Tensor& x, std::string_view style, double base, std::int64_t start) {
  if (style == "none") return x;
  if (style != "half" && style != "interleaved") fail<OptionError>({"rope: style is \"", style, "\", expected none, half or interleaved"});
  const std::int64_t l = x.size(-2), d = x.size(-1), half = d / 2;
  if (d % 2) fail<ShapeError>({"rope: the head width ", d, " is odd; rotary positions turn pairs"});
  Tensor angle = empty({l, half}, kFloat64);
  for (std::int64_t t = 0; t < l; ++t)
    for (std::int64_t c = 0; c < half; ++c)
      angle.data<double>()[t * half + c] = static_cast<double>(start + t) * std::pow(base, -2.0 * static_cast<double>(c) / static_cast<double>(d));
  const DType wide = x.dtype() == kFloat64 ? kFloat64 : kFloat32;
  const Tensor cosine = cos(angle).to(wide).to(x.device()), sine = sin(angle).to(wide).to(x.device()), v = x.to(wide);
  Tensor y;
  if (style == "half") {
    const Tensor a = v.narrow(-1, 0, half), b = v.narrow(-1, half, half);
    y = concat({a * cosine - b * sine, b * cosine + a * sine}, -1);
  } else {
    const Tensor a = v.slice(-1, 0, kEnd, 2), b = v.slice(-1, 1, kEnd, 2);
    y = stack({a * cosine - b * sine, b * cosine + a * sine}, -1).flatten(-2, -1);
  }
  return y.to(x.dtype());
}

Tensor split_heads(const Tensor& x, std::int64_t heads) {
  if (x.dim() != 3 || heads <= 0 || x.size(2) % heads) fail<ShapeError>({"split_heads: x is ", x.sizes(), ", expected [B, L, H * Dh] with H = ", heads});
  return x.reshape({x.size(0), x.size(1), heads, x.size(2) / heads}).transpose(1, 2);
}
Tensor merge_heads(const Tensor& x) { return x.transpose(1, 2).reshape({x.size(0), x.size(2), x.size(1) * x.size(3)}); }

}  // namespace dropin
