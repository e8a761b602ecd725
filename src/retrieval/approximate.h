// Approximate search: which rows may be the nearest to a query. A graph of neighbours (HNSW, Malkov
// and Yashunin 2016), and cells around centroids (IVF).
#pragma once
#include <vector>

#include "dropin/tensor/tensor.h"
#include "kernels/search/kernel.h"

namespace dropin::retrieval {

/// Rows of vectors [N, E], f32 or f64, and how near they are to a query of the same dtype: the
/// product, or the negative squared distance.
class Points {
 public:
  Points() = default;
  Points(const Tensor& rows, bool l2);
  int64_t size() const { return in_.rows.sizes[0]; }
  int64_t width() const { return in_.rows.sizes[1]; }
  bool l2() const { return in_.l2; }
  const Tensor& rows() const { return rows_; }
  const void* row(int64_t i) const;
  /// Of some rows, in their order.
  const std::vector<double>& nearness(const void* q, const std::vector<int64_t>& chosen,
                                      std::vector<double>& room) const;
  double nearness(const void* q, int64_t row) const;
  /// The row nearest to each of `queries` [Q, E].
  std::vector<int64_t> nearest(const Tensor& queries) const;

 private:
  Tensor rows_;
  kernels::SearchInputs in_;
};

class Approximate {
 public:
  explicit Approximate(Points p) : points_(std::move(p)) {}
  virtual ~Approximate() = default;
  /// About `count` rows that are near to q, or more.
  virtual std::vector<int64_t> near(const void* q, int64_t count) const = 0;

 protected:
  Points points_;
};

class NeighbourGraph : public Approximate {
 public:
  explicit NeighbourGraph(Points p);
  std::vector<int64_t> near(const void* q, int64_t count) const override;

 private:
  struct Seen {
    double nearness;
    int64_t row;
    bool operator<(const Seen& o) const {
      return nearness != o.nearness ? nearness < o.nearness : row > o.row;
    }
  };
  using Links = std::vector<std::vector<int64_t>>;  ///< of each row
  void insert(int64_t row, std::size_t level);
  std::vector<Seen> walk(const void* q, std::vector<Seen> from, std::size_t width,
                         const Links& links) const;
  std::vector<int64_t> varied(const std::vector<Seen>& found, std::size_t most) const;
  std::vector<Links> levels_;
  int64_t entry_ = -1;
};

class Cells : public Approximate {
 public:
  explicit Cells(Points p);
  std::vector<int64_t> near(const void* q, int64_t count) const override;

 private:
  Points centres_;
  std::vector<std::vector<int64_t>> members_;
};

}  // namespace dropin::retrieval
