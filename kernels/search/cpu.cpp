// Search on the CPU. A task is a group of queries and a stretch of rows; a block of the rows
// (decoded where they are stored in fewer bits) meets the group in register tiles of kR queries and
// kS rows, whose vectors run along E; scores of a block go through factors and terms and, a vector
// at a time, against the worst of the best so far. The stretches' best are merged at the end: the
// order (score, id) is total, so nothing depends on how the work was cut. Glossary: q: query; L:
// values of a vector.
#include "kernels/simd.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/search/cpu.cpp"
#include "hwy/foreach_target.h"  // compiles what follows once per instruction set
//
#include <algorithm>
#include <vector>

#include "dropin/core/parallel.h"
#include "kernels/hd.h"
#include "kernels/search/kernel.h"
#include "kernels/simd-inl.h"
#include "kernels/strided.h"
#include "src/cpu/scratch.h"

#ifndef DROPIN_KERNELS_SEARCH_CPU_H_
#define DROPIN_KERNELS_SEARCH_CPU_H_
namespace dropin::kernels::search {

constexpr int64_t kGroup = 48;       // queries of a task
constexpr int64_t kBlockMost = 128;  // rows of a block, at most
constexpr int64_t kBlockValues = 32768;

/// Rows of a block as long as they stay in the second cache.
inline int64_t block_rows(int64_t width) {
  return std::clamp<int64_t>(kBlockValues / std::max<int64_t>(width, 1) / 4 * 4, 8, kBlockMost);
}

template <class T>
struct Hit {
  T score;
  int64_t id, row;
  bool operator<(const Hit& o) const { return score != o.score ? score > o.score : id < o.id; }
};

/// The k best so far: a heap whose top is the worst of them.
template <class T>
struct Best {
  std::vector<Hit<T>> heap;
  std::size_t k = 0;
  bool full() const { return heap.size() == k; }
  /// What a score must reach.
  T least() const { return full() ? heap.front().score : -kInf<T>; }
  void offer(const Hit<T>& h) {
    if (!full()) {
      heap.push_back(h);
      std::push_heap(heap.begin(), heap.end());
    } else if (h < heap.front()) {
      std::pop_heap(heap.begin(), heap.end());
      heap.back() = h;
      std::push_heap(heap.begin(), heap.end());
    }
  }
};

/// Some of the rows: by number, where they lie, and the scores of a group.
template <class T>
struct Block {
  int64_t count = 0;
  const int64_t* numbers = nullptr;  ///< null: from `first` on
  int64_t first = 0;
  const T* row[kBlockMost];
  int64_t number(int64_t i) const { return numbers ? numbers[i] : first + i; }
};

}  // namespace dropin::kernels::search
#endif

HWY_BEFORE_NAMESPACE();
namespace dropin::kernels::HWY_NAMESPACE {
namespace {
using search::Best;
using search::Block;
using search::kBlockMost;

#if HWY_TARGET <= HWY_AVX3
constexpr int kR = 4, kS = 6;
#else
constexpr int kR = 3, kS = 4;
#endif

/// R queries and S rows -> score[r * kBlockMost + s].
template <class T, bool kL2, int R, int S>
HWY_INLINE void score_tile(int64_t width, const T* q, const T* const* row, T* score) {
  const Tag<T> d;
  using V = VecOf<decltype(d)>;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  V sum[R][S];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int s = 0; s < S; ++s) sum[r][s] = hn::Zero(d);
  for (int64_t e = 0; e < width; e += lanes) {
    const bool whole = e + lanes <= width;
    const auto rest = static_cast<std::size_t>(width - e);
    V x[R];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const T* at = q + r * width + e;
      x[r] = whole ? hn::LoadU(d, at) : load_first(d, at, rest);
    }
#pragma GCC unroll 16
    for (int s = 0; s < S; ++s) {
      const V w = whole ? hn::LoadU(d, row[s] + e) : load_first(d, row[s] + e, rest);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        if constexpr (kL2) {
          const V far = hn::Sub(x[r], w);
          sum[r][s] = hn::NegMulAdd(far, far, sum[r][s]);
        } else {
          sum[r][s] = hn::MulAdd(x[r], w, sum[r][s]);
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int s = 0; s < S; ++s)
      score[r * kBlockMost + s] = hn::GetLane(hn::SumOfLanes(d, sum[r][s]));
}

/// All queries of a group and S rows.
template <class T, bool kL2, int S>
HWY_INLINE void score_rows(int64_t queries, int64_t width, const T* q, const T* const* row,
                           T* score) {
  for (; queries >= kR; queries -= kR, q += kR * width, score += kR * kBlockMost)
    score_tile<T, kL2, kR, S>(width, q, row, score);
  for (; queries > 0; --queries, q += width, score += kBlockMost)
    score_tile<T, kL2, 1, S>(width, q, row, score);
}

template <class T, bool kL2>
HWY_INLINE void score_all(int64_t queries, int64_t width, const T* q, const Block<T>& b, T* score) {
  int64_t i = 0;
  if (queries == 1)  // one sum a row: eight of them hide the latency of a multiply-add
    for (; i + 8 <= b.count; i += 8) score_tile<T, kL2, 1, 8>(width, q, b.row + i, score + i);
  for (; i + kS <= b.count; i += kS)
    score_rows<T, kL2, kS>(queries, width, q, b.row + i, score + i);
  for (; i < b.count; ++i) score_rows<T, kL2, 1>(queries, width, q, b.row + i, score + i);
}

/// score [queries][kBlockMost]: factors and terms of the block's rows; NaN becomes -inf.
template <class T>
void adjust(const SearchInputs& in, int64_t queries, const Block<T>& b, T* score) {
  const T *units = in.units.as<T>(), *factors = in.factors.as<T>(), *terms = in.terms.as<T>();
  for (int64_t r = 0; r < queries; ++r, score += kBlockMost)
    for (int64_t i = 0; i < b.count; ++i) {
      const int64_t row = b.number(i);
      T s = score[i];
      if (units) s *= units[row];
      if (factors) s *= factors[row];
      if (terms) s += terms[row];
      score[i] = s == s ? s : -kInf<T>;
    }
}

template <class T>
void score_block(const SearchInputs& in, int64_t queries, const T* q, const Block<T>& b, T* score) {
  const int64_t width = in.queries.sizes[1];
  if (in.l2) {
    score_all<T, true>(queries, width, q, b, score);
  } else {
    score_all<T, false>(queries, width, q, b, score);
  }
  adjust(in, queries, b, score);
}

/// Rows of the block whose score may be among the best.
template <class T>
void keep_best(const SearchInputs& in, const Block<T>& b, const T* score, Best<T>& best) {
  const Tag<T> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t* ids = in.ids.as<int64_t>();
  auto offer = [&](int64_t i) {
    const int64_t row = b.number(i);
    if (!best.full() || score[i] >= best.least()) best.offer({score[i], ids ? ids[row] : row, row});
  };
  int64_t i = 0;
  for (; i + lanes <= b.count; i += lanes) {
    const auto reaches = hn::Ge(hn::LoadU(d, score + i), hn::Set(d, best.least()));
    if (hn::AllFalse(d, reaches)) continue;
    for (int64_t j = i; j < i + lanes; ++j) offer(j);
  }
  for (; i < b.count; ++i) offer(i);
}

/// Codes of i8 and what 1 is worth.
void decode_codes(const std::int8_t* code, float step, float* y, int64_t n) {
  const Tag<float> d;
  const hn::Rebind<std::int32_t, decltype(d)> di;
  const hn::Rebind<std::int8_t, decltype(d)> d8;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto v = hn::Set(d, step);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    hn::StoreU(hn::Mul(hn::ConvertTo(d, hn::PromoteTo(di, hn::LoadU(d8, code + i))), v), d, y + i);
  for (; i < n; ++i) y[i] = static_cast<float>(code[i]) * step;
}

void score_block_f32(const SearchInputs& in, int64_t queries, const float* q, const Block<float>& b,
                     float* score) {
  score_block(in, queries, q, b, score);
}
void score_block_f64(const SearchInputs& in, int64_t queries, const double* q,
                     const Block<double>& b, double* score) {
  score_block(in, queries, q, b, score);
}
void keep_best_f32(const SearchInputs& in, const Block<float>& b, const float* score,
                   Best<float>& best) {
  keep_best(in, b, score, best);
}
void keep_best_f64(const SearchInputs& in, const Block<double>& b, const double* score,
                   Best<double>& best) {
  keep_best(in, b, score, best);
}

}  // namespace
}  // namespace dropin::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dropin::kernels {
HWY_EXPORT(decode_codes);
HWY_EXPORT(score_block_f32);
HWY_EXPORT(score_block_f64);
HWY_EXPORT(keep_best_f32);
HWY_EXPORT(keep_best_f64);

namespace {

using search::Best;
using search::Block;
using search::Hit;
using search::kBlockMost;
using search::kGroup;

auto block_scorer(float) { return &HWY_DYNAMIC_DISPATCH(score_block_f32); }
auto block_scorer(double) { return &HWY_DYNAMIC_DISPATCH(score_block_f64); }
auto best_keeper(float) { return &HWY_DYNAMIC_DISPATCH(keep_best_f32); }
auto best_keeper(double) { return &HWY_DYNAMIC_DISPATCH(keep_best_f64); }

/// Hands out blocks of the rows that are looked at, decoded where they must be.
template <class T>
class Rows {
 public:
  explicit Rows(const SearchInputs& in)
      : in_(in), width_(in.rows.sizes[1]), most_(search::block_rows(width_)) {
    if (in.rows.dtype != in.queries.dtype) {
      decoded_ = cpu::Scratch<T>(most_ * width_);
      narrow_ = cpu::Scratch<float>(width_);
    }
  }
  static int64_t count(const SearchInputs& in) {
    return in.chosen.data ? in.chosen.sizes[0] : in.rows.sizes[0];
  }
  /// f(block, place of its first row among those looked at).
  template <class F>
  void each_block(int64_t begin, int64_t end, F&& f) {
    Block<T> b;
    for (int64_t i = begin; i < end; i += b.count) {
      b.count = std::min(most_, end - i);
      b.first = i;
      b.numbers = in_.chosen.data ? in_.chosen.as<int64_t>() + i : nullptr;
      for (int64_t j = 0; j < b.count; ++j) b.row[j] = at_row(b.number(j), j);
      f(b, i);
    }
  }

 private:
  const T* at_row(int64_t row, int64_t place) {
    if (in_.rows.dtype == in_.queries.dtype) return in_.rows.as<T>() + row * width_;
    T* to = decoded_.data() + place * width_;
    if constexpr (sizeof(T) == 4) {
      as_float(row, to);
    } else {
      as_float(row, narrow_.data());
      std::copy_n(narrow_.data(), width_, to);
    }
    return to;
  }
  void as_float(int64_t row, float* to) const {
    const int64_t from = row * width_;
    if (in_.rows.dtype == DType::Int8) {
      HWY_DYNAMIC_DISPATCH(decode_codes)
      (in_.rows.as<std::int8_t>() + from, in_.steps.as<float>()[row], to, width_);
    } else if (is_half(in_.rows.dtype)) {
      widen(in_.rows.dtype, in_.rows.as<std::uint16_t>() + from, to, width_);
    } else {
      std::copy_n(in_.rows.as<float>() + from, width_, to);
    }
  }
  const SearchInputs& in_;
  int64_t width_, most_;
  cpu::Scratch<T> decoded_;
  cpu::Scratch<float> narrow_;
};

bool fits_each(const abi::TensorIn& t, const SearchInputs& in, DType dtype) {
  return !t.data ||
         (t.dtype == dtype && t.contiguous() && t.ndim == 1 && t.sizes[0] == in.rows.sizes[0]);
}

abi::Status check(const SearchInputs& in) {
  const DType t = in.queries.dtype, r = in.rows.dtype;
  if (t != DType::Float32 && t != DType::Float64)
    return abi::unsupported("search: queries must be float32 or float64");
  if (r != t && r != DType::Float32 && r != DType::Int8 && !is_half(r))
    return abi::unsupported("search: rows must be floats no wider than the queries, or int8");
  if (!in.queries.contiguous() || !in.rows.contiguous() || in.queries.ndim != 2 ||
      in.rows.ndim != 2 || in.queries.sizes[1] != in.rows.sizes[1])
    return abi::failed("search: queries [Q, E] and rows [N, E] must be contiguous");
  if (!fits_each(in.steps, in, DType::Float32) || !fits_each(in.units, in, t) ||
      !fits_each(in.factors, in, t) || !fits_each(in.terms, in, t) ||
      !fits_each(in.ids, in, DType::Int64))
    return abi::failed("search: one value is expected for each row");
  if ((r == DType::Int8) != (in.steps.data != nullptr))
    return abi::failed("search: steps belong to rows of int8");
  if (in.chosen.data && (in.chosen.dtype != DType::Int64 || !in.chosen.contiguous()))
    return abi::failed("search: chosen must be contiguous int64");
  for (int64_t i = 0; in.chosen.data && i < in.chosen.sizes[0]; ++i)
    if (const int64_t row = in.chosen.as<int64_t>()[i]; row < 0 || row >= in.rows.sizes[0])
      return abi::out_of_range("search: a chosen row that is not there");
  return abi::ok();
}

/// Tasks: groups of queries times stretches of rows, a few for each thread.
struct Cut {
  int64_t groups, stretches, each;
  Cut(const SearchInputs& in, int64_t count)
      : groups(ceil_div(in.queries.sizes[0], kGroup)), stretches(1), each(count) {
    const int64_t block = search::block_rows(in.rows.sizes[1]);
    const int64_t wanted = ceil_div(int64_t{4} * get_num_threads(), std::max<int64_t>(groups, 1));
    each = std::max(ceil_div(count, wanted), int64_t{8} * block);
    stretches = std::max<int64_t>(ceil_div(count, each), 1);
  }
};

template <class T>
void find_best(const SearchInputs& in, int64_t k, int64_t* found, T* scores) {
  const int64_t count = Rows<T>::count(in), queries = in.queries.sizes[0],
                width = in.queries.sizes[1];
  const Cut cut(in, count);
  std::vector<Best<T>> best(static_cast<std::size_t>(cut.stretches * queries));
  for (auto& b : best) b.k = static_cast<std::size_t>(std::min(k, count));
  const auto score_block = block_scorer(T());
  const auto keep = best_keeper(T());
  parallel_for(cut.groups * cut.stretches, 1, [&](int64_t begin, int64_t end) {
    Rows<T> rows(in);
    cpu::Scratch<T> score(kGroup * kBlockMost);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t q0 = task / cut.stretches * kGroup, stretch = task % cut.stretches;
      const int64_t n = std::min(kGroup, queries - q0), from = stretch * cut.each;
      rows.each_block(from, std::min(count, from + cut.each), [&](const Block<T>& b, int64_t) {
        score_block(in, n, in.queries.as<T>() + q0 * width, b, score.data());
        for (int64_t r = 0; r < n; ++r)
          keep(in, b, score.data() + r * kBlockMost, best[at(stretch * queries + q0 + r)]);
      });
    }
  });
  for (int64_t q = 0; q < queries; ++q) {
    Best<T>& all = best[at(q)];
    for (int64_t s = 1; s < cut.stretches; ++s)
      for (const Hit<T>& h : best[at(s * queries + q)].heap) all.offer(h);
    std::sort_heap(all.heap.begin(), all.heap.end());
    for (int64_t j = 0; j < k; ++j) {
      const bool there = j < static_cast<int64_t>(all.heap.size());
      found[q * k + j] = there ? all.heap[at(j)].row : -1;
      scores[q * k + j] = there ? all.heap[at(j)].score : -kInf<T>;
    }
  }
}

template <class T>
void find_scores(const SearchInputs& in, T* scores) {
  const int64_t count = Rows<T>::count(in), queries = in.queries.sizes[0],
                width = in.queries.sizes[1];
  const auto score_block = block_scorer(T());
  parallel_for(count, int64_t{8} * search::block_rows(width), [&](int64_t begin, int64_t end) {
    Rows<T> rows(in);
    cpu::Scratch<T> score(kGroup * kBlockMost);
    rows.each_block(begin, end, [&](const Block<T>& b, int64_t place) {
      for (int64_t q0 = 0; q0 < queries; q0 += kGroup) {
        const int64_t n = std::min(kGroup, queries - q0);
        score_block(in, n, in.queries.as<T>() + q0 * width, b, score.data());
        for (int64_t r = 0; r < n; ++r)
          std::copy_n(score.data() + r * kBlockMost, b.count, scores + (q0 + r) * count + place);
      }
    });
  });
}

abi::Status search_best_cpu(const abi::KernelContext&, const SearchInputs& in,
                            const abi::TensorOut& found, const abi::TensorOut& scores) {
  if (const abi::Status s = check(in); s.code) return s;
  if (found.dtype != DType::Int64 || scores.dtype != in.queries.dtype || !found.contiguous() ||
      !scores.contiguous() || found.ndim != 2 || found.sizes[0] != in.queries.sizes[0] ||
      found.numel() != scores.numel())
    return abi::failed("search: found and scores must be [Q, k]");
  const int64_t k = found.sizes[1];
  if (k == 0) return abi::ok();
  if (in.queries.dtype == DType::Float32) {
    find_best(in, k, found.as<int64_t>(), scores.as<float>());
  } else {
    find_best(in, k, found.as<int64_t>(), scores.as<double>());
  }
  return abi::ok();
}

abi::Status search_scores_cpu(const abi::KernelContext&, const SearchInputs& in,
                              const abi::TensorOut& scores) {
  if (const abi::Status s = check(in); s.code) return s;
  const int64_t count = in.chosen.data ? in.chosen.sizes[0] : in.rows.sizes[0];
  if (scores.dtype != in.queries.dtype || !scores.contiguous() ||
      scores.numel() != in.queries.sizes[0] * count)
    return abi::failed("search: scores must be [Q, M]");
  if (in.queries.dtype == DType::Float32) {
    find_scores(in, scores.as<float>());
  } else {
    find_scores(in, scores.as<double>());
  }
  return abi::ok();
}

}  // namespace

void provide_search_cpu(abi::KernelTable& t) {
  t.provide<search_best>(&search_best_cpu);
  t.provide<search_scores>(&search_scores_cpu);
}

}  // namespace dropin::kernels
#endif
