// Softmax and cross-entropy: a row at a time, which stays in L1 or L2 between its passes.
#include "kernels/simd.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/softmax/cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>

#include "dropin/core/parallel.h"
#include "kernels/row-inl.h"
#include "kernels/softmax/kernel.h"
#include "kernels/strided.h"

#ifndef DROPIN_SOFTMAX_ARGS_
#define DROPIN_SOFTMAX_ARGS_
namespace dropin::kernels {
/// What both directions of cross-entropy take beside the logits.
struct CrossEntropy {
  int64_t rows, classes, ignore_index;
  const int64_t* target;
  const void* weight;  // null: all ones
  double smoothing;
};
}  // namespace dropin::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace dropin::kernels::HWY_NAMESPACE {
namespace {

inline int64_t rows_per_thread(int64_t n) {
  return std::max<int64_t>(1, kGrain / 4 / std::max<int64_t>(1, n));
}

/// sum e^(x - max); the terms go to y when it is not null.
template <class T>
double exp_sum(const T* x, int64_t n, T max, T* y) {
  const Tag<T> d;
  const auto m = hn::Set(d, max);
  if (!y)
    return sum_row<T>(
        n, [&](auto at) HWY_ATTR { return exp_nonpositive(d, hn::Sub(at.load(d, x), m)); });
  return sum_row<T>(n, [&](auto at) HWY_ATTR {
    const auto e = exp_nonpositive(d, hn::Sub(at.load(d, x), m));
    at.store(d, e, y);
    return e;
  });
}

template <class T>
void forward_row(const T* x, int64_t n, bool log, T* y) {
  const Tag<T> d;
  const T max = max_row(x, n);
  const double sum = exp_sum(x, n, max, log ? nullptr : y);
  if (log) {
    const auto m = hn::Set(d, max), l = hn::Set(d, static_cast<T>(std::log(sum)));
    each<T>(0, n, [&](auto at) HWY_ATTR { at.store(d, hn::Sub(hn::Sub(at.load(d, x), m), l), y); });
  } else {
    const auto scale = hn::Set(d, static_cast<T>(1 / sum));
    each<T>(0, n, [&](auto at) HWY_ATTR { at.store(d, hn::Mul(at.load(d, y), scale), y); });
  }
}

template <class T>
void backward_row(const T* g, const T* y, int64_t n, bool log, T* gx) {
  const Tag<T> d;
  if (log) {
    const auto s =
        hn::Set(d, static_cast<T>(sum_row<T>(n, [&](auto at) HWY_ATTR { return at.load(d, g); })));
    each<T>(0, n, [&](auto at) HWY_ATTR {
      at.store(d, hn::NegMulAdd(exp_nonpositive(d, at.load(d, y)), s, at.load(d, g)), gx);
    });
  } else {
    const auto s = hn::Set(d, static_cast<T>(sum_row<T>(n, [&](auto at) HWY_ATTR {
                             return hn::Mul(at.load(d, g), at.load(d, y));
                           })));
    each<T>(0, n, [&](auto at) HWY_ATTR {
      at.store(d, hn::Mul(at.load(d, y), hn::Sub(at.load(d, g), s)), gx);
    });
  }
}

template <class T>
void forward_all(const void* x, int64_t rows, int64_t n, bool log, void* y) {
  parallel_for(rows, rows_per_thread(n), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      forward_row(static_cast<const T*>(x) + r * n, n, log, static_cast<T*>(y) + r * n);
  });
}
template <class T>
void backward_all(const void* g, const void* y, int64_t rows, int64_t n, bool log, void* gx) {
  parallel_for(rows, rows_per_thread(n), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      backward_row(static_cast<const T*>(g) + r * n, static_cast<const T*>(y) + r * n, n, log,
                   static_cast<T*>(gx) + r * n);
  });
}

template <class T>
void cross_entropy_row(const CrossEntropy& a, int64_t r, const T* x, double weights, T* loss,
                       T* lse) {
  const Tag<T> d;
  const int64_t c = a.classes, t = a.target[r];
  const T max = max_row(x, c);
  const double log_sum = static_cast<double>(max) + std::log(exp_sum<T>(x, c, max, nullptr));
  *lse = static_cast<T>(log_sum);
  if (t == a.ignore_index) {
    *loss = 0;
    return;
  }
  const T* w = static_cast<const T*>(a.weight);
  double value = (1 - a.smoothing) * (w ? static_cast<double>(w[t]) : 1.0) *
                 (log_sum - static_cast<double>(x[t]));
  if (a.smoothing >
      0) {  // sum_j w_j (lse - x_j), against lse in every term so that large logits do not cancel
    const auto l = hn::Set(d, static_cast<T>(log_sum));
    const double rest = static_cast<double>(log_sum) - static_cast<double>(static_cast<T>(log_sum));
    double sum = w ? sum_row<T>(c,
                                [&](auto at) HWY_ATTR {
                                  return hn::Mul(at.load(d, w), hn::Sub(l, at.load(d, x)));
                                })
                   : sum_row<T>(c, [&](auto at) HWY_ATTR { return hn::Sub(l, at.load(d, x)); });
    if (std::isfinite(rest)) sum += rest * weights;
    value += a.smoothing / static_cast<double>(c) * sum;
  }
  *loss = static_cast<T>(value);
}

/// gx_j = g ((1 - eps) w_t (p_j - [j = t]) + eps/c (W p_j - w_j)), W the sum of the weights.
template <class T>
void cross_entropy_grad_row(const CrossEntropy& a, int64_t r, T g, const T* x, double weights,
                            T lse, T* gx) {
  const Tag<T> d;
  const int64_t c = a.classes, t = a.target[r];
  if (t == a.ignore_index) return static_cast<void>(std::fill_n(gx, c, T(0)));
  const T* w = static_cast<const T*>(a.weight);
  const double hit = (1 - a.smoothing) * (w ? static_cast<double>(w[t]) : 1.0),
               share = a.smoothing / static_cast<double>(c);
  const auto scale = hn::Set(d, static_cast<T>(static_cast<double>(g) * (hit + share * weights)));
  const auto flat = hn::Set(d, static_cast<T>(-static_cast<double>(g) * share)),
             l = hn::Set(d, lse);
  each<T>(0, c, [&](auto at) HWY_ATTR {
    // lse is rounded: x - lse may be a hair above 0
    const auto p = exp_nonpositive(d, hn::Sub(at.load(d, x), l));
    at.store(d, w ? hn::MulAdd(p, scale, hn::Mul(flat, at.load(d, w))) : hn::MulAdd(p, scale, flat),
             gx);
  });
  gx[t] -= static_cast<T>(static_cast<double>(g) * hit);
}

template <class T>
double weight_sum(const CrossEntropy& a) {
  const Tag<T> d;
  const T* w = static_cast<const T*>(a.weight);
  return w ? sum_row<T>(a.classes, [&](auto at) HWY_ATTR { return at.load(d, w); })
           : static_cast<double>(a.classes);
}
template <class T>
void cross_entropy_all(const CrossEntropy& a, const void* x, void* loss, void* lse) {
  const double weights = weight_sum<T>(a);
  parallel_for(a.rows, rows_per_thread(a.classes), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      cross_entropy_row(a, r, static_cast<const T*>(x) + r * a.classes, weights,
                        static_cast<T*>(loss) + r, static_cast<T*>(lse) + r);
  });
}
template <class T>
void cross_entropy_grad_all(const CrossEntropy& a, const void* g, const void* x, const void* lse,
                            void* gx) {
  const double weights = weight_sum<T>(a);
  parallel_for(a.rows, rows_per_thread(a.classes), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      cross_entropy_grad_row(a, r, static_cast<const T*>(g)[r],
                             static_cast<const T*>(x) + r * a.classes, weights,
                             static_cast<const T*>(lse)[r], static_cast<T*>(gx) + r * a.classes);
  });
}

void softmax_f32(const void* x, int64_t rows, int64_t n, bool log, void* y) {
  forward_all<float>(x, rows, n, log, y);
}
void softmax_f64(const void* x, int64_t rows, int64_t n, bool log, void* y) {
  forward_all<double>(x, rows, n, log, y);
}
void softmax_grad_f32(const void* g, const void* y, int64_t rows, int64_t n, bool log, void* gx) {
  backward_all<float>(g, y, rows, n, log, gx);
}
void softmax_grad_f64(const void* g, const void* y, int64_t rows, int64_t n, bool log, void* gx) {
  backward_all<double>(g, y, rows, n, log, gx);
}
void entropy_f32(const CrossEntropy& a, const void* x, void* loss, void* lse) {
  cross_entropy_all<float>(a, x, loss, lse);
}
void entropy_f64(const CrossEntropy& a, const void* x, void* loss, void* lse) {
  cross_entropy_all<double>(a, x, loss, lse);
}
void entropy_grad_f32(const CrossEntropy& a, const void* g, const void* x, const void* lse,
                      void* gx) {
  cross_entropy_grad_all<float>(a, g, x, lse, gx);
}
void entropy_grad_f64(const CrossEntropy& a, const void* g, const void* x, const void* lse,
                      void* gx) {
  cross_entropy_grad_all<double>(a, g, x, lse, gx);
}

}  // namespace
}  // namespace dropin::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dropin::kernels {
HWY_EXPORT(softmax_f32);
HWY_EXPORT(softmax_f64);
HWY_EXPORT(softmax_grad_f32);
HWY_EXPORT(softmax_grad_f64);
HWY_EXPORT(entropy_f32);
HWY_EXPORT(entropy_f64);
HWY_EXPORT(entropy_grad_f32);
HWY_EXPORT(entropy_grad_f64);
namespace {

using abi::KernelContext;
using abi::Status;
using abi::TensorIn;
using abi::TensorOut;

bool alike(const TensorIn& a, const TensorIn& b) {
  return a.dtype == b.dtype && a.ndim == b.ndim && std::equal(a.sizes, a.sizes + a.ndim, b.sizes) &&
         a.contiguous() && b.contiguous();
}

Status forward_cpu(const KernelContext& context, const TensorIn& x, bool log, const TensorOut& y) {
  if (!is_floating(x.dtype)) return abi::unsupported("needs a float dtype");
  const int64_t total = x.numel();
  if (total == 0) return abi::ok();
  if (!alike(x, y) || x.ndim < 1) return abi::failed("x and y must be contiguous and alike");
  const int64_t n = x.sizes[x.ndim - 1];
  if (is_half(x.dtype)) {
    const Packed wide(x, DType::Float32);
    forward_cpu(context, wide.tensor, log, wide.tensor);
    return copy_values(wide.tensor, y), abi::ok();
  }
  if (x.dtype == DType::Float32)
    HWY_DYNAMIC_DISPATCH(softmax_f32)(x.data, total / n, n, log, y.as<void>());
  else
    HWY_DYNAMIC_DISPATCH(softmax_f64)(x.data, total / n, n, log, y.as<void>());
  return abi::ok();
}

Status backward_cpu(const KernelContext& context, const TensorIn& g, const TensorIn& y, bool log,
                    const TensorOut& gx) {
  if (!is_floating(y.dtype)) return abi::unsupported("needs a float dtype");
  const int64_t total = y.numel();
  if (total == 0) return abi::ok();
  if (!alike(g, y) || !alike(y, gx) || y.ndim < 1)
    return abi::failed("g, y and gx must be contiguous and alike");
  const int64_t n = y.sizes[y.ndim - 1];
  if (is_half(y.dtype)) {
    const Packed wide_g(g, DType::Float32), wide_y(y, DType::Float32);
    backward_cpu(context, wide_g.tensor, wide_y.tensor, log, wide_g.tensor);
    return copy_values(wide_g.tensor, gx), abi::ok();
  }
  if (y.dtype == DType::Float32)
    HWY_DYNAMIC_DISPATCH(softmax_grad_f32)(g.data, y.data, total / n, n, log, gx.as<void>());
  else
    HWY_DYNAMIC_DISPATCH(softmax_grad_f64)(g.data, y.data, total / n, n, log, gx.as<void>());
  return abi::ok();
}

/// Fills `a`, and says what does not fit.
Status check(const CrossEntropyInputs& in, CrossEntropy& a) {
  const TensorIn &x = in.logits, &target = in.target, &weight = in.weight;
  if (x.dtype != DType::Float32 && x.dtype != DType::Float64)
    return abi::unsupported("needs float32 or float64");
  if (x.ndim != 2 || !x.contiguous() || target.ndim != 1 || target.sizes[0] != x.sizes[0] ||
      !target.contiguous() || target.dtype != DType::Int64)
    return abi::failed("logits must be [n, c] and target [n] int64, both contiguous");
  if (weight.data &&
      (weight.dtype != x.dtype || weight.numel() != x.sizes[1] || !weight.contiguous()))
    return abi::failed("weight must be [c], of the logits' dtype");
  a = {x.sizes[0],           x.sizes[1],  in.ignore_index,
       target.as<int64_t>(), weight.data, in.label_smoothing};
  for (int64_t r = 0; r < a.rows; ++r)
    if (a.target[r] != in.ignore_index && (a.target[r] < 0 || a.target[r] >= a.classes))
      return abi::out_of_range("target out of range");
  return abi::ok();
}
bool per_row(const TensorIn& v, const TensorIn& x) {
  return v.dtype == x.dtype && v.numel() == x.sizes[0] && v.contiguous();
}

Status entropy_cpu(const KernelContext&, const CrossEntropyInputs& in, const TensorOut& loss,
                   const TensorOut& lse) {
  const TensorIn& x = in.logits;
  CrossEntropy a;
  if (Status s = check(in, a); s.code) return s;
  if (!per_row(loss, x) || !per_row(lse, x))
    return abi::failed("loss and lse must be [n], of the logits' dtype");
  if (x.dtype == DType::Float32)
    HWY_DYNAMIC_DISPATCH(entropy_f32)(a, x.data, loss.as<void>(), lse.as<void>());
  else
    HWY_DYNAMIC_DISPATCH(entropy_f64)(a, x.data, loss.as<void>(), lse.as<void>());
  return abi::ok();
}

Status entropy_grad_cpu(const KernelContext&, const TensorIn& g, const CrossEntropyInputs& in,
                        const TensorIn& lse, const TensorOut& gx) {
  const TensorIn& x = in.logits;
  CrossEntropy a;
  if (Status s = check(in, a); s.code) return s;
  if (!per_row(g, x) || !per_row(lse, x) || !alike(x, gx))
    return abi::failed("g and lse must be [n], gx like the logits");
  if (x.dtype == DType::Float32)
    HWY_DYNAMIC_DISPATCH(entropy_grad_f32)(a, g.data, x.data, lse.data, gx.as<void>());
  else
    HWY_DYNAMIC_DISPATCH(entropy_grad_f64)(a, g.data, x.data, lse.data, gx.as<void>());
  return abi::ok();
}

}  // namespace

void provide_softmax_cpu(abi::KernelTable& t) {
  t.provide<softmax_forward>(&forward_cpu);
  t.provide<softmax_backward>(&backward_cpu);
  t.provide<cross_entropy_forward>(&entropy_cpu);
  t.provide<cross_entropy_backward>(&entropy_grad_cpu);
}

}  // namespace dropin::kernels
#endif
