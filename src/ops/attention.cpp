// Attention by its kernels, tile by tile; where they cannot take it, by its definition.
#include "dropin/ops/attention.h"

#include <cmath>
#include <limits>
#include <memory>

#include "dropin/ops/matmul.h"
#include "dropin/ops/reduce.h"
#include "dropin/ops/shape.h"
#include "kernels/attention/kernel.h"
#include "ops/attention_checks.h"
#include "ops/attention_positions.h"
#include "ops/common.h"
#include "ops/heads.h"

namespace dropin {

using ops_detail::check_heads;
using ops_detail::check_patterns;
using ops_detail::heads_last;
using ops_detail::laid_out_as;
using ops_detail::query_offset;

void ops_detail::check_heads(const char* who, const Tensor& q, const Tensor& k, const Tensor& v,
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
  check_positions(who, q, k, v, p);
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

void ops_detail::check_patterns(const Tensor& q, const Tensor& k, const Tensor& v,
                                const std::vector<AttentionParams>& patterns) {
  if (patterns.empty()) fail<ShapeError>({"attention_mixture: no patterns"});
  for (const AttentionParams& p : patterns) {
    check_heads("attention_mixture", q, k, v, p);
    if (p.sigmoid_bias)
      fail<OptionError>(
          {"attention_mixture: sigmoid weights are not normalised; add the outputs instead"});
  }
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

/// A call as its kernels take it, kept for the backward pass.
struct Tiled {
  std::vector<AttentionParams> params;
  std::vector<Pattern> patterns;
  DType dtype;          ///< of q, k, v and of the result
  bool merged;          ///< results are added to, in float32
  bool exact_gradient;  ///< else the gradient of AttentionWithLse's shares is left out
};

/// The loss of both results, in recorded operations: they enter one sum, whose gradient with
/// respect to each is what came in.
Tensor plain_total(const Tiled& c, const Tensors& in, const Tensors& g) {
  Tensor total = zeros({}, in[0].options());
  AttentionWithLse a;
  if (c.merged)
    a = plain::attention_mixture(in[0], in[1], in[2], c.params, c.exact_gradient);
  else {
    AttentionParams p = c.params[0];
    p.relative = in[3], p.relative_values = in[4], p.relative_factors = in[5];
    a.o = plain::attention(in[0], in[1], in[2], p, nullptr, g[1].defined() ? &a.lse : nullptr);
  }
  if (g[0].defined()) total = total + sum(a.o * g[0]);
  if (g[1].defined()) total = total + sum(where(isfinite(a.lse), a.lse * g[1], 0.0));
  return total;
}

/// Saved: q, k, v, o, lse, rest, and the tables of learned distances.
Tensors tiled_backward(const Tiled& c, const Saved& s, const Tensors& g) {
  const Tensor q = s[0], k = s[1], v = s[2], tables[3] = {s[6], s[7], s[8]};
  if (grad_enabled())
    return plain_gradients(s, {q, k, v, tables[0], tables[1], tables[2]}, ones({}, q.options()),
                           [&](const Tensors& in) { return plain_total(c, in, g); });
  const Tensor go = g[0].defined() ? laid_out_as(g[0], c.dtype) : zeros(s[3].sizes(), q.options()),
               glse = g[1].defined() ? g[1].contiguous() : Tensor();
  Tensor gq = heads_last(q.sizes(), q.device(), c.dtype),
         gk = heads_last(k.sizes(), q.device(), c.dtype),
         gv = heads_last(v.sizes(), q.device(), c.dtype);
  Tensor gtables[3];
  for (int i = 0; i < 3; ++i)
    if (tables[i].defined()) gtables[i] = empty_like(tables[i]);
  if (c.merged)
    for (Tensor* t : {&gq, &gk, &gv}) t->zero_();
  for (const Pattern& p : c.patterns) {
    kernels::AttentionSpec spec = p.bound(c.merged);
    spec.own_mean = c.patterns.size() > 1 && !c.exact_gradient;
    run<kernels::attention_backward>(
        q.device(), go.in(), glse.in(), p.inputs(q, k, v, tables), spec,
        kernels::AttentionResults{s[3].in(), s[4].in(), s[5].in()},
        kernels::AttentionGradients{gq.out(), gk.out(), gv.out(), gtables[0].out(),
                                    gtables[1].out(), gtables[2].out()});
  }
  return {gq, gk, gv, gtables[0], gtables[1], gtables[2]};
}

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
  const bool merged = params.size() > 1 || !params[0].step.empty(),
             softmax = !params[0].sigmoid_bias;
  auto call = std::make_shared<Tiled>(Tiled{params, {}, t, merged, exact_gradient});
  for (const AttentionParams& p : params) call->patterns.emplace_back(q, k, p);
  Tensor o = heads_last({q.size(0), q.size(1), q.size(2), v.size(3)}, q.device(), t),
         lse =
             softmax ? empty({q.size(0), q.size(1), q.size(2)}, {kFloat32, q.device()}) : Tensor(),
         rest = softmax ? empty_like(lse) : Tensor();
  if (merged) {
    o.zero_();
    if (softmax) lse.fill_(-std::numeric_limits<double>::infinity()), rest.zero_();
  }
  for (const Pattern& p : call->patterns)
    run<kernels::attention_forward>(q.device(), p.inputs(q, k, v, tables), p.bound(merged), o.out(),
                                    lse.out(), rest.out());
  Tensors r = record_many(
      "attention", {o, lse}, {q, k, v, tables[0], tables[1], tables[2]},
      {q, k, v, o, lse, rest, tables[0], tables[1], tables[2]},
      [call](const Saved& s, const Tensors& g) -> Tensors { return tiled_backward(*call, s, g); });
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

}  // namespace dropin
