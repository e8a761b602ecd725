// Row loops over vectors, for elementwise/cpu_*.cpp. Included once per target.
#if defined(DROPIN_ELEMENTWISE_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DROPIN_ELEMENTWISE_ROWS_INL_H_
#undef DROPIN_ELEMENTWISE_ROWS_INL_H_
#else
#define DROPIN_ELEMENTWISE_ROWS_INL_H_
#endif

#include "kernels/elementwise/rows.h"
#include "kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dropin::kernels::HWY_NAMESPACE {
namespace {

/// An input of a row. A step of 0 becomes a vector of copies read again and again: one loop serves
/// every kind of broadcasting.
template <class T>
struct RowInput {
  const T* p;
  int64_t mask;
  HWY_ALIGN T copies[hn::MaxLanes(Tag<T>())];
  HWY_INLINE RowInput(const void* data, int64_t step)
      : p(static_cast<const T*>(data)), mask(-step) {
    if (step) return;
    for (T& c : copies) c = *p;
    p = copies;
  }
  template <class D>
  HWY_INLINE VecOf<D> load(D d, int64_t i) const {
    return hn::LoadU(d, p + (i & mask));
  }
  template <class D>
  HWY_INLINE VecOf<D> load(D d, int64_t i, int64_t n) const {
    return mask ? load_first(d, p + i, static_cast<std::size_t>(n)) : hn::LoadU(d, p);
  }
};

template <class T, class F>
HWY_INLINE void row1(void* y, const void* const* in, const int64_t* step, int64_t n, const F& f) {
  const Tag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const RowInput<T> x(in[0], step[0]);
  T* q = static_cast<T*>(y);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) hn::StoreU(f(d, x.load(d, i)), d, q + i);
  if (i < n) store_first(f(d, x.load(d, i, n - i)), d, q + i, static_cast<std::size_t>(n - i));
}

template <class T, class F>
HWY_INLINE void row2(void* y, const void* const* in, const int64_t* step, int64_t n, const F& f) {
  const Tag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const RowInput<T> a(in[0], step[0]), b(in[1], step[1]);
  T* q = static_cast<T*>(y);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) hn::StoreU(f(d, a.load(d, i), b.load(d, i)), d, q + i);
  if (i < n)
    store_first(f(d, a.load(d, i, n - i), b.load(d, i, n - i)), d, q + i,
                static_cast<std::size_t>(n - i));
}

/// Plain loops, left to the compiler: integers, Bool, comparisons, functions of the C library.
template <class T, class R, class F>
HWY_INLINE void loop1(void* y, const void* const* in, const int64_t* step, int64_t n, const F& f) {
  const T* a = static_cast<const T*>(in[0]);
  R* q = static_cast<R*>(y);
  if (step[0])
    for (int64_t i = 0; i < n; ++i) q[i] = f(a[i]);
  else
    for (int64_t i = 0, end = n; i < end; ++i) q[i] = f(*a);
}
template <class T, class R, class F>
HWY_INLINE void loop2(void* y, const void* const* in, const int64_t* step, int64_t n, const F& f) {
  const T *a = static_cast<const T*>(in[0]), *b = static_cast<const T*>(in[1]);
  R* q = static_cast<R*>(y);
  if (step[0] && step[1]) {
    for (int64_t i = 0; i < n; ++i) q[i] = f(a[i], b[i]);
  } else if (step[0]) {
    for (int64_t i = 0; i < n; ++i) q[i] = f(a[i], *b);
  } else {
    for (int64_t i = 0; i < n; ++i) q[i] = f(*a, b[i * step[1]]);
  }
}

}  // namespace
}  // namespace dropin::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
