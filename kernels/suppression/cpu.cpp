// Suppression on sorted lists. For each box the vectors run over the boxes before it (greedy: over those that stayed), with an early end at the first that
// suppresses it. No division: IoU > t is inter > c (area + area) with c = t / (1 + t), first in f32 with a margin that covers its rounding, then, for the
// few pairs that pass, in f64 as written in the definition. So the answer is that of f64 arithmetic at the price of f32 vectors.
#include "kernels/suppression/kernel.h"

#include <algorithm>
#include <cmath>

#include "dropin/core/parallel.h"
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

using std::int64_t;

struct Box {
  double x1, y1, x2, y2;
  double area() const { return (x2 - x1) * (y2 - y1); }
};
inline double iou(const Box& a, const Box& b) {
  const double w = std::min(a.x2, b.x2) - std::max(a.x1, b.x1), h = std::min(a.y2, b.y2) - std::max(a.y1, b.y1);
  const double inter = std::max(w, 0.0) * std::max(h, 0.0), all = a.area() + b.area() - inter;
  return all > 0 ? inter / all : 0;
}
/// A box that overlaps nothing (not finite, or turned inside out: its intersections are empty) becomes one that does so in any arithmetic.
template <class T>
Box clean(const T* p) {
  const Box b{static_cast<double>(p[0]), static_cast<double>(p[1]), static_cast<double>(p[2]), static_cast<double>(p[3])};
  const bool finite = std::isfinite(b.x1) && std::isfinite(b.y1) && std::isfinite(b.x2) && std::isfinite(b.y2);
  return finite && b.x1 < b.x2 && b.y1 < b.y2 ? b : Box{0, 0, 0, 0};
}

constexpr int64_t kSlack = 64;  // elements that whole vectors may read beyond a list

/// Sorted boxes as five arrays: corners and c times the area.
struct Columns {
  float *x1, *y1, *x2, *y2, *s;
};

/// One list: its boxes in f64, the same in f32 columns, and where the survivors' columns go (greedy).
struct List {
  int64_t n;
  const Box* boxes;
  Columns all, stayed;
  int64_t* stayed_at;
  double threshold;
  std::uint8_t* kept;
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
using std::int64_t;

/// Calls hit(i) for every i < n, in order, whose box may overlap box b enough, until it says true; n is rounded up to whole vectors unless `exact_end`.
template <class F>
HWY_INLINE bool any_hit(const Columns& c, int64_t n, const Columns& b, int64_t at, bool exact_end, F&& hit) {
  const hn::ScalableTag<float> d;
  const int64_t L = static_cast<int64_t>(hn::Lanes(d));
  const auto x1 = hn::Set(d, b.x1[at]), y1 = hn::Set(d, b.y1[at]), x2 = hn::Set(d, b.x2[at]), y2 = hn::Set(d, b.y2[at]), s = hn::Set(d, b.s[at]);
  const auto zero = hn::Zero(d);
  auto test = [&](int64_t i) HWY_ATTR {
    const auto w = hn::Max(hn::Sub(hn::Min(x2, hn::LoadU(d, c.x2 + i)), hn::Max(x1, hn::LoadU(d, c.x1 + i))), zero);
    const auto h = hn::Max(hn::Sub(hn::Min(y2, hn::LoadU(d, c.y2 + i)), hn::Max(y1, hn::LoadU(d, c.y1 + i))), zero);
    return hn::Gt(hn::Mul(w, h), hn::Add(s, hn::LoadU(d, c.s + i)));
  };
  auto look = [&](int64_t i, auto mask) HWY_ATTR {
    if (HWY_LIKELY(hn::AllFalse(d, mask))) return false;
    if (exact_end && i + L > n) mask = hn::And(mask, hn::FirstN(d, static_cast<std::size_t>(n - i)));
    std::uint8_t bits[8] = {};
    hn::StoreMaskBits(d, mask, bits);
    std::uint64_t m = 0;
    for (int k = 7; k >= 0; --k) m = m << 8 | bits[k];
    for (; m; m &= m - 1)
      if (hit(i + __builtin_ctzll(m))) return true;
    return false;
  };
  int64_t i = 0;
  for (; i + 2 * L <= n; i += 2 * L) {
    const auto a = test(i), b2 = test(i + L);
    if (HWY_LIKELY(hn::AllFalse(d, hn::Or(a, b2)))) continue;
    if (look(i, a) || look(i + L, b2)) return true;
  }
  for (; i < n; i += L)
    if (look(i, test(i))) return true;
  return false;
}

void Greedy(const List& l) {
  int64_t stayed = 0;
  for (int64_t j = 0; j < l.n; ++j) {
    const bool gone = any_hit(l.stayed, stayed, l.all, j, false, [&](int64_t i) { return i < stayed && suppression::iou(l.boxes[l.stayed_at[i]], l.boxes[j]) > l.threshold; });
    l.kept[j] = !gone;
    if (gone || l.all.x1[j] == l.all.x2[j]) continue;
    float *to[] = {l.stayed.x1, l.stayed.y1, l.stayed.x2, l.stayed.y2, l.stayed.s};
    const float* from[] = {l.all.x1, l.all.y1, l.all.x2, l.all.y2, l.all.s};
    for (int k = 0; k < 5; ++k) to[k][stayed] = from[k][j];
    l.stayed_at[stayed++] = j;
  }
}

void Fast(const List& l, int64_t first, int64_t last) {
  for (int64_t j = first; j < last; ++j)
    l.kept[j] = !any_hit(l.all, j, l.all, j, true, [&](int64_t i) { return suppression::iou(l.boxes[i], l.boxes[j]) > l.threshold; });
}

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

/// The definition, for values that f32 vectors can not hold.
void plain(const List& l, bool greedy, int64_t first, int64_t last) {
  for (int64_t j = first; j < last; ++j) {
    bool gone = false;
    for (int64_t i = 0; i < j && !gone; ++i) gone = (!greedy || l.kept[i]) && suppression::iou(l.boxes[i], l.boxes[j]) > l.threshold;
    l.kept[j] = !gone;
  }
}

/// Fills the list's boxes and columns; false when f32 can not decide safely.
template <class T>
bool gather(const T* boxes, const int64_t* order, int64_t n, double threshold, Box* out, const Columns& c) {
  const double factor = threshold / (1 + threshold) * (1 - 1e-5);
  bool safe = std::is_same_v<T, float> && threshold >= 1e-6;
  for (int64_t i = 0; i < n; ++i) {
    const Box b = out[i] = suppression::clean(boxes + 4 * order[i]);
    const double area = b.area();
    safe = safe && (area == 0 || (area > 1e-30 && area < 1e30));
    c.x1[i] = static_cast<float>(b.x1), c.y1[i] = static_cast<float>(b.y1), c.x2[i] = static_cast<float>(b.x2), c.y2[i] = static_cast<float>(b.y2);
    c.s[i] = static_cast<float>(area * factor);
  }
  for (float* p : {c.x1, c.y1, c.x2, c.y2, c.s}) std::fill_n(p + n, kSlack, 0.0f);
  return safe;
}

Columns columns(float* p, int64_t row) { return {p, p + row, p + 2 * row, p + 3 * row, p + 4 * row}; }

template <class T>
void run_lists(const T* boxes, const int64_t* order, const int64_t* starts, int64_t lists, double threshold, bool greedy, std::uint8_t* kept) {
  const int64_t total = starts[lists];
  parallel_for(lists, std::max<int64_t>(1, lists * 256 / std::max<int64_t>(1, total)), [&](int64_t from, int64_t to) {
    for (int64_t s = from; s < to; ++s) {
      const int64_t n = starts[s + 1] - starts[s], row = n + kSlack;
      if (n == 0) continue;
      const cpu::Scratch<Box> exact(n);
      const cpu::Scratch<float> room(row * (greedy ? 10 : 5));
      const cpu::Scratch<int64_t> at(greedy ? n : 1);
      const List l{n, exact.data(), columns(room.data(), row), columns(room.data() + (greedy ? 5 * row : 0), row), at.data(), threshold, kept + starts[s]};
      const bool safe = gather(boxes, order + starts[s], n, threshold, exact.data(), l.all);
      if (greedy) {
        if (!safe) {
          plain(l, true, 0, n);
          continue;
        }
        std::fill_n(l.stayed.x1, 5 * row, 0.0f);
        HWY_DYNAMIC_DISPATCH(Greedy)(l);
        continue;
      }
      // Every box is decided by itself; a long list alone still keeps all threads busy.
      parallel_for((n + 63) / 64, 4, [&](int64_t b, int64_t e) {
        if (safe) HWY_DYNAMIC_DISPATCH(Fast)(l, b * 64, std::min(n, e * 64));
        else plain(l, false, b * 64, std::min(n, e * 64));
      });
    }
  });
}

Status run_kernel(const TensorIn& boxes, const TensorIn& order, const TensorIn& starts, double threshold, const TensorOut& kept, bool greedy) {
  if (boxes.ndim != 2 || boxes.sizes[1] != 4 || !boxes.contiguous() || !order.contiguous() || !starts.contiguous() || !kept.contiguous() || starts.numel() < 1)
    return abi::failed("suppression: arrays do not fit");
  if (order.dtype != DType::Int64 || starts.dtype != DType::Int64 || kept.dtype != DType::UInt8) return abi::failed("suppression: types do not fit");
  const int64_t lists = starts.numel() - 1;
  if (boxes.dtype == DType::Float32) run_lists(boxes.as<float>(), order.as<int64_t>(), starts.as<int64_t>(), lists, threshold, greedy, kept.as<std::uint8_t>());
  else if (boxes.dtype == DType::Float64) run_lists(boxes.as<double>(), order.as<int64_t>(), starts.as<int64_t>(), lists, threshold, greedy, kept.as<std::uint8_t>());
  else return abi::unsupported("suppression: boxes must be float32 or float64");
  return abi::ok();
}
Status greedy_cpu(const abi::KernelContext&, const TensorIn& boxes, const TensorIn& order, const TensorIn& starts, double threshold, const TensorOut& kept) {
  return run_kernel(boxes, order, starts, threshold, kept, true);
}
Status fast_cpu(const abi::KernelContext&, const TensorIn& boxes, const TensorIn& order, const TensorIn& starts, double threshold, const TensorOut& kept) {
  return run_kernel(boxes, order, starts, threshold, kept, false);
}

}  // namespace

void provide_suppression_cpu(abi::KernelTable& t) {
  t.provide<greedy_suppression>(&greedy_cpu);
  t.provide<fast_suppression>(&fast_cpu);
}

}  // namespace dropin::kernels
#endif
