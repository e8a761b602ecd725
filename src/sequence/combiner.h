// The parts of CombinerAttention: summaries of regions, and one softmax over several kinds of keys.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "dropin/ops/masked.h"
#include "dropin/sequence/combiner_attention.h"

namespace dropin::combiner {

/// One key and value per region: k, v [*, regions, e], exists [*, regions] bool (it has a token),
/// undefined: all have.
struct Summary {
  Tensor k, v, exists;
};

/// What the tokens of regions are: queries and keys to be pooled, keys, values [*, len, e], and
/// which are real, live [*, len] bool; whole() takes an undefined live for all.
struct Region {
  Tensor pool_q, pool_k, k, v, live;
  /// f of every tensor; `rank` dimensions of live stand for those of the others but the last.
  Region each(const std::function<Tensor(const Tensor&)>& f) const {
    return {f(pool_q), f(pool_k), f(k), f(v), f(live)};
  }
};

/// The whole of each region, [*, e].
Summary whole(const Region& r, const std::string& pool);
/// Of place u: the tokens before it, [*, len, e].
Summary before(const Region& r, const std::string& pool);
/// Of place u: the tokens after it.
Summary after(const Region& r, const std::string& pool);

/// Keys of one kind: scores [*, m] and which are forbidden (broadcasts); what weights make of them.
struct Keys {
  Tensor scores, forbidden;
  std::function<Tensor(const Tensor&)> values;
  bool direct = false;
};
/// One softmax over all parts.
Tensor attend(const std::vector<Keys>& parts, double dropout, bool training);

inline Tensor either(const Tensor& a, const Tensor& b) { return logical_or(a, b); }

/// Tokens [B, H, n, s, e] in rows of s, with those that fill the last row. By rows, lines are rows
/// and keys of row u lie in [.., n, m, e]; by columns, keys of column c lie in [.., s, m, e].
class Rows {
 public:
  Rows(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& pad_mask, int64_t span)
      : s(span), n((q.size(2) + span - 1) / span), length(q.size(2)) {
    Tensor dead = pad_mask.defined() ? pad_mask : zeros({q.size(0), length}, {kBool, q.device()});
    const int64_t rest = n * s - length;
    if (rest) dead = concat({dead, ones({q.size(0), rest}, {kBool, q.device()})}, 1);
    live = logical_not(dead).reshape({q.size(0), 1, n, s});
    query = in_rows(q);
    key = in_rows(k);
    value = in_rows(v);
    row = arange(n).to(q.device());
    column = arange(s).to(q.device());
  }
  /// [B, H, L, e] in rows.
  Tensor in_rows(const Tensor& x) const {
    return pad(x, {0, 0, 0, n * s - length}).reshape({x.size(0), x.size(1), n, s, x.size(3)});
  }
  Tensor flat(const Tensor& x) const { return x.flatten(2, 3).narrow(2, 0, length); }
  static Tensor turned(const Tensor& x) { return x.transpose(2, 3); }

  Keys by_rows(const Tensor& k, const Tensor& v, const Tensor& forbidden, bool direct) const {
    return {matmul(query, k.mT()), forbidden,
            [v](const Tensor& p) { return weighted_values(p, v, true); }, direct};
  }
  Keys by_columns(const Tensor& k, const Tensor& v, const Tensor& forbidden, bool direct) const {
    return {turned(matmul(turned(query), k.mT())), forbidden,
            [v](const Tensor& p) { return turned(weighted_values(turned(p), v, true)); }, direct};
  }
  /// Pairs of rows [n, 1, n] (of columns [1, s, s]) that must not meet.
  Tensor hidden_rows(bool later, bool own) const { return hidden(row, later, own).unsqueeze(1); }
  Tensor hidden_columns(bool later, bool own) const { return hidden(column, later, own); }

  int64_t s, n, length;
  Tensor query, key, value, live, row, column;

 private:
  static Tensor hidden(const Tensor& at, bool later, bool own) {
    const Tensor i = at.unsqueeze(1), j = at.unsqueeze(0);
    if (later) return own ? j >= i : j > i;
    return own ? j == i : zeros({at.size(0), at.size(0)}, {kBool, at.device()});
  }
};

/// The other tokens of a query's column, and regions along columns, rows or both.
void add_axial(std::vector<Keys>& parts, const Rows& r, const Region& rows,
               const CombinerAttentionOptions& o);

}  // namespace dropin::combiner
