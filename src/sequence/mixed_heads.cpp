#include "sequence/mixed_heads.h"

#include <cmath>

#include "dropin/dispatch/dispatch.h"
#include "dropin/ops/masked.h"
#include "kernels/hd.h"
#include "kernels/mixed_heads/kernel.h"
#include "ops/heads.h"
#include "sequence/query_parts.h"

namespace dropin::detail {

namespace {
// a [B, T, S, H] times the matrices of its rows t: factors [B, T, (2R + 1) H].
Tensor mixed(const Tensor& a, const Tensor& factors, int64_t rank) {
  const int64_t h = a.size(3), b = a.size(0), t = a.size(1);
  auto part = [&](int64_t from) {
    return factors.narrow(2, from, rank * h).reshape({b, t, rank, h});
  };
  return matmul(matmul(a, part(0).mT()), part(rank * h)) +
         a * factors.narrow(2, 2 * rank * h, h).unsqueeze(2);
}

// The matrices of one stage, before the softmax or after: fixed [H, H] or undefined, factors of
// queries [B, T, *] and of keys [B, S, *], undefined where they do not mix.
struct Mixing {
  Tensor fixed, of_queries, of_keys;
  int64_t rank;
  /// a [B, H, T, S] with mixed heads.
  Tensor operator()(const Tensor& a_in) const {
    const Tensor a = a_in.permute({0, 2, 3, 1});
    Tensor y = a;
    if (fixed.defined()) y = y + matmul(a, fixed);
    if (of_queries.defined()) y = y + mixed(a, of_queries, rank);
    if (of_keys.defined()) y = y + mixed(a.transpose(1, 2), of_keys, rank).transpose(1, 2);
    return y.permute({0, 3, 1, 2});
  }
};

// forbidden_pairs() and the window's.
Tensor forbidden_of(const SequenceArgs& args, const DCMHAttentionOptions& o, const QueryPart& part,
                    int64_t lk, const Device& device) {
  const Tensor all = forbidden_pairs(args, o.causal, part, lk, device);
  if (o.window_size == 0) return all;
  const int64_t at = lk - part.of + part.first;
  const Tensor apart = abs(arange(at, at + part.count).unsqueeze(1) - arange(lk).unsqueeze(0)),
               far = (apart > o.window_size).to(device).reshape({1, 1, part.count, lk});
  return all.defined() ? logical_or(all, far) : far;
}
}  // namespace

Tensor composed_mixed_heads(const MixedHeads& x, const DCMHAttentionOptions& o,
                            const SequenceArgs& args) {
  const int64_t n = x.q.size(2), keys = x.k.size(2);
  const bool added = args.attn_mask.defined() && args.attn_mask.dtype() != kBool;
  const Tensors inputs{x.q * (1 / std::sqrt(static_cast<double>(x.q.size(3)))),
                       x.k,
                       x.v,
                       x.of_queries,
                       x.of_keys,
                       x.fixed,
                       added ? args.attn_mask : Tensor()};
  return in_query_parts(
      n, 4 * x.q.size(0) * x.q.size(1) * keys, inputs,
      [o, args, keys](const Tensors& in, const QueryPart& part) {
        auto stage = [&](int64_t c) {
          const int64_t width = (2 * o.rank + 1) * o.num_heads;
          auto own = [&](const Tensor& f) {
            return f.defined() ? f.narrow(2, c * width, width) : f;
          };
          const Tensor rows = in[3].defined() ? in[3].narrow(1, part.first, part.count) : Tensor();
          return Mixing{in[5].defined() ? in[5].select(0, c) : Tensor(), own(rows), own(in[4]),
                        o.rank};
        };
        const Tensor queries = in[0].narrow(2, part.first, part.count),
                     hidden = forbidden_of(args, o, part, keys, queries.device()),
                     before = stage(0)(matmul(queries, in[1].mT()));
        const Tensor p = masked_softmax(with_mask_added(before, rows_of_mask(in[6], part)), hidden);
        Tensor after = stage(1)(p);
        if (hidden.defined()) after = masked_fill(after, hidden, 0);  // 0 times a hidden key's NaN
        return weighted_values(after, in[2], hidden.defined());
      });
}

namespace {

kernels::MixedHeadsSpec spec_of(const MixedHeads& x, const DCMHAttentionOptions& o) {
  kernels::MixedHeadsSpec s;
  s.scale = 1 / std::sqrt(static_cast<double>(x.q.size(3)));
  s.rank = o.rank;
  s.offset = x.k.size(2) - x.q.size(2);
  if (o.window_size) s.left = -o.window_size, s.right = o.window_size;
  if (o.causal) s.right = 0;
  return s;
}
kernels::MixedHeadsInputs inputs_of(const MixedHeads& x, const Tensor& pad) {
  return {x.q.in(), x.k.in(), x.v.in(), x.of_queries.in(), x.of_keys.in(), x.fixed.in(), pad.in()};
}

bool takes_kernel(const MixedHeads& x, const DCMHAttentionOptions& o, const SequenceArgs& args) {
  for (const Tensor& t : {x.q, x.k, x.v, x.of_queries, x.of_keys, x.fixed})
    if (t.defined() && t.dtype() != kFloat32) return false;
  return o.rank <= 8 && !args.attn_mask.defined() &&
         has_kernels<kernels::mixed_heads_forward, kernels::mixed_heads_backward>(x.q.device());
}

MixedHeads laid_out(const MixedHeads& x) {
  auto whole = [](const Tensor& t) { return t.defined() ? t.contiguous() : t; };
  return {ops_detail::laid_out(x.q), ops_detail::laid_out(x.k), ops_detail::laid_out(x.v),
          whole(x.of_queries),       whole(x.of_keys),          whole(x.fixed)};
}

}  // namespace

Tensor mixed_heads(const MixedHeads& x_in, const DCMHAttentionOptions& o,
                   const SequenceArgs& args) {
  if (x_in.q.size(2) == 0) return x_in.q;
  if (!takes_kernel(x_in, o, args)) return composed_mixed_heads(x_in, o, args);
  const MixedHeads x = laid_out(x_in);
  const Tensor pad =
      args.key_padding_mask.defined() ? args.key_padding_mask.contiguous() : Tensor();
  const Tensor y =
      ops_detail::heads_last({x.q.size(0), x.q.size(1), x.q.size(2), x.v.size(3)}, x.q.device());
  run<kernels::mixed_heads_forward>(y.device(), inputs_of(x, pad), spec_of(x, o), y.out());
  const Tensors inputs{x.q, x.k, x.v, x.of_queries, x.of_keys, x.fixed};
  return record_many(
      "mixed_heads", {y}, inputs, inputs,
      [o, args, pad](const Saved& s, const Tensors& gys) -> Tensors {
        const MixedHeads x{s[0], s[1], s[2], s[3], s[4], s[5]};
        if (grad_enabled())
          return plain_gradients(
              s, {x.q, x.k, x.v, x.of_queries, x.of_keys, x.fixed}, gys[0], [&](const Tensors& in) {
                return composed_mixed_heads({in[0], in[1], in[2], in[3], in[4], in[5]}, o, args);
              });
        const Tensor go = ops_detail::laid_out(gys[0]);
        auto like = [](const Tensor& t) { return t.defined() ? empty(t.sizes(), t.options()) : t; };
        auto heads = [](const Tensor& t) { return ops_detail::heads_last(t.sizes(), t.device()); };
        const MixedHeads g{heads(x.q),         heads(x.k),      heads(x.v),
                           like(x.of_queries), like(x.of_keys), like(x.fixed)};
        run<kernels::mixed_heads_backward>(
            go.device(), go.in(), inputs_of(x, pad), spec_of(x, o),
            kernels::MixedHeadsGradients{g.q.out(), g.k.out(), g.v.out(), g.of_queries.out(),
                                         g.of_keys.out(), g.fixed.out()});
        return {g.q, g.k, g.v, g.of_queries, g.of_keys, g.fixed};
      })[0];
}

}  // namespace dropin::detail
