// Loops over one contiguous row, for the kernels that make several passes over it. Included once
// per target, after kernels/simd-inl.h.
#if defined(DROPIN_KERNELS_ROW_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DROPIN_KERNELS_ROW_INL_H_
#undef DROPIN_KERNELS_ROW_INL_H_
#else
#define DROPIN_KERNELS_ROW_INL_H_
#endif

#include "kernels/hd.h"
#include "kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dropin::kernels::HWY_NAMESPACE {
namespace {

/// A place in a row: a whole vector, or the few elements at its end (read as zeros behind it,
/// written no further).
template <class T>
struct Whole {
  int64_t i;
  template <class D>
  HWY_INLINE VecOf<D> load(D d, const T* p) const {
    return hn::LoadU(d, p + i);
  }
  template <class D>
  HWY_INLINE void store(D d, VecOf<D> v, T* p) const {
    hn::StoreU(v, d, p + i);
  }
  template <class D>
  HWY_INLINE VecOf<D> only(D, VecOf<D> v) const {
    return v;
  }
};
template <class T>
struct Part {
  int64_t i, n;
  template <class D>
  HWY_INLINE VecOf<D> load(D d, const T* p) const {
    return load_first(d, p + i, static_cast<std::size_t>(n));
  }
  template <class D>
  HWY_INLINE void store(D d, VecOf<D> v, T* p) const {
    store_first(v, d, p + i, static_cast<std::size_t>(n));
  }
  template <class D>
  HWY_INLINE VecOf<D> only(D d, VecOf<D> v) const {
    return hn::IfThenElseZero(hn::FirstN(d, static_cast<std::size_t>(n)), v);
  }
};

/// f(place) over [begin, end).
template <class T, class F>
HWY_INLINE void each(int64_t begin, int64_t end, F&& f) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(Tag<T>()));
  int64_t i = begin;
  for (; i + lanes <= end; i += lanes) f(Whole<T>{i});
  if (i < end) f(Part<T>{i, end - i});
}

constexpr int64_t kSumBlock = 2048;  // elements summed in T before double takes over

/// Sum of f(place) over [0, n): two vector accumulators per block, blocks in double.
template <class T, class F>
HWY_INLINE double sum_row(int64_t n, F&& f) {
  const Tag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  double total = 0;
  for (int64_t b = 0; b < n; b += kSumBlock) {
    const int64_t end = n < b + kSumBlock ? n : b + kSumBlock;
    auto u = hn::Zero(d), v = hn::Zero(d);
    int64_t i = b;
    for (; i + 2 * lanes <= end; i += 2 * lanes) {
      u = hn::Add(u, f(Whole<T>{i}));
      v = hn::Add(v, f(Whole<T>{i + lanes}));
    }
    if (i + lanes <= end) {
      u = hn::Add(u, f(Whole<T>{i}));
      i += lanes;
    }
    if (i < end) {
      const Part<T> rest{i, end - i};
      v = hn::Add(v, rest.only(d, f(rest)));
    }
    total += static_cast<double>(sum_lanes(d, hn::Add(u, v)));
  }
  return total;
}

/// The largest element; NaN may be passed over.
template <class T>
HWY_INLINE T max_row(const T* x, int64_t n) {
  const Tag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto low = hn::Set(d, -kInf<T>);
  auto a = low, b = low;
  int64_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    a = hn::Max(hn::LoadU(d, x + i), a);
    b = hn::Max(hn::LoadU(d, x + i + lanes), b);
  }
  T m = -kInf<T>;
  if (i) m = max_lanes(d, hn::Max(a, b));
  for (; i < n; ++i) m = x[i] > m ? x[i] : m;
  return m;
}

}  // namespace
}  // namespace dropin::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
