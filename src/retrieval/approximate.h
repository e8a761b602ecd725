// Approximate search: which rows may be the nearest to a query. A graph of neighbours (HNSW, Malkov
// and Yashunin 2016), and cells around centroids (IVF).
#pragma once
#include <cstdint>
#include <vector>

namespace dropin::retrieval {

/// Rows of vectors, and how near two are: the product, or the negative squared distance.
struct Points {
  std::vector<double> rows;
  int64_t width = 0;
  bool l2 = false;
  int64_t size() const { return static_cast<int64_t>(rows.size()) / width; }
  const double* at(int64_t i) const { return rows.data() + i * width; }
  double nearness(const double* a, const double* b) const {
    double s = 0;
    for (int64_t e = 0; e < width; ++e) s += l2 ? -(a[e] - b[e]) * (a[e] - b[e]) : a[e] * b[e];
    return s;
  }
};

class Approximate {
 public:
  explicit Approximate(Points p) : points_(std::move(p)) {}
  virtual ~Approximate() = default;
  /// About `count` rows that are near to q, or more.
  virtual std::vector<int64_t> near(const double* q, int64_t count) const = 0;

 protected:
  Points points_;
};

class NeighbourGraph : public Approximate {
 public:
  explicit NeighbourGraph(Points p);
  std::vector<int64_t> near(const double* q, int64_t count) const override;

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
  std::vector<Seen> walk(const double* q, std::vector<Seen> from, std::size_t width,
                         const Links& links) const;
  std::vector<int64_t> varied(const std::vector<Seen>& found, std::size_t most) const;
  std::vector<Links> levels_;
  int64_t entry_ = -1;
};

class Cells : public Approximate {
 public:
  explicit Cells(Points p);
  std::vector<int64_t> near(const double* q, int64_t count) const override;

 private:
  int64_t nearest(const double* q) const;
  Points centres_;
  std::vector<std::vector<int64_t>> members_;
};

}  // namespace dropin::retrieval
