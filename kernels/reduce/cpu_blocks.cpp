// Folds of one block: a contiguous row with four vector accumulators, or the columns of a few rows
// with the tile's accumulators in L1.
#include "kernels/simd.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/reduce/cpu_blocks.cpp"
#include "hwy/foreach_target.h"
//
#include "kernels/hd.h"
#include "kernels/reduce/blocks.h"
#include "kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dropin::kernels::HWY_NAMESPACE {
namespace {

template <class T>
T max_of(T a, T b) {
  return a != a ? a : b != b ? b : a < b ? b : a;
}
template <class T>
T min_of(T a, T b) {
  return a != a ? a : b != b ? b : b < a ? b : a;
}

/// One fold: `map` is applied to every element, `merge` joins.
struct AddMerge {
  static constexpr double kInit = 0;
  template <class V>
  static HWY_INLINE V merge(V a, V b) {
    return hn::Add(a, b);
  }
  static double merge_scalar(double a, double b) { return a + b; }
};
struct SumFold : AddMerge {
  template <class D, class V>
  static HWY_INLINE V step(D, V acc, V x, V) {
    return hn::Add(acc, x);
  }
};
struct SquareFold : AddMerge {
  template <class D, class V>
  static HWY_INLINE V step(D, V acc, V x, V) {
    return hn::MulAdd(x, x, acc);
  }
};
struct DeviationFold : AddMerge {
  template <class D, class V>
  static HWY_INLINE V step(D, V acc, V x, V s) {
    const auto e = hn::Sub(x, s);
    return hn::MulAdd(e, e, acc);
  }
};
struct ExpFold : AddMerge {
  static constexpr double kPad = -kInf<double>;  // an element that adds nothing
  template <class D, class V>
  static HWY_INLINE V step(D d, V acc, V x, V s) {
    return hn::Add(acc, exp_nonpositive(d, hn::Sub(x, s)));
  }
};
struct ProdFold {
  static constexpr double kInit = 1;
  template <class V>
  static HWY_INLINE V merge(V a, V b) {
    return hn::Mul(a, b);
  }
  static double merge_scalar(double a, double b) { return a * b; }
  template <class D, class V>
  static HWY_INLINE V step(D, V acc, V x, V) {
    return hn::Mul(acc, x);
  }
};
template <class V>
HWY_INLINE V prefer_nan(V x, V y) {
  return hn::IfThenElse(hn::IsNaN(x), x, y);
}
struct MaxFold {
  static constexpr double kInit = -kInf<double>;
  template <class V>
  static HWY_INLINE V merge(V a, V b) {
    return prefer_nan(a, prefer_nan(b, hn::Max(a, b)));
  }
  static double merge_scalar(double a, double b) { return max_of(a, b); }
  template <class D, class V>
  static HWY_INLINE V step(D, V acc, V x, V) {
    return merge(acc, x);
  }
};
struct MinFold {
  static constexpr double kInit = kInf<double>;
  template <class V>
  static HWY_INLINE V merge(V a, V b) {
    return prefer_nan(a, prefer_nan(b, hn::Min(a, b)));
  }
  static double merge_scalar(double a, double b) { return min_of(a, b); }
  template <class D, class V>
  static HWY_INLINE V step(D, V acc, V x, V) {
    return merge(acc, x);
  }
};

/// One element, by the same arithmetic as a vector.
template <class F, class T>
HWY_INLINE T step_one(T acc, T x, T s) {
  const hn::CappedTag<T, 1> d;
  return hn::GetLane(F::step(d, hn::Set(d, acc), hn::Set(d, x), hn::Set(d, s)));
}

template <class F, class T>
Partial fold_row(const void* data, int64_t n, double shift) {
  const Tag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const T* x = static_cast<const T*>(data);
  const auto s = hn::Set(d, static_cast<T>(shift)), init = hn::Set(d, static_cast<T>(F::kInit));
  auto a = init, b = init, c = init, e = init;
  int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    a = F::step(d, a, hn::LoadU(d, x + i), s);
    b = F::step(d, b, hn::LoadU(d, x + i + lanes), s);
    c = F::step(d, c, hn::LoadU(d, x + i + 2 * lanes), s);
    e = F::step(d, e, hn::LoadU(d, x + i + 3 * lanes), s);
  }
  for (; i + lanes <= n; i += lanes) a = F::step(d, a, hn::LoadU(d, x + i), s);
  if constexpr (std::is_same_v<F, ExpFold>) {  // one by one, the tail would cost more than the rest
                                               // of a short row
    if (i < n) {
      HWY_ALIGN T last[hn::MaxLanes(d)];
      for (int64_t k = 0; k < lanes; ++k) last[k] = i + k < n ? x[i + k] : static_cast<T>(F::kPad);
      b = F::step(d, b, hn::Load(d, last), s);
      i = n;
    }
  }
  double result = F::kInit;
  if (i > 0) {
    HWY_ALIGN T lane[hn::MaxLanes(d)];
    hn::Store(F::merge(F::merge(a, b), F::merge(c, e)), d, lane);
    for (int64_t k = 0; k < lanes; ++k)
      result = F::merge_scalar(result, static_cast<double>(lane[k]));
  }
  T tail = static_cast<T>(F::kInit);
  for (; i < n; ++i) tail = step_one<F, T>(tail, x[i], static_cast<T>(shift));
  Partial p;
  p.f = F::merge_scalar(result, static_cast<double>(tail));
  return p;
}

template <class F, class T>
void fold_columns(const void* data, int64_t stride, int64_t rows, int64_t columns,
                  const double* shift, Partial* acc) {
  const Tag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const T* x = static_cast<const T*>(data);
  HWY_ALIGN T tile[kColumns];
  HWY_ALIGN T shifts[kColumns];
  const int64_t whole = columns / lanes * lanes;
  for (int64_t j = 0; j < columns; ++j) tile[j] = static_cast<T>(F::kInit);
  for (int64_t j = 0; j < columns; ++j) shifts[j] = shift ? static_cast<T>(shift[j]) : T(0);
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    const T* p = x + r * stride;
    for (int64_t j = 0; j < whole; j += lanes) {
      const auto s = hn::Load(d, shifts + j);
      auto v = F::step(d, hn::Load(d, tile + j), hn::LoadU(d, p + j), s);
      v = F::step(d, v, hn::LoadU(d, p + stride + j), s);
      v = F::step(d, v, hn::LoadU(d, p + 2 * stride + j), s);
      hn::Store(F::step(d, v, hn::LoadU(d, p + 3 * stride + j), s), d, tile + j);
    }
  }
  for (; r < rows; ++r)
    for (int64_t j = 0; j < whole; j += lanes)
      hn::Store(F::step(d, hn::Load(d, tile + j), hn::LoadU(d, x + r * stride + j),
                        hn::Load(d, shifts + j)),
                d, tile + j);
  for (int64_t j = whole; j < columns; ++j)
    for (r = 0; r < rows; ++r) tile[j] = step_one<F, T>(tile[j], x[r * stride + j], shifts[j]);
  for (int64_t j = 0; j < columns; ++j)
    acc[j].f = F::merge_scalar(acc[j].f, static_cast<double>(tile[j]));
}

template <class F, class T>
FoldFns fns() {
  FoldFns f;
  f.init.f = F::kInit;
  f.merge = [](Partial a, Partial b) HWY_ATTR {
    a.f = F::merge_scalar(a.f, b.f);
    return a;
  };
  f.row = &fold_row<F, T>;
  f.columns = &fold_columns<F, T>;
  return f;
}
template <class T>
FoldFns fns_of(Fold fold) {
  switch (fold) {
    case Fold::Prod:
      return fns<ProdFold, T>();
    case Fold::Max:
      return fns<MaxFold, T>();
    case Fold::Min:
      return fns<MinFold, T>();
    case Fold::SumSquares:
      return fns<SquareFold, T>();
    case Fold::SumExp:
      return fns<ExpFold, T>();
    case Fold::SumSquaredDeviations:
      return fns<DeviationFold, T>();
    default:
      return fns<SumFold, T>();
  }
}
FoldFns float_fold_simd(Fold fold, DType t) {
  return t == DType::Float32 ? fns_of<float>(fold) : fns_of<double>(fold);
}

/// The extreme value by vectors, then its first place.
template <class T>
int64_t find_extreme(bool maximum, const T* x, int64_t n) {
  const double best = maximum ? fold_row<MaxFold, T>(x, n, 0).f : fold_row<MinFold, T>(x, n, 0).f;
  const T value = static_cast<T>(best);
  const Tag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto v = hn::Set(d, value);
  const bool nan = value != value;
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto e = hn::LoadU(d, x + i);
    const std::intptr_t at = hn::FindFirstTrue(d, nan ? hn::IsNaN(e) : hn::Eq(e, v));
    if (at >= 0) return i + at;
  }
  for (; i < n; ++i)
    if (nan ? x[i] != x[i] : x[i] == value) return i;
  return 0;
}
int64_t arg_row_simd(DType t, bool maximum, const void* x, int64_t n) {
  return t == DType::Float32 ? find_extreme(maximum, static_cast<const float*>(x), n)
                             : find_extreme(maximum, static_cast<const double*>(x), n);
}

}  // namespace
}  // namespace dropin::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dropin::kernels {
HWY_EXPORT(float_fold_simd);
HWY_EXPORT(arg_row_simd);
FoldFns float_fold(Fold fold, DType t) { return HWY_DYNAMIC_DISPATCH(float_fold_simd)(fold, t); }
int64_t arg_row(DType t, bool maximum, const void* x, int64_t n) {
  return HWY_DYNAMIC_DISPATCH(arg_row_simd)(t, maximum, x, n);
}
}  // namespace dropin::kernels
#endif
