#include "generation/mbr_group.h"

#include <algorithm>
#include <cmath>

namespace dropin::generation {

namespace {

// [N, M] or rows of one [M]: weights normalized over j, without j = i where asked.
Tensor weights_of(const Candidates& in, int64_t n, int64_t m, bool exclude_self) {
  DROPIN_CHECK(!in.weights.defined() || !in.log_weights.defined(), OptionError, kMbr,
               ": weights and log_weights are given, expected one of them");
  Tensor w = ones({m}, kFloat64);
  const Tensor given = in.weights.defined() ? in.weights : in.log_weights;
  if (given.defined()) {
    DROPIN_CHECK(is_floating(given.dtype()) && given.sizes() == Shape{m}, ShapeError, kMbr,
                 ": weights or log_weights are ", given.dtype(), " ", given.sizes(),
                 ", expected floats [", m, "]");
    double most = in.weights.defined() ? 0 : -kernels::kInf<double>;
    for (const double v : given.to_vector()) {
      const bool ok = in.weights.defined() ? v >= 0 && std::isfinite(v)
                                           : !std::isnan(v) && v != kernels::kInf<double>;
      DROPIN_CHECK(ok, OptionError, kMbr, ": a value of weights or log_weights is ", v,
                   ", expected ",
                   in.weights.defined() ? "finite numbers of 0 or more" : "numbers or -inf");
      most = std::max(most, v);
    }
    DROPIN_CHECK(in.weights.defined() ? most > 0 : std::isfinite(most), OptionError, kMbr,
                 ": all weights are 0, expected a positive one");
    w = given.to(kFloat64);
    if (in.log_weights.defined()) w = exp(w - most);
  }
  Tensor each = w.unsqueeze(0).expand({n, m});
  if (exclude_self && n > 1) {
    Tensor others = 1 - eye(n, n, kFloat64);
    const std::vector<double> rest = sum(each.detach() * others, {1}).to_vector();
    for (int64_t i = 0; i < n; ++i)  // all others weigh 0: nothing else to expect
      if (rest[at(i)] <= 0) others[i].fill_(1);
    each = each * others;
  }
  return each / each.sum(1, true);
}

// Rows of length 1; a zero row stays zero.
Tensor unit(const Tensor& x) {
  const Tensor length = sum(square(x), {-1}, true);
  const Tensor some = length > 0.0;
  return x * where(some, rsqrt(where(some, length, 1.0)), 0.0);
}

Tensor checked_embeddings(const char* name, const Tensor& e, int64_t dims, int64_t width) {
  DROPIN_CHECK(is_floating(e.dtype()), DTypeError, kMbr, ": ", name, " is ", e.dtype(),
               ", expected floats");
  DROPIN_CHECK(e.dim() == dims && e.size(0) > 0 && (width < 0 || e.size(-1) == width), ShapeError,
               kMbr, ": ", name, " is ", e.sizes(), ", expected [N, ", dims == 3 ? "L, " : "",
               "E], N at least 1, E as of embeddings");
  return unit(e.to(kFloat64));
}

// One side of bertscore: unit tokens [N, L, E], their weights [N, L], and which are there.
struct Tokens {
  Tensor x, v, there;
};
Tokens tokens_of(const char* name, const Tensor& e, const Tensor& lengths, const Tensor& weights,
                 int64_t width) {
  DROPIN_CHECK(lengths.defined(), StateError, kMbr, ": bertscore needs the lengths of ", name,
               ": lengths, reference_lengths");
  Tokens t{checked_embeddings(name, e, 3, width), {}, {}};
  const int64_t n = e.size(0), l = e.size(1);
  read_sequences(kMbr, name, zeros({n, l}, kInt64), lengths, {});  // checks lengths
  t.there = arange(0, l, 1, kInt64).unsqueeze(0) < lengths.unsqueeze(1);
  t.x = where(t.there.unsqueeze(2), t.x, 0.0);  // what pads is not read
  if (weights.defined())
    DROPIN_CHECK(weights.sizes() == Shape({n, l}) && is_floating(weights.dtype()), ShapeError, kMbr,
                 ": token_weights of ", name, " is ", weights.dtype(), " ", weights.sizes(),
                 ", expected floats [", n, ", ", l, "]");
  t.v = where(t.there, weights.defined() ? weights.to(kFloat64) : ones({n, l}, kFloat64), 0.0);
  return t;
}

// sum v best / sum v over the last dimension; 0 where v is.
Tensor weighed(const Tensor& v, const Tensor& best) {
  const Tensor total = sum(v, {-1}), some = total != 0.0;
  return where(some, sum(v * best, {-1}) / where(some, total, 1.0), 0.0);
}

Tensor bertscore(const Tokens& h, const Tokens& r) {
  const int64_t n = h.x.size(0), m = r.x.size(0);
  if (h.x.size(1) == 0 || r.x.size(1) == 0) return zeros({n, m}, kFloat64);
  Tensors rows;
  for (int64_t i = 0; i < n; ++i) {
    const Tensor dots = matmul(r.x, h.x[i].mT()).mT();  // [M, L, L']
    auto best = [&](const Tensor& there, int64_t dim) {
      const Tensor b = (max)(masked_fill(dots, logical_not(there), -2.0), dim).values;
      return where(b <= -1.5, 0.0, b);  // nothing there: 0
    };
    const Tensor p = weighed(h.v[i], best(r.there.unsqueeze(1), 2));
    const Tensor c = weighed(r.v, best(h.there[i].unsqueeze(1), 1));
    const Tensor both = logical_and(p > 0.0, c > 0.0);
    rows.push_back(where(both, 2 * p * c / where(both, p + c, 1.0), minimum(p, c)));
  }
  return stack(rows);
}

const Tensor& needed(const MbrDecodeOptions& o, const char* name, const Tensor& t) {
  DROPIN_CHECK(t.defined(), StateError, kMbr, ": utility ", o.utility, " needs ", name,
               ", expected it among the inputs");
  return t;
}

}  // namespace

TokenUtility token_utility(const std::string& name, const Candidates& in,
                           const MbrDecodeOptions& o) {
  std::vector<Ids> h = read_sequences(kMbr, "candidates", needed(o, "candidates", in.candidates),
                                      needed(o, "lengths", in.lengths), o.ignore_ids);
  std::vector<Ids> r = h;
  if (in.references.defined())
    r = read_sequences(kMbr, "references", in.references,
                       needed(o, "reference_lengths", in.reference_lengths), o.ignore_ids);
  return {name, o, std::move(h), std::move(r)};
}

Group group_of(const Candidates& in, const MbrDecodeOptions& o) {
  Group g;
  bool other = false;  // references of their own
  if (o.utility == "matrix") {
    g.table = needed(o, "utilities", in.utilities);
    DROPIN_CHECK(is_floating(g.table.dtype()) && g.table.dim() == 2 && g.table.numel() > 0,
                 ShapeError, kMbr, ": utilities is ", g.table.dtype(), " ", g.table.sizes(),
                 ", expected floats [N, M], both at least 1");
    g.table = g.table.to(kFloat64);
    other = g.table.size(0) != g.table.size(1);
  } else if (o.utility == "cosine" || o.utility == "bertscore") {
    const int64_t dims = o.utility == "cosine" ? 2 : 3;
    const Tensor &e = needed(o, "embeddings", in.embeddings), &r = in.reference_embeddings;
    other = r.defined();
    if (dims == 2) {
      const Tensor h = checked_embeddings("embeddings", e, 2, -1);
      g.table = matmul(
          h, (other ? checked_embeddings("reference_embeddings", r, 2, e.size(-1)) : h).mT());
    } else {
      const Tokens h = tokens_of("embeddings", e, in.lengths, in.token_weights, -1);
      g.table = bertscore(h, other ? tokens_of("reference_embeddings", r, in.reference_lengths,
                                               in.reference_token_weights, e.size(-1))
                                   : h);
    }
  } else {
    g.tokens = token_utility(o.utility, in, o);
    other = in.references.defined();
    g.n = in.candidates.size(0);
    g.m = other ? in.references.size(0) : g.n;
  }
  DROPIN_CHECK(!o.exclude_self || !other, OptionError, kMbr,
               ": exclude_self with references, expected the candidates as references");
  if (g.table.defined()) {
    g.n = g.table.size(0);
    g.m = g.table.size(1);
    g.values = g.table.to_vector();
  }
  g.p = weights_of(in, g.n, g.m, o.exclude_self);
  return g;
}

}  // namespace dropin::generation
