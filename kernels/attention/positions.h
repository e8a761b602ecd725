// Positions as the CPU kernels take them: learned tables laid out by how far a key lies from a
// query, and where blocks of 64 tokens lie on a grid. Made once per call, O(L) memory.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/scratch.h"
#include "kernels/attention/problem.h"

namespace dropin::kernels {

constexpr int64_t kSpan = 2 * kTile;  ///< key minus query within a tile: -64 .. 63

/// The tables' rows in the order of key minus query, in blocks of 64. A tile needs two of them, its
/// window: the one where its first key minus its first query lies, and the one before.
struct DistanceTables {
  int64_t zero, blocks;                        // block `zero` begins at 0
  cpu::Scratch<float> columns, value_columns;  // a block: [D, 64]
  cpu::Scratch<float> rows, value_rows;        // [blocks 64, D rounded up]
  cpu::Scratch<float> factors;                 // [blocks 64]

  explicit DistanceTables(const AttentionProblem& p)
      : zero(ceil_div(p.queries, kTile)), blocks(zero + ceil_div(p.keys, kTile)) {
    if (p.table.data) {
      columns = by_columns(p, p.table);
      rows = by_rows(p, p.table);
    }
    if (p.value_table.data) {
      value_columns = by_columns(p, p.value_table);
      value_rows = by_rows(p, p.value_table);
    }
    if (!p.factors.data) return;
    factors = cpu::Scratch<float>(blocks * kTile);
    for (int64_t t = 0; t < blocks * kTile; ++t)
      factors[t] = p.factors.as<float>()[row(p, p.factors, t)];
  }
  /// The first row of a tile's window.
  int64_t window(int64_t i0, int64_t j0) const { return ((j0 - i0) / kTile + zero - 1) * kTile; }
  /// The table's row that row t of the blocks holds.
  int64_t row(const AttentionProblem& p, const abi::TensorIn& table, int64_t t) const {
    return std::clamp<int64_t>(p.spec.offset - (t - zero * kTile) + p.spec.table_middle, 0,
                               table.sizes[0] - 1);
  }

 private:
  cpu::Scratch<float> by_columns(const AttentionProblem& p, const abi::TensorIn& table) const {
    const int64_t width = table.sizes[1];
    cpu::Scratch<float> all(blocks * kTile * width);
    for (int64_t t = 0; t < blocks * kTile; ++t) {
      const float* from = table.as<float>() + row(p, table, t) * width;
      float* to = all.data() + t / kTile * kTile * width + t % kTile;
      for (int64_t c = 0; c < width; ++c) to[c * kTile] = from[c];
    }
    return all;
  }
  cpu::Scratch<float> by_rows(const AttentionProblem& p, const abi::TensorIn& table) const {
    const int64_t width = table.sizes[1], wide = rounded(width);
    cpu::Scratch<float> all(blocks * kTile * wide);
    for (int64_t t = 0; t < blocks * kTile; ++t) {
      float* to = all.data() + t * wide;
      std::copy_n(table.as<float>() + row(p, table, t) * width, width, to);
      std::fill(to + width, to + wide, 0.0f);
    }
    return all;
  }
};

/// Tokens [0, placed) on a grid, and how many offsets of a rectangle a head sees.
struct GridPlaces {
  struct Box {
    int64_t top, bottom, left, right;
  };
  int64_t height, width, placed;
  std::vector<std::int32_t> at;      // [tokens, and a tile's more]: row times width, plus column
  std::vector<unsigned char> run;    // tokens from here on that lie side by side, up to 64
  std::vector<Box> boxes;            // of each block of 64 tokens, all of them placed
  std::vector<std::int32_t> counts;  // [H, height + 1, width + 1]

  explicit GridPlaces(const AttentionProblem& p)
      : height(p.grid.sizes[1]), width(p.grid.sizes[2]), placed(p.places.sizes[0]) {
    const int64_t* place = p.places.as<int64_t>();
    at.assign(dropin::at(placed + kTile), 0);
    run.assign(dropin::at(placed + kTile), 0);
    for (int64_t t = placed - 1; t >= 0; --t) {
      at[dropin::at(t)] = static_cast<std::int32_t>(place[2 * t] * width + place[2 * t + 1]);
      const bool beside = t + 1 < placed && at[dropin::at(t + 1)] == at[dropin::at(t)] + 1;
      run[dropin::at(t)] =
          static_cast<unsigned char>(beside ? std::min<int>(run[dropin::at(t + 1)] + 1, 64) : 1);
    }
    for (int64_t t = 0; t + kTile <= placed; t += kTile) boxes.push_back(box_of(place + 2 * t));
    if (placed % kTile) boxes.push_back(box_of(place + placed / kTile * kTile * 2, placed % kTile));
    count(p);
  }
  /// What head h adds to the scores of query i: entry at[j] is key j's.
  const float* bias_of(const AttentionProblem& p, int64_t h, int64_t i) const {
    return p.grid.as<float>() + (h * height + (height - 1) / 2) * width + (width - 1) / 2 -
           at[dropin::at(i)];
  }
  /// How many offsets between two blocks head h sees, and how many there are.
  struct Seen {
    int64_t seen, all;
  };
  Seen between(int64_t h, int64_t queries, int64_t keys) const {
    const Box &q = boxes[dropin::at(queries)], &k = boxes[dropin::at(keys)];
    const int64_t y0 = k.top - q.bottom + (height - 1) / 2,
                  y1 = k.bottom - q.top + (height + 1) / 2, x0 = k.left - q.right + (width - 1) / 2,
                  x1 = k.right - q.left + (width + 1) / 2;
    const std::int32_t* c = counts.data() + h * (height + 1) * (width + 1);
    auto corner = [&](int64_t y, int64_t x) { return c[y * (width + 1) + x]; };
    return {corner(y1, x1) - corner(y0, x1) - corner(y1, x0) + corner(y0, x0),
            (y1 - y0) * (x1 - x0)};
  }

 private:
  static Box box_of(const int64_t* place, int64_t n = kTile) {
    Box b{place[0], place[0], place[1], place[1]};
    for (int64_t t = 1; t < n; ++t) {
      b.top = std::min(b.top, place[2 * t]), b.bottom = std::max(b.bottom, place[2 * t]);
      b.left = std::min(b.left, place[2 * t + 1]), b.right = std::max(b.right, place[2 * t + 1]);
    }
    return b;
  }
  void count(const AttentionProblem& p) {
    const int64_t area = (height + 1) * (width + 1);
    counts.assign(dropin::at(p.grid.sizes[0] * area), 0);
    for (int64_t h = 0; h < p.grid.sizes[0]; ++h) {
      const float* bias = p.grid.as<float>() + h * height * width;
      std::int32_t* c = counts.data() + h * area;
      for (int64_t y = 0; y < height; ++y)
        for (int64_t x = 0, line = 0; x < width; ++x) {
          line += bias[y * width + x] != -kInf<float>;
          c[(y + 1) * (width + 1) + x + 1] =
              c[y * (width + 1) + x + 1] + static_cast<std::int32_t>(line);
        }
    }
  }
};

}  // namespace dropin::kernels
