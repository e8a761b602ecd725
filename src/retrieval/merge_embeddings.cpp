#include <cmath>

#include "dropin/ops/normalize.h"
#include "dropin/retrieval/vector_index.h"

namespace dropin {

namespace {

constexpr const char* kWho = "merge_embeddings";

// Row of the batch where the condition holds, -1: nowhere.
int64_t first_true(const Tensor& flags) {
  const Tensor at = nonzero(flags.detach());
  return at.size(0) ? at.to_vector<int64_t>()[0] : -1;
}

Tensor lengths(const Tensor& v) { return norm(v, {1}, true); }

void check_length(const Tensor& y, double least, const char* what) {
  const int64_t row = first_true(lengths(y.detach()).squeeze(1) <= least);
  DROPIN_CHECK(row < 0, Error, kWho, ": ", what, " of query ", row,
               " has length 0, expected a direction");
}

// Parts a and b [B, E] with weights [B, 1]: sin((1-t) th)/sin th a + sin(t th)/sin th b.
Tensor slerp(const Tensor& a, const Tensor& b, const Tensor& wa, const Tensor& wb) {
  const int64_t row = first_true((wa + wb).squeeze(1) == 0.0);
  DROPIN_CHECK(row < 0, Error, kWho, ": the weights of a pair of query ", row,
               " sum to 0, expected another sum");
  check_length(a, 0, "a part");
  check_length(b, 0, "a part");
  const Tensor t = wb / (wa + wb), s = 1.0 - t;
  const Tensor cosine = clamp(sum(a * b, {1}, true) / (lengths(a) * lengths(b)), -1, 1);
  const Tensor straight = sin(acos(cosine.detach())) < 1e-6;
  const Tensor angle = acos(where(straight, 0.0, cosine));  // 0: away from the poles of acos
  const Tensor share_a = where(straight, s, sin(s * angle) / sin(angle)),
               share_b = where(straight, t, sin(t * angle) / sin(angle));
  const Tensor y = share_a * a + share_b * b;
  check_length(y, 1e-12, "a merged pair");
  return y;
}

using Parts = std::vector<std::pair<Tensor, Tensor>>;  ///< vectors [B, E], weights [B, 1]

Tensor slerp_by_pairs(Parts parts) {
  while (parts.size() > 1) {
    Parts next;
    for (std::size_t i = 0; i + 1 < parts.size(); i += 2) {
      const auto& [a, wa] = parts[i];
      const auto& [b, wb] = parts[i + 1];
      next.emplace_back(slerp(a, b, wa, wb), (wa + wb) * 0.5);
    }
    if (parts.size() % 2) next.push_back(parts.back());
    parts = std::move(next);
  }
  return parts[0].first;
}

Tensor slerp_in_turn(const Parts& parts) {
  auto [y, w] = parts[0];
  for (std::size_t i = 1; i < parts.size(); ++i) {
    const auto& [b, wb] = parts[i];
    y = slerp(y, b, w, wb);
    w = (w + wb) * 0.5;
  }
  return y;
}

void check_inputs(const Tensor& vectors, const Tensor& weights, const MergeEmbeddingsOptions& o) {
  DROPIN_CHECK(o.method == "sum" || o.method == "lerp" || o.method == "nlerp" ||
                   o.method == "slerp" || o.method == "slerp_sequential",
               OptionError, kWho, ": method is \"", o.method,
               "\", expected sum, lerp, nlerp, slerp or slerp_sequential");
  DROPIN_CHECK(vectors.dim() == 3 && vectors.size(1) > 0, ShapeError, kWho, ": vectors is ",
               vectors.sizes(), ", expected [B, P >= 1, E]");
  const Shape want{vectors.size(0), vectors.size(1)};
  DROPIN_CHECK(weights.sizes() == want, ShapeError, kWho, ": weights is ", weights.sizes(),
               ", expected ", want, " because vectors is ", vectors.sizes());
  for (const Tensor& t : {vectors, weights})
    DROPIN_CHECK(is_floating(t.dtype()), DTypeError, kWho, ": vectors and weights are ",
                 vectors.dtype(), " and ", weights.dtype(), ", expected floating-point tensors");
}

}  // namespace

Tensor merge_embeddings(const Tensor& vectors, const Tensor& weights,
                        const MergeEmbeddingsOptions& o) {
  check_inputs(vectors, weights, o);
  if (vectors.size(0) == 0) return sum(vectors, {1});
  // in float64: angles between near vectors are lost in the last bits of their cosine
  Tensor v = vectors.to(kFloat64);
  const Tensor w = weights.to(kFloat64);
  if (o.normalize_parts) v = normalize(v, 2);
  Tensor y;
  if (o.method == "slerp" || o.method == "slerp_sequential") {
    Parts parts;
    for (int64_t i = 0; i < v.size(1); ++i) parts.emplace_back(v.select(1, i), w.narrow(1, i, 1));
    y = o.method == "slerp" ? slerp_by_pairs(std::move(parts)) : slerp_in_turn(parts);
  } else {
    y = sum(v * w.unsqueeze(2), {1});
    if (o.method != "sum") {
      const Tensor total = sum(w, {1}, true);
      const int64_t row = first_true(total.squeeze(1) == 0.0);
      DROPIN_CHECK(row < 0, Error, kWho, ": the weights of query ", row,
                   " sum to 0, expected another sum");
      y = y / total;
    }
    if (o.method != "lerp") {
      check_length(y, 1e-12, "the sum");
      y = normalize(y, 1);
    }
  }
  return y.to(vectors.dtype());
}

}  // namespace dropin
