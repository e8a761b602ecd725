#include "dropin/ops/attention.h"

#include <cmath>
#include <limits>
#include <memory>

#include "dropin/ops/loss.h"
#include "dropin/ops/masked.h"
#include "dropin/ops/matmul.h"
#include "dropin/ops/reduce.h"
#include "dropin/ops/shape.h"
#include "kernels/attention/kernel.h"
#include "ops/attention_positions.h"
#include "ops/common.h"
#include "ops/heads.h"

namespace dropin {

using ops_detail::heads_last;
using ops_detail::laid_out_as;

namespace {

void check_heads(const char* who, const Tensor& q, const Tensor& k, const Tensor& v,
                 const AttentionParams& p) {
  ops_detail::need_floating(who, q);
  if (q.dim() != 4 || k.dim() != 4 || v.dim() != 4)
    fail<ShapeError>({who, ": q, k, v are ", q.sizes(), ", ", k.sizes(), ", ", v.sizes(),
                      ", expected [B, H, L, Dh]"});
  const bool fits = k.size(0) == q.size(0) && v.size(0) == q.size(0) && k.size(3) == q.size(3) &&
                    v.size(1) == k.size(1) && v.size(2) == k.size(2);
  if (!fits)
    fail<ShapeError>(
        {who, ": q ", q.sizes(), ", k ", k.sizes(), " and v ", v.sizes(), " do not fit"});
  if (k.size(1) == 0 || q.size(1) % k.size(1))
    fail<ShapeError>(
        {who, ": ", q.size(1), " query heads are not a multiple of ", k.size(1), " key heads"});
  if (p.key_padding_mask.defined()) {
    if (p.key_padding_mask.dtype() != kBool)
      fail<DTypeError>({who, ": key_padding_mask is ", p.key_padding_mask.dtype(),
                        ", expected bool (true = padding)"});
    const Shape want{q.size(0), k.size(2)};
    if (!(p.key_padding_mask.sizes() == want))
      fail<ShapeError>(
          {who, ": key_padding_mask is ", p.key_padding_mask.sizes(), ", expected ", want});
  }
  if (p.attn_mask.defined()) {
    if (p.attn_mask.dtype() != kBool && !is_floating(p.attn_mask.dtype()))
      fail<DTypeError>(
          {who, ": attn_mask is ", p.attn_mask.dtype(), ", expected bool or floating point"});
    const Shape full{q.size(0), q.size(1), q.size(2), k.size(2)};
    if (p.attn_mask.dim() > 4 || !(broadcast_shapes(full, p.attn_mask.sizes(), who) == full))
      fail<ShapeError>({who, ": attn_mask is ", p.attn_mask.sizes(),
                        ", expected something that broadcasts to ", full});
  }
  ops_detail::check_positions(who, q, k, v, p);
  if (p.step.empty()) return;
  if (q.size(1) != k.size(1) || q.size(2) != k.size(2))
    fail<ShapeError>(
        {who, ": strands need queries and keys of one shape, got ", q.sizes(), " and ", k.sizes()});
  const auto heads = static_cast<std::size_t>(q.size(1));
  if (p.step.size() != heads || (!p.first.empty() && p.first.size() != heads))
    fail<OptionError>({who, ": step has ", p.step.size(), " and first ", p.first.size(),
                       " entries, expected one per head: ", heads});
  for (std::size_t h = 0; h < heads; ++h)
    if (p.step[h] < 1 || (!p.first.empty() && p.first[h] < 0))
      fail<OptionError>({who, ": step must be positive and first not negative"});
  if (p.segment < 0)
    fail<OptionError>({who, ": segment is ", p.segment, ", expected 0 (none) or a length"});
}

}  // namespace

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

// Position of query 0 among the keys.
int64_t query_offset(const AttentionParams& p, int64_t lq, int64_t lk) {
  return p.causal_offset.value_or(p.causal ? lk - lq : 0);
}

}  // namespace

namespace {

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

// A pattern as the kernels take it.
struct Pattern {
  kernels::AttentionSpec spec;
  std::vector<int64_t> step, first;
  Tensor slopes, pad, forbidden, added, grid, places;

  Pattern(const Tensor& q, const Tensor& k, const AttentionParams& p)
      : step(p.step), first(p.first) {
    const int64_t b = q.size(0), h = q.size(1), lq = q.size(2), lk = k.size(2);
    spec.kind = p.sigmoid_bias ? kernels::ScoreKind::Sigmoid : kernels::ScoreKind::Softmax;
    spec.scale = p.scale.value_or(1 / std::sqrt(static_cast<double>(q.size(3))));
    spec.bias = p.sigmoid_bias.value_or(0);
    spec.offset = query_offset(p, lq, lk);
    if (p.window_left) spec.left = -*p.window_left;
    if (p.window_right) spec.right = *p.window_right;
    if (p.causal) spec.right = std::min<int64_t>(spec.right, 0);
    spec.alibi_offset = lk - lq;
    spec.segment = p.segment;
    spec.table_middle = p.relative_middle;
    spec.table_of_keys = p.relative_of_keys;
    if (p.grid_bias.defined()) {
      grid = p.grid_bias.detach().to(kFloat32).contiguous();
      places = p.grid_places.contiguous();
    }
    if (p.alibi) slopes = alibi_slopes(h).to(q.device());
    if (p.key_padding_mask.defined()) pad = p.key_padding_mask.contiguous();
    if (p.attn_mask.defined()) {
      const Tensor m = detail::broadcast_to(
          p.attn_mask.dtype() == kBool ? p.attn_mask : p.attn_mask.detach().to(kFloat32),
          {b, h, lq, lk});
      (m.dtype() == kBool ? forbidden : added) = m;
    }
  }
  /// tables: relative, relative_values, relative_factors as the kernel takes them.
  kernels::AttentionInputs inputs(const Tensor& q, const Tensor& k, const Tensor& v,
                                  const Tensor (&tables)[3]) const {
    return {q.in(),     k.in(),         v.in(),         slopes.in(),    pad.in(),  forbidden.in(),
            added.in(), tables[0].in(), tables[1].in(), tables[2].in(), grid.in(), places.in()};
  }
  /// The kernel's view of it, valid as long as this object.
  kernels::AttentionSpec bound(bool accumulate) const {
    kernels::AttentionSpec s = spec;
    s.step = step.empty() ? nullptr : step.data();
    s.first = first.empty() ? nullptr : first.data();
    s.accumulate = accumulate;
    return s;
  }
};

AttentionWithLse tiled(const Tensor& q_, const Tensor& k_, const Tensor& v_,
                       const std::vector<AttentionParams>& params, bool exact_gradient = true) {
  // CUDA's tensor cores take 16-bit types as they are; results that are added to are kept in
  // float32
  const bool narrow = q_.device().is_cuda() && q_.dtype() != kFloat32 && k_.dtype() == q_.dtype() &&
                      v_.dtype() == q_.dtype() && params.size() == 1 && params[0].step.empty();
  const DType t = narrow ? q_.dtype() : kFloat32;
  const Tensor q = laid_out_as(q_, t), k = laid_out_as(k_, t), v = laid_out_as(v_, t);
  auto table = [](const Tensor& x) { return x.defined() ? x.to(kFloat32).contiguous() : x; };
  const Tensor tables[3] = {table(params[0].relative), table(params[0].relative_values),
                            table(params[0].relative_factors)};
  auto patterns = std::make_shared<std::vector<Pattern>>();
  for (const AttentionParams& p : params) patterns->emplace_back(q, k, p);
  const bool merged = params.size() > 1 || !params[0].step.empty(),
             softmax = !params[0].sigmoid_bias;
  Tensor o = heads_last({q.size(0), q.size(1), q.size(2), v.size(3)}, q.device(), t),
         lse =
             softmax ? empty({q.size(0), q.size(1), q.size(2)}, {kFloat32, q.device()}) : Tensor(),
         rest = softmax ? empty_like(lse) : Tensor();
  if (merged) {
    o.zero_();
    if (softmax) lse.fill_(-std::numeric_limits<double>::infinity()), rest.zero_();
  }
  for (const Pattern& p : *patterns)
    run<kernels::attention_forward>(q.device(), p.inputs(q, k, v, tables), p.bound(merged), o.out(),
                                    lse.out(), rest.out());
  Tensors r = record_many(
      "attention", {o, lse}, {q, k, v, tables[0], tables[1], tables[2]},
      {q, k, v, o, lse, rest, tables[0], tables[1], tables[2]},
      [=](const Saved& s, const Tensors& g) -> Tensors {
        const Tensor q = s[0], k = s[1], v = s[2], tables[3] = {s[6], s[7], s[8]};
        if (grad_enabled()) {
          // both results enter one sum, whose gradient with respect to each is what came in
          const Tensors of{q, k, v, tables[0], tables[1], tables[2]};
          return plain_gradients(s, of, ones({}, q.options()), [&](const Tensors& in) {
            AttentionParams first = params[0];
            first.relative = in[3], first.relative_values = in[4], first.relative_factors = in[5];
            Tensor total = zeros({}, q.options());
            AttentionWithLse a;
            if (merged)
              a = plain::attention_mixture(in[0], in[1], in[2], params, exact_gradient);
            else
              a.o = plain::attention(in[0], in[1], in[2], first, nullptr,
                                     g[1].defined() ? &a.lse : nullptr);
            if (g[0].defined()) total = total + sum(a.o * g[0]);
            if (g[1].defined()) total = total + sum(where(isfinite(a.lse), a.lse * g[1], 0.0));
            return total;
          });
        }
        const Tensor go = g[0].defined() ? laid_out_as(g[0], t) : zeros(s[3].sizes(), q.options()),
                     glse = g[1].defined() ? g[1].contiguous() : Tensor();
        Tensor gq = heads_last(q.sizes(), q.device(), t), gk = heads_last(k.sizes(), q.device(), t),
               gv = heads_last(v.sizes(), q.device(), t);
        Tensor gtables[3];
        for (int i = 0; i < 3; ++i)
          if (tables[i].defined()) gtables[i] = empty_like(tables[i]);
        if (merged)
          for (Tensor* t : {&gq, &gk, &gv}) t->zero_();
        for (const Pattern& p : *patterns) {
          kernels::AttentionSpec spec = p.bound(merged);
          spec.own_mean = patterns->size() > 1 && !exact_gradient;
          run<kernels::attention_backward>(
              q.device(), go.in(), glse.in(), p.inputs(q, k, v, tables), spec,
              kernels::AttentionResults{s[3].in(), s[4].in(), s[5].in()},
              kernels::AttentionGradients{gq.out(), gk.out(), gv.out(), gtables[0].out(),
                                          gtables[1].out(), gtables[2].out()});
        }
        return {gq, gk, gv, gtables[0], gtables[1], gtables[2]};
      });
  return {r[0].to(q_.dtype()), r[1], rest};
}

bool has_tiled(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionParams& p) {
  auto narrow = [](const Tensor& t) {
    return t.dtype() == kFloat32 || t.dtype() == kBFloat16 || t.dtype() == kFloat16;
  };
  const bool fits =
      q.device().is_cpu() || (q.size(3) <= 128 && v.size(3) <= 128 &&
                              q.size(0) * q.size(1) <= 65535);  // what CUDA's kernels hold
  if (ops_detail::has_positions(p) && !q.device().is_cpu()) return false;
  return fits && narrow(q) && narrow(k) && narrow(v) && p.dropout_p == 0 &&
         !(p.attn_mask.defined() && p.attn_mask.requires_grad()) &&
         has_kernels<kernels::attention_forward, kernels::attention_backward>(q.device());
}

}  // namespace

bool attention_is_tiled(const Tensor& q, const Tensor& k, const Tensor& v,
                        const AttentionParams& p) {
  return has_tiled(q, k, v, p);
}

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionParams& p) {
  check_heads("attention", q, k, v, p);
  return has_tiled(q, k, v, p) ? tiled(q, k, v, {p}).o : plain::attention(q, k, v, p);
}

AttentionWithLse attention_with_lse(const Tensor& q, const Tensor& k, const Tensor& v,
                                    const AttentionParams& p) {
  check_heads("attention", q, k, v, p);
  if (p.sigmoid_bias)
    fail<OptionError>(
        {"attention_with_lse: sigmoid weights are not normalised; there is no log-sum-exp"});
  if (has_tiled(q, k, v, p)) return tiled(q, k, v, {p});
  AttentionWithLse r;
  r.o = plain::attention(q, k, v, p, nullptr, &r.lse, &r.rest);
  return r;
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
void check_patterns(const Tensor& q, const Tensor& k, const Tensor& v,
                    const std::vector<AttentionParams>& patterns) {
  if (patterns.empty()) fail<ShapeError>({"attention_mixture: no patterns"});
  for (const AttentionParams& p : patterns) {
    check_heads("attention_mixture", q, k, v, p);
    if (p.sigmoid_bias)
      fail<OptionError>(
          {"attention_mixture: sigmoid weights are not normalised; add the outputs instead"});
  }
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

AttentionWithLse attention_mixture(const Tensor& q, const Tensor& k, const Tensor& v,
                                   const std::vector<AttentionParams>& patterns,
                                   bool exact_gradient) {
  check_patterns(q, k, v, patterns);
  for (const AttentionParams& p : patterns)
    if (ops_detail::has_positions(p) || !has_tiled(q, k, v, p))
      return plain::attention_mixture(q, k, v, patterns, exact_gradient);
  return tiled(q, k, v, patterns, exact_gradient);
}

Tensor scaled_dot_product_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                    const Tensor& attn_mask, double dropout_p, bool is_causal,
                                    std::optional<double> scale,
                                    std::optional<int64_t> causal_offset) {
  AttentionParams p;
  p.scale = scale;
  p.causal = is_causal;
  p.causal_offset = causal_offset;
  p.dropout_p = dropout_p;
  if (attn_mask.defined())
    p.attn_mask = attn_mask.dtype() == kBool ? logical_not(attn_mask) : attn_mask;
  return attention(q, k, v, p);
}

namespace {

// x [B, H, L, Dh] turned to positions [.., L] (doubles on the CPU; they broadcast to [B, 1, L]).
Tensor turned(const Tensor& x, std::string_view style, double base, const Tensor& positions) {
  if (style != "half" && style != "interleaved")
    fail<OptionError>({"rope: style is \"", style, "\", expected none, half or interleaved"});
  const int64_t d = x.size(-1), half = d / 2;
  if (d % 2) fail<ShapeError>({"rope: the head width ", d, " is odd; rotary positions turn pairs"});
  Tensor speed = empty({half}, kFloat64);
  for (int64_t c = 0; c < half; ++c)
    speed.data<double>()[c] =
        std::pow(base, -2.0 * static_cast<double>(c) / static_cast<double>(d));
  const Tensor angle = positions.unsqueeze(-1) * speed;
  const DType wide = x.dtype() == kFloat64 ? kFloat64 : kFloat32;
  const Tensor cosine = cos(angle).to(wide).to(x.device()),
               sine = sin(angle).to(wide).to(x.device()), v = x.to(wide);
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

}  // namespace

Tensor rope(const Tensor& x, std::string_view style, double base, int64_t start) {
  if (style == "none") return x;
  const double first = static_cast<double>(start);
  return turned(x, style, base,
                arange(first, first + static_cast<double>(x.size(-2)), 1, kFloat64));
}
Tensor rope(const Tensor& x, std::string_view style, double base, const Tensor& positions) {
  if (style == "none") return x;
  const Shape want{x.size(0), x.size(-2)};
  if (positions.dtype() != kInt64)
    fail<DTypeError>({"rope: positions are ", positions.dtype(), ", expected int64"});
  if (x.dim() != 4 || !(positions.sizes() == want))
    fail<ShapeError>({"rope: positions are ", positions.sizes(), " for x ", x.sizes(),
                      ", expected [B, L] for [B, H, L, Dh]"});
  return turned(x, style, base, positions.to(Device{}).to(kFloat64).unsqueeze(1));
}

Tensor split_heads(const Tensor& x, int64_t heads) {
  if (x.dim() != 3 || heads <= 0 || x.size(2) % heads)
    fail<ShapeError>(
        {"split_heads: x is ", x.sizes(), ", expected [B, L, H * Dh] with H = ", heads});
  return x.reshape({x.size(0), x.size(1), heads, x.size(2) / heads}).transpose(1, 2);
}
Tensor merge_heads(const Tensor& x) {
  return x.transpose(1, 2).reshape({x.size(0), x.size(2), x.size(1) * x.size(3)});
}

}  // namespace dropin
