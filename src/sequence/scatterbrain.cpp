#include "sequence/scatterbrain.h"
#include "kernels/hd.h"

#include <algorithm>
#include <cmath>

namespace dropin::scatterbrain {

namespace {
using kernels::kInf;

// [.., L, d] with zeros up to `length` tokens.
Tensor filled(const Tensor& x, int64_t length) { return pad(x, {0, 0, 0, length - x.size(-2)}); }
Tensor in_blocks(const Tensor& x, int64_t size) {
  return x.reshape({x.size(0), x.size(1), x.size(2) / size, size, x.size(3)});
}
}  // namespace

Round window(int64_t length, int64_t w, bool causal, const Tensor& live) {
  const int64_t c = std::clamp<int64_t>(w, 1, length), blocks = (length + c - 1) / c;
  Round r;
  r.queries = [=](const Tensor& x) { return in_blocks(filled(x, blocks * c), c); };
  r.keys = [=](const Tensor& x) {  // the block before, the own, the next
    return pad(x, {0, 0, c, (blocks + 1) * c - length}).unfold(2, 3 * c, c).mT();
  };
  r.back = [=](const Tensor& x) { return x.flatten(2, 3).narrow(2, 0, length); };
  const Tensor i = arange(blocks * c).reshape({blocks, c, 1}),
               j = (arange(blocks) * c - c).reshape({blocks, 1, 1}) + arange(3 * c);
  Tensor hidden =
      logical_or(logical_or(j < i - w / 2, j >= i + (w + 1) / 2), logical_or(j < 0, j >= length));
  if (causal) hidden = logical_or(hidden, j > i);
  r.hidden = hidden.reshape({1, 1, blocks, c, 3 * c});
  if (live.defined()) {
    const Tensor dead = logical_not(live).unsqueeze(1).unsqueeze(-1);  // [B, 1, L, 1]
    r.hidden = logical_or(r.hidden.to(live.device()), r.keys(dead.to(kFloat32)).mT() > 0.0);
  }
  return r;
}

namespace {
// Places of each token [B, H, L] in the order of their projections: live ones first.
Tensor order_of(const Tensor& projected, const Tensor& live) {
  const Tensor known = where(isnan(projected), kInf<double>, projected);
  return argsort(where(live, known, std::nan("")), -1);
}
Tensor largest_square(const Tensor& squares, const Tensor& live) {
  return amax(where(live, squares, 0.0), {-1}, true);
}
}  // namespace

std::vector<Round> clusters(const Tensor& q_, const Tensor& k_, const Tensor& alpha_, int64_t size,
                            bool causal, const Tensor& live_) {
  no_grad guard;
  const int64_t b = q_.size(0), h = q_.size(1), length = q_.size(2), e = q_.size(3),
                blocks = (length + size - 1) / size, all = blocks * size;
  const Tensor q = filled(q_.detach(), all), k = filled(k_.detach(), all),
               alpha = alpha_.to(q.dtype());
  const Tensor real = (live_.defined() ? live_ : ones({b, length}, {kBool, q.device()}));
  const Tensor live =
      pad(real.to(kInt64), {0, all - length}).to(kBool).unsqueeze(1).expand({b, h, all});
  const Tensor q2 = sum(square(q), {-1}), k2 = sum(square(k), {-1});
  const Tensor top = largest_square(q2, live) + largest_square(k2, live);
  auto room = [&](const Tensor& squares) {
    const Tensor rest = top - squares;
    return sqrt(where(rest < 0.0, 0.0, rest));
  };
  const Tensor at = arange(all).to(q.device()).expand({b, h, all});
  auto grouped = [=](const Tensor& x, const Tensor& order) {  // [B, H, L, d] in sorted blocks
    const Tensor index = order.unsqueeze(-1).expand({b, h, all, x.size(3)}).contiguous();
    return in_blocks(gather(x, 2, index), size);
  };
  std::vector<Round> rounds;
  std::vector<std::pair<Tensor, Tensor>> met;  // cluster numbers of queries and keys
  for (int64_t t = 0; t < alpha.size(1); ++t) {
    const Tensor a = alpha.select(1, t), first = a.narrow(0, 0, e).unsqueeze(-1);
    const Tensor order_q =
                     order_of(matmul(q, first).squeeze(-1) + room(q2) * a.select(0, e + 1), live),
                 order_k = order_of(matmul(k, first).squeeze(-1) + room(k2) * a.select(0, e), live);
    const Tensor rank_q = argsort(order_q, -1), rank_k = argsort(order_k, -1);
    auto row = [&](const Tensor& x, const Tensor& order, bool query) {
      const Tensor g = grouped(x.unsqueeze(-1), order).squeeze(-1);
      return g.unsqueeze(query ? 4 : 3);
    };
    Tensor hidden = logical_not(row(live.contiguous(), order_k, false));
    if (causal) hidden = logical_or(hidden, row(at, order_k, false) > row(at, order_q, true));
    for (const auto& [of_q, of_k] : met)
      hidden = logical_or(hidden, row(of_q, order_q, true) == row(of_k, order_k, false));
    met.emplace_back(floor_divide(rank_q, size), floor_divide(rank_k, size));
    Round r;
    r.queries = [=](const Tensor& x) { return grouped(filled(x, all), order_q); };
    r.keys = [=](const Tensor& x) { return grouped(filled(x, all), order_k); };
    r.back = [=](const Tensor& x) {
      const Tensor index = rank_q.unsqueeze(-1).expand({b, h, all, x.size(4)}).contiguous();
      return gather(x.flatten(2, 3), 2, index).narrow(2, 0, length);
    };
    r.hidden = hidden;
    rounds.push_back(std::move(r));
  }
  return rounds;
}

Tensor scale_of(const Tensor& x, const Shape& dims) {
  no_grad guard;
  const Tensor top = amax(x.detach(), dims, true);
  return where(isfinite(top), top, 0.0);
}

Tensor low_rank(const Tensor& phi_q, const Tensor& phi_k, const Tensor& v, bool causal) {
  if (!causal) return matmul(phi_q, matmul(phi_k.mT(), v));
  const int64_t length = phi_q.size(2), c = std::min<int64_t>(64, length),
                all = (length + c - 1) / c * c;
  const Tensor q = in_blocks(filled(phi_q, all), c), k = in_blocks(filled(phi_k, all), c),
               values = in_blocks(filled(v, all), c);
  const Tensor own = matmul(k.mT(), values),
               before = cumsum(own, 2) - own;  // [B, H, blocks, 2r, *]
  const Tensor y = matmul(q, before) + matmul(tril(matmul(q, k.mT())), values);
  return y.flatten(2, 3).narrow(2, 0, length);
}

}  // namespace dropin::scatterbrain
