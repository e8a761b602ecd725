#include "sequence/query_parts.h"

#include <algorithm>
#include <limits>

namespace dropin::detail {

Tensor in_query_parts(int64_t n, int64_t numbers, const Tensors& inputs,
                      const std::function<Tensor(const Tensors&, const QueryPart&)>& f) {
  const int64_t most = std::clamp<int64_t>((int64_t{1} << 19) / std::max<int64_t>(numbers, 1), 1,
                                           std::max<int64_t>(n, 1));
  if (most >= n) return f(inputs, {0, n, n});
  Tensors out;
  for (int64_t first = 0; first < n; first += most) {
    const QueryPart part{first, std::min(most, n - first), n};
    auto one = [f, part](const Tensors& in) -> Tensors { return {f(in, part)}; };
    out.push_back(grad_enabled() ? checkpoint(one, inputs)[0] : one(inputs)[0]);
  }
  return concat(out, 2);
}

Tensor rows_of_mask(const Tensor& m, const QueryPart& part) {
  return m.defined() ? m.narrow(-2, part.first, part.count) : m;
}

Tensor forbidden_pairs(const SequenceArgs& args, bool causal, const QueryPart& part, int64_t lk,
                       const Device& device) {
  Tensor forbidden;
  auto forbid = [&](const Tensor& m) {
    forbidden = forbidden.defined() ? logical_or(forbidden, m) : m;
  };
  if (causal) {
    const int64_t at = lk - part.of + part.first;
    const Tensor i = arange(at, at + part.count).unsqueeze(1), j = arange(lk).unsqueeze(0);
    forbid((j > i).to(device).reshape({1, 1, part.count, lk}));
  }
  if (args.key_padding_mask.defined()) forbid(args.key_padding_mask.unsqueeze(1).unsqueeze(1));
  if (const Tensor m = rows_of_mask(args.attn_mask, part); m.defined()) {
    const Tensor four = m.dim() == 2 ? m.unsqueeze(0).unsqueeze(0) : m;
    forbid(m.dtype() == kBool ? four : four.detach() == -std::numeric_limits<double>::infinity());
  }
  return forbidden;
}

Tensor with_mask_added(const Tensor& scores, const Tensor& rows) {
  return rows.defined() && rows.dtype() != kBool ? scores + rows.to(scores.dtype()) : scores;
}

}  // namespace dropin::detail
