#include "dropin/ops/fft_conv.h"

#include "dropin/ops/fft.h"
#include "dropin/ops/reduce.h"
#include "dropin/ops/shape.h"
#include "ops/common.h"

namespace dropin {

using ops_detail::need_floating;

namespace plain {

Tensor fft_conv(const Tensor& u, const Tensor& k, const Tensor& D, const FftConvArgs& args) {
  const Tensor x = args.pre_gate.defined() ? u * args.pre_gate : u;
  const std::int64_t length = u.size(2);
  Tensor y = D.defined() ? x * D.unsqueeze(1) : zeros_like(x);
  for (std::int64_t s = 0; s < k.size(1); ++s) y = y + pad(x.narrow(2, 0, length - s) * k.narrow(1, s, 1), {s, 0});
  if (args.k_rev.defined())
    for (std::int64_t s = 0; s < args.k_rev.size(1); ++s) y = y + pad(x.narrow(2, s, length - s) * args.k_rev.narrow(1, s, 1), {0, s});
  return args.post_gate.defined() ? y * args.post_gate : y;
}

Tensor causal_depthwise_conv(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  const std::int64_t length = x.size(1), taps = weight.size(2);
  Tensor y = bias.defined() ? zeros_like(x) + bias : zeros_like(x);
  for (std::int64_t j = 0; j < taps; ++j)
    if (const std::int64_t lag = taps - 1 - j; lag < length) y = y + pad(x.narrow(1, 0, length - lag) * weight.select(2, j).select(1, 0), {0, 0, lag, 0});
  return y;
}

}  // namespace plain

namespace {

constexpr std::int64_t kPlainLength = 128;  // up to here the definition is quick enough

// a b, or a conj(b), of complex [..., 2]
Tensor complex_product(const Tensor& a, const Tensor& b, bool conjugate = false) {
  const Tensor ar = a.select(-1, 0), ai = a.select(-1, 1), br = b.select(-1, 0), bi = conjugate ? -b.select(-1, 1) : b.select(-1, 1);
  return stack({ar * br - ai * bi, ar * bi + ai * br}, -1);
}

// The same function from the recorded transforms: O(L log L) in any type, with all derivatives.
Tensor by_transforms(const Tensor& u, const Tensor& k, const Tensor& D, const FftConvArgs& args) {
  const Tensor x = args.pre_gate.defined() ? u * args.pre_gate : u;
  const std::int64_t length = u.size(2);
  std::int64_t n = 1;
  while (n < 2 * length) n *= 2;
  const Tensor xf = rfft(x, n);
  Tensor yf = complex_product(xf, rfft(k, n));
  if (args.k_rev.defined()) yf = yf + complex_product(xf, rfft(args.k_rev, n), true);
  Tensor y = irfft(yf, n).narrow(2, 0, length);
  if (D.defined()) y = y + x * D.unsqueeze(1);
  return args.post_gate.defined() ? y * args.post_gate : y;
}

Tensor reference(const Tensor& u, const Tensor& k, const Tensor& D, const FftConvArgs& args) {
  return u.size(2) <= kPlainLength ? plain::fft_conv(u, k, D, args) : by_transforms(u, k, D, args);
}

void check(const Tensor& u, const Tensor& k, const Tensor& D, const FftConvArgs& args) {
  constexpr const char* who = "fft_conv";
  need_floating(who, u);
  if (u.dim() != 3) fail<ShapeError>({who, ": u is ", u.sizes(), ", expected [B, C, L]"});
  const std::int64_t channels = u.size(1), length = u.size(2);
  if (length == 0) fail<ShapeError>({who, ": u is ", u.sizes(), ", expected L of at least 1"});
  auto filter = [&](const char* what, const Tensor& f) {
    if (!is_floating(f.dtype())) fail<DTypeError>({who, ": ", what, " is ", f.dtype(), ", expected a floating-point tensor"});
    if (f.dim() != 2 || f.size(0) != channels) fail<ShapeError>({who, ": ", what, " is ", f.sizes(), ", expected [", channels, ", Lk] because u is ", u.sizes()});
    if (f.size(1) < 1 || f.size(1) > length) fail<ShapeError>({who, ": ", what, " is ", f.sizes(), ", expected 1 <= Lk <= L = ", length});
    ops_detail::same_device(who, u, f);
  };
  filter("k", k);
  if (args.k_rev.defined()) filter("k_rev", args.k_rev);
  if (D.defined() && !(D.sizes() == Shape{channels})) fail<ShapeError>({who, ": D is ", D.sizes(), ", expected [", channels, "]"});
  auto gate = [&](const char* what, const Tensor& g) {
    if (!g.defined()) return;
    if (!is_floating(g.dtype())) fail<DTypeError>({who, ": ", what, " is ", g.dtype(), ", expected a floating-point tensor"});
    if (!(g.sizes() == u.sizes())) fail<ShapeError>({who, ": ", what, " is ", g.sizes(), ", expected ", u.sizes(), " as u"});
    ops_detail::same_device(who, u, g);
  };
  gate("pre_gate", args.pre_gate);
  gate("post_gate", args.post_gate);
}

}  // namespace

Tensor fft_conv_spectrum(const Tensor&, std::int64_t, const Tensor&) { return {}; }

Tensor fft_conv(const Tensor& u, const Tensor& k, const Tensor& D, const FftConvArgs& args) {
  check(u, k, D, args);
  return reference(u, k, D, args);
}

Tensor causal_depthwise_conv(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  constexpr const char* who = "causal_depthwise_conv";
  need_floating(who, x);
  if (x.dim() != 3) fail<ShapeError>({who, ": x is ", x.sizes(), ", expected [B, L, C]"});
  if (weight.dim() != 3 || weight.size(0) != x.size(2) || weight.size(1) != 1 || weight.size(2) < 1)
    fail<ShapeError>({who, ": weight is ", weight.sizes(), ", expected [", x.size(2), ", 1, K] with K of at least 1"});
  if (bias.defined() && !(bias.sizes() == Shape{x.size(2)})) fail<ShapeError>({who, ": bias is ", bias.sizes(), ", expected [", x.size(2), "]"});
  return plain::causal_depthwise_conv(x, weight, bias);
}

}  // namespace dropin
