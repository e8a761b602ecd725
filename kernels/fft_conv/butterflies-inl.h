// Small transforms in registers, a signal per lane. Included once per target, after hwy/highway.h
// (no ordinary include guard).
#if defined(DROPIN_KERNELS_BUTTERFLIES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DROPIN_KERNELS_BUTTERFLIES_INL_H_
#undef DROPIN_KERNELS_BUTTERFLIES_INL_H_
#else
#define DROPIN_KERNELS_BUTTERFLIES_INL_H_
#endif

#include <cstdint>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace dropin::kernels::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

using F = hn::ScalableTag<float>;
using V = hn::Vec<F>;
struct Complex {
  V re, im;
};
HWY_INLINE V set(float x) { return hn::Set(F(), x); }
HWY_INLINE Complex add(const Complex& a, const Complex& b) {
  return {hn::Add(a.re, b.re), hn::Add(a.im, b.im)};
}
HWY_INLINE Complex sub(const Complex& a, const Complex& b) {
  return {hn::Sub(a.re, b.re), hn::Sub(a.im, b.im)};
}
HWY_INLINE Complex mul(const Complex& a, V c, V s) {
  return {hn::NegMulAdd(a.im, s, hn::Mul(a.re, c)), hn::MulAdd(a.im, c, hn::Mul(a.re, s))};
}
HWY_INLINE Complex mul_conj(const Complex& a, V c, V s) {
  return {hn::MulAdd(a.im, s, hn::Mul(a.re, c)), hn::NegMulAdd(a.re, s, hn::Mul(a.im, c))};
}
/// a (c + i s), or a (c - i s) on the way back.
template <bool kInverse>
HWY_INLINE Complex turn(const Complex& a, float c, float s) {
  return kInverse ? mul_conj(a, set(c), set(s)) : mul(a, set(c), set(s));
}
/// a (-i), or a (i) on the way back.
template <bool kInverse>
HWY_INLINE Complex quarter(const Complex& a) {
  return kInverse ? Complex{hn::Neg(a.im), a.re} : Complex{a.im, hn::Neg(a.re)};
}

constexpr float kHalfRoot = 0.70710678118654752f, kCos8 = 0.92387953251128674f,
                kSin8 = 0.38268343236508977f;  // cos and sin of pi / 4 and of pi / 8

template <bool kInverse>
HWY_INLINE void dft2(Complex& a, Complex& b) {
  const Complex s = add(a, b);
  b = sub(a, b);
  a = s;
}
template <bool kInverse>
HWY_INLINE void dft4(Complex& a, Complex& b, Complex& c, Complex& d) {
  const Complex s = add(a, c), t = sub(a, c), u = add(b, d), v = sub(b, d);
  a = add(s, u);
  c = sub(s, u);
  const Complex p{hn::Add(t.re, v.im), hn::Sub(t.im, v.re)},
      m{hn::Sub(t.re, v.im), hn::Add(t.im, v.re)};  // t -+ i v
  b = kInverse ? m : p;
  d = kInverse ? p : m;
}

/// Where frequency k of a transform of R comes to lie in its array.
template <int R>
constexpr int place(int k) {
  return R == 16 ? 4 * (k & 3) + (k >> 2) : R == 8 ? 2 * (k & 3) + (k >> 2) : k;
}

/// The transform of R values, in place; sign -1, or +1 on the way back. No scaling.
template <int R, bool kInverse>
HWY_INLINE void dft(Complex* a) {
  if constexpr (R == 2) {
    dft2<kInverse>(a[0], a[1]);
  } else if constexpr (R == 3) {
    const Complex s = add(a[1], a[2]), d = sub(a[1], a[2]);
    const V h = set(0.5f), e = set(kInverse ? -0.86602540378443865f : 0.86602540378443865f);
    const Complex t{hn::NegMulAdd(s.re, h, a[0].re), hn::NegMulAdd(s.im, h, a[0].im)};
    a[0] = add(a[0], s);
    a[1] = {hn::MulAdd(d.im, e, t.re), hn::NegMulAdd(d.re, e, t.im)};
    a[2] = {hn::NegMulAdd(d.im, e, t.re), hn::MulAdd(d.re, e, t.im)};
  } else if constexpr (R == 4) {
    dft4<kInverse>(a[0], a[1], a[2], a[3]);
  } else if constexpr (R == 5) {
    const V c1 = set(0.30901699437494742f), c2 = set(-0.80901699437494742f);
    const V e1 = set(kInverse ? -0.95105651629515357f : 0.95105651629515357f),
            e2 = set(kInverse ? -0.58778525229247313f : 0.58778525229247313f);
    const Complex s1 = add(a[1], a[4]), d1 = sub(a[1], a[4]), s2 = add(a[2], a[3]),
                  d2 = sub(a[2], a[3]);
    const Complex t1{hn::MulAdd(s2.re, c2, hn::MulAdd(s1.re, c1, a[0].re)),
                     hn::MulAdd(s2.im, c2, hn::MulAdd(s1.im, c1, a[0].im))};
    const Complex t2{hn::MulAdd(s2.re, c1, hn::MulAdd(s1.re, c2, a[0].re)),
                     hn::MulAdd(s2.im, c1, hn::MulAdd(s1.im, c2, a[0].im))};
    const Complex v1{hn::MulAdd(d2.re, e2, hn::Mul(d1.re, e1)),
                     hn::MulAdd(d2.im, e2, hn::Mul(d1.im, e1))};
    const Complex v2{hn::NegMulAdd(d2.re, e1, hn::Mul(d1.re, e2)),
                     hn::NegMulAdd(d2.im, e1, hn::Mul(d1.im, e2))};
    a[0] = add(a[0], add(s1, s2));
    a[1] = {hn::Add(t1.re, v1.im), hn::Sub(t1.im, v1.re)};
    a[4] = {hn::Sub(t1.re, v1.im), hn::Add(t1.im, v1.re)};
    a[2] = {hn::Add(t2.re, v2.im), hn::Sub(t2.im, v2.re)};
    a[3] = {hn::Sub(t2.re, v2.im), hn::Add(t2.im, v2.re)};
  } else {
    static_assert(R == 8);
    dft4<kInverse>(a[0], a[2], a[4], a[6]);
    dft4<kInverse>(a[1], a[3], a[5], a[7]);
    a[3] = turn<kInverse>(a[3], kHalfRoot, -kHalfRoot);
    a[5] = quarter<kInverse>(a[5]);
    a[7] = turn<kInverse>(a[7], -kHalfRoot, -kHalfRoot);
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) dft2<kInverse>(a[2 * k], a[2 * k + 1]);
  }
}

// --- the first pass, whose frequencies are shifted by 1/4: sum_j x_j exp(-2 pi i j (k - 1/4) / R)
// of real x, and its adjoint

// exp(-2 pi i j (k - 1/4) / 16) for j = 1 ... 3, k = 0 ... 3: between the two halves of the
// transform of 16.
constexpr float kShift16[3][4][2] = {{{0.99518472667f, 0.09801714033f},
                                      {0.95694033573f, -0.29028467725f},
                                      {0.77301045336f, -0.63439328416f},
                                      {0.47139673683f, -0.88192126435f}},
                                     {{0.98078528040f, 0.19509032202f},
                                      {0.83146961230f, -0.55557023302f},
                                      {0.19509032202f, -0.98078528040f},
                                      {-0.55557023302f, -0.83146961230f}},
                                     {{0.95694033573f, 0.29028467725f},
                                      {0.63439328416f, -0.77301045336f},
                                      {-0.47139673683f, -0.88192126435f},
                                      {-0.99518472667f, 0.09801714033f}}};
// exp(i pi j / 8)
constexpr float kTurn8[4][2] = {{1, 0}, {kCos8, kSin8}, {kHalfRoot, kHalfRoot}, {kSin8, kCos8}};

HWY_INLINE void shifted_dft4(V x0, V x1, V x2, V x3, Complex& a, Complex& b, Complex& c,
                             Complex& d) {
  a = {x0, hn::Zero(F())};
  b = {hn::Mul(x1, set(kCos8)), hn::Mul(x1, set(kSin8))};
  const V h = hn::Mul(x2, set(kHalfRoot));
  c = {h, h};
  d = {hn::Mul(x3, set(kSin8)), hn::Mul(x3, set(kCos8))};
  dft4<false>(a, b, c, d);
}
/// x real, `step` floats apart -> a; frequency k at place<R>(k).
template <int R>
HWY_INLINE void shifted_dft(const float* x, int64_t step, Complex* a) {
  const F d;
  if constexpr (R == 4) {
    shifted_dft4(hn::Load(d, x), hn::Load(d, x + step), hn::Load(d, x + 2 * step),
                 hn::Load(d, x + 3 * step), a[0], a[1], a[2], a[3]);
  } else {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      shifted_dft4(hn::Load(d, x + j * step), hn::Load(d, x + (j + 4) * step),
                   hn::Load(d, x + (j + 8) * step), hn::Load(d, x + (j + 12) * step), a[j],
                   a[j + 4], a[j + 8], a[j + 12]);
      if (j)
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k)
          a[j + 4 * k] = turn<false>(a[j + 4 * k], kShift16[j - 1][k][0], kShift16[j - 1][k][1]);
    }
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) dft4<false>(a[4 * k], a[4 * k + 1], a[4 * k + 2], a[4 * k + 3]);
  }
}
/// The way back: a[k] -> real parts into re and, if not null, imaginary parts into im, `step`
/// floats apart.
template <int R>
HWY_INLINE void shifted_idft(Complex* a, float* re, float* im, int64_t step) {
  const F d;
  if constexpr (R == 16) {
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      dft4<true>(a[k], a[k + 4], a[k + 8], a[k + 12]);  // over k2: to j1 at a[k + 4 j1]
#pragma GCC unroll 3
      for (int j = 1; j < 4; ++j)
        a[k + 4 * j] = turn<true>(a[k + 4 * j], kShift16[j - 1][k][0], kShift16[j - 1][k][1]);
    }
  }
  constexpr int kParts = R / 4;
#pragma GCC unroll 4
  for (int j1 = 0; j1 < kParts; ++j1) {
    Complex* b = a + 4 * j1;
    dft4<true>(b[0], b[1], b[2], b[3]);
#pragma GCC unroll 4
    for (int j2 = 0; j2 < 4; ++j2) {
      float* to = re + (j1 + kParts * j2) * step;
      const V c = set(kTurn8[j2][0]), s = set(kTurn8[j2][1]);  // times exp(-i pi j2 / 8)
      hn::Store(j2 ? hn::MulAdd(b[j2].im, s, hn::Mul(b[j2].re, c)) : b[j2].re, d, to);
      if (im)
        hn::Store(j2 ? hn::NegMulAdd(b[j2].re, s, hn::Mul(b[j2].im, c)) : b[j2].im, d,
                  im + (j1 + kParts * j2) * step);
    }
  }
}

}  // namespace
}  // namespace dropin::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
