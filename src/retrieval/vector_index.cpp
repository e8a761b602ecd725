#include "dropin/retrieval/vector_index.h"

#include "retrieval/stored_rows.h"

namespace dropin {

namespace {

void check_search_options(std::string_view who, const std::string& metric, int64_t k) {
  DROPIN_CHECK(metric == "cosine" || metric == "dot" || metric == "l2", OptionError, who,
               ": metric is \"", metric, "\", expected cosine, dot or l2");
  DROPIN_CHECK(k >= 1, OptionError, who, ": k is ", k, ", expected 1 or more");
}

}  // namespace

FlatIndex::FlatIndex(const FlatIndexOptions& o) : Component(o) {
  check_search_options(who(), o.metric, o.k);
  init_store(o.dim);
}

Found FlatIndex::search(const Tensor& queries, const SearchArgs& args) {
  check_queries(queries, args);
  const auto rows = stored_rows({.metric = options_.metric});
  return retrieval::search_rows(*rows, queries, args, args.k ? args.k : options_.k);
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

Found VectorSearchIndex::search(const Tensor& queries, const SearchArgs& args) {
  check_queries(queries, args);
  const auto rows = stored_rows(
      {.metric = options_.metric, .storage = options_.storage, .backend = options_.backend});
  const int64_t k = args.k ? args.k : options_.k;
  return retrieval::search_rows(*rows, queries, args, k,
                                {.factors = modifier(true),
                                 .terms = modifier(false),
                                 .mmr_lambda = options_.mmr_lambda,
                                 .candidates = options_.candidates ? options_.candidates : 4 * k});
}

}  // namespace dropin
