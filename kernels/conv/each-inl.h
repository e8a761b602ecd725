// What the loops of depthwise convolution share. Included once per target, after hwy/highway.h (no
// ordinary include guard).
#if defined(DROPIN_KERNELS_CONV_EACH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DROPIN_KERNELS_CONV_EACH_INL_H_
#undef DROPIN_KERNELS_CONV_EACH_INL_H_
#else
#define DROPIN_KERNELS_CONV_EACH_INL_H_
#endif

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

#include "hwy/highway.h"

// A lambda that must be inlined: one that is not would take the address of what it captures and
// force vectors into memory.
#ifndef DROPIN_LAMBDA
#define DROPIN_LAMBDA HWY_ATTR __attribute__((always_inline))
#endif

HWY_BEFORE_NAMESPACE();
namespace dropin::cpu {
namespace HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

constexpr bool kVectors =
    HWY_TARGET != HWY_SCALAR;  // the fallback without vectors gets the general loops only

template <class F, int... I>
HWY_INLINE void each(std::integer_sequence<int, I...>, F&& f) {
  (f(std::integral_constant<int, I>{}), ...);
}
template <int N, class F>
HWY_INLINE void each(F&& f) {
  each(std::make_integer_sequence<int, N>{}, f);
}
template <class T>
HWY_INLINE int64_t lanes_of() {
  return static_cast<int64_t>(hn::Lanes(hn::ScalableTag<T>()));
}

/// The first n of the lanes of v; the rest of p stays.
template <class D, class T = hn::TFromD<D>>
HWY_INLINE void store_part(hn::Vec<D> v, D d, T* p, int64_t n) {
  HWY_ALIGN T buffer[hn::MaxLanes(d)];
  hn::Store(v, d, buffer);
  std::memcpy(p, buffer, static_cast<std::size_t>(n) * sizeof(T));
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace dropin::cpu
HWY_AFTER_NAMESPACE();

#endif
