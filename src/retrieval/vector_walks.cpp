#include <cmath>
#include <random>

#include "dropin/ops/normalize.h"
#include "retrieval/stored_rows.h"

namespace dropin {

namespace {

constexpr int kSteps = 20;
using Rows = std::vector<std::vector<double>>;

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double s = 0;
  for (std::size_t i = 0; i < a.size(); ++i) s += a[i] * b[i];
  return s;
}
std::vector<double> unit(std::vector<double> v) {
  const double length = std::max(std::sqrt(dot(v, v)), 1e-12);
  for (double& x : v) x /= length;
  return v;
}

// k-means++: each next centre by its squared distance (2 - 2 cosine) from those before.
Rows first_centres(const Rows& rows, std::size_t k, std::uint64_t seed) {
  std::mt19937_64 bits(seed);
  auto uniform = [&bits] { return static_cast<double>(bits() >> 11) * 0x1p-53; };
  Rows centres{rows[bits() % rows.size()]};
  while (centres.size() < k) {
    std::vector<double> far;
    double total = 0;
    for (const auto& r : rows) {
      double near = -1;
      for (const auto& c : centres) near = std::max(near, dot(r, c));
      far.push_back(std::max(0.0, 2 - 2 * near));
      total += far.back();
    }
    std::size_t next = rows.size() - 1;
    double place = uniform() * total;
    for (std::size_t i = 0; i < rows.size(); ++i)
      if ((place -= far[i]) < 0) {
        next = i;
        break;
      }
    centres.push_back(rows[next]);
  }
  return centres;
}

}  // namespace

std::vector<int64_t> VectorSearchIndex::cluster(const std::vector<int64_t>& ids, int64_t k,
                                                std::uint64_t seed) const {
  DROPIN_CHECK(k >= 1 && k <= static_cast<int64_t>(ids.size()), OptionError, who(),
               ": cluster: k is ", k, ", expected 1 to ", static_cast<int64_t>(ids.size()),
               ", the number of documents");
  Rows rows;
  for (const int64_t id : ids) rows.push_back(unit(vectors().select(0, row_of(id)).to_vector()));
  Rows centres = first_centres(rows, static_cast<std::size_t>(k), seed);
  std::vector<int64_t> group(rows.size(), -1);
  for (int step = 0; step < kSteps; ++step) {
    bool changed = false;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      int64_t best = 0;
      for (int64_t c = 1; c < k; ++c)
        if (dot(rows[i], centres[static_cast<std::size_t>(c)]) >
            dot(rows[i], centres[static_cast<std::size_t>(best)]))
          best = c;
      changed = changed || group[i] != best;
      group[i] = best;
    }
    if (!changed) break;
    Rows sums(centres.size(), std::vector<double>(rows[0].size()));
    std::vector<bool> used(centres.size());
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const auto c = static_cast<std::size_t>(group[i]);
      for (std::size_t e = 0; e < rows[i].size(); ++e) sums[c][e] += rows[i][e];
      used[c] = true;
    }
    for (std::size_t c = 0; c < centres.size(); ++c)
      if (used[c]) centres[c] = unit(sums[c]);
  }
  return group;
}

Found VectorSearchIndex::recommend(const std::vector<int64_t>& ids,
                                   const std::vector<double>& weights, const std::string& method) {
  DROPIN_CHECK(!ids.empty() && weights.size() == ids.size(), OptionError, who(),
               ": recommend: ", static_cast<int64_t>(weights.size()),
               " weights, expected one for each of ", static_cast<int64_t>(ids.size()),
               " documents, one at least");
  Tensors parts;
  for (const int64_t id : ids) parts.push_back(vectors().select(0, row_of(id)));
  const Tensor w = tensor(weights).to(vectors().dtype()).unsqueeze(0);
  SearchArgs args;
  args.exclude_ids = ids;
  return search(merge_embeddings(stack(parts).unsqueeze(0), w, {.method = method}), args);
}

std::vector<int64_t> VectorSearchIndex::path(int64_t from, int64_t to, int64_t n) {
  DROPIN_CHECK(n >= 2, OptionError, who(), ": path: n is ", n, ", expected 2 or more");
  const Tensor ends =
      stack({vectors().select(0, row_of(from)), vectors().select(0, row_of(to))}).unsqueeze(0);
  SearchArgs args;
  std::vector<int64_t> shown;
  for (int64_t j = 0; j < n; ++j) {
    const double t = static_cast<double>(j) / static_cast<double>(n - 1);
    const Tensor q =
        merge_embeddings(ends, tensor(std::vector<double>{1 - t, t}, {1, 2}, vectors().options()),
                         {.method = "slerp"});
    const int64_t id = search(q, args).ids.select(1, 0).to_vector<int64_t>()[0];
    if (id < 0) break;  // every document was shown
    shown.push_back(id);
    args.exclude_ids = shown;
  }
  return shown;
}

Tensor VectorSearchIndex::random_query(std::uint64_t seed, bool stored) const {
  Generator g(seed);
  if (!stored) return normalize(randn({1, options_.dim}, vectors().options(), &g), 1);
  DROPIN_CHECK(size() > 0, Error, who(), ": random_query: no documents, expected one at least");
  const int64_t row = randint(0, size(), {1}, kInt64, &g).item<int64_t>();
  return vectors().detach().narrow(0, row, 1).clone();
}

Tensor VectorSearchIndex::rounded(const Tensor& v) const {
  if (options_.storage == "f16") return v.to(kFloat16).to(v.dtype());
  if (options_.storage == "bf16") return v.to(kBFloat16).to(v.dtype());
  if (options_.storage == "f32") return v;
  const retrieval::Codes c = retrieval::encode_rows(v);
  return c.codes.to(v.dtype()) * c.steps.to(v.dtype()).unsqueeze(1);
}

Tensor VectorSearchIndex::modifier(bool multiply) const {
  const auto& columns = multiply ? options_.multiply_fields : options_.add_fields;
  const auto& weights = multiply ? options_.multiply_weights : options_.add_weights;
  if (columns.empty() || size() == 0) return {};
  const int64_t width = fields().defined() ? fields().size(1) : 0;
  for (const int64_t c : columns)
    DROPIN_CHECK(c < width, OptionError, who(), ": field ", c, " of documents with ", width,
                 " fields, expected one that is there");
  Tensor all;
  for (std::size_t m = 0; m < columns.size(); ++m) {
    const Tensor one = fields().detach().select(1, columns[m]).to(kFloat64) * weights[m];
    all = !all.defined() ? one : multiply ? all * one : all + one;
  }
  return all;
}

Tensor VectorSearchIndex::scores_for(const Tensor& queries, const Tensor& ids) const {
  check_queries(queries, {});
  DROPIN_CHECK(ids.dtype() == kInt64 && ids.dim() == 2 && ids.size(0) == queries.size(0),
               ShapeError, who(), ": ids are ", ids.sizes(), ", expected int64 [", queries.size(0),
               ", k]");
  std::vector<int64_t> rows;
  for (const int64_t id : ids.to_vector<int64_t>()) rows.push_back(row_of(id));
  Tensor d = rounded(index_select(vectors().detach(), 0, tensor(rows).to(queries.device())))
                 .reshape({ids.size(0), ids.size(1), queries.size(1)})
                 .to(queries.dtype());
  if (options_.metric == "l2") return -sum(square(queries.unsqueeze(1) - d), {2});
  const bool cosine = options_.metric == "cosine";
  if (cosine) d = normalize(d, 2);
  return sum((cosine ? normalize(queries, 1) : queries).unsqueeze(1) * d, {2});
}

QueryTemplate::QueryTemplate(const std::string& text) {
  static constexpr std::string_view kSlot = "{query}";
  const std::size_t place = text.find(kSlot);
  DROPIN_CHECK(place != std::string::npos && text.find(kSlot, place + 1) == std::string::npos,
               OptionError, "QueryTemplate: \"", text, "\", expected {query} in it once");
  before_ = text.substr(0, place);
  behind_ = text.substr(place + kSlot.size());
}
std::string QueryTemplate::operator()(std::string_view query) const {
  return before_ + std::string(query) + behind_;
}

}  // namespace dropin
