#include "dropin/ops/fft.h"

#include "dropin/ops/shape.h"
#include "kernels/fft/kernel.h"
#include "ops/common.h"

namespace dropin {

using ops_detail::need_floating;
using ops_detail::prepared;

namespace {

int64_t product(const Shape& s, int begin, int end) {
  int64_t n = 1;
  for (int i = begin; i < end; ++i) n *= s[i];
  return n;
}

// x is contiguous; `d` is the transformed dimension, n the length of the signal.
Tensor run_fft(const Tensor& x, kernels::Fft kind, int d, int64_t n, bool inverse, double scale,
               const Shape& sizes) {
  const int last =
      kind == kernels::Fft::RealToHalf ? static_cast<int>(x.dim()) : static_cast<int>(x.dim()) - 1;
  Tensor y = empty(sizes, x.options());
  run<kernels::fft>(x.device(),
                    kernels::FftSpec{kind, product(x.sizes(), 0, d), n,
                                     product(x.sizes(), d + 1, last), inverse, scale},
                    x.in(), y.out());
  return y;
}

// dimension d of x cut or filled with zeros to n
Tensor resized(const Tensor& x, int d, int64_t n) {
  if (x.size(d) == n) return x;
  if (x.size(d) > n) return x.narrow(d, 0, n);
  Shape pads;
  for (int i = static_cast<int>(x.dim()) - 1; i > d; --i) pads.push_back(0), pads.push_back(0);
  pads.push_back(0), pads.push_back(n - x.size(d));
  return pad(x, pads);
}

// Each transform's gradient is a transform again, recorded, so all derivatives exist.
Tensor complex_fft(const Tensor& x_, int d, bool inverse, double scale) {
  const Tensor x = x_.contiguous();
  return record("fft", run_fft(x, kernels::Fft::Complex, d, x.size(d), inverse, scale, x.sizes()),
                {x}, {}, [d, inverse, scale](const Saved&, const Tensor& g) -> Tensors {
                  return {complex_fft(g, d, !inverse, scale)};
                });
}

Tensor real_to_half(const Tensor& x_, int d) {
  const Tensor x = x_.contiguous();
  const int64_t n = x.size(d);
  Shape sizes = x.sizes();
  sizes[d] = n / 2 + 1;
  sizes.push_back(2);
  return record("rfft", run_fft(x, kernels::Fft::RealToHalf, d, n, false, 1, sizes), {x}, {},
                [d, n](const Saved&, const Tensor& g) -> Tensors {
                  return {complex_fft(resized(g, d, n), d, true, 1).select(-1, 0)};
                });
}

Tensor half_to_real(const Tensor& x_, int d, int64_t n) {
  const Tensor x = x_.contiguous();
  Shape sizes(x.sizes().begin(), x.dim() - 1);
  sizes[d] = n;
  return record("irfft",
                run_fft(x, kernels::Fft::HalfToReal, d, n, true, 1 / static_cast<double>(n), sizes),
                {x}, {}, [d, n](const Saved&, const Tensor& g) -> Tensors {
                  // frequencies between 0 and n/2 stand for their conjugates too
                  Tensor weight = full({n / 2 + 1}, 2 / static_cast<double>(n), g.options());
                  weight.narrow(0, 0, 1).fill_(1 / static_cast<double>(n));
                  if (n % 2 == 0) weight.narrow(0, n / 2, 1).fill_(1 / static_cast<double>(n));
                  Shape along{n / 2 + 1};
                  for (int i = d + 1; i <= static_cast<int>(g.dim()); ++i) along.push_back(1);
                  return {real_to_half(g, d) * weight.reshape(along)};
                });
}

int complex_dim(const char* who, const Tensor& x, int64_t dim) {
  need_floating(who, x);
  if (x.dim() < 2 || x.size(-1) != 2)
    fail<ShapeError>({who, ": x is ", x.sizes(),
                      ", expected complex numbers as pairs, [..., 2] with a dimension before"});
  const int d = wrap_dim(dim, x.dim() - 1, who);
  if (x.size(d) == 0)
    fail<ShapeError>({who, ": x is ", x.sizes(), ", expected at least one sample along dimension ",
                      static_cast<int64_t>(d)});
  return d;
}

Tensor complex_op(const char* who, const Tensor& x, int64_t dim, bool inverse) {
  const int d = complex_dim(who, x, dim);
  return complex_fft(prepared(x), d, inverse, inverse ? 1 / static_cast<double>(x.size(d)) : 1)
      .to(x.dtype());
}

}  // namespace

Tensor fft(const Tensor& x, int64_t dim) { return complex_op("fft", x, dim, false); }
Tensor ifft(const Tensor& x, int64_t dim) { return complex_op("ifft", x, dim, true); }

Tensor rfft(const Tensor& x, int64_t n, int64_t dim) {
  need_floating("rfft", x);
  if (x.dim() == 0) fail<ShapeError>({"rfft: x is a scalar, expected at least one dimension"});
  const int d = wrap_dim(dim, x.dim(), "rfft");
  if (n < 0) fail<OptionError>({"rfft: n is ", n, ", expected a length, or 0 for that of x"});
  if (n == 0) n = x.size(d);
  if (n == 0)
    fail<ShapeError>({"rfft: x is ", x.sizes(), ", expected at least one sample along dimension ",
                      static_cast<int64_t>(d)});
  return real_to_half(resized(prepared(x), d, n), d).to(x.dtype());
}

Tensor irfft(const Tensor& x, int64_t n, int64_t dim) {
  const int d = complex_dim("irfft", x, dim);
  if (n < 0) fail<OptionError>({"irfft: n is ", n, ", expected a length, or 0 for 2 (m - 1)"});
  if (n == 0) n = 2 * (x.size(d) - 1);
  if (n == 0)
    fail<ShapeError>(
        {"irfft: x is ", x.sizes(), ": one frequency says nothing of the length; give n"});
  return half_to_real(resized(prepared(x), d, n / 2 + 1), d, n).to(x.dtype());
}

}  // namespace dropin
