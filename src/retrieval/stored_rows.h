// Stored vectors as a search meets them, and the search itself: what FlatIndex and
// VectorSearchIndex share.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "dropin/retrieval/vector_index.h"
#include "kernels/search/kernel.h"
#include "retrieval/approximate.h"

namespace dropin::retrieval {

/// Made of vectors and ids once, and again when those change.
class StoredRows {
 public:
  StoredRows(const Tensor& vectors, const Tensor& ids, const StoredAs& as);
  bool is_of(const Tensor& vectors, const Tensor& ids) const;
  int64_t size() const { return rows_.size(0); }
  int64_t width() const { return rows_.size(1); }
  DType dtype() const { return rows_.dtype(); }
  bool cosine() const { return units32_.defined(); }
  int64_t id(int64_t row) const { return ids_.defined() ? ids_.data<int64_t>()[row] : row; }
  const Approximate* approximate() const { return approximate_.get(); }
  /// All that the kernel needs but the queries, which are of dtype t.
  kernels::SearchInputs inputs(DType t) const;
  /// One row at length 1 (zeros stay).
  std::vector<double> unit(int64_t row) const;

 private:
  void measure();
  void approximate_by(const std::string& backend, bool l2);
  void decode(int64_t row, double* values) const;
  Tensor vectors_, ids_as_given_;  // keep the storages that the versions count
  std::uint32_t version_ = 0, ids_version_ = 0;
  bool l2_;
  Tensor rows_, steps_, units_, units32_, ids_;  // units: 1 / length, for cosine
  std::unique_ptr<Approximate> approximate_;
};

/// How what was found is ordered.
struct Ranking {
  Tensor factors, terms;  ///< [N] or undefined: score * factor + term
  double mmr_lambda = 1;
  int64_t candidates = 0;  ///< of diversity and of approximate search
};

Found search_rows(const StoredRows& rows, const Tensor& queries, const SearchArgs& args, int64_t k,
                  const Ranking& ranking = {});

/// f32 rows as codes and what 1 is worth in each: round(v / step), step = max|v| / 127.
struct Codes {
  Tensor codes, steps;  ///< int8 [N, E], f32 [N]
};
Codes encode_rows(const Tensor& rows);

}  // namespace dropin::retrieval
