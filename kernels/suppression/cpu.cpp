// Suppression on sorted lists. Two vectors of boxes at a time are held against every box before
// them (greedy: those that stayed), one broadcast after the other, then against each other. No
// division: IoU > t is inter > c (area + area) with c = t / (1 + t). In f32 that leaves a margin of
// 1e-5 in which its rounding might decide; the few pairs within it are decided in f64 as the
// definition is written. So the answer is that of f64 arithmetic at the price of f32 vectors.
#include "kernels/suppression/kernel.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "dropin/core/parallel.h"
#include "kernels/hd.h"
#include "kernels/simd.h"
#include "src/cpu/scratch.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/suppression/cpu.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

#ifndef DROPIN_SUPPRESSION_COMMON
#define DROPIN_SUPPRESSION_COMMON
namespace dropin::kernels {
namespace suppression {

struct Box {
  double x1, y1, x2, y2;
  double area() const { return (x2 - x1) * (y2 - y1); }
};
inline double iou(const Box& a, const Box& b) {
  const double w = std::min(a.x2, b.x2) - std::max(a.x1, b.x1),
               h = std::min(a.y2, b.y2) - std::max(a.y1, b.y1);
  const double inter = std::max(w, 0.0) * std::max(h, 0.0), all = a.area() + b.area() - inter;
  return all > 0 ? inter / all : 0;
}
/// A box that overlaps nothing (not finite, or turned inside out: its intersections are empty)
/// becomes one that does so in any arithmetic.
template <class T>
Box clean(const T* p) {
  const Box b{static_cast<double>(p[0]), static_cast<double>(p[1]), static_cast<double>(p[2]),
              static_cast<double>(p[3])};
  const double w = b.x2 - b.x1, h = b.y2 - b.y1;
  return w > 0 && h > 0 && w < kInf<double> && h < kInf<double> ? b : Box{0, 0, 0, 0};
}

constexpr int64_t kSlack = 64;  // elements that whole vectors may read beyond a list

/// Sorted boxes as five arrays: corners and c times the area.
struct Columns {
  float *x1, *y1, *x2, *y2, *s;
};

/// One list: its boxes as they came and as columns, and where the survivors' columns go (greedy).
struct List {
  int64_t n;
  const float* boxes;
  const int64_t* order;
  Columns all, stayed;
  int64_t* stayed_at;
  double threshold;
  std::uint8_t* kept;
  bool too_much(int64_t i, int64_t j) const {
    return iou(clean(boxes + 4 * order[i]), clean(boxes + 4 * order[j])) > threshold;
  }
};

}  // namespace suppression
}  // namespace dropin::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace dropin::kernels {
namespace HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;
using suppression::Columns;
using suppression::List;

/// Two vectors of boxes of a list, from box `at` on.
class Pair {
 public:
  using D = hn::ScalableTag<float>;
  using V = hn::Vec<D>;
  Pair(const Columns& c, int64_t at) {
    const D d;
    for (int k = 0; k < 2; ++k) {
      const int64_t i = at + k * static_cast<int64_t>(hn::Lanes(d));
      x1_[k] = hn::LoadU(d, c.x1 + i), y1_[k] = hn::LoadU(d, c.y1 + i),
      x2_[k] = hn::LoadU(d, c.x2 + i), y2_[k] = hn::LoadU(d, c.y2 + i),
      s_[k] = hn::LoadU(d, c.s + i);
    }
  }
  /// Bit k: box k and box i of c overlap too much for sure (gone), or perhaps (unsure). False when
  /// there is neither.
  HWY_INLINE bool test(const Columns& c, int64_t i, std::uint64_t& gone,
                       std::uint64_t& unsure) const {
    const D d;
    const V x1 = hn::Set(d, c.x1[i]), y1 = hn::Set(d, c.y1[i]), x2 = hn::Set(d, c.x2[i]),
            y2 = hn::Set(d, c.y2[i]), s = hn::Set(d, c.s[i]);
    const V a = inter(0, x1, y1, x2, y2), b = inter(1, x1, y1, x2, y2), u = hn::Add(s, s_[0]),
            v = hn::Add(s, s_[1]);
    const auto p = hn::Gt(a, u), q = hn::Gt(b, v);
    if (HWY_LIKELY(hn::AllFalse(d, hn::Or(p, q)))) return false;
    const V more = hn::Set(d, 1 + 3e-5f);
    gone = bits(hn::Gt(a, hn::Mul(u, more)), hn::Gt(b, hn::Mul(v, more)));
    unsure = bits(p, q) & ~gone;
    return true;
  }

 private:
  HWY_INLINE V inter(int k, V x1, V y1, V x2, V y2) const {
    const V zero = hn::Zero(D());
    return hn::Mul(hn::Max(hn::Sub(hn::Min(x2, x2_[k]), hn::Max(x1, x1_[k])), zero),
                   hn::Max(hn::Sub(hn::Min(y2, y2_[k]), hn::Max(y1, y1_[k])), zero));
  }
  template <class M>
  static HWY_INLINE std::uint64_t bits(M p, M q) {
    const D d;
    std::uint8_t a[8] = {}, b[8] = {};
    hn::StoreMaskBits(d, p, a);
    hn::StoreMaskBits(d, q, b);
    std::uint64_t u, v;
    std::memcpy(&u, a, 8);
    std::memcpy(&v, b, 8);
    return u | v << hn::Lanes(d);
  }
  V x1_[2], y1_[2], x2_[2], y2_[2], s_[2];
};

/// Decides boxes [first, last) of the list. Greedy: first is 0. Otherwise boxes before `first` need
/// not be decided.
template <bool kGreedy>
void decide(const List& l, int64_t first, int64_t last) {
  const int64_t width = 2 * static_cast<int64_t>(hn::Lanes(hn::ScalableTag<float>()));
  const Columns& before = kGreedy ? l.stayed : l.all;
  int64_t stayed = 0;
  for (int64_t j = first; j < last; j += width) {
    const int64_t count = std::min(width, last - j), earlier = kGreedy ? stayed : j;
    const std::uint64_t all = count == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1;
    const Pair boxes(l.all, j);
    std::uint64_t gone = 0, g, u;
    // The pairs that f32 leaves open, in f64.
    auto settle = [&](int64_t i, std::uint64_t open) {
      for (open &= all & ~gone; open; open &= open - 1) {
        const int64_t k = __builtin_ctzll(open);
        if (l.too_much(i, j + k)) gone |= std::uint64_t{1} << k;
      }
    };
    for (int64_t i = 0; i < earlier && (gone & all) != all; ++i)
      if (boxes.test(before, i, g, u)) {
        gone |= g;
        if (HWY_UNLIKELY(u)) settle(kGreedy ? l.stayed_at[i] : i, u);
      }
    for (int64_t k = 0; k < count; ++k) {
      const bool stays = !(gone >> k & 1);
      l.kept[j + k] = stays;
      if ((kGreedy && !stays) || l.all.x1[j + k] == l.all.x2[j + k])
        continue;  // a box without area suppresses nothing
      if (boxes.test(l.all, j + k, g, u)) {
        const std::uint64_t later = k < 63 ? ~std::uint64_t{0} << (k + 1) : 0;
        gone |= g & later;
        if (u & later) settle(j + k, u & later);
      }
      if constexpr (kGreedy) {
        float* to[] = {l.stayed.x1, l.stayed.y1, l.stayed.x2, l.stayed.y2, l.stayed.s};
        const float* from[] = {l.all.x1, l.all.y1, l.all.x2, l.all.y2, l.all.s};
        for (int c = 0; c < 5; ++c) to[c][stayed] = from[c][j + k];
        l.stayed_at[stayed++] = j + k;
      }
    }
  }
}

void Greedy(const List& l) { decide<true>(l, 0, l.n); }
void Fast(const List& l, int64_t first, int64_t last) { decide<false>(l, first, last); }

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace dropin::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dropin::kernels {
HWY_EXPORT(Greedy);
HWY_EXPORT(Fast);

namespace {

using abi::Status;
using abi::TensorIn;
using abi::TensorOut;
using suppression::Box;
using suppression::Columns;
using suppression::kSlack;
using suppression::List;

/// The definition, for values that f32 can not decide; boxes [first, last) of a list.
void plain(const Box* boxes, double threshold, bool greedy, int64_t first, int64_t last,
           std::uint8_t* kept) {
  for (int64_t j = first; j < last; ++j) {
    bool gone = false;
    for (int64_t i = 0; i < j && !gone; ++i)
      gone = (!greedy || kept[i]) && suppression::iou(boxes[i], boxes[j]) > threshold;
    kept[j] = !gone;
  }
}

/// Fills the list's columns; false when f32 can not decide safely.
bool gather(const List& l) {
  if (!(l.threshold >= 1e-6)) return false;
  const Columns& c = l.all;
  const float factor = static_cast<float>(l.threshold / (1 + l.threshold) * (1 - 1e-5));
  float least = 1, most = 1;
  for (int64_t i = 0; i < l.n; ++i) {
    const float* p = l.boxes + 4 * l.order[i];
    const float w = p[2] - p[0], h = p[3] - p[1];
    const bool good = w > 0 && h > 0 && w < kInf<float> &&
                      h < kInf<float>;  // others become boxes without area at 0
    const float area = good ? w * h : 0;
    least = std::min(least, good ? area : 1), most = std::max(most, area);
    c.x1[i] = good ? p[0] : 0, c.y1[i] = good ? p[1] : 0, c.x2[i] = good ? p[2] : 0,
    c.y2[i] = good ? p[3] : 0;
    c.s[i] = area * factor;
  }
  for (float* p : {c.x1, c.y1, c.x2, c.y2, c.s})
    std::fill_n(p + l.n, kSlack, 0.0f);  // boxes that overlap nothing
  return least > 1e-30f && most < 1e30f;
}

Columns columns(float* p, int64_t row) {
  return {p, p + row, p + 2 * row, p + 3 * row, p + 4 * row};
}

template <class T>
void plain_list(const T* boxes, const int64_t* order, int64_t n, double threshold, bool greedy,
                std::uint8_t* kept) {
  const cpu::Scratch<Box> exact(n);
  for (int64_t i = 0; i < n; ++i) exact[i] = suppression::clean(boxes + 4 * order[i]);
  if (greedy) return plain(exact.data(), threshold, true, 0, n, kept);
  parallel_for(ceil_div(n, 64), 4, [&](int64_t b, int64_t e) {
    plain(exact.data(), threshold, false, b * 64, std::min(n, e * 64), kept);
  });
}

void fast_list(const float* boxes, const int64_t* order, int64_t n, double threshold, bool greedy,
               std::uint8_t* kept) {
  const int64_t row = n + kSlack;
  const cpu::Scratch<float> room(row * (greedy ? 10 : 5));
  const cpu::Scratch<int64_t> at(greedy ? n : 1);
  const List l{n,
               boxes,
               order,
               columns(room.data(), row),
               columns(room.data() + (greedy ? 5 * row : 0), row),
               at.data(),
               threshold,
               kept};
  if (!gather(l)) return plain_list(boxes, order, n, threshold, greedy, kept);
  if (greedy) return HWY_DYNAMIC_DISPATCH(Greedy)(l);
  // Every box is decided by itself; a long list alone still keeps all threads busy.
  parallel_for(ceil_div(n, 64), 8, [&](int64_t b, int64_t e) {
    HWY_DYNAMIC_DISPATCH(Fast)(l, b * 64, std::min(n, e * 64));
  });
}

template <class T>
void run_lists(const T* boxes, const int64_t* order, const int64_t* starts, int64_t lists,
               double threshold, bool greedy, std::uint8_t* kept) {
  const int64_t total = starts[lists];
  parallel_for(lists, std::max<int64_t>(1, lists * 512 / std::max<int64_t>(1, total)),
               [&](int64_t from, int64_t to) {
                 for (int64_t s = from; s < to; ++s) {
                   const int64_t n = starts[s + 1] - starts[s];
                   if (n == 0) continue;
                   if constexpr (std::is_same_v<T, float>)
                     fast_list(boxes, order + starts[s], n, threshold, greedy, kept + starts[s]);
                   else
                     plain_list(boxes, order + starts[s], n, threshold, greedy, kept + starts[s]);
                 }
               });
}

Status run_kernel(const TensorIn& boxes, const TensorIn& order, const TensorIn& starts,
                  double threshold, const TensorOut& kept, bool greedy) {
  if (boxes.ndim != 2 || boxes.sizes[1] != 4 || !boxes.contiguous() || !order.contiguous() ||
      !starts.contiguous() || !kept.contiguous() || starts.numel() < 1)
    return abi::failed("suppression: arrays do not fit");
  if (order.dtype != DType::Int64 || starts.dtype != DType::Int64 || kept.dtype != DType::UInt8)
    return abi::failed("suppression: types do not fit");
  const int64_t lists = starts.numel() - 1;
  if (boxes.dtype == DType::Float32)
    run_lists(boxes.as<float>(), order.as<int64_t>(), starts.as<int64_t>(), lists, threshold,
              greedy, kept.as<std::uint8_t>());
  else if (boxes.dtype == DType::Float64)
    run_lists(boxes.as<double>(), order.as<int64_t>(), starts.as<int64_t>(), lists, threshold,
              greedy, kept.as<std::uint8_t>());
  else
    return abi::unsupported("suppression: boxes must be float32 or float64");
  return abi::ok();
}
Status greedy_cpu(const abi::KernelContext&, const TensorIn& boxes, const TensorIn& order,
                  const TensorIn& starts, double threshold, const TensorOut& kept) {
  return run_kernel(boxes, order, starts, threshold, kept, true);
}
Status fast_cpu(const abi::KernelContext&, const TensorIn& boxes, const TensorIn& order,
                const TensorIn& starts, double threshold, const TensorOut& kept) {
  return run_kernel(boxes, order, starts, threshold, kept, false);
}

}  // namespace

void provide_suppression_cpu(abi::KernelTable& t) {
  t.provide<greedy_suppression>(&greedy_cpu);
  t.provide<fast_suppression>(&fast_cpu);
}

}  // namespace dropin::kernels
#endif
