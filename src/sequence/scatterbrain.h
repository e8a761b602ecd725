// Which pairs of ScatterbrainAttention are exact, in blocks.
#pragma once
#include <functional>
#include <vector>

#include "dropin/ops/ops.h"

namespace dropin::scatterbrain {

/// Pairs that meet in blocks: queries come in [B, H, blocks, c, *], keys in [B, H, blocks, m, *].
struct Round {
  std::function<Tensor(const Tensor&)> queries;  ///< [B, H, L, *] in blocks
  std::function<Tensor(const Tensor&)> keys;
  std::function<Tensor(const Tensor&)> back;  ///< queries' blocks as [B, H, L, *]
  Tensor hidden;  ///< [B or 1, H or 1, blocks, c, m] bool: pairs that do not count here
};

/// i - w div 2 <= j < i + (w + 1) div 2; live [B, L] bool, undefined: all.
Round window(int64_t length, int64_t w, bool causal, const Tensor& live);
/// Clusters of equal size by each column of alpha [e + 2, n_hashes]; a pair that met in an earlier
/// round is hidden.
std::vector<Round> clusters(const Tensor& q, const Tensor& k, const Tensor& alpha, int64_t size,
                            bool causal, const Tensor& live);

/// A constant that keeps exponentials small: the largest of x along dims, kept, 0 where there is
/// none.
Tensor scale_of(const Tensor& x, const Shape& dims);
/// phi_q_i . sum_j phi_k_j v_j, [B, H, L, *], over all j or j <= i, a piece at a time.
Tensor low_rank(const Tensor& phi_q, const Tensor& phi_k, const Tensor& v, bool causal);

}  // namespace dropin::scatterbrain
