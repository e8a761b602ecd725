#include "dropin/retrieval/vector_index.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <unordered_set>

#include "dropin/core/parallel.h"
#include "kernels/hd.h"
#include "retrieval/approximate.h"

namespace dropin {

namespace {

constexpr double kNever = -std::numeric_limits<double>::infinity();
void check_search_options(std::string_view who, const std::string& metric, int64_t k) {
  DROPIN_CHECK(metric == "cosine" || metric == "dot" || metric == "l2", OptionError, who,
               ": metric is \"", metric, "\", expected cosine, dot or l2");
  DROPIN_CHECK(k >= 1, OptionError, who, ": k is ", k, ", expected 1 or more");
}

// Every row summed in the same order, so that equal rows have equal bits.
double dot(const double* a, const double* b, int64_t n) {
  double s = 0;
  for (int64_t i = 0; i < n; ++i) s += a[i] * b[i];
  return s;
}
void to_unit(double* v, int64_t n) {
  const double length = std::max(std::sqrt(dot(v, v, n)), 1e-12);
  for (int64_t i = 0; i < n; ++i) v[i] /= length;
}

// Documents as the search meets them; what only changes with them is kept by the caller.
struct Documents {
  int64_t n, width;
  bool l2;
  const std::vector<double>& rows;  ///< unit rows for cosine
  const std::vector<int64_t>& ids;
  std::vector<double> factors, terms;
  std::vector<bool> allowed;
  int64_t allowed_count;
  double score(const double* q, int64_t i) const {
    const double* d = rows.data() + i * width;
    double s = 0;
    if (!l2) {
      s = dot(q, d, width);
    } else {
      for (int64_t e = 0; e < width; ++e) s -= (q[e] - d[e]) * (q[e] - d[e]);
    }
    if (!factors.empty()) s *= factors[at(i)];
    return terms.empty() ? s : s + terms[at(i)];
  }
};

std::vector<double> prepared_rows(const Tensor& vectors, const std::string& metric) {
  std::vector<double> rows = vectors.detach().to_vector();
  const int64_t width = vectors.size(1);
  if (metric == "cosine")
    for (int64_t i = 0; i < vectors.size(0); ++i) to_unit(rows.data() + i * width, width);
  return rows;
}

Documents documents(const std::vector<double>& rows, const std::vector<int64_t>& ids, int64_t width,
                    const std::string& metric, const SearchArgs& args) {
  Documents d{static_cast<int64_t>(ids.size()), width, metric == "l2", rows, ids, {}, {}, {}, 0};
  d.allowed.assign(ids.size(), true);
  if (args.filter.defined()) {
    const std::vector<double> f = args.filter.to_vector();
    for (std::size_t i = 0; i < f.size(); ++i) d.allowed[i] = f[i] != 0;
  }
  const std::unordered_set<int64_t> out(args.exclude_ids.begin(), args.exclude_ids.end());
  for (std::size_t i = 0; !out.empty() && i < ids.size(); ++i)
    if (out.count(ids[i])) d.allowed[i] = false;
  d.allowed_count = std::count(d.allowed.begin(), d.allowed.end(), true);
  return d;
}

struct Hit {
  double score;
  int64_t id, row;
  bool operator<(const Hit& o) const { return score != o.score ? score > o.score : id < o.id; }
};

// The k best of some rows (null: all).
std::vector<Hit> best_hits(const Documents& d, const double* q, int64_t k,
                           const std::vector<int64_t>* rows = nullptr) {
  std::vector<Hit> heap;  // the worst of the best k on top
  const int64_t count = rows ? static_cast<int64_t>(rows->size()) : d.n;
  for (int64_t at_row = 0; at_row < count; ++at_row) {
    const int64_t i = rows ? (*rows)[at(at_row)] : at_row;
    if (!d.allowed[at(i)]) continue;
    const Hit h{d.score(q, i), d.ids[at(i)], i};
    if (static_cast<int64_t>(heap.size()) < k) {
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
std::vector<Hit> diverse(const std::vector<Hit>& hits, int64_t k, double lambda,
                         const std::vector<double>& units, int64_t width) {
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
  int64_t candidates = 0;
  const retrieval::Approximate* approximate = nullptr;  ///< gives so many candidates; null: all
};

Found search_all(const Documents& d, const Tensor& queries, bool unit_queries, int64_t k,
                 const Diversity& diversity = {}) {
  const int64_t count = queries.size(0);
  std::vector<double> q = queries.detach().to_vector(), units;
  if (diversity.lambda < 1) {
    units = d.rows;
    for (int64_t i = 0; i < d.n; ++i) to_unit(units.data() + i * d.width, d.width);
  }
  Found r{full({count, k}, -1, kInt64), full({count, k}, kNever, kFloat64)};
  auto* ids = r.ids.data<int64_t>();
  auto* scores = r.scores.data<double>();
  parallel_for(count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      double* one = q.data() + b * d.width;
      if (unit_queries) to_unit(one, d.width);
      const int64_t wanted = diversity.lambda < 1 ? diversity.candidates : k;
      std::vector<Hit> hits;
      if (diversity.approximate) {
        const auto rows = diversity.approximate->near(one, std::max(wanted, diversity.candidates));
        hits = best_hits(d, one, wanted, &rows);
      }
      if (static_cast<int64_t>(hits.size()) < std::min(wanted, d.allowed_count))
        hits = best_hits(d, one, wanted);  // filters left too few of the candidates
      if (diversity.lambda < 1) hits = diverse(hits, k, diversity.lambda, units, d.width);
      for (std::size_t j = 0; j < hits.size(); ++j) {
        ids[b * k + static_cast<int64_t>(j)] = hits[j].id;
        scores[b * k + static_cast<int64_t>(j)] = hits[j].score;
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
  const std::vector<double> rows = prepared_rows(vectors(), options_.metric);
  const std::vector<int64_t> all = ids();
  return search_all(documents(rows, all, vectors().size(1), options_.metric, args), queries,
                    options_.metric == "cosine", options_.k);
}

std::vector<std::string> VectorSearchIndex::examples() {
  return {R"({"metric": "l2", "k": 3})", R"({"mmr_lambda": 0.5, "storage": "i8"})"};
}

VectorSearchIndex::VectorSearchIndex(const VectorSearchIndexOptions& o) : Component(o) {
  check_search_options(who(), o.metric, o.k);
  DROPIN_CHECK(o.backend == "exact" || o.backend == "hnsw" || o.backend == "ivf", OptionError,
               who(), ": backend is \"", o.backend, "\", expected exact, hnsw or ivf");
  DROPIN_CHECK(o.storage == "f32" || o.storage == "f16" || o.storage == "bf16" || o.storage == "i8",
               OptionError, who(), ": storage is \"", o.storage,
               "\", expected f32, f16, bf16 or i8");
  DROPIN_CHECK(o.multiply_fields.size() == o.multiply_weights.size() &&
                   o.add_fields.size() == o.add_weights.size(),
               OptionError, who(),
               ": expected a weight for each of multiply_fields and add_fields");
  for (const auto* list : {&o.multiply_fields, &o.add_fields})
    for (const int64_t f : *list)
      DROPIN_CHECK(f >= 0, OptionError, who(), ": field ", f, ", expected 0 or more");
  DROPIN_CHECK(o.mmr_lambda >= 0 && o.mmr_lambda <= 1, OptionError, who(), ": mmr_lambda is ",
               o.mmr_lambda, ", expected 0 to 1");
  DROPIN_CHECK(o.candidates >= 0, OptionError, who(), ": candidates is ", o.candidates,
               ", expected 0 (4 k) or more");
  init_store(o.dim);
}

struct VectorSearchIndex::Kept {
  Tensor vectors;  ///< keeps the storage that `version` counts
  std::uint32_t version = 0;
  std::vector<double> rows;
  std::vector<int64_t> ids;
  std::unique_ptr<retrieval::Approximate> approximate;
};

std::shared_ptr<VectorSearchIndex::Kept> VectorSearchIndex::kept() {
  const std::lock_guard lock(*mutex_);
  const Tensor& now = vectors();
  if (kept_ && kept_->vectors.data_ptr() == now.data_ptr() && kept_->version == now.version() &&
      kept_->vectors.sizes() == now.sizes())
    return kept_;
  auto fresh = std::make_shared<Kept>();
  fresh->vectors = now.detach();
  fresh->version = now.version();
  fresh->rows = prepared_rows(stored(), options_.metric);
  fresh->ids = ids();
  retrieval::Points points{fresh->rows, options_.dim, options_.metric == "l2"};
  if (options_.backend == "hnsw" && size() > 0)
    fresh->approximate.reset(new retrieval::NeighbourGraph(std::move(points)));
  if (options_.backend == "ivf" && size() > 0)
    fresh->approximate.reset(new retrieval::Cells(std::move(points)));
  return kept_ = std::move(fresh);
}

Found VectorSearchIndex::search(const Tensor& queries, const SearchArgs& args) {
  check_queries(queries, args);
  const std::shared_ptr<Kept> own = kept();
  Documents d = documents(own->rows, own->ids, options_.dim, options_.metric, args);
  d.factors = modifiers(true);
  d.terms = modifiers(false);
  const int64_t candidates = options_.candidates ? options_.candidates : 4 * options_.k;
  return search_all(d, queries, options_.metric == "cosine", options_.k,
                    {options_.mmr_lambda, candidates, own->approximate.get()});
}

}  // namespace dropin
