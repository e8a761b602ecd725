// Tiled attention: online softmax (or sigmoid), never an L x L matrix (Dao 2022, 2023; specs:
// MultiheadAttention, fast paths). q [B, H, Lq, D], k [B, Hk, Lk, D], v [B, Hk, Lk, Dv], f32, any
// strides with the last dimension contiguous; query head h uses key head h / (H / Hk).
#pragma once
#include "dropin/abi/abi.h"

namespace dropin::kernels {

enum class ScoreKind : std::int32_t { Softmax, Sigmoid };

/// Which keys a query sees, and what is done to a score. Key j is seen by query i when left <= j -
/// (i + offset) <= right and no mask forbids it.
struct AttentionSpec {
  ScoreKind kind = ScoreKind::Softmax;
  double scale = 1;
  double bias = 0;            ///< added to every score (the sigmoid's -log n)
  int64_t offset = 0;         ///< position of query 0
  int64_t left = INT64_MIN;   ///< INT64_MIN: no bound
  int64_t right = INT64_MAX;  ///< 0: causal; INT64_MAX: no bound
  int64_t alibi_offset = 0;   ///< scores get -slope_h |i + alibi_offset - j|
  /// Strands, when step is not null (Lq = Lk, H = Hk): positions are cut into segments of `segment`
  /// (0: one segment), and in head h every step[h]-th position of a segment, counted from first[h]
  /// (null or -1: from each of 0 .. step[h] - 1), sees only its own kind. left and right then count
  /// positions of that strand.
  int64_t segment = 0;
  const int64_t* step = nullptr;
  const int64_t* first = nullptr;
  int64_t table_middle = 0;    ///< row of the tables that stands for distance 0
  bool table_of_keys = false;  ///< a score gets k_j . a beside q_i . a
  bool own_mean =
      false;  ///< backward: lse is that of a mixture whose shares are constants, so each strand
              ///< shifts by the mean under its own probabilities (o is not read)
  bool accumulate = false;  ///< merges into the o and lse that are there (by log-sum-exp; the
                            ///< sigmoid adds), adds to gq, gk, gv
};

/// q, k, v as above; slopes [H] f32 or null; key_mask [B, Lk] bool (true = ignored) or null;
/// forbidden [B, H, Lq, Lk] bool (any strides) or null; added [B, H, Lq, Lk] f32 (any strides) or
/// null. Masked keys are skipped, never multiplied by 0: NaN and Inf in them do not leak.
///
/// Learned distances, each null or contiguous f32, not with strands: of query i and key j, a is row
/// clamp(i + offset - j + table_middle, 0, R - 1) of its table. table [R, D]: scores are scale (q .
/// k + q . a), and + scale k . a (table_of_keys); factors [R]: q . k is multiplied by a;
/// value_table [R, Dv]: what a query sees of key j is v_j + a.
///
/// Places on a grid, not with strands, Lq = Lk: tokens 0 .. P - 1 stand in row and column places
/// [P, 2] int64, and a score gets grid[h, y_j - y_i + (Gy - 1) / 2, x_j - x_i + (Gx - 1) / 2], grid
/// [H, Gy, Gx] f32 contiguous, Gy and Gx odd; -inf: j is not seen. Other tokens see and are seen at
/// no cost. Tiles of which grid says that no query sees a key are not visited.
struct AttentionInputs {
  abi::TensorIn q, k, v, slopes, key_mask, forbidden, added, table, value_table, factors, grid,
      places;
  template <class F>
  void tensors(F&& f) const {
    for (const abi::TensorIn* t : {&q, &k, &v, &slopes, &key_mask, &forbidden, &added, &table,
                                   &value_table, &factors, &grid, &places})
      f(*t);
  }
};
/// What forward left for backward.
struct AttentionResults {
  abi::TensorIn o, lse, rest;
  template <class F>
  void tensors(F&& f) const {
    for (const abi::TensorIn* t : {&o, &lse, &rest}) f(*t);
  }
};
/// Of the tables too, where there are some: written, also when the others are added to.
struct AttentionGradients {
  abi::TensorOut q, k, v, table, value_table, factors;
  template <class F>
  void tensors(F&& f) const {
    for (const abi::TensorOut* t : {&q, &k, &v, &table, &value_table, &factors}) f(*t);
  }
};

/// o [B, H, Lq, Dv]; lse and rest [B, H, Lq] contiguous: lse + rest is the log of the sum of
/// exponentials (rest: what rounding takes from it, which is all of log n where n keys share a
/// score of 1e9), lse is -inf for a query that sees no key (softmax only; both null for sigmoid).
DROPIN_KERNEL(attention_forward, const AttentionInputs& in, const AttentionSpec& spec,
              const abi::TensorOut& o, const abi::TensorOut& lse, const abi::TensorOut& rest);
/// glse [B, H, Lq] is the gradient of lse, or null. Gradients are written, or added to
/// (spec.accumulate).
DROPIN_KERNEL(attention_backward, const abi::TensorIn& go, const abi::TensorIn& glse,
              const AttentionInputs& in, const AttentionSpec& spec, const AttentionResults& results,
              const AttentionGradients& out);

}  // namespace dropin::kernels
