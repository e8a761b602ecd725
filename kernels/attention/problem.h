// An attention problem as its CPU kernels see it, and its cut into strands.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/attention/kernel.h"
#include "kernels/hd.h"
#include "kernels/heads.h"

namespace dropin::kernels {

constexpr int64_t kTile = 64;
constexpr int64_t kDecodeQueries = 8;  ///< up to so many queries per key head, the keys are
                                       ///< read where they lie and split over the threads

struct DistanceTables;
struct GridPlaces;

/// One problem of rows that see each other: the arguments of both directions, unpacked. A strand of
/// a larger one is the same with other strides.
struct AttentionProblem : AttentionInputs {
  AttentionSpec spec;
  int64_t batch, heads, key_heads, queries, keys, width, value_width;
  abi::TensorOut o, lse, rest;  // forward
  abi::TensorIn go, glse, out;  // backward, with lse and rest
  abi::TensorOut gq, gk, gv, gtable, gvalue_table, gfactors;
  float* delta = nullptr;  // [B, H, Lq]
  int64_t delta_size = 0, delta_step = 1;
  int64_t distance = 1;                    // between neighbouring rows, as ALiBi counts it
  const DistanceTables* tables = nullptr;  // positions.h
  const GridPlaces* on_grid = nullptr;

  int64_t group() const { return heads / key_heads; }
  bool has_tables() const { return table.data || value_table.data || factors.data; }
  static const float* row(const abi::TensorIn& t, int64_t b, int64_t h, int64_t i) {
    return t.as<float>() + b * t.strides[0] + h * t.strides[1] + i * t.strides[2];
  }
  static float* row(const abi::TensorOut& t, int64_t b, int64_t h, int64_t i) {
    return t.as<float>() + b * t.strides[0] + h * t.strides[1] + i * t.strides[2];
  }
  /// Keys [begin, end) that some query of [i0, i1) may see.
  void key_range(int64_t i0, int64_t i1, int64_t& begin, int64_t& end) const {
    begin = spec.left == INT64_MIN ? 0 : std::clamp<int64_t>(i0 + spec.offset + spec.left, 0, keys);
    end = spec.right == INT64_MAX ? keys
                                  : std::clamp<int64_t>(i1 + spec.offset + spec.right, 0, keys);
  }
  /// Queries [begin, end) that may see some key of [j0, j1).
  void query_range(int64_t j0, int64_t j1, int64_t& begin, int64_t& end) const {
    begin = spec.right == INT64_MAX
                ? 0
                : std::clamp<int64_t>(j0 - spec.offset - spec.right, 0, queries);
    end = spec.left == INT64_MIN ? queries
                                 : std::clamp<int64_t>(j1 - spec.offset - spec.left, 0, queries);
  }
  /// Does every query of [i0, i1) see every key of [j0, j1) as far as the window goes?
  bool inside_window(int64_t i0, int64_t i1, int64_t j0, int64_t j1) const {
    return (spec.left == INT64_MIN || j0 - (i1 - 1 + spec.offset) >= spec.left) &&
           (spec.right == INT64_MAX || j1 - 1 - (i0 + spec.offset) <= spec.right);
  }
  const bool* mask_row(int64_t b) const {
    return key_mask.data ? key_mask.as<bool>() + b * key_mask.strides[0] : nullptr;
  }

  /// Rows first, first + step, ..., `count` of them, as a problem of its own.
  AttentionProblem strand(int64_t first, int64_t step, int64_t count) const {
    AttentionProblem p = *this;
    if (step == 1 && first == 0 && count == queries && count == keys) return p;
    auto thin = [&](abi::TensorIn& t, int dim) {
      if (!t.data) return;
      const int64_t size = t.dtype == DType::Boolean ? 1 : 4;
      t.data = static_cast<const char*>(t.data) + first * t.strides[dim] * size;
      t.strides[dim] *= step;
    };
    for (abi::TensorIn* t : {&p.q, &p.k, &p.v, &p.forbidden, &p.added, &p.go, &p.glse, &p.out})
      thin(*t, 2);
    for (abi::TensorOut* t : {&p.o, &p.lse, &p.rest, &p.gq, &p.gk, &p.gv}) thin(*t, 2);
    thin(p.forbidden, 3);
    thin(p.added, 3);
    thin(p.key_mask, 1);
    if (p.delta) p.delta += first;
    p.delta_step = step;
    p.distance = step;
    p.queries = p.keys = count;
    return p;
  }
};

/// Heads [head, head + heads) of batch b, of one key head, and the rows of a strand.
struct Strand {
  int64_t b, head, heads, first, step, count;
  int64_t packed = 0,
          blocks = 0;  ///< its first row and its first block among those of all strands
};

/// The strands of a problem: one per key head, or those that spec.segment, step and first cut from
/// each head.
inline std::vector<Strand> strands_of(const AttentionProblem& p) {
  std::vector<Strand> all;
  if (!p.spec.step) {
    for (int64_t b = 0; b < p.batch; ++b)
      for (int64_t hk = 0; hk < p.key_heads; ++hk)
        all.push_back({b, hk * p.group(), p.group(), 0, 1, p.keys});
    return all;
  }
  const int64_t segment = p.spec.segment > 0 ? std::min(p.spec.segment, p.keys) : p.keys;
  for (int64_t b = 0; b < p.batch; ++b)
    for (int64_t h = 0; h < p.heads; ++h) {
      const int64_t step = p.spec.step[h], from = p.spec.first ? p.spec.first[h] : -1;
      for (int64_t start = 0; start < p.keys; start += segment) {
        const int64_t size = std::min(segment, p.keys - start);
        const int64_t lo = from < 0 ? 0 : from,
                      hi = from < 0 ? std::min(step, size) : std::min(from + 1, size);
        for (int64_t r = lo; r < hi; ++r)
          all.push_back({b, h, 1, start + r, step, ceil_div(size - r, step)});
      }
    }
  std::stable_sort(all.begin(), all.end(), [](const Strand& x, const Strand& y) {
    return x.count > y.count;
  });  // the long ones first
  return all;
}

/// A row of n floats in whole vectors.
inline int64_t rounded(int64_t n) { return ceil_div(n, 16) * 16; }
/// Columns of the last block of n keys: whole vectors.
inline int64_t padded(int64_t n) { return std::min(kTile, rounded(n)); }

/// The backward pass, in cpu_backward.cpp.
void attention_gradients(const AttentionProblem& p);

}  // namespace dropin::kernels
