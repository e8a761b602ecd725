// Learned distances and places on a grid: AttentionParams' checks and their plain definitions.
#pragma once
#include <string_view>

#include "dropin/ops/attention.h"

namespace dropin::ops_detail {

bool has_positions(const AttentionParams& p);
/// ShapeError, DTypeError or OptionError where they do not fit q, k and v [B, H, L, D].
void check_positions(const char* who, const Tensor& q, const Tensor& k, const Tensor& v,
                     const AttentionParams& p);
/// What places on a grid add to the scores, [H, L, L].
Tensor grid_costs(const AttentionParams& p, int64_t length);

/// The tables' rows of all pairs.
class RelativeRows {
 public:
  RelativeRows(const AttentionParams& p, int64_t offset, int64_t lq, int64_t lk, const Device& d);
  /// q k^T with the terms of the tables; q has the scale in it.
  Tensor scores(const Tensor& q, const Tensor& k, double scale) const;
  /// z [B, H, Lq, Dv] and what probabilities make of relative_values.
  Tensor with_values(const Tensor& z, const Tensor& probabilities) const;

 private:
  /// Row of the table of each pair, [Lq, Lk] int64.
  Tensor rows_of(const Tensor& table) const;
  /// The same of all batches and heads.
  Tensor pairs(const Tensor& table, int64_t batch, int64_t heads) const;
  const AttentionParams& p_;
  Tensor place_;  ///< [Lq, Lk]: before it is clamped
};

}  // namespace dropin::ops_detail
