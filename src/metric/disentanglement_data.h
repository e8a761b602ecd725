// The checked columns of latents and attributes, and the information between them.
#pragma once
#include <limits>
#include <string>
#include <string_view>

#include "dropin/metric/disentanglement.h"
#include "kernels/hd.h"
#include "metric/information.h"

namespace dropin::metric {

/// A table of numbers [rows, columns].
struct Table {
  int64_t rows = 0, columns = 0;
  std::vector<double> values;
  Table() = default;
  Table(int64_t r, int64_t c) : rows(r), columns(c), values(at(r * c)) {}
  double& operator()(int64_t r, int64_t c) { return values[at(r * columns + c)]; }
  double operator()(int64_t r, int64_t c) const { return values[at(r * columns + c)]; }
  Tensor tensor(const TensorOptions& o) const {
    return dropin::tensor(values, Shape{rows, columns}, o);
  }
};

struct Data {
  std::string_view who;
  const DisentanglementOptions& o;
  int64_t D = 0, A = 0;
  std::vector<Column> z, a;
  std::vector<bool> label;  ///< which attributes are labels
  std::vector<Labels> ids;  ///< of those
  TensorOptions result;     ///< of the scores

  Data(std::string_view name, const Tensor& z, const Tensor& a, const DisentanglementOptions& o);
  /// reg_dim, or the first latents where it is empty and `fill`; else empty.
  std::vector<int64_t> meant_latents(bool fill) const;
  /// Information between latents and attributes, [D, A].
  Table mutual() const;
  /// Between attributes i and l.
  double between(int64_t i, int64_t l) const;
};

/// The best row of column c (or column of row c, see the callers' lists): largest value, the last
/// one on ties; -1 of none.
template <class Value, class Allowed>
int64_t best_of(int64_t n, Value value, Allowed allowed) {
  int64_t best = -1;
  for (int64_t i = 0; i < n; ++i)
    if (allowed(i) && (best < 0 || value(i) >= value(best))) best = i;
  return best;
}

}  // namespace dropin::metric
