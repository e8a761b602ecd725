// Attention as its definition: products of matrices, masks, a softmax; parts merged by their lse.
#include <cmath>
#include <limits>

#include "dropin/ops/loss.h"
#include "dropin/ops/masked.h"
#include "dropin/ops/matmul.h"
#include "dropin/ops/reduce.h"
#include "dropin/ops/shape.h"
#include "ops/attention_checks.h"
#include "ops/attention_positions.h"
#include "ops/common.h"

namespace dropin {

using ops_detail::check_heads;
using ops_detail::check_patterns;
using ops_detail::query_offset;

Tensor masked_softmax(const Tensor& s, const Tensor& forbidden) {
  if (s.size(-1) == 0) return s;
  if (!forbidden.defined()) return softmax(s, -1);
  const Tensor blind = all(forbidden, {-1}, true);  // rows that see nothing
  const Tensor seen = masked_fill(s, forbidden, -std::numeric_limits<double>::infinity());
  return masked_fill(softmax(masked_fill(seen, blind, 0), -1), forbidden, 0);
}

// Masked keys may hold NaN or Inf, and 0 * Inf must not leak.
Tensor weighted_values(const Tensor& weights, const Tensor& v, bool masked) {
  if (!masked || all(isfinite(v)).item<bool>()) return matmul(weights, v);
  const Tensor finite = isfinite(v);
  const Tensor clean = matmul(weights, where(finite, v, 0.0));
  no_grad guard;
  const double inf = std::numeric_limits<double>::infinity();
  const Tensor up = (weights > 0.0).to(v.dtype()), down = (weights < 0.0).to(v.dtype());
  auto reach = [&](const Tensor& by_up, const Tensor& by_down) {
    return matmul(up, by_up.to(v.dtype())) + matmul(down, by_down.to(v.dtype())) > 0.0;
  };
  const Tensor plus = reach(v == inf, v == -inf), minus = reach(v == -inf, v == inf),
               bad = logical_or(reach(isnan(v), isnan(v)), logical_and(plus, minus));
  const Tensor extra =
      where(bad, std::nan(""), where(plus, inf, where(minus, -inf, zeros_like(clean))));
  enable_grad on;
  return clean + extra;
}

Tensor alibi_slopes(int64_t heads, const TensorOptions& o) {
  auto powers = [](int64_t n) {
    std::vector<double> s;
    for (int64_t h = 0; h < n; ++h)
      s.push_back(std::pow(2.0, -8.0 * static_cast<double>(h + 1) / static_cast<double>(n)));
    return s;
  };
  int64_t p = 1;
  while (2 * p <= heads) p *= 2;
  std::vector<double> s = powers(p), more = powers(2 * p);
  for (int64_t i = 0; static_cast<int64_t>(s.size()) < heads; i += 2)
    s.push_back(more[static_cast<std::size_t>(i)]);
  return tensor(s, o);
}

namespace {

// Who sees whom along strands, [H, L, L] bool (true = forbidden), the window included.
Tensor strand_mask(const AttentionParams& p, int64_t length) {
  const auto heads = static_cast<int64_t>(p.step.size()),
             segment = p.segment > 0 ? p.segment : std::max<int64_t>(length, 1);
  Tensor mask = empty({heads, length, length}, kBool);
  bool* m = mask.data<bool>();
  for (int64_t h = 0; h < heads; ++h) {
    const int64_t step = p.step[static_cast<std::size_t>(h)],
                  first = p.first.empty() ? -1 : p.first[static_cast<std::size_t>(h)];
    for (int64_t i = 0; i < length; ++i)
      for (int64_t j = 0; j < length; ++j) {
        const int64_t u = i % segment, w = j % segment, apart = w / step - u / step;
        bool seen =
            i / segment == j / segment && u % step == w % step && (first < 0 || u % step == first);
        if (p.causal) seen = seen && apart <= 0;
        if (p.window_left) seen = seen && apart >= -*p.window_left;
        if (p.window_right) seen = seen && apart <= *p.window_right;
        *m++ = !seen;
      }
  }
  return mask;
}

// The largest of the last dimension, kept, as a constant; 0 where it is not finite.
Tensor finite_top(const Tensor& s) {
  no_grad guard;
  const Tensor top = amax(s.detach(), {-1}, true);
  return where(isfinite(top), top, 0.0);
}
// a + b, and in rest, a constant, what rounding takes from it.
Tensor two_sum(const Tensor& a, const Tensor& b, Tensor* rest) {
  const Tensor sum = a + b;
  no_grad guard;
  const Tensor x = a.detach(), y = b.detach(), z = sum.detach(), of_y = z - x;
  if (rest) *rest = where(isfinite(z), (x - (z - of_y)) + (y - of_y), 0.0);
  return sum;
}
// logsumexp over the last dimension as two numbers.
Tensor log_of_sum(const Tensor& s, Tensor* rest) {
  if (s.size(-1) == 0) {
    const Tensor lse = logsumexp(s, {-1});
    if (rest) *rest = zeros_like(lse);
    return lse;
  }
  const Tensor top = finite_top(s);
  return two_sum(top.squeeze(-1), logsumexp(s - top, {-1}), rest);
}

}  // namespace

Tensor plain::attention(const Tensor& q, const Tensor& k_, const Tensor& v_,
                        const AttentionParams& p, Tensor* weights, Tensor* lse, Tensor* rest) {
  check_heads("attention", q, k_, v_, p);
  const int64_t groups = q.size(1) / k_.size(1), lq = q.size(2), lk = k_.size(2);
  const Tensor k = groups > 1 ? repeat_interleave(k_, groups, 1) : k_,
               v = groups > 1 ? repeat_interleave(v_, groups, 1) : v_;
  const double scale = p.scale.value_or(1 / std::sqrt(static_cast<double>(q.size(3)))),
               inf = std::numeric_limits<double>::infinity();
  const ops_detail::RelativeRows distances(p, query_offset(p, lq, lk), lq, lk, q.device());
  Tensor s = distances.scores(q * scale, k, scale);
  const Tensor i = arange(lq).to(q.device()).unsqueeze(1),
               j = arange(lk).to(q.device()).unsqueeze(0);
  if (p.alibi) {
    const Tensor distance = abs(i + (lk - lq) - j).to(q.dtype());
    s = s - alibi_slopes(q.size(1), q.options()).reshape({-1, 1, 1}) * distance;
  }
  Tensor forbidden;
  auto forbid = [&](const Tensor& m) {
    forbidden = forbidden.defined() ? logical_or(forbidden, m) : m;
  };
  const Tensor at = i + query_offset(p, lq, lk);
  if (!p.step.empty()) {
    forbid(strand_mask(p, lk).to(q.device()));
  } else {
    if (p.causal) forbid(j > at);
    if (p.window_left) forbid(j < at - *p.window_left);
    if (p.window_right) forbid(j > at + *p.window_right);
  }
  if (p.key_padding_mask.defined()) forbid(p.key_padding_mask.unsqueeze(1).unsqueeze(1));
  if (p.attn_mask.defined()) {
    if (p.attn_mask.dtype() == kBool) {
      forbid(p.attn_mask);
    } else {
      s = s + p.attn_mask.to(q.dtype());
      forbid(p.attn_mask.detach() == -inf);
    }
  }
  if (p.grid_bias.defined()) {
    const Tensor cost = ops_detail::grid_costs(p, lq);
    s = s + cost.to(q.dtype());
    forbid(cost == -inf);
  }
  Tensor prob;
  if (p.sigmoid_bias) {
    prob = sigmoid(s + *p.sigmoid_bias);
    if (forbidden.defined()) prob = masked_fill(prob, forbidden, 0);
  } else {
    if (forbidden.defined() && (lse || rest)) s = masked_fill(s, forbidden, -inf);
    prob = masked_softmax(s, forbidden);
  }
  if (lse) *lse = log_of_sum(s, rest);
  if (weights) *weights = prob;
  if (p.dropout_p > 0) prob = dropout(prob, p.dropout_p, true);
  return distances.with_values(weighted_values(prob, v, forbidden.defined()), prob);
}

namespace {

AttentionWithLse merge(const std::vector<AttentionWithLse>& parts, bool exact_gradient) {
  const double inf = std::numeric_limits<double>::infinity();
  Tensors lses, rests;
  for (const auto& a : parts) {
    lses.push_back(a.lse);
    rests.push_back(a.rest.defined() ? a.rest : zeros_like(a.lse.detach()));
  }
  AttentionWithLse r;
  const Tensor all = stack(lses, -1), top = finite_top(all),
               near = (all - top) + stack(rests, -1);  // what is left of the large numbers is exact
  r.lse = two_sum(top.squeeze(-1), logsumexp(near, {-1}), &r.rest);
  const Tensor blind = (r.lse == -inf).unsqueeze(-1),
               alphas = masked_fill(softmax(masked_fill(near, blind, 0), -1), blind, 0);
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const Tensor alpha = alphas.narrow(-1, static_cast<int64_t>(i), 1).to(parts[i].o.dtype()),
                 share = parts[i].o * (exact_gradient ? alpha : alpha.detach());
    r.o = r.o.defined() ? r.o + share : share;
  }
  return r;
}

}  // namespace

AttentionWithLse merge_attention(const std::vector<AttentionWithLse>& parts, bool exact_gradient) {
  if (parts.empty()) fail<ShapeError>({"merge_attention: no parts"});
  return parts.size() == 1 ? parts[0] : merge(parts, exact_gradient);
}

AttentionWithLse plain::attention_mixture(const Tensor& q, const Tensor& k, const Tensor& v,
                                          const std::vector<AttentionParams>& patterns,
                                          bool exact_gradient) {
  check_patterns(q, k, v, patterns);
  std::vector<AttentionWithLse> parts;
  for (const AttentionParams& p : patterns) {
    AttentionWithLse a;
    a.o = plain::attention(q, k, v, p, nullptr, &a.lse, &a.rest);
    parts.push_back(std::move(a));
  }
  return merge(parts, exact_gradient);
}

}  // namespace dropin
