#include "sequence/query_parts.h"

#include <algorithm>
#include <limits>

namespace dropin::detail {

namespace {

using PartFunction = std::function<Tensor(const Tensors&, const QueryPart&)>;

/// The random stream as it was, for a scope.
class ReplayedRandom {
 public:
  explicit ReplayedRandom(const Generator& at) : now_(default_generator()) {
    default_generator() = at;
  }
  ~ReplayedRandom() { default_generator() = now_; }
  ReplayedRandom(const ReplayedRandom&) = delete;
  ReplayedRandom& operator=(const ReplayedRandom&) = delete;

 private:
  Generator now_;
};

std::vector<QueryPart> parts_of(int64_t n, int64_t most) {
  std::vector<QueryPart> parts;
  for (int64_t first = 0; first < n; first += most)
    parts.push_back({first, std::min(most, n - first), n});
  return parts;
}
Tensor all_parts(const std::vector<QueryPart>& parts, const PartFunction& f, const Tensors& in) {
  Tensors out;
  for (const QueryPart& part : parts) out.push_back(f(in, part));
  return concat(out, 2);
}

// The gradients of those inputs that want one, a part after the other.
Tensors gradients_by_parts(const std::vector<QueryPart>& parts, const PartFunction& f,
                           const Saved& s, const Tensors& inputs, const Tensor& gy) {
  Tensors sums(inputs.size());
  for (const QueryPart& part : parts) {
    Tensors in, wanted;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      in.push_back(inputs[i].defined() ? inputs[i].detach() : Tensor());
      if (s.needs(static_cast<int>(i))) wanted.push_back(in[i].requires_grad_());
    }
    Tensors g;
    {
      enable_grad on;
      g = grad({f(in, part)}, wanted, {gy.narrow(2, part.first, part.count)}, false, false, true);
    }
    for (std::size_t i = 0, k = 0; i < inputs.size(); ++i) {
      if (!s.needs(static_cast<int>(i))) continue;
      const Tensor own = g[k++];
      if (own.defined()) sums[i] = sums[i].defined() ? sums[i].add_(own) : own.clone();
    }
  }
  return sums;
}

}  // namespace

Tensor in_query_parts(int64_t n, int64_t numbers, const Tensors& inputs, const PartFunction& f) {
  const int64_t most = std::clamp<int64_t>((int64_t{1} << 19) / std::max<int64_t>(numbers, 1), 1,
                                           std::max<int64_t>(n, 1));
  if (most >= n) return f(inputs, {0, n, n});
  const std::vector<QueryPart> parts = parts_of(n, most);
  if (!grad_enabled()) return all_parts(parts, f, inputs);
  const Generator before = default_generator();
  Tensor y;
  {
    no_grad guard;
    y = all_parts(parts, f, inputs);
  }
  return record_many("in_query_parts", {y}, inputs, inputs,
                     [=](const Saved& s, const Tensors& gys) -> Tensors {
                       Tensors in;
                       for (int i = 0; i < s.inputs(); ++i) in.push_back(s[i]);
                       const ReplayedRandom replay(before);
                       if (!grad_enabled()) return gradients_by_parts(parts, f, s, in, gys[0]);
                       return plain_gradients(
                           s, in, gys[0], [&](const Tensors& x) { return all_parts(parts, f, x); });
                     })[0];
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
