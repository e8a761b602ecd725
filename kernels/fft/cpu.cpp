// Mixed-radix Stockham transforms (2, 3, 4, 5, 7, 11, 13), Bluestein's for lengths with a larger
// prime factor. Up to 16 transforms run side by side, so that the inner loops are as long as the
// vectors even in the first pass; twiddles are rounded from double precision.
#include <algorithm>
#include <cmath>
#include <list>
#include <memory>
#include <mutex>
#include <vector>

#include "cpu/scratch.h"
#include "dropin/core/parallel.h"
#include "kernels/fft/kernel.h"
#include "kernels/fft/roots.h"
#include "kernels/hd.h"

namespace dropin::kernels {
namespace {

constexpr int64_t kBundle = 16;  // transforms side by side
constexpr int64_t kLargestRadix = 13;

std::vector<int64_t> radices(int64_t n) {
  std::vector<int64_t> r;
  while (n % 4 == 0) r.push_back(4), n /= 4;
  for (int64_t p : {2, 3, 5, 7, 11, 13})
    while (n % p == 0) r.push_back(p), n /= p;
  if (n > 1) r.push_back(n);
  return r;
}

template <class T>
struct Plan {
  int64_t n = 0;
  std::vector<int64_t> passes;
  std::vector<T> re, im;  // exp(-2 pi i k / n)
  // Bluestein: the chirp exp(-i pi t^2 / n) and the spectrum of its conjugate at length `padded`,
  // over padded
  int64_t padded = 0;
  std::vector<double> chirp_re, chirp_im, spectrum_re, spectrum_im;
};
template <class T>
std::shared_ptr<const Plan<T>> plan_for(int64_t n);

// One decimation-in-frequency pass of Stockham's algorithm, radix R: n is what is left of the
// length, s the stride already transformed (times bundle). Sign is -1 forward, +1 inverse.
template <class T, int R>
void pass(const Plan<T>& p, int64_t n, int64_t done, int64_t s, T sign, const T* xr, const T* xi,
          T* yr, T* yi) {
  const int64_t m = n / R;
  const T* wr = p.re.data();
  const T* wi = p.im.data();
  T cr[R], ci[R];  // roots of the small transform
  if constexpr (R != 2 && R != 4)
    for (int k = 0; k < R; ++k) {
      const int64_t at = p.n / R * k;
      cr[k] = wr[at], ci[k] = -sign * wi[at];
    }
  for (int64_t q = 0; q < m; ++q) {
    T tr[R], ti[R];
    for (int k = 1; k < R; ++k) tr[k] = wr[q * done * k], ti[k] = -sign * wi[q * done * k];
    const T *ar = xr + q * s, *ai = xi + q * s;
    T *br = yr + q * R * s, *bi = yi + q * R * s;
    for (int64_t l = 0; l < s; ++l) {
      T ur[R], ui[R];
      for (int j = 0; j < R; ++j) ur[j] = ar[l + j * m * s], ui[j] = ai[l + j * m * s];
      T vr[R], vi[R];
      if constexpr (R == 2) {
        vr[0] = ur[0] + ur[1], vi[0] = ui[0] + ui[1], vr[1] = ur[0] - ur[1], vi[1] = ui[0] - ui[1];
      } else if constexpr (R == 4) {
        const T ar0 = ur[0] + ur[2], ai0 = ui[0] + ui[2], ar1 = ur[0] - ur[2], ai1 = ui[0] - ui[2];
        const T br0 = ur[1] + ur[3], bi0 = ui[1] + ui[3], br1 = sign * (ur[1] - ur[3]),
                bi1 = sign * (ui[1] - ui[3]);
        vr[0] = ar0 + br0, vi[0] = ai0 + bi0, vr[2] = ar0 - br0, vi[2] = ai0 - bi0;
        vr[1] = ar1 - bi1, vi[1] = ai1 + br1, vr[3] = ar1 + bi1, vi[3] = ai1 - br1;
      } else {
        vr[0] = ur[0], vi[0] = ui[0];
        for (int k = 1; k < R; ++k) vr[k] = ur[0], vi[k] = ui[0];
        for (int j = 1; j <= R / 2;
             ++j) {  // pairs j and R - j share the cosine, and differ in the sine
          const T pr = ur[j] + ur[R - j], pi = ui[j] + ui[R - j], mr = ur[j] - ur[R - j],
                  mi = ui[j] - ui[R - j];
          vr[0] += pr, vi[0] += pi;
          for (int k = 1; k < R; ++k) {
            const T c = cr[j * k % R], e = ci[j * k % R];
            vr[k] += c * pr - e * mi;
            vi[k] += c * pi + e * mr;
          }
        }
      }
      br[l] = vr[0], bi[l] = vi[0];
      for (int k = 1; k < R; ++k) {
        br[l + k * s] = vr[k] * tr[k] - vi[k] * ti[k];
        bi[l + k * s] = vr[k] * ti[k] + vi[k] * tr[k];
      }
    }
  }
}

// v transforms side by side, x [n, v] split into re and im; the result is in x or in y, which is
// returned true.
template <class T>
bool transform(const Plan<T>& p, int64_t v, bool inverse, T* xr, T* xi, T* yr, T* yi) {
  const T sign = inverse ? T(1) : T(-1);
  int64_t n = p.n, done = 1;
  bool flipped = false;
  for (const int64_t r : p.passes) {
    const auto f = r == 2    ? pass<T, 2>
                   : r == 3  ? pass<T, 3>
                   : r == 4  ? pass<T, 4>
                   : r == 5  ? pass<T, 5>
                   : r == 7  ? pass<T, 7>
                   : r == 11 ? pass<T, 11>
                             : pass<T, 13>;
    f(p, n, done, done * v, sign, xr, xi, yr, yi);
    std::swap(xr, yr);
    std::swap(xi, yi);
    flipped = !flipped;
    n /= r;
    done *= r;
  }
  return flipped;
}

// Bluestein: kt = (k^2 + t^2 - (k - t)^2) / 2 makes the transform a convolution with the conjugate
// chirp, in double at a length that has small factors.
template <class T>
void bluestein(const Plan<T>& p, int64_t v, bool inverse, T* xr, T* xi) {
  const int64_t n = p.n, m = p.padded;
  const auto inner = plan_for<double>(m);
  cpu::Scratch<double> work(4 * m * v);
  double *ar = work.data(), *ai = ar + m * v, *br = ai + m * v, *bi = br + m * v;
  const double sign =
      inverse ? -1 : 1;  // the inverse is the conjugate of the transform of the conjugate
  for (int64_t t = 0; t < n; ++t)
    for (int64_t l = 0; l < v; ++l) {
      const double a = xr[t * v + l], b = sign * xi[t * v + l];
      ar[t * v + l] = a * p.chirp_re[t] - b * p.chirp_im[t];
      ai[t * v + l] = a * p.chirp_im[t] + b * p.chirp_re[t];
    }
  std::fill(ar + n * v, ar + m * v, 0.0);
  std::fill(ai + n * v, ai + m * v, 0.0);
  if (transform<double>(*inner, v, false, ar, ai, br, bi)) std::swap(ar, br), std::swap(ai, bi);
  for (int64_t t = 0; t < m; ++t)
    for (int64_t l = 0; l < v; ++l) {
      const double a = ar[t * v + l], b = ai[t * v + l];
      ar[t * v + l] = a * p.spectrum_re[t] - b * p.spectrum_im[t];
      ai[t * v + l] = a * p.spectrum_im[t] + b * p.spectrum_re[t];
    }
  if (transform<double>(*inner, v, true, ar, ai, br, bi)) std::swap(ar, br), std::swap(ai, bi);
  for (int64_t t = 0; t < n; ++t)
    for (int64_t l = 0; l < v; ++l) {
      const double a = ar[t * v + l], b = ai[t * v + l];
      xr[t * v + l] = static_cast<T>(a * p.chirp_re[t] - b * p.chirp_im[t]);
      xi[t * v + l] = static_cast<T>(sign * (a * p.chirp_im[t] + b * p.chirp_re[t]));
    }
}

template <class T>
std::shared_ptr<const Plan<T>> make_plan(int64_t n) {
  auto p = std::make_shared<Plan<T>>();
  p->n = n;
  p->passes = radices(n);
  if (!p->passes.empty() && p->passes.back() > kLargestRadix) {
    p->padded = 1;
    while (p->padded < 2 * n - 1) p->padded *= 2;
    const int64_t m = p->padded;
    p->chirp_re.resize(n), p->chirp_im.resize(n);
    std::vector<double> br(m), bi(m), cr(m), ci(m);
    for (int64_t t = 0, square = 0; t < n;
         square = (square + 2 * t + 1) % (2 * n), ++t) {  // t^2 modulo 2 n
      root(square, 2 * n, p->chirp_re[t], p->chirp_im[t]);
      br[t] = p->chirp_re[t], bi[t] = -p->chirp_im[t];
      if (t) br[m - t] = br[t], bi[m - t] = bi[t];
    }
    if (transform<double>(*plan_for<double>(m), 1, false, br.data(), bi.data(), cr.data(),
                          ci.data()))
      br.swap(cr), bi.swap(ci);
    for (int64_t t = 0; t < m; ++t)
      br[t] /= static_cast<double>(m), bi[t] /= static_cast<double>(m);
    p->spectrum_re = std::move(br);
    p->spectrum_im = std::move(bi);
    return p;
  }
  p->re.resize(n), p->im.resize(n);
  for (int64_t k = 0; k < n; ++k) {
    double c, s;
    root(k, n, c, s);
    p->re[k] = static_cast<T>(c), p->im[k] = static_cast<T>(s);
  }
  return p;
}

// The last few plans used, newest first.
template <class T>
std::shared_ptr<const Plan<T>> plan_for(int64_t n) {
  static std::mutex mutex;
  static auto* plans = new std::list<std::shared_ptr<const Plan<T>>>;
  {
    std::lock_guard lock(mutex);
    for (auto it = plans->begin(); it != plans->end(); ++it)
      if ((*it)->n == n) {
        plans->splice(plans->begin(), *plans, it);
        return plans->front();
      }
  }
  auto fresh = make_plan<T>(n);
  std::lock_guard lock(mutex);
  plans->push_front(fresh);
  if (plans->size() > 12) plans->pop_back();
  return fresh;
}

template <class T>
void run(const FftSpec& spec, const T* x, T* y) {
  const auto [kind, outer, n, inner, inverse, _] = spec;
  const T scale = static_cast<T>(spec.scale);
  const auto plan = plan_for<T>(n);
  const int64_t half = n / 2 + 1, total = outer * inner, bundles = ceil_div(total, kBundle);
  const int64_t grain = std::max<int64_t>(1, 65536 / (n * kBundle));
  parallel_for(bundles, grain, [&](int64_t first, int64_t last) {
    cpu::Scratch<T> work(4 * n * kBundle);
    for (int64_t at = first; at < last; ++at) {
      const int64_t begin = at * kBundle, v = std::min(kBundle, total - begin);
      T *ar = work.data(), *ai = ar + n * v, *br = ai + n * v, *bi = br + n * v;
      // signal l of the bundle is column c of outer row o
      auto place = [&](int64_t l, int64_t rows, int64_t& step) {
        step = inner;
        return (begin + l) / inner * rows * inner + (begin + l) % inner;
      };
      for (int64_t l = 0; l < v; ++l) {
        int64_t step;
        if (kind == Fft::RealToHalf) {
          const T* p = x + place(l, n, step);
          for (int64_t t = 0; t < n; ++t) ar[t * v + l] = p[t * step], ai[t * v + l] = 0;
        } else if (kind == Fft::Complex) {
          const T* p = x + 2 * place(l, n, step);
          for (int64_t t = 0; t < n; ++t)
            ar[t * v + l] = p[2 * t * step], ai[t * v + l] = p[2 * t * step + 1];
        } else {
          const T* p = x + 2 * place(l, half, step);
          for (int64_t t = 0; t < half; ++t) {
            const bool self = t == 0 || 2 * t == n;  // its own conjugate: real
            ar[t * v + l] = p[2 * t * step], ai[t * v + l] = self ? T(0) : p[2 * t * step + 1];
            if (!self) ar[(n - t) * v + l] = ar[t * v + l], ai[(n - t) * v + l] = -ai[t * v + l];
          }
        }
      }
      if (plan->padded)
        bluestein(*plan, v, inverse, ar, ai);
      else if (transform(*plan, v, inverse, ar, ai, br, bi))
        std::swap(ar, br), std::swap(ai, bi);
      for (int64_t l = 0; l < v; ++l) {
        int64_t step;
        if (kind == Fft::HalfToReal) {
          T* p = y + place(l, n, step);
          for (int64_t t = 0; t < n; ++t) p[t * step] = scale * ar[t * v + l];
        } else {
          const int64_t rows = kind == Fft::Complex ? n : half;
          T* p = y + 2 * place(l, rows, step);
          for (int64_t t = 0; t < rows; ++t)
            p[2 * t * step] = scale * ar[t * v + l], p[2 * t * step + 1] = scale * ai[t * v + l];
        }
      }
    }
  });
}

abi::Status fft_any(const abi::KernelContext&, const FftSpec& spec, const abi::TensorIn& x,
                    const abi::TensorOut& y) {
  if (x.dtype != y.dtype || !x.contiguous() || !y.contiguous())
    return abi::unsupported("contiguous arrays of one type");
  if (x.dtype == DType::Float32)
    run(spec, x.as<float>(), y.as<float>());
  else if (x.dtype == DType::Float64)
    run(spec, x.as<double>(), y.as<double>());
  else
    return abi::unsupported("float32 or float64");
  return abi::ok();
}

}  // namespace

void provide_fft_cpu(abi::KernelTable& t) { t.provide<fft>(&fft_any); }

}  // namespace dropin::kernels
