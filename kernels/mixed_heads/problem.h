// Attention with mixed heads as its CPU kernels see it.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/scratch.h"
#include "kernels/hd.h"
#include "kernels/heads.h"
#include "kernels/mixed_heads/kernel.h"

namespace dropin::kernels {

constexpr int64_t kMixedQueries = 24;  ///< a tile: so many queries by kMixedKeys keys, all heads
constexpr int64_t kMixedKeys = 64;
constexpr int64_t kMixedRanks = 8;

/// The arguments of both directions, unpacked.
struct MixedProblem : MixedHeadsInputs {
  MixedHeadsSpec spec;
  int64_t batch, heads, queries, keys, width, value_width;
  abi::TensorOut o;  // forward
  abi::TensorIn go;  // backward
  MixedHeadsGradients grad;

  int64_t factors() const { return (2 * spec.rank + 1) * heads; }  // of one stage
  int64_t tile() const { return heads * kMixedQueries * kMixedKeys; }
  int64_t blocks() const { return ceil_div(keys, kMixedKeys); }
  static float* row(const abi::TensorIn& t, int64_t b, int64_t h, int64_t i) {
    return static_cast<float*>(const_cast<void*>(t.data)) + b * t.strides[0] + h * t.strides[1] +
           i * t.strides[2];
  }
  /// Keys [begin, end) that queries [i0, i1) may see.
  void key_range(int64_t i0, int64_t i1, int64_t& begin, int64_t& end) const {
    begin = spec.left == INT64_MIN ? 0 : std::clamp<int64_t>(i0 + spec.offset + spec.left, 0, keys);
    end = spec.right == INT64_MAX ? keys
                                  : std::clamp<int64_t>(i1 + spec.offset + spec.right, begin, keys);
  }
  const bool* mask_row(int64_t b) const {
    return key_mask.data ? key_mask.as<bool>() + b * key_mask.strides[0] : nullptr;
  }
  /// Is some pair of queries [i0, i0 + m) and a block hidden, or the block short?
  bool partial(int64_t b, int64_t i0, int64_t m, int64_t block) const {
    const int64_t j0 = block * kMixedKeys, j1 = j0 + kMixedKeys;
    if (j1 > keys) return true;
    if (spec.left != INT64_MIN && j0 - (i0 + m - 1 + spec.offset) < spec.left) return true;
    if (spec.right != INT64_MAX && j1 - 1 - (i0 + spec.offset) > spec.right) return true;
    const bool* mask = mask_row(b);
    for (int64_t j = j0; mask && j < j1; ++j)
      if (mask[j * key_mask.strides[1]]) return true;
    return false;
  }
};

inline int64_t whole_vectors(int64_t n) { return ceil_div(n, 16) * 16; }

/// The keys of one batch entry in blocks of 64: keys [H, blocks, D, 64], values [H, blocks 64, Dv
/// rounded up], their factors [blocks, 2 factors(), 64]; for backward values as columns and keys as
/// rows.
struct MixedKeys {
  cpu::Scratch<float> memory;  // one block: threads keep few of them
  float *keys = nullptr, *values = nullptr, *factors = nullptr, *key_rows = nullptr,
        *value_columns = nullptr;
  std::vector<unsigned char> finite;  // [H, blocks]
};

/// Rows that queries have their factors in, [m, 2 factors()]: zeros where there are none.
inline const float* query_factors(const MixedProblem& p, int64_t b, int64_t i0,
                                  const cpu::Scratch<float>& none) {
  return p.of_queries.data ? p.of_queries.as<float>() + (b * p.queries + i0) * 2 * p.factors()
                           : none.data();
}

/// The backward pass, in cpu_backward.cpp.
void mixed_heads_gradients(const MixedProblem& p);

}  // namespace dropin::kernels
