// Search for the nearest of many embeddings: the contract, brute force, and the index of search
// interfaces.
#pragma once
#include <memory>
#include <mutex>

#include "dropin/module/family.h"

namespace dropin {

/// What was found for each query, best first; unused places have id -1 and score -inf.
struct Found {
  Tensor ids;     ///< int64 [Q, k]
  Tensor scores;  ///< [Q, k]
};
namespace retrieval {
class StoredRows;
/// How vectors are kept for a search: as options of VectorSearchIndex.
struct StoredAs {
  std::string metric = "cosine", storage = "f32", backend = "exact";
};
}  // namespace retrieval
struct SearchArgs {
  Tensor filter;                     ///< bool [N] by row, true: allowed; undefined: all
  std::vector<int64_t> exclude_ids;  ///< never found
  int64_t k = 0;                     ///< results per query; 0: the index's own k
};

/// queries [Q, E] -> ids int64 [Q, k], scores [Q, k]: the k best of the stored documents, by score,
/// then by smaller id. Buffers vectors [N, E], fields [N, F] (may be absent), ids [N] (absent: row
/// numbers), of the sizes that the file has. Standard member: FlatIndex.
class VectorIndex : public Module {
 public:
  using Family = VectorIndex;
  static constexpr const char* kFamily = "VectorIndex";
  static FamilyInfo family();
  virtual Found search(const Tensor& queries, const SearchArgs& args = {}) = 0;
  Found operator()(const Tensor& queries, const SearchArgs& args = {}) {
    return search(queries, args);
  }
  /// The same: search() takes any number of queries.
  Found search_batch(const Tensor& queries, const SearchArgs& args = {}) {
    return search(queries, args);
  }
  /// Takes "queries" and "filter".
  NamedTensors call(const NamedTensors& in) override;
  /// Documents that are stored.
  int64_t size() const { return vectors_->size(0); }
  /// Stores vectors [n, E] under ids (undefined: row numbers, or one more than the greatest so far)
  /// with fields [n, F]. Error for NaN or infinity and for an id that is there.
  void add(const Tensor& vectors, const Tensor& ids = {}, const Tensor& fields = {});
  /// IndexError for an id that is not there; nothing is removed then.
  void remove(const std::vector<int64_t>& ids);
  /// Other vectors for stored ids.
  void update(const std::vector<int64_t>& ids, const Tensor& vectors);
  /// Row of a stored id; IndexError when there is none.
  int64_t row_of(int64_t id) const;
  const Tensor& vectors() const { return *vectors_; }

 protected:
  /// Makes the buffers. `who` names the member in messages.
  void init_store(int64_t dim);
  /// Every row's id.
  std::vector<int64_t> ids() const;
  const Tensor& fields() const { return *fields_; }
  /// The vectors as search meets them: made again when they have changed.
  std::shared_ptr<const retrieval::StoredRows> stored_rows(const retrieval::StoredAs& as) const;
  void check_queries(const Tensor& queries, const SearchArgs& args) const;
  void translate_state(StateDict& state, const std::string& prefix,
                       std::vector<std::string>& renamed) const override;

 private:
  int64_t dim_ = 0;
  Tensor *vectors_ = nullptr, *fields_ = nullptr, *ids_ = nullptr;
  mutable std::shared_ptr<const retrieval::StoredRows> stored_rows_;
  Box<std::mutex> mutex_{new std::mutex};
};

struct FlatIndexOptions {
  int64_t dim = 0;
  std::string metric = "cosine";
  int64_t k = 10;
  static void fields(auto&& f) {
    using O = FlatIndexOptions;
    f("dim", &O::dim, "width of each vector; required");
    f("metric", &O::metric, "\"cosine\", \"dot\" or \"l2\" (the negative squared distance)");
    f("k", &O::k, "results per query");
  }
};

/// Brute force: every document meets every query.
class FlatIndex : public Component<FlatIndex, FlatIndexOptions, VectorIndex> {
 public:
  static constexpr const char* kSummary = "the k nearest of all vectors, by brute force";
  explicit FlatIndex(const FlatIndexOptions& o);
  Found search(const Tensor& queries, const SearchArgs& args = {}) override;
};

struct VectorSearchIndexOptions {
  int64_t dim = 0;
  std::string metric = "cosine", backend = "exact", storage = "f32";
  int64_t k = 10;
  std::vector<int64_t> multiply_fields = {}, add_fields = {};
  std::vector<double> multiply_weights = {}, add_weights = {};
  double mmr_lambda = 1;
  int64_t candidates = 0;
  static void fields(auto&& f) {
    using O = VectorSearchIndexOptions;
    f("dim", &O::dim, "width of each vector; required");
    f("metric", &O::metric, "\"cosine\", \"dot\" or \"l2\" (the negative squared distance)");
    f("backend", &O::backend,
      "\"exact\", or of some candidates only: \"hnsw\" (a graph) or \"ivf\" (cells)");
    f("storage", &O::storage, "precision of stored vectors: \"f32\", \"f16\", \"bf16\" or \"i8\"");
    f("k", &O::k, "results per query");
    f("multiply_fields", &O::multiply_fields, "field columns that multiply the score");
    f("add_fields", &O::add_fields, "field columns that are then added to it");
    f("multiply_weights", &O::multiply_weights, "a factor for each of them");
    f("add_weights", &O::add_weights, "a factor for each of them");
    f("mmr_lambda", &O::mmr_lambda, "below 1: results unlike each other (MMR), 0 to 1");
    f("candidates", &O::candidates,
      "best ones that MMR picks from, and that hnsw and ivf look at; 0: 4 k");
  }
};

/// Exact search (or of some candidates) with the operations of search interfaces (Elliott et al.
/// 2024, arXiv 2409.11629): filters, ranking by document fields, diversity, recommendations, paths,
/// groups.
class VectorSearchIndex
    : public Component<VectorSearchIndex, VectorSearchIndexOptions, VectorIndex> {
 public:
  static constexpr const char* kSummary =
      "vector search with filters, score modifiers and diversity";
  static constexpr const char* kReplaces = "FlatIndex";
  static constexpr const char* kPaper = "Elliott et al. 2024, arXiv 2409.11629";
  static std::vector<std::string> examples();
  explicit VectorSearchIndex(const VectorSearchIndexOptions& o);
  Found search(const Tensor& queries, const SearchArgs& args = {}) override;
  /// Results near stored documents, these left out: their vectors merged by `method`.
  Found recommend(const std::vector<int64_t>& ids, const std::vector<double>& weights,
                  const std::string& method = "sum");
  /// n ids on the way from one document to another: the nearest not shown before at each step of a
  /// slerp.
  std::vector<int64_t> path(int64_t from, int64_t to, int64_t n);
  /// A query [1, E] to look around with: a Gaussian direction of length 1, or a stored document.
  /// Error when there is none.
  Tensor random_query(std::uint64_t seed, bool stored = false) const;
  /// A group from 0 to k - 1 for each id: spherical k-means of their vectors.
  std::vector<int64_t> cluster(const std::vector<int64_t>& ids, int64_t k,
                               std::uint64_t seed = 0) const;
  /// Scores of stored ids [Q, k] for queries [Q, E], without modifiers; differentiable in queries.
  Tensor scores_for(const Tensor& queries, const Tensor& ids) const;

 private:
  /// Values as the storage keeps them.
  Tensor rounded(const Tensor& vectors) const;
  /// [N]: the product of all factors, or the sum of all terms; undefined where there are none.
  Tensor modifier(bool multiply) const;
};

/// A text around what the user typed, to be encoded instead of it: "a photo of {query}, sharp".
/// OptionError unless {query} is there once.
class QueryTemplate {
 public:
  explicit QueryTemplate(const std::string& text);
  std::string operator()(std::string_view query) const;

 private:
  std::string before_, behind_;
};

struct MergeEmbeddingsOptions {
  std::string method = "sum";
  bool normalize_parts = false;
  static void fields(auto&& f) {
    f("method", &MergeEmbeddingsOptions::method,
      "\"sum\", \"lerp\", \"nlerp\", \"slerp\" or \"slerp_sequential\"");
    f("normalize_parts", &MergeEmbeddingsOptions::normalize_parts, "each part to length 1 first");
  }
};
/// One query of several weighted parts: vectors [B, P, E], weights [B, P] -> [B, E]. Negative
/// weights push away. The result of slerp depends on the order of the parts. Differentiable.
Tensor merge_embeddings(const Tensor& vectors, const Tensor& weights,
                        const MergeEmbeddingsOptions& o = {});

}  // namespace dropin
