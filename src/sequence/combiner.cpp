#include "sequence/combiner.h"
#include "kernels/hd.h"

namespace dropin::combiner {

namespace {

using kernels::kInf;

// x [*, e] that is `empty` where live [*] is false.
Tensor only(const Tensor& x, const Tensor& live, double empty) {
  return masked_fill(x, logical_not(live).unsqueeze(-1), empty);
}
// One place along the last dimension but one later; the first place gets 0.
Tensor later(const Tensor& x) { return pad(x, {0, 0, 1, -1}); }

// Running maximum along the last dimension but one, whose gradient goes to the first that reached
// it.
Tensor running_max(const Tensor& x) {
  Tensor source;
  {
    no_grad guard;
    const Tensor top = cummax(x.detach(), -2), least = full({1}, -kInf<double>, x.options());
    Shape row = x.sizes();
    row[static_cast<int>(x.dim()) - 2] = 1;
    const Tensor earlier =
        concat({detail::broadcast_to(least, row), top.narrow(-2, 0, x.size(-2) - 1)}, -2);
    const Tensor record =
        logical_or(x.detach() > earlier, logical_and(isnan(x.detach()), !isnan(earlier)));
    const Tensor place = arange(x.size(-2)).to(x.device()).unsqueeze(-1);
    source = cummax(where(record, place, 0), -2);
  }
  return gather(x, -2, source);
}

Tensor counts(const Tensor& live, const TensorOptions& like) { return live.to(like.dtype); }

}  // namespace

Summary whole(const Region& r, const std::string& pool) {
  if (!r.live.defined()) {
    auto pooled = [&](const Tensor& x) {
      return pool == "max" ? max(x, -2).values : pool == "sum" ? sum(x, {-2}) : mean(x, {-2});
    };
    const Tensor p = softmax(matmul(r.k, pooled(r.pool_q).unsqueeze(-1)).squeeze(-1), -1);
    return {pooled(r.pool_k), matmul(p.unsqueeze(-2), r.v).squeeze(-2), {}};
  }
  const Tensor exists = any(r.live, {-1});
  auto pooled = [&](const Tensor& x) {
    if (pool == "max") return only(max(only(x, r.live, -kInf<double>), -2).values, exists, 0);
    const Tensor all = sum(only(x, r.live, 0), {-2});
    if (pool == "sum") return all;
    return all / clamp(sum(counts(r.live, x.options()), {-1}, true), 1, kInf<double>);
  };
  const Tensor q = pooled(r.pool_q), logits = matmul(r.k, q.unsqueeze(-1)).squeeze(-1);
  const Tensor p = masked_softmax(logits, logical_not(r.live));
  return {pooled(r.pool_k), weighted_values(p.unsqueeze(-2), r.v, true).squeeze(-2), exists};
}

namespace {
// Of place u: the tokens before it. Of equal maxima, the first or the last gets the gradient.
Summary prefixes(const Region& r, const std::string& pool, bool first) {
  const int64_t len = r.k.size(-2);
  const Tensor number = later(cumsum(counts(r.live, r.k.options()), -1).unsqueeze(-1)),
               exists = number.squeeze(-1) > 0.0;
  auto pooled = [&](const Tensor& x) {
    if (pool == "max") {
      const Tensor real = only(x, r.live, -kInf<double>);
      return only(later(first ? running_max(real) : cummax(real, -2)), exists, 0);
    }
    const Tensor all = later(cumsum(only(x, r.live, 0), -2));
    return pool == "sum" ? all : all / clamp(number, 1, kInf<double>);
  };
  const Tensor u = arange(len).to(r.k.device());
  const Tensor forbidden =
      logical_or(logical_not(r.live).unsqueeze(-2), u.unsqueeze(0) >= u.unsqueeze(1));
  const Tensor p = masked_softmax(matmul(pooled(r.pool_q), r.k.mT()), forbidden);
  return {pooled(r.pool_k), weighted_values(p, r.v, true), exists};
}

}  // namespace

Summary before(const Region& r, const std::string& pool) { return prefixes(r, pool, true); }

Summary after(const Region& r, const std::string& pool) {
  auto turned = [](const Tensor& x) { return flip(x, {-2}); };
  Region other = r.each(turned);
  other.live = flip(r.live, {-1});
  const Summary s = prefixes(other, pool, false);  // the last of them stands first
  return {turned(s.k), turned(s.v), flip(s.exists, {-1})};
}

void add_axial(std::vector<Keys>& parts, const Rows& r, const Region& rows,
               const CombinerAttentionOptions& o) {
  const Tensor dead = logical_not(r.live);
  const Region columns = rows.each([](const Tensor& x) { return Rows::turned(x); });
  parts.push_back(
      r.by_columns(columns.k, columns.v,
                   either(dead.transpose(2, 3).unsqueeze(2), r.hidden_rows(o.causal, true)), true));
  auto none = [](const Summary& w) { return logical_not(w.exists); };
  auto vertical = [&](const Summary& w) {  // [B, H, s, n, e]: of column c' at row u
    parts.push_back(r.by_rows(
        r.turned(w.k), r.turned(w.v),
        either(none(w).transpose(2, 3).unsqueeze(3), r.hidden_columns(false, true)), false));
  };
  auto horizontal = [&](const Summary& w) {  // [B, H, n, s, e]: of row r at column c
    parts.push_back(r.by_columns(
        r.turned(w.k), r.turned(w.v),
        either(none(w).transpose(2, 3).unsqueeze(2), r.hidden_rows(o.causal, true)), false));
  };
  if (o.variant != "axial_horizontal") {
    vertical(combiner::before(columns, o.pool));
    if (!o.causal) vertical(combiner::after(columns, o.pool));
  }
  if (o.variant != "axial_vertical") {
    horizontal(combiner::before(rows, o.pool));
    horizontal(combiner::after(rows, o.pool));
  }
}

Tensor attend(const std::vector<Keys>& parts, double p_drop, bool training) {
  Tensors scores, forbidden;
  for (const Keys& p : parts) {
    scores.push_back(p.scores);
    Shape sizes = p.scores.sizes();
    sizes[1] = 1;  // the same in all heads
    forbidden.push_back(detail::broadcast_to(p.forbidden, sizes));
  }
  const Tensor weights = masked_softmax(concat(scores, -1), concat(forbidden, -1));
  Tensor y;
  int64_t at = 0;
  for (const Keys& p : parts) {
    const int64_t m = p.scores.size(-1);
    const Tensor own = weights.narrow(-1, at, m);
    const Tensor z = p.values(p.direct ? dropout(own, p_drop, training) : own);
    y = y.defined() ? y + z : z;
    at += m;
  }
  return y;
}

}  // namespace dropin::combiner
