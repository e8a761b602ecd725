#include "dropin/retrieval/vector_index.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <unordered_set>

#include "dropin/core/parallel.h"
#include "dropin/ops/normalize.h"

namespace dropin {

namespace {

constexpr double kNever = -std::numeric_limits<double>::infinity();
std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

void check_search_options(std::string_view who, const std::string& metric, std::int64_t k) {
  DROPIN_CHECK(metric == "cosine" || metric == "dot" || metric == "l2", OptionError, who,
               ": metric is \"", metric, "\", expected cosine, dot or l2");
  DROPIN_CHECK(k >= 1, OptionError, who, ": k is ", k, ", expected 1 or more");
}

// Every row summed in the same order, so that equal rows have equal bits.
double dot(const double* a, const double* b, std::int64_t n) {
  double s = 0;
  for (std::int64_t i = 0; i < n; ++i) s += a[i] * b[i];
  return s;
}
void to_unit(double* v, std::int64_t n) {
  const double length = std::max(std::sqrt(dot(v, v, n)), 1e-12);
  for (std::int64_t i = 0; i < n; ++i) v[i] /= length;
}

// Documents as the search meets them.
struct Documents {
  std::int64_t n, width;
  bool l2;
  std::vector<double> rows;  ///< unit rows for cosine
  std::vector<double> factors, terms;
  std::vector<std::int64_t> ids;
  std::vector<bool> allowed;
  double score(const double* q, std::int64_t i) const {
    const double* d = rows.data() + i * width;
    double s = 0;
    if (!l2) {
      s = dot(q, d, width);
    } else {
      for (std::int64_t e = 0; e < width; ++e) s -= (q[e] - d[e]) * (q[e] - d[e]);
    }
    if (!factors.empty()) s *= factors[at(i)];
    return terms.empty() ? s : s + terms[at(i)];
  }
};

Documents documents(const Tensor& vectors, const std::string& metric, std::vector<std::int64_t> ids,
                    const SearchArgs& args) {
  Documents d{vectors.size(0),
              vectors.size(1),
              metric == "l2",
              vectors.detach().to_vector(),
              {},
              {},
              std::move(ids),
              {}};
  if (metric == "cosine")
    for (std::int64_t i = 0; i < d.n; ++i) to_unit(d.rows.data() + i * d.width, d.width);
  d.allowed.assign(at(d.n), true);
  if (args.filter.defined()) {
    const std::vector<double> f = args.filter.to_vector();
    for (std::size_t i = 0; i < f.size(); ++i) d.allowed[i] = f[i] != 0;
  }
  const std::unordered_set<std::int64_t> out(args.exclude_ids.begin(), args.exclude_ids.end());
  for (std::size_t i = 0; !out.empty() && i < d.ids.size(); ++i)
    if (out.count(d.ids[i])) d.allowed[i] = false;
  return d;
}

struct Hit {
  double score;
  std::int64_t id, row;
  bool operator<(const Hit& o) const { return score != o.score ? score > o.score : id < o.id; }
};

std::vector<Hit> best_hits(const Documents& d, const double* q, std::int64_t k) {
  std::vector<Hit> heap;  // the worst of the best k on top
  for (std::int64_t i = 0; i < d.n; ++i) {
    if (!d.allowed[at(i)]) continue;
    const Hit h{d.score(q, i), d.ids[at(i)], i};
    if (static_cast<std::int64_t>(heap.size()) < k) {
      heap.push_back(h);
      std::push_heap(heap.begin(), heap.end());
    } else if (h < heap.front()) {
      std::pop_heap(heap.begin(), heap.end());
      heap.back() = h;
      std::push_heap(heap.begin(), heap.end());
    }
  }
  std::sort_heap(heap.begin(), heap.end());
  return heap;
}

// Maximal marginal relevance: k of the hits, each good and unlike those picked before. `units` are
// the documents' unit rows.
std::vector<Hit> diverse(const std::vector<Hit>& hits, std::int64_t k, double lambda,
                         const std::vector<double>& units, std::int64_t width) {
  std::vector<Hit> picked;
  std::vector<double> nearest(hits.size(), 0);
  std::vector<bool> used(hits.size());
  while (picked.size() < std::min(hits.size(), at(k))) {
    std::size_t best = hits.size();
    double most = kNever;
    for (std::size_t j = 0; j < hits.size(); ++j) {
      const double value = lambda * hits[j].score - (1 - lambda) * nearest[j];
      if (!used[j] && (best == hits.size() || value > most)) {
        best = j;
        most = value;
      }
    }
    used[best] = true;
    for (std::size_t j = 0; j < hits.size(); ++j) {
      const double near =
          dot(units.data() + hits[j].row * width, units.data() + hits[best].row * width, width);
      nearest[j] = picked.empty() ? near : std::max(nearest[j], near);
    }
    picked.push_back(hits[best]);
  }
  return picked;
}

struct Diversity {
  double lambda = 1;
  std::int64_t candidates = 0;
};

Found search_all(const Documents& d, const Tensor& queries, bool unit_queries, std::int64_t k,
                 const Diversity& diversity = {}) {
  const std::int64_t count = queries.size(0);
  std::vector<double> q = queries.detach().to_vector(), units;
  if (diversity.lambda < 1) {
    units = d.rows;
    for (std::int64_t i = 0; i < d.n; ++i) to_unit(units.data() + i * d.width, d.width);
  }
  Found r{full({count, k}, -1, kInt64), full({count, k}, kNever, kFloat64)};
  auto* ids = r.ids.data<std::int64_t>();
  auto* scores = r.scores.data<double>();
  parallel_for(count, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t b = begin; b < end; ++b) {
      double* one = q.data() + b * d.width;
      if (unit_queries) to_unit(one, d.width);
      std::vector<Hit> hits = best_hits(d, one, diversity.lambda < 1 ? diversity.candidates : k);
      if (diversity.lambda < 1) hits = diverse(hits, k, diversity.lambda, units, d.width);
      for (std::size_t j = 0; j < hits.size(); ++j) {
        ids[b * k + static_cast<std::int64_t>(j)] = hits[j].id;
        scores[b * k + static_cast<std::int64_t>(j)] = hits[j].score;
      }
    }
  });
  r.ids = r.ids.to(queries.device());
  r.scores = r.scores.to(queries.dtype()).to(queries.device());
  return r;
}

}  // namespace

FlatIndex::FlatIndex(const FlatIndexOptions& o) : Component(o) {
  check_search_options(who(), o.metric, o.k);
  init_store(o.dim);
}

Found FlatIndex::search(const Tensor& queries, const SearchArgs& args) {
  check_queries(queries, args);
  return search_all(documents(vectors(), options_.metric, ids(), args), queries,
                    options_.metric == "cosine", options_.k);
}

std::vector<std::string> VectorSearchIndex::examples() {
  return {R"({"metric": "l2", "k": 3})", R"({"mmr_lambda": 0.5, "storage": "i8"})"};
}

VectorSearchIndex::VectorSearchIndex(const VectorSearchIndexOptions& o) : Component(o) {
  check_search_options(who(), o.metric, o.k);
  DROPIN_CHECK(o.backend == "exact", OptionError, who(), ": backend is \"", o.backend,
               "\", expected exact; this build has no approximate one");
  DROPIN_CHECK(o.storage == "f32" || o.storage == "f16" || o.storage == "bf16" || o.storage == "i8",
               OptionError, who(), ": storage is \"", o.storage,
               "\", expected f32, f16, bf16 or i8");
  DROPIN_CHECK(o.multiply_fields.size() == o.multiply_weights.size() &&
                   o.add_fields.size() == o.add_weights.size(),
               OptionError, who(),
               ": expected a weight for each of multiply_fields and add_fields");
  for (const auto* list : {&o.multiply_fields, &o.add_fields})
    for (const std::int64_t f : *list)
      DROPIN_CHECK(f >= 0, OptionError, who(), ": field ", f, ", expected 0 or more");
  DROPIN_CHECK(o.mmr_lambda >= 0 && o.mmr_lambda <= 1, OptionError, who(), ": mmr_lambda is ",
               o.mmr_lambda, ", expected 0 to 1");
  DROPIN_CHECK(o.candidates >= 0, OptionError, who(), ": candidates is ", o.candidates,
               ", expected 0 (4 k) or more");
  init_store(o.dim);
}

// The vectors as their storage keeps them.
Tensor VectorSearchIndex::stored() const {
  const Tensor v = vectors().detach();
  if (options_.storage == "f16") return v.to(kFloat16).to(v.dtype());
  if (options_.storage == "bf16") return v.to(kBFloat16).to(v.dtype());
  if (options_.storage == "f32" || v.numel() == 0) return v;
  const Tensor scale = amax(abs(v), {1}, true) * (1.0 / 127);
  return round(v / where(scale == 0.0, 1.0, scale)) * scale;
}

std::vector<double> VectorSearchIndex::modifiers(bool multiply) const {
  const auto& columns = multiply ? options_.multiply_fields : options_.add_fields;
  const auto& weights = multiply ? options_.multiply_weights : options_.add_weights;
  if (columns.empty() || size() == 0) return {};
  const std::int64_t width = fields().defined() ? fields().size(1) : 0;
  for (const std::int64_t c : columns)
    DROPIN_CHECK(c < width, OptionError, who(), ": field ", c, " of documents with ", width,
                 " fields, expected one that is there");
  const std::vector<double> f = fields().to_vector();
  std::vector<double> r(at(size()), multiply ? 1 : 0);
  for (std::size_t i = 0; i < r.size(); ++i)
    for (std::size_t m = 0; m < columns.size(); ++m) {
      const double x = weights[m] * f[i * at(width) + at(columns[m])];
      r[i] = multiply ? r[i] * x : r[i] + x;
    }
  return r;
}

Found VectorSearchIndex::search(const Tensor& queries, const SearchArgs& args) {
  check_queries(queries, args);
  Documents d = documents(stored(), options_.metric, ids(), args);
  d.factors = modifiers(true);
  d.terms = modifiers(false);
  const std::int64_t candidates = options_.candidates ? options_.candidates : 4 * options_.k;
  return search_all(d, queries, options_.metric == "cosine", options_.k,
                    {options_.mmr_lambda, candidates});
}

Tensor VectorSearchIndex::scores_for(const Tensor& queries, const Tensor& ids) const {
  check_queries(queries, {});
  DROPIN_CHECK(ids.dtype() == kInt64 && ids.dim() == 2 && ids.size(0) == queries.size(0),
               ShapeError, who(), ": ids are ", ids.sizes(), ", expected int64 [", queries.size(0),
               ", k]");
  std::vector<std::int64_t> rows;
  for (const std::int64_t id : ids.to_vector<std::int64_t>()) rows.push_back(row_of(id));
  Tensor d = index_select(stored(), 0, tensor(rows).to(queries.device()))
                 .reshape({ids.size(0), ids.size(1), queries.size(1)})
                 .to(queries.dtype());
  if (options_.metric == "l2") return -sum(square(queries.unsqueeze(1) - d), {2});
  const bool cosine = options_.metric == "cosine";
  if (cosine) d = normalize(d, 2);
  return sum((cosine ? normalize(queries, 1) : queries).unsqueeze(1) * d, {2});
}

}  // namespace dropin
