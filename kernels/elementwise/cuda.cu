// Elementwise kernels. A thread takes four elements: side by side in one vector access where
// everything is dense, else a block's width apart, so that neighbours in a warp are neighbours in
// memory. The operation is a switch outside the loop over the four; these kernels wait for memory.
#include "kernels/cuda/device.h"
#include "kernels/elementwise/kernel.h"

namespace dropin::kernels::cuda {
namespace {

constexpr int kThreads = 256, kEach = 4;

template <class T, int N>
struct Inputs {
  const T* data[N];
};

/// y = f(inputs), f on arrays of kEach; R is y's type.
template <class T, class R, int N, class F>
__global__ void __launch_bounds__(kThreads)
    map_kernel(Strided<N + 1> it, Inputs<T, N> in, R* y, F f, bool dense) {
  const int64_t tile = static_cast<int64_t>(kThreads) * kEach;
  for (int64_t base = blockIdx.x * tile; base < it.total; base += gridDim.x * tile) {
    T v[N][kEach];
    R r[kEach];
    int64_t to[kEach];
    const bool side_by_side = dense && base + tile <= it.total;
    if (side_by_side) {
      to[0] = base + threadIdx.x * kEach;
      DROPIN_UNROLL
      for (int k = 0; k < N; ++k) {
        if (it.stride[k + 1][0]) {
          const auto p = *reinterpret_cast<const Pack<T, kEach>*>(in.data[k] + to[0]);
          DROPIN_UNROLL
          for (int j = 0; j < kEach; ++j) v[k][j] = p.v[j];
        } else {
          const T one = *in.data[k];
          DROPIN_UNROLL
          for (int j = 0; j < kEach; ++j) v[k][j] = one;
        }
      }
    } else {
      DROPIN_UNROLL
      for (int j = 0; j < kEach; ++j) {
        const int64_t i = base + threadIdx.x + j * kThreads;
        int64_t at[N + 1];
        it.offsets(i < it.total ? i : it.total - 1, at);
        to[j] = at[0];
        DROPIN_UNROLL
        for (int k = 0; k < N; ++k) v[k][j] = in.data[k][at[k + 1]];
      }
    }
    f(v, r);
    if (side_by_side) {
      Pack<R, kEach> p;
      DROPIN_UNROLL
      for (int j = 0; j < kEach; ++j) p.v[j] = r[j];
      *reinterpret_cast<Pack<R, kEach>*>(y + to[0]) = p;
    } else {
      DROPIN_UNROLL
      for (int j = 0; j < kEach; ++j)
        if (base + threadIdx.x + j * kThreads < it.total) y[to[j]] = r[j];
    }
  }
}

template <class T, class R, int N, class F>
Status map(const KernelContext& c, const TensorOut& y, const TensorIn* const (&x)[N], F f) {
  Strided<N + 1> it;
  if constexpr (N == 1)
    it = Strided<2>::make({&y, x[0]});
  else if constexpr (N == 2)
    it = Strided<3>::make({&y, x[0], x[1]});
  else
    it = Strided<4>::make({&y, x[0], x[1], x[2]});
  if (it.total == 0) return abi::ok();
  Inputs<T, N> in;
  bool dense = it.flat() && aligned(y.data, sizeof(R) * kEach);
  for (int k = 0; k < N; ++k) {
    in.data[k] = x[k]->template as<T>();
    dense = dense && (it.stride[k + 1][0] == 0 || aligned(x[k]->data, sizeof(T) * kEach));
  }
  return launch(c, &map_kernel<T, R, N, F>, dim3(blocks_for(c, it.total, kThreads * kEach)),
                dim3(kThreads), 0, it, in, y.as<R>(), f, dense);
}

/// A step of the computed type on each of the four; one compiled copy serves every storage type.
template <class C>
struct Four {
  C v[kEach];
};
#define EACH(EXPR)                                      \
  _Pragma("unroll 1") for (int j = 0; j < kEach; ++j) { \
    const C x = in.v[j];                                \
    out.v[j] = static_cast<C>(EXPR);                    \
  }                                                     \
  break

template <class T>
struct IsFloat {
  static constexpr bool value = std::is_floating_point_v<ComputeOf<T>>;
};

template <class C>
__device__ C sigmoid_of(C x) {
  return C(1) / (C(1) + exp(-x));
}
template <class C>
__device__ C softplus_of(C x) {
  return x > C(20) ? x : log1p(exp(x));
}
template <class C>
__device__ C logsigmoid_of(C x) {
  return x < C(-20) ? x : -log1p(exp(-x));
}
template <class C>
__device__ C normal_cdf_of(C x) {
  return C(0.5) * erfc(x * C(-0.70710678118654752440));
}
template <class C>
__device__ C weighted_of(C x, C w) {
  return w == C(0) && x == x ? C(0) * (x < C(0) ? C(-1) : C(1)) : x * w;
}  // -inf 0 is 0
template <class C>
__device__ C tanh_gate(C x) {
  return sigmoid_of(
      x * (C(2 * 0.79788456080286535588) + C(2 * 0.79788456080286535588 * 0.044715) * (x * x)));
}

// One function for each group, of which the last is called and holds the others.
template <class C>
__device__ __forceinline__ Four<C> activation_math(Unary op, Four<C> in) {
  Four<C> out{};
  switch (op) {
    case Unary::Sigmoid:
      EACH(sigmoid_of(x));
    case Unary::LogSigmoid:
      EACH(logsigmoid_of(x));
    case Unary::Softplus:
      EACH(softplus_of(x));
    case Unary::Relu:
      EACH(x <= C(0) ? C(0) : x);
    case Unary::Silu:
      EACH(weighted_of(x, sigmoid_of(x)));
    case Unary::Gelu:
      EACH(weighted_of(x, normal_cdf_of(x)));
    case Unary::GeluTanh:
      EACH(weighted_of(x, tanh_gate(x)));
    case Unary::Floor:
      EACH(floor(x));
    case Unary::Ceil:
      EACH(ceil(x));
    case Unary::Round:
      EACH(rint(x));
    case Unary::Trunc:
      EACH(trunc(x));
    default:
      break;
  }
  return out;
}
template <class C>
__device__ __forceinline__ Four<C> angle_math(Unary op, Four<C> in) {
  Four<C> out{};
  switch (op) {
    case Unary::Sin:
      EACH(sin(x));
    case Unary::Cos:
      EACH(cos(x));
    case Unary::Tan:
      EACH(tan(x));
    case Unary::Asin:
      EACH(asin(x));
    case Unary::Acos:
      EACH(acos(x));
    case Unary::Atan:
      EACH(atan(x));
    case Unary::Sinh:
      EACH(sinh(x));
    case Unary::Cosh:
      EACH(cosh(x));
    case Unary::Tanh:
      EACH(tanh(x));
    case Unary::Erf:
      EACH(erf(x));
    default:
      return activation_math(op, in);
  }
  return out;
}
template <class C>
__device__ __noinline__ Four<C> unary_math(Unary op, Four<C> in) {
  Four<C> out{};
  switch (op) {
    case Unary::Neg:
      EACH(-x);
    case Unary::Abs:
      EACH(fabs(x));
    case Unary::Sign:
      EACH(C(x > C(0)) - C(x < C(0)));
    case Unary::Square:
      EACH(x * x);
    case Unary::Exp:
      EACH(exp(x));
    case Unary::Exp2:
      EACH(exp2(x));
    case Unary::Expm1:
      EACH(expm1(x));
    case Unary::Log:
      EACH(log(x));
    case Unary::Log2:
      EACH(log2(x));
    case Unary::Log1p:
      EACH(log1p(x));
    case Unary::Sqrt:
      EACH(sqrt(x));
    case Unary::Rsqrt:
      EACH(C(1) / sqrt(x));
    case Unary::Reciprocal:
      EACH(C(1) / x);
    default:
      return angle_math(op, in);
  }
  return out;
}
#undef EACH

template <class T>
struct UnaryOf {
  Unary op;
  __device__ void operator()(const T (&v)[1][kEach], T (&r)[kEach]) const {
    using C = ComputeOf<T>;
    if constexpr (IsFloat<T>::value) {
      Four<C> in;
      DROPIN_UNROLL
      for (int j = 0; j < kEach; ++j) in.v[j] = wide<T>(v[0][j]);
      const Four<C> out = unary_math<C>(op, in);
      DROPIN_UNROLL
      for (int j = 0; j < kEach; ++j) r[j] = narrow<T>(out.v[j]);
    } else {
      using U = std::make_unsigned_t<C>;
      DROPIN_UNROLL
      for (int j = 0; j < kEach; ++j) {
        const C x = v[0][j];
        const bool negative = std::is_signed_v<C> && !(x == 0 || x > 0);
        switch (op) {
          case Unary::Neg:
            r[j] = static_cast<T>(U(0) - static_cast<U>(x));
            break;
          case Unary::Abs:
            r[j] = negative ? static_cast<T>(U(0) - static_cast<U>(x)) : x;
            break;
          case Unary::Sign:
            r[j] = static_cast<T>(negative ? -1 : x != 0);
            break;
          default:
            r[j] = static_cast<T>(static_cast<std::uint64_t>(x) * static_cast<std::uint64_t>(x));
            break;
        }
      }
    }
  }
};

template <class T>
struct TestOf {
  Unary op;
  __device__ void operator()(const T (&v)[1][kEach], bool (&r)[kEach]) const {
    for (int j = 0; j < kEach; ++j) {
      const auto x = wide<T>(v[0][j]);
      bool yes = false;
      if constexpr (IsFloat<T>::value) {
        using C = ComputeOf<T>;
        const bool number = x == x,
                   infinite =
                       fabs(x) > (sizeof(C) == 4 ? C(3.402823466e38) : C(1.7976931348623157e308));
        yes = op == Unary::IsNan      ? !number
              : op == Unary::IsInf    ? number && infinite
              : op == Unary::IsFinite ? number && !infinite
                                      : x == C(0);
      } else {
        yes = !x;
      }
      r[j] = yes;
    }
  }
};

Status unary_cuda(const KernelContext& c, Unary op, const TensorIn& x, const TensorOut& y) {
  DROPIN_REQUIRE(same_sizes(x, y), "sizes differ");
  const bool tests = op >= Unary::LogicalNot;
  DROPIN_REQUIRE(y.dtype == (tests ? DType::Boolean : x.dtype), "y has the wrong dtype");
  if (!floating(x.dtype) && (op == Unary::IsNan || op == Unary::IsInf || op == Unary::IsFinite))
    return abi::unsupported("not defined for this dtype");
  const TensorIn* const in[1] = {&x};
  return visit_any(x.dtype, [&](auto zero) -> Status {
    using T = decltype(zero);
    if (tests) return map<T, bool, 1>(c, y, in, TestOf<T>{op});
    if constexpr (std::is_same_v<T, bool>) {
      return abi::unsupported("not defined for this dtype");
    } else {
      if (!IsFloat<T>::value && op != Unary::Neg && op != Unary::Abs && op != Unary::Sign &&
          op != Unary::Square)
        return abi::unsupported("not defined for this dtype");
      return map<T, T, 1>(c, y, in, UnaryOf<T>{op});
    }
  });
}

// --- two operands

template <class C>
__device__ C python_mod(C a, C b) {
  const C r = fmod(a, b);
  if (r == C(0)) return copysign(r, b);
  return (r < C(0)) != (b < C(0)) ? r + b : r;
}
template <class C>
__device__ C python_floor_div(C a, C b) {
  if (b == C(0)) return a / b;
  const C r = fmod(a, b);
  C q = (a - r) / b;
  if (r != C(0) && (r < C(0)) != (b < C(0))) q -= C(1);
  if (q == C(0)) return copysign(C(0), a / b);
  const C whole = floor(q);
  return q - whole > C(0.5) ? whole + C(1) : whole;
}
template <class T>
__device__ T int_pow(T a, T b) {
  if constexpr (std::is_signed_v<T>)
    if (b < 0) return a == 1 ? T(1) : a == T(-1) ? (b % 2 ? T(-1) : T(1)) : T(0);
  std::uint64_t base = static_cast<std::uint64_t>(a), r = 1;
  for (auto e = static_cast<std::uint64_t>(b); e; e >>= 1, base *= base)
    if (e & 1) r *= base;
  return static_cast<T>(r);
}
template <class T>
__device__ T int_divide(T a, T b, bool mod) {
  if (b == 0) return 0;
  const T q = a / (std::is_signed_v<T> && b == T(-1) ? T(1) : b), r = static_cast<T>(a - q * b);
  if constexpr (std::is_signed_v<T>) {
    if (b == T(-1))
      return mod ? T(0) : static_cast<T>(std::uint64_t(0) - static_cast<std::uint64_t>(a));
    const bool fix = r != 0 && (r < 0) != (b < 0);
    return mod ? (fix ? r + b : r) : (fix ? q - 1 : q);
  }
  return mod ? r : q;
}
template <class C>
__device__ C pow_of(C a, C b) {
  if (b == C(2)) return a * a;
  if (b == C(1)) return a;
  if (b == C(3)) return a * a * a;
  if (b == C(-1)) return C(1) / a;
  return pow(a, b);
}

template <class C>
__device__ __noinline__ C binary_math(Binary op, C a, C b) {
  switch (op) {
    case Binary::FloorDiv:
      return python_floor_div(a, b);
    case Binary::Remainder:
      return python_mod(a, b);
    case Binary::Pow:
      return pow_of(a, b);
    default:
      return atan2(a, b);
  }
}

#define EACH(EXPR)                                      \
  for (int j = 0; j < kEach; ++j) {                     \
    const C a = wide<T>(v[0][j]), b = wide<T>(v[1][j]); \
    r[j] = narrow<T>(static_cast<C>(EXPR));             \
  }                                                     \
  break

template <class T>
struct BinaryOf {
  Binary op;
  __device__ void operator()(const T (&v)[2][kEach], T (&r)[kEach]) const {
    using C = ComputeOf<T>;
    if constexpr (IsFloat<T>::value) {
      switch (op) {
        case Binary::Add:
          EACH(a + b);
        case Binary::Sub:
          EACH(a - b);
        case Binary::Mul:
          EACH(a * b);
        case Binary::Div:
          EACH(a / b);
        case Binary::Maximum:
          EACH(a != a ? a : b != b ? b : a > b ? a : b);
        case Binary::Minimum:
          EACH(a != a ? a : b != b ? b : a < b ? a : b);
        default:
          _Pragma("unroll 1") EACH(binary_math<C>(op, a, b));
      }
    } else if constexpr (std::is_same_v<T, bool>) {
      const bool either = op == Binary::Add || op == Binary::Maximum;
      for (int j = 0; j < kEach; ++j) r[j] = either ? v[0][j] | v[1][j] : v[0][j] & v[1][j];
    } else {
      _Pragma("unroll 1") for (int j = 0; j < kEach; ++j) {
        const T a = v[0][j], b = v[1][j];
        const auto p = static_cast<std::uint64_t>(a), q = static_cast<std::uint64_t>(b);
        switch (op) {
          case Binary::Add:
            r[j] = static_cast<T>(p + q);
            break;
          case Binary::Sub:
            r[j] = static_cast<T>(p - q);
            break;
          case Binary::Mul:
            r[j] = static_cast<T>(p * q);
            break;
          case Binary::FloorDiv:
            r[j] = int_divide<T>(a, b, false);
            break;
          case Binary::Remainder:
            r[j] = int_divide<T>(a, b, true);
            break;
          case Binary::Pow:
            r[j] = int_pow<T>(a, b);
            break;
          case Binary::Maximum:
            r[j] = a < b ? b : a;
            break;
          default:
            r[j] = b < a ? b : a;
            break;
        }
      }
    }
  }
};
#undef EACH

template <class T>
struct CompareOf {
  Binary op;
  __device__ void operator()(const T (&v)[2][kEach], bool (&r)[kEach]) const {
    using C = ComputeOf<T>;
    for (int j = 0; j < kEach; ++j) {
      const C a = wide<T>(v[0][j]), b = wide<T>(v[1][j]);
      const bool p = a != C(0), q = b != C(0);
      switch (op) {
        case Binary::Eq:
          r[j] = a == b;
          break;
        case Binary::Ne:
          r[j] = a != b;
          break;
        case Binary::Lt:
          r[j] = a < b;
          break;
        case Binary::Le:
          r[j] = a <= b;
          break;
        case Binary::Gt:
          r[j] = a > b;
          break;
        case Binary::Ge:
          r[j] = a >= b;
          break;
        case Binary::LogicalAnd:
          r[j] = p && q;
          break;
        case Binary::LogicalOr:
          r[j] = p || q;
          break;
        default:
          r[j] = p != q;
          break;
      }
    }
  }
};

/// Sets *found where an integer divisor is 0.
template <class T>
struct ZeroIn {
  int* found;
  __device__ void operator()(const T (&v)[1][kEach], bool (&r)[kEach]) const {
    for (int j = 0; j < kEach; ++j) {
      r[j] = v[0][j] == T(0);
      if (r[j]) *found = 1;
    }
  }
};

template <class T>
Status divisible(const KernelContext& c, const TensorIn& b, const TensorOut& y) {
  DROPIN_SCRATCH(int, found, c, 1);
  DROPIN_SCRATCH(bool, ignored, c, y.numel());
  DROPIN_TRY(checked(cudaMemsetAsync(found.get(), 0, sizeof(int), stream_of(c)), c));
  TensorOut flags;
  flags.data = ignored.get(), flags.dtype = DType::Boolean, flags.ndim = b.ndim;
  int64_t step = 1;
  for (int i = b.ndim - 1; i >= 0; --i)
    flags.sizes[i] = b.sizes[i], flags.strides[i] = step, step *= b.sizes[i];
  const TensorIn* const in[1] = {&b};
  DROPIN_TRY((map<T, bool, 1>(c, flags, in, ZeroIn<T>{found.get()})));
  int any = 0;
  DROPIN_TRY(fetch(c, &any, found.get(), sizeof any));
  return any ? abi::failed("integer division by zero") : abi::ok();
}

Status binary_cuda(const KernelContext& c, Binary op, const TensorIn& a, const TensorIn& b,
                   const TensorOut& y) {
  DROPIN_REQUIRE(same_sizes(a, y) && same_sizes(b, y), "sizes differ");
  const bool tests = op >= Binary::Eq;
  DROPIN_REQUIRE(a.dtype == b.dtype && y.dtype == (tests ? DType::Boolean : a.dtype),
                 "dtypes differ");
  const TensorIn* const in[2] = {&a, &b};
  return visit_any(a.dtype, [&](auto zero) -> Status {
    using T = decltype(zero);
    if (tests) return map<T, bool, 2>(c, y, in, CompareOf<T>{op});
    const bool known =
        IsFloat<T>::value || (op != Binary::Div && op != Binary::Atan2 &&
                              (!std::is_same_v<T, bool> || op == Binary::Add || op == Binary::Mul ||
                               op == Binary::Maximum || op == Binary::Minimum));
    if (!known) return abi::unsupported("not defined for this dtype");
    if constexpr (!IsFloat<T>::value && !std::is_same_v<T, bool>)
      if ((op == Binary::FloorDiv || op == Binary::Remainder) && y.numel())
        DROPIN_TRY(divisible<T>(c, b, y));
    return map<T, T, 2>(c, y, in, BinaryOf<T>{op});
  });
}

// --- gradients

#define SLOW _Pragma("unroll 1")

template <class C>
__device__ __noinline__ C silu_slope(C x) {
  const C s = sigmoid_of(x);
  return s == C(0) || s == C(1) ? s : s + x * s * (C(1) - s);
}
template <class C>
__device__ __noinline__ C gelu_slope(C x) {
  const C bell = exp(x * x * C(-0.5)) * C(0.39894228040143267794);
  return normal_cdf_of(x) + (bell == C(0) ? C(0) : x * bell);
}
template <class C>
__device__ __noinline__ C gelu_tanh_slope(C v) {
  const C a = C(2 * 0.79788456080286535588), b = C(2 * 0.79788456080286535588 * 0.044715);
  const C x = v > C(100)    ? C(100)
              : v < C(-100) ? C(-100)
                            : v,
          x2 = x * x, s = sigmoid_of(x * (a + b * x2));
  return v != v ? v : s + x * s * (C(1) - s) * (a + C(3) * b * x2);
}

#define EACH(EXPR)                                      \
  for (int j = 0; j < kEach; ++j) {                     \
    const C g = wide<T>(v[0][j]), s = wide<T>(v[1][j]); \
    r[j] = narrow<T>(static_cast<C>(EXPR));             \
  }                                                     \
  break
template <class T>
struct GradOf {
  UnaryGrad op;
  __device__ void operator()(const T (&v)[2][kEach], T (&r)[kEach]) const {
    using C = ComputeOf<T>;
    switch (op) {
      case UnaryGrad::Tanh:
        EACH(g * (C(1) - s * s));
      case UnaryGrad::Sigmoid:
        EACH(g * (s * (C(1) - s)));
      case UnaryGrad::Exp:
        EACH(g * s);
      case UnaryGrad::Sqrt:
        EACH(g / (s + s));
      case UnaryGrad::Rsqrt:
        EACH(g * C(-0.5) * (s * (s * s)));
      case UnaryGrad::Reciprocal:
        EACH(-(g * (s * s)));
      case UnaryGrad::Relu:
        EACH(s <= C(0) ? C(0) : g);
      case UnaryGrad::Log:
        EACH(g / s);
      case UnaryGrad::Silu:
        SLOW EACH(g * silu_slope(s));
      case UnaryGrad::Gelu:
        SLOW EACH(g * gelu_slope(s));
      case UnaryGrad::GeluTanh:
        SLOW EACH(g * gelu_tanh_slope(s));
      case UnaryGrad::Softplus:
        SLOW EACH(g * sigmoid_of(s));
      case UnaryGrad::Square:
        EACH(g * (s + s));
      case UnaryGrad::Abs:
        EACH(g * (C(s > C(0)) - C(s < C(0))));
      case UnaryGrad::Sin:
        SLOW EACH(g * cos(s));
      case UnaryGrad::Cos:
        SLOW EACH(-(g * sin(s)));
    }
  }
};
#undef EACH

Status unary_grad_cuda(const KernelContext& c, UnaryGrad op, const TensorIn& g, const TensorIn& s,
                       const TensorOut& gx) {
  DROPIN_REQUIRE(same_sizes(g, gx) && same_sizes(s, gx), "sizes differ");
  DROPIN_REQUIRE(g.dtype == gx.dtype && s.dtype == gx.dtype, "dtypes differ");
  const TensorIn* const in[2] = {&g, &s};
  return visit_float(gx.dtype, [&](auto zero) -> Status {
    using T = decltype(zero);
    return map<T, T, 2>(c, gx, in, GradOf<T>{op});
  });
}

// --- affine, axpy, clamp, where

std::uint64_t whole(double v) {  // truncated, saturated, 0 for NaN
  if (v != v) return 0;
  if (v >= 9223372036854775808.0) return 0x7fffffffffffffffull;
  return static_cast<std::uint64_t>(v <= -9223372036854775808.0 ? INT64_MIN
                                                                : static_cast<int64_t>(v));
}

template <class T>
struct AffineOf {
  ComputeOf<T> a, b;
  std::uint64_t ia, ib;
  __device__ void operator()(const T (&v)[1][kEach], T (&r)[kEach]) const {
    for (int j = 0; j < kEach; ++j) {
      if constexpr (IsFloat<T>::value) {
        const auto x = wide<T>(v[0][j]);
        r[j] = narrow<T>(b == 0 ? x * a : fma(x, a, b));
      } else {
        r[j] = static_cast<T>(static_cast<std::uint64_t>(v[0][j]) * ia + ib);
      }
    }
  }
};
template <class T>
struct AxpyOf {
  ComputeOf<T> a;
  std::uint64_t ia;
  __device__ void operator()(const T (&v)[2][kEach], T (&r)[kEach]) const {
    for (int j = 0; j < kEach; ++j) {
      if constexpr (IsFloat<T>::value)
        r[j] = narrow<T>(fma(a, wide<T>(v[1][j]), wide<T>(v[0][j])));
      else
        r[j] = static_cast<T>(static_cast<std::uint64_t>(v[0][j]) +
                              ia * static_cast<std::uint64_t>(v[1][j]));
    }
  }
};
template <class T>
struct ClampOf {
  ComputeOf<T> lo, hi;
  __device__ void operator()(const T (&v)[1][kEach], T (&r)[kEach]) const {
    for (int j = 0; j < kEach; ++j) {
      const auto x = wide<T>(v[0][j]);
      const auto low = x < lo ? lo : x;
      r[j] = narrow<T>(x != x ? x : low > hi ? hi : low);
    }
  }
};

Status affine_cuda(const KernelContext& c, const TensorIn& x, double mul, double add,
                   const TensorOut& y) {
  DROPIN_REQUIRE(same_sizes(x, y), "sizes differ");
  DROPIN_REQUIRE(x.dtype == y.dtype, "dtypes differ");
  const TensorIn* const in[1] = {&x};
  return visit_any(y.dtype, [&](auto zero) -> Status {
    using T = decltype(zero);
    if constexpr (std::is_same_v<T, bool>)
      return abi::unsupported("not defined for bool");
    else
      return map<T, T, 1>(
          c, y, in,
          AffineOf<T>{IsFloat<T>::value ? static_cast<ComputeOf<T>>(mul) : ComputeOf<T>(0),
                      IsFloat<T>::value ? static_cast<ComputeOf<T>>(add) : ComputeOf<T>(0),
                      whole(mul), whole(add)});
  });
}
Status axpy_cuda(const KernelContext& c, double alpha, const TensorIn& x, const TensorOut& y) {
  DROPIN_REQUIRE(same_sizes(x, y), "sizes differ");
  DROPIN_REQUIRE(x.dtype == y.dtype, "dtypes differ");
  const TensorIn* const in[2] = {&y, &x};
  return visit_any(y.dtype, [&](auto zero) -> Status {
    using T = decltype(zero);
    if constexpr (std::is_same_v<T, bool>)
      return abi::unsupported("not defined for bool");
    else
      return map<T, T, 2>(
          c, y, in,
          AxpyOf<T>{IsFloat<T>::value ? static_cast<ComputeOf<T>>(alpha) : ComputeOf<T>(0),
                    whole(alpha)});
  });
}
template <class T>
T bound(double v, bool low) {  // bounds that an integer type can not hold do not bind, nor does NaN
  constexpr bool is_signed = std::is_signed_v<T>;
  constexpr int bits = static_cast<int>(sizeof(T)) * 8;
  const T max = static_cast<T>(is_signed ? (std::uint64_t{1} << (bits - 1)) - 1
                                         : ~std::uint64_t{0} >> (64 - bits));
  const T min = is_signed ? static_cast<T>(-max - 1) : T(0);
  const double least = static_cast<double>(min), most = static_cast<double>(max);
  if (low) return !(v > least) ? min : v >= most ? max : static_cast<T>(ceil(v));
  return !(v < most) ? max : v <= least ? min : static_cast<T>(floor(v));
}
Status clamp_cuda(const KernelContext& c, const TensorIn& x, double lo, double hi,
                  const TensorOut& y) {
  DROPIN_REQUIRE(same_sizes(x, y), "sizes differ");
  DROPIN_REQUIRE(x.dtype == y.dtype, "dtypes differ");
  const TensorIn* const in[1] = {&x};
  return visit_any(y.dtype, [&](auto zero) -> Status {
    using T = decltype(zero);
    if constexpr (std::is_same_v<T, bool>)
      return abi::unsupported("not defined for bool");
    else if constexpr (IsFloat<T>::value)
      return map<T, T, 1>(c, y, in,
                          ClampOf<T>{static_cast<ComputeOf<T>>(lo), static_cast<ComputeOf<T>>(hi)});
    else
      return map<T, T, 1>(c, y, in, ClampOf<T>{bound<T>(lo, true), bound<T>(hi, false)});
  });
}

template <class T>
__global__ void where_kernel(Strided<4> it, const bool* cond, const T* a, const T* b, T* y) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < it.total;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    int64_t at[4];
    it.offsets(i, at);
    const T u = a[at[2]], v = b[at[3]];
    y[at[0]] = cond[at[1]] ? u : v;
  }
}
template <class F>
Status by_width(DType t, F&& f) {
  switch (item_bytes(t)) {
    case 1:
      return f(std::uint8_t{});
    case 2:
      return f(std::uint16_t{});
    case 4:
      return f(std::uint32_t{});
    default:
      return f(std::uint64_t{});
  }
}
Status where_cuda(const KernelContext& c, const TensorIn& cond, const TensorIn& a,
                  const TensorIn& b, const TensorOut& y) {
  DROPIN_REQUIRE(same_sizes(cond, y) && same_sizes(a, y) && same_sizes(b, y), "sizes differ");
  DROPIN_REQUIRE(cond.dtype == DType::Boolean && a.dtype == y.dtype && b.dtype == y.dtype,
                 "dtypes differ");
  const auto it = Strided<4>::make({&y, &cond, &a, &b});
  return by_width(y.dtype, [&](auto zero) {
    using T = decltype(zero);
    return launch(c, &where_kernel<T>, dim3(blocks_for(c, it.total, kThreads)), dim3(kThreads), 0,
                  it, cond.as<bool>(), a.as<T>(), b.as<T>(), y.as<T>());
  });
}

// --- copy, fill

template <class T>
struct SameOf {
  __device__ void operator()(const T (&v)[1][kEach], T (&r)[kEach]) const {
    for (int j = 0; j < kEach; ++j) r[j] = v[0][j];
  }
};
template <class To, class From>
__device__ To convert(From v) {  // of computed types
  if constexpr (std::is_same_v<To, bool>) {
    return v != From(0);
  } else if constexpr (std::is_floating_point_v<From> && std::is_integral_v<To>) {
    constexpr bool is_signed = std::is_signed_v<To>;
    constexpr int bits = static_cast<int>(sizeof(To)) * 8;
    constexpr To most = static_cast<To>(is_signed ? (std::uint64_t{1} << (bits - 1)) - 1
                                                  : ~std::uint64_t{0} >> (64 - bits));
    constexpr To least = is_signed ? static_cast<To>(-most - 1) : To(0);
    if (!(v == v)) return 0;
    if (v <= static_cast<From>(least)) return least;
    if (v >= static_cast<From>(most)) return most;
    return static_cast<To>(v);
  } else {
    return static_cast<To>(v);
  }
}
template <class From, class To>
struct ConvertOf {
  __device__ void operator()(const From (&v)[1][kEach], To (&r)[kEach]) const {
    for (int j = 0; j < kEach; ++j) r[j] = narrow<To>(convert<ComputeOf<To>>(wide<From>(v[0][j])));
  }
};

// Any pair of types: through int64 or double, whichever holds the source exactly.
struct Value {
  double real = 0;
  long long whole = 0;
  bool is_real = true;
};
__device__ inline Value load_value(DType t, const void* p, int64_t at) {
  Value v;
  switch (t) {
    case DType::Float32:
      v.real = static_cast<const float*>(p)[at];
      break;
    case DType::Float64:
      v.real = static_cast<const double*>(p)[at];
      break;
    case DType::BFloat16:
      v.real = to_float(static_cast<const bf16*>(p)[at]);
      break;
    case DType::Float16:
      v.real = to_float(static_cast<const f16*>(p)[at]);
      break;
    case DType::Int8:
      v.whole = static_cast<const std::int8_t*>(p)[at], v.is_real = false;
      break;
    case DType::UInt8:
      v.whole = static_cast<const std::uint8_t*>(p)[at], v.is_real = false;
      break;
    case DType::Int32:
      v.whole = static_cast<const std::int32_t*>(p)[at], v.is_real = false;
      break;
    case DType::Int64:
      v.whole = static_cast<const int64_t*>(p)[at], v.is_real = false;
      break;
    default:
      v.whole = static_cast<const bool*>(p)[at], v.is_real = false;
      break;
  }
  return v;
}
template <class T>
__device__ T from_value(const Value& v) {
  return v.is_real ? convert<T>(v.real) : convert<T>(v.whole);
}
// To float once: a double would be rounded twice on its way to 16 bits, but as on the CPU.
__device__ inline void store_value(DType t, void* p, int64_t at, const Value& v) {
  switch (t) {
    case DType::Float32:
      static_cast<float*>(p)[at] = from_value<float>(v);
      break;
    case DType::Float64:
      static_cast<double*>(p)[at] = from_value<double>(v);
      break;
    case DType::BFloat16:
      static_cast<bf16*>(p)[at] = narrow<bf16>(from_value<float>(v));
      break;
    case DType::Float16:
      static_cast<f16*>(p)[at] = narrow<f16>(from_value<float>(v));
      break;
    case DType::Int8:
      static_cast<std::int8_t*>(p)[at] = from_value<std::int8_t>(v);
      break;
    case DType::UInt8:
      static_cast<std::uint8_t*>(p)[at] = from_value<std::uint8_t>(v);
      break;
    case DType::Int32:
      static_cast<std::int32_t*>(p)[at] = from_value<std::int32_t>(v);
      break;
    case DType::Int64:
      static_cast<int64_t*>(p)[at] = from_value<int64_t>(v);
      break;
    default:
      static_cast<bool*>(p)[at] = from_value<bool>(v);
      break;
  }
}
__global__ void convert_kernel(Strided<2> it, const void* x, DType from, void* y, DType to) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < it.total;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    int64_t at[2];
    it.offsets(i, at);
    store_value(to, y, at[0], load_value(from, x, at[1]));
  }
}

// y's last dimension has stride 1 and x's has not, but another of x's has: tiles of 32 x 32 through
// shared memory, so that both sides are read and written in lines.
template <class T>
__global__ void transpose_kernel(Strided<2> it, int d, const T* x, T* y, int64_t across,
                                 int64_t down) {
  __shared__ T tile[32][33];
  const int last = it.ndim - 1;
  const int64_t n = it.size[last], m = it.size[d];
  for (int64_t u = blockIdx.x; u < across * down * (it.total / (n * m)); u += gridDim.x) {
    int64_t rest = u / (across * down), at_y = 0, at_x = 0;
    for (int k = last - 1; k >= 0; --k) {
      if (k == d) continue;
      at_y += rest % it.size[k] * it.stride[0][k];
      at_x += rest % it.size[k] * it.stride[1][k];
      rest /= it.size[k];
    }
    const int64_t i0 = u % across * 32, j0 = u / across % down * 32;
    __syncthreads();
    for (int r = threadIdx.y; r < 32; r += 8)
      if (i0 + r < n && j0 + threadIdx.x < m)
        tile[r][threadIdx.x] = x[at_x + (i0 + r) * it.stride[1][last] + (j0 + threadIdx.x)];
    __syncthreads();
    for (int r = threadIdx.y; r < 32; r += 8)
      if (j0 + r < m && i0 + threadIdx.x < n)
        y[at_y + (j0 + r) * it.stride[0][d] + (i0 + threadIdx.x)] = tile[threadIdx.x][r];
  }
}

Status copy_cuda(const KernelContext& c, const TensorIn& x, const TensorOut& y) {
  DROPIN_REQUIRE(same_sizes(x, y), "sizes differ");
  const TensorIn* const in[1] = {&x};
  const auto it = Strided<2>::make({&y, &x});
  if (it.total == 0) return abi::ok();
  if (x.dtype == y.dtype)
    return by_width(y.dtype, [&](auto zero) -> Status {
      using T = decltype(zero);
      const int last = it.ndim - 1;
      if (it.stride[0][last] == 1 && it.stride[1][last] > 1 && it.size[last] >= 8)
        for (int d = last - 1; d >= 0; --d)
          if (it.stride[1][d] == 1 && it.size[d] >= 8) {
            const int64_t across = ceil_div(it.size[last], 32), down = ceil_div(it.size[d], 32);
            return launch(c, &transpose_kernel<T>,
                          dim3(blocks_for(
                              c, across * down * (it.total / (it.size[last] * it.size[d])), 1, 32)),
                          dim3(32, 8), 0, it, d, x.as<T>(), y.as<T>(), across, down);
          }
      return map<T, T, 1>(c, y, in, SameOf<T>{});
    });
  const auto pair = [&](DType from, DType to) { return x.dtype == from && y.dtype == to; };
  if (pair(DType::Float32, DType::BFloat16))
    return map<float, bf16, 1>(c, y, in, ConvertOf<float, bf16>{});
  if (pair(DType::BFloat16, DType::Float32))
    return map<bf16, float, 1>(c, y, in, ConvertOf<bf16, float>{});
  if (pair(DType::Float32, DType::Float16))
    return map<float, f16, 1>(c, y, in, ConvertOf<float, f16>{});
  if (pair(DType::Float16, DType::Float32))
    return map<f16, float, 1>(c, y, in, ConvertOf<f16, float>{});
  if (pair(DType::Boolean, DType::Float32))
    return map<bool, float, 1>(c, y, in, ConvertOf<bool, float>{});
  return launch(c, &convert_kernel, dim3(blocks_for(c, it.total, kThreads)), dim3(kThreads), 0, it,
                x.data, x.dtype, const_cast<void*>(y.data), y.dtype);
}

template <class T>
__global__ void fill_kernel(Strided<1> it, T* y, T v) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < it.total;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    int64_t at[1];
    it.offsets(i, at);
    y[at[0]] = v;
  }
}
__global__ void fill_one_kernel(void* y, DType t, double v) {
  Value x;
  x.real = v;
  store_value(t, y, 0, x);
}
Status fill_cuda(const KernelContext& c, double value, const TensorOut& y) {
  const auto it = Strided<1>::make({&y});
  if (it.total == 0) return abi::ok();
  if (it.total == 1)
    return launch(c, &fill_one_kernel, dim3(1), dim3(1), 0, const_cast<void*>(y.data), y.dtype,
                  value);
  return visit_any(y.dtype, [&](auto zero) -> Status {
    using T = decltype(zero);
    T v;
    if constexpr (std::is_same_v<T, bf16> || std::is_same_v<T, f16>) {
      // the host has no conversion of its own under nvcc: one element through the device, then the
      // rest from it
      DROPIN_TRY(launch(c, &fill_one_kernel, dim3(1), dim3(1), 0, const_cast<void*>(y.data),
                        y.dtype, value));
      TensorIn one = y;
      for (int i = 0; i < one.ndim; ++i) one.strides[i] = 0;
      const TensorIn* const in[1] = {&one};
      return map<T, T, 1>(c, y, in, SameOf<T>{});
    } else if constexpr (std::is_same_v<T, bool>) {
      v = value != 0;
    } else if constexpr (std::is_floating_point_v<T>) {
      v = static_cast<T>(value);
    } else {
      const double lo = static_cast<double>(bound<T>(-1e300, true)),
                   hi = static_cast<double>(bound<T>(1e300, false));
      v = value != value ? T(0)
          : value <= lo  ? bound<T>(-1e300, true)
          : value >= hi  ? bound<T>(1e300, false)
                         : static_cast<T>(value);
    }
    if constexpr (!std::is_same_v<T, bf16> && !std::is_same_v<T, f16>)
      return launch(c, &fill_kernel<T>, dim3(blocks_for(c, it.total, kThreads)), dim3(kThreads), 0,
                    it, y.as<T>(), v);
  });
}

}  // namespace

void provide_elementwise(KernelTable& t) {
  provide<unary, &unary_cuda>(t);
  provide<binary, &binary_cuda>(t);
  provide<unary_grad, &unary_grad_cuda>(t);
  provide<affine, &affine_cuda>(t);
  provide<axpy, &axpy_cuda>(t);
  provide<where, &where_cuda>(t);
  provide<clamp, &clamp_cuda>(t);
  provide<copy, &copy_cuda>(t);
  provide<fill, &fill_cuda>(t);
}

}  // namespace dropin::kernels::cuda
