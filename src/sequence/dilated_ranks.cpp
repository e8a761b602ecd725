// The same over a sequence whose tokens are spread over ranks.
#include <algorithm>
#include <limits>

#include "dropin/sequence/dilated_attention.h"

namespace dropin {
namespace {

// [B, H, m, Dh] of this rank -> [B, H, size m, Dh] of all ranks in order; backward sums what the
// ranks found out about this rank's rows.
Tensor gather_ranks(const Tensor& x_, Communicator& c) {
  const Tensor x = x_.contiguous();
  const Shape s = x.sizes();
  Tensor all = empty({c.size(), s[0], s[1], s[2], s[3]}, x.options());
  c.all_gather(x.data_ptr(), x.numel() * item_size(x.dtype()), all.data_ptr());
  const Tensor y =
      all.permute({1, 2, 0, 3, 4}).reshape({s[0], s[1], c.size() * s[2], s[3]}).contiguous();
  return record_many(
      "gather_ranks", {y}, {x_}, {}, [&c, s](const Saved&, const Tensors& g) -> Tensors {
        const Tensor pieces =
            g[0].reshape({s[0], s[1], c.size(), s[2], s[3]}).permute({2, 0, 1, 3, 4}).contiguous();
        Tensor mine = empty(s, pieces.options());
        if (pieces.dtype() == kFloat64)
          c.reduce_scatter_sum(pieces.data<double>(), mine.numel(), mine.data<double>());
        else
          c.reduce_scatter_sum(pieces.data<float>(), mine.numel(), mine.data<float>());
        return {mine};
      })[0];
}

/// Values `a` at the rows `target` of l rows along dimension 2, `rest` elsewhere.
Tensor spread_rows(const Tensor& a, const Tensor& target, int64_t l, double rest) {
  Shape sizes = a.sizes();
  sizes[2] = l + 1;  // rows of none go to the last, which is cut off
  const Tensor to = a.dim() == 4 ? target : target.squeeze(-1);
  return scatter(full(sizes, rest, a.options()), 2, detail::broadcast_to(to, a.sizes()), a)
      .narrow(2, 0, l);
}

}  // namespace

/// Which rows of a rank take part in a pattern, as a segment's ranks see each other.
struct DilatedAttention::RankRows {
  Tensor index;   ///< [1, H, m, 1]: this rank's rows, 0 for none
  Tensor target;  ///< the same, l for none
  Tensor hidden;  ///< [1, H, m, ranks m]: the keys of all ranks that a row must not see
};

DilatedAttention::RankRows DilatedAttention::rank_rows(std::size_t i, int64_t l,
                                                       int64_t rank) const {
  const auto& o = options_;
  const int64_t r = o.dilated_ratio[i], ranks = o.segment_length[i] / l, h = o.num_heads,
                leader = rank / ranks * ranks, m = (l + r - 1) / r;
  // row a of rank `of` takes part in head j when its index in the segment is offset(i, j) modulo r
  auto row = [&](int64_t of, int64_t j, int64_t t) {
    const int64_t base = (of - leader) * l, first = ((offset(i, j) - base) % r + r) % r,
                  a = first + t * r;
    return a < l ? a : int64_t{-1};
  };
  RankRows rows{empty({1, h, m, 1}, kInt64), empty({1, h, m, 1}, kInt64),
                empty({1, h, m, ranks * m}, kBool)};
  for (int64_t j = 0; j < h; ++j)
    for (int64_t t = 0; t < m; ++t) {
      const int64_t a = row(rank, j, t);
      rows.index.data<int64_t>()[j * m + t] = std::max<int64_t>(a, 0);
      rows.target.data<int64_t>()[j * m + t] = a < 0 ? l : a;
      for (int64_t of = 0; of < ranks; ++of)
        for (int64_t u = 0; u < m; ++u) {
          const int64_t key = row(leader + of, j, u);
          rows.hidden.data<bool>()[(j * m + t) * ranks * m + of * m + u] =
              key < 0 || (o.causal && (leader + of) * l + key > rank * l + a);
        }
    }
  return rows;
}

/// Pattern i, whose segments span several ranks.
AttentionWithLse DilatedAttention::across_ranks(std::size_t i, const Tensor& q, const Tensor& k,
                                                const Tensor& v, Communicator& c) const {
  const auto& o = options_;
  const int64_t l = q.size(2), ranks = o.segment_length[i] / l;
  const RankRows rows = rank_rows(i, l, c.rank());
  const Tensor picked = detail::broadcast_to(rows.index.to(q.device()),
                                             {q.size(0), q.size(1), rows.index.size(2), q.size(3)});
  Communicator& segment = c.group(c.rank() / ranks * ranks, ranks);
  AttentionParams p;
  p.dropout_p = is_training() ? o.dropout : 0;
  p.attn_mask = rows.hidden.to(q.device());
  const AttentionWithLse a =
      attention_with_lse(gather(q, 2, picked), gather_ranks(gather(k, 2, picked), segment),
                         gather_ranks(gather(v, 2, picked), segment), p);
  const Tensor to = rows.target.to(q.device());
  AttentionWithLse spread;
  spread.o = spread_rows(a.o, to, l, 0);
  spread.lse = spread_rows(a.lse, to, l, -std::numeric_limits<double>::infinity());
  spread.rest = spread_rows(a.rest, to, l, 0);
  return spread;
}

Tensor DilatedAttention::forward_distributed(const Tensor& x, Communicator& c) {
  const auto& o = options_;
  detail::check_sequence(who(), x, o.embed_dim, {});
  DROPIN_CHECK(x.dtype() == kFloat32 || x.dtype() == kFloat64, DTypeError, who(), ": x_local is ",
               x.dtype(), ", expected float32 or float64");
  const int64_t l = x.size(1), h = o.num_heads;
  DROPIN_CHECK(l > 0, ShapeError, who(), ": x_local is ", x.sizes(),
               ", expected at least one token per rank");
  for (int64_t w : o.segment_length) {
    DROPIN_CHECK(w % l == 0 || l % w == 0, ShapeError, who(), ": segment_length ", w, " and the ",
                 l, " tokens of a rank are not multiples of each other");
    DROPIN_CHECK(w <= l || c.size() % (w / l) == 0, ShapeError, who(), ": segments of ", w,
                 " tokens span ", w / l, " ranks, of which the ", c.size(),
                 " ranks are not a multiple");
  }
  const int64_t start = c.rank() * l;
  const Tensor q = rope(split_heads(q_proj_(x), h), o.rope, o.rope_base, start),
               k = rope(split_heads(k_proj_(x), h), o.rope, o.rope_base, start),
               v = split_heads(v_proj_(x), h);
  std::vector<AttentionParams> local;
  std::vector<AttentionWithLse> parts;
  for (std::size_t i = 0; i < o.segment_length.size(); ++i)
    if (o.segment_length[i] <= l) local.push_back(pattern(i));
  if (!local.empty()) parts.push_back(attention_mixture(q, k, v, local, o.mix_grad));
  for (std::size_t i = 0; i < o.segment_length.size(); ++i)
    if (o.segment_length[i] > l) parts.push_back(across_ranks(i, q, k, v, c));
  return out_proj_(merge_heads(merge_attention(parts, o.mix_grad).o));
}

}  // namespace dropin
