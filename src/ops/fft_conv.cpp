#include "dropin/ops/fft_conv.h"

#include <cstdint>

#include "dropin/ops/fft.h"
#include "dropin/ops/reduce.h"
#include "dropin/ops/shape.h"
#include "kernels/fft_conv/kernel.h"
#include "kernels/fft_conv/plan.h"
#include "ops/common.h"

namespace dropin {

using ops_detail::need_floating;

namespace plain {

Tensor fft_conv(const Tensor& u, const Tensor& k, const Tensor& D, const FftConvArgs& args) {
  const Tensor x = args.pre_gate.defined() ? u * args.pre_gate : u;
  const int64_t length = u.size(2);
  Tensor y = D.defined() ? x * D.unsqueeze(1) : zeros_like(x);
  for (int64_t s = 0; s < k.size(1); ++s)
    y = y + pad(x.narrow(2, 0, length - s) * k.narrow(1, s, 1), {s, 0});
  if (args.k_rev.defined())
    for (int64_t s = 0; s < args.k_rev.size(1); ++s)
      y = y + pad(x.narrow(2, s, length - s) * args.k_rev.narrow(1, s, 1), {0, s});
  return args.post_gate.defined() ? y * args.post_gate : y;
}

Tensor causal_depthwise_conv(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  const int64_t length = x.size(1), taps = weight.size(2);
  Tensor y = bias.defined() ? zeros_like(x) + bias : zeros_like(x);
  for (int64_t j = 0; j < taps; ++j)
    if (const int64_t lag = taps - 1 - j; lag < length)
      y = y + pad(x.narrow(1, 0, length - lag) * weight.select(2, j).select(1, 0), {0, 0, lag, 0});
  return y;
}

}  // namespace plain

namespace {

constexpr int64_t kPlainLength = 128;  // up to here the definition is quick enough

// a b, or a conj(b), of complex [..., 2]
Tensor complex_product(const Tensor& a, const Tensor& b, bool conjugate = false) {
  const Tensor ar = a.select(-1, 0), ai = a.select(-1, 1), br = b.select(-1, 0),
               bi = conjugate ? -b.select(-1, 1) : b.select(-1, 1);
  return stack({ar * br - ai * bi, ar * bi + ai * br}, -1);
}

// The same function from the recorded transforms: O(L log L) in any type, with all derivatives.
Tensor by_transforms(const Tensor& u, const Tensor& k, const Tensor& D, const FftConvArgs& args) {
  const Tensor x = args.pre_gate.defined() ? u * args.pre_gate : u;
  const int64_t length = u.size(2);
  int64_t n = 1;
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
  const int64_t channels = u.size(1), length = u.size(2);
  if (length == 0) fail<ShapeError>({who, ": u is ", u.sizes(), ", expected L of at least 1"});
  auto filter = [&](const char* what, const Tensor& f) {
    if (!is_floating(f.dtype()))
      fail<DTypeError>({who, ": ", what, " is ", f.dtype(), ", expected a floating-point tensor"});
    if (f.dim() != 2 || f.size(0) != channels)
      fail<ShapeError>({who, ": ", what, " is ", f.sizes(), ", expected [", channels,
                        ", Lk] because u is ", u.sizes()});
    if (f.size(1) < 1 || f.size(1) > length)
      fail<ShapeError>({who, ": ", what, " is ", f.sizes(), ", expected 1 <= Lk <= L = ", length});
    ops_detail::same_device(who, u, f);
  };
  filter("k", k);
  if (args.k_rev.defined()) filter("k_rev", args.k_rev);
  if (D.defined() && !(D.sizes() == Shape{channels}))
    fail<ShapeError>({who, ": D is ", D.sizes(), ", expected [", channels, "]"});
  auto gate = [&](const char* what, const Tensor& g) {
    if (!g.defined()) return;
    if (!is_floating(g.dtype()))
      fail<DTypeError>({who, ": ", what, " is ", g.dtype(), ", expected a floating-point tensor"});
    if (!(g.sizes() == u.sizes()))
      fail<ShapeError>({who, ": ", what, " is ", g.sizes(), ", expected ", u.sizes(), " as u"});
    ops_detail::same_device(who, u, g);
  };
  gate("pre_gate", args.pre_gate);
  gate("post_gate", args.post_gate);
}

int64_t spectrum_size(const Device& device, int64_t channels, int64_t length) {
  int64_t floats = 0;
  run<kernels::fft_conv_size>(device, channels, length, &floats);
  return floats;
}
// float32 and the 16-bit types have the kernels, up to the length that the device's hold.
bool fused(const Tensor& u, int64_t length) {
  return ops_detail::compute_type(u.dtype()) == kFloat32 &&
         has_kernels<kernels::fft_conv_size, kernels::fft_conv_spectrum, kernels::fft_conv_forward,
                     kernels::fft_conv_backward>(u.device()) &&
         (u.device().is_cpu() ||
          (spectrum_size(u.device(), 1, length) > 0 && (u.dim() < 3 || u.size(0) <= 65535)));
}
Tensor spectrum_of(const Tensor& k, const Tensor& k_rev, int64_t length) {
  Tensor s = empty({spectrum_size(k.device(), k.size(0), length)}, k.options());
  run<kernels::fft_conv_spectrum>(k.device(), k.in(), k_rev.in(), length, s.out());
  return s;
}
Tensor single(const Tensor& x) { return x.defined() ? x.to(kFloat32) : x; }
// An array of x's sizes [B, C, L] or [C, L] whose channels lie side by side if those of x do.
Tensor laid_out_as(const Tensor& x) {
  const bool channels_last =
      x.dim() >= 2 && x.stride(-2) == 1 && x.size(-2) > 1 && x.stride(-1) != 1;
  if (!channels_last) return empty(x.sizes(), x.options());
  Shape sizes = x.sizes();
  std::swap(sizes[sizes.size() - 1], sizes[sizes.size() - 2]);
  return empty(sizes, x.options()).transpose(-1, -2);
}

kernels::FftConvInputs kernel_inputs(const Tensor& u, const Tensor& k, const Tensor& D,
                                     const Tensor& rev, const Tensor& pre, const Tensor& post,
                                     const Tensor& spectrum) {
  return {u.in(), k.in(), rev.in(), pre.in(), post.in(), D.in(), spectrum.in()};
}

Tensor fused_fft_conv(const Tensor& u, const Tensor& k, const Tensor& D, const FftConvArgs& args) {
  const Tensor &rev = args.k_rev, &pre = args.pre_gate, &post = args.post_gate;
  const Tensors all{u, k, D, rev, pre, post};
  bool recorded = false;
  for (const Tensor& t : all)
    recorded = recorded || (grad_enabled() && t.defined() && t.requires_grad());
  Tensor spectrum = args.spectrum.defined() ? args.spectrum.detach() : Tensor(), y = laid_out_as(u),
         conv, kept;
  const bool keep = recorded && args.keep_spectra && u.size(2) > kernels::kDirectLength;
  if (keep && !spectrum.defined()) spectrum = spectrum_of(k, rev, u.size(2));
  if (keep) kept = empty({u.size(0), spectrum_size(u.device(), u.size(1), u.size(2))}, u.options());
  if (recorded && post.defined() && post.requires_grad()) conv = laid_out_as(u);
  run<kernels::fft_conv_forward>(u.device(), kernel_inputs(u, k, D, rev, pre, post, spectrum),
                                 y.out(), conv.out(), kept.out());
  const Tensors saved{u, k, D, rev, pre, post, spectrum, conv, kept};
  return record(
      "fft_conv", y, all.data(), all.size(), saved.data(), saved.size(),
      [](const Saved& s, const Tensor& g) -> Tensors {
        const Tensors in{s[0], s[1], s[2], s[3], s[4], s[5]};
        if (grad_enabled())
          return plain_gradients(s, in, g, [](const Tensors& v) {
            return reference(v[0], v[1], v[2],
                             {.k_rev = v[3], .pre_gate = v[4], .post_gate = v[5]});
          });
        Tensors grads;
        for (int i = 0; i < 6; ++i)
          grads.push_back(s.needs(i) ? laid_out_as(in[static_cast<std::size_t>(i)]) : Tensor());
        run<kernels::fft_conv_backward>(
            g.device(), g.in(), kernel_inputs(in[0], in[1], in[2], in[3], in[4], in[5], s[6]),
            s[7].in(), s[8].in(),
            kernels::FftConvGradients{grads[0].out(), grads[4].out(), grads[5].out(),
                                      grads[2].out(), grads[1].out(), grads[3].out()});
        return grads;
      });
}

}  // namespace

Tensor fft_conv_spectrum(const Tensor& k, int64_t length, const Tensor& k_rev) {
  constexpr const char* who = "fft_conv_spectrum";
  need_floating(who, k);
  for (const Tensor& f : {k, k_rev})
    if (f.defined() &&
        (f.dim() != 2 || f.size(0) != k.size(0) || f.size(1) < 1 || f.size(1) > length))
      fail<ShapeError>({who, ": a filter is ", f.sizes(),
                        ", expected [C, Lk] with 1 <= Lk <= length = ", length});
  if (!fused(k, length)) return {};
  no_grad guard;
  return spectrum_of(single(k.detach()), single(k_rev.defined() ? k_rev.detach() : k_rev), length);
}

Tensor fft_conv(const Tensor& u, const Tensor& k, const Tensor& D, const FftConvArgs& args) {
  check(u, k, D, args);
  if (!fused(u, u.size(2))) return reference(u, k, D, args);
  const int64_t want =
      args.spectrum.defined() ? spectrum_size(u.device(), u.size(1), u.size(2)) : 0;
  if (args.spectrum.defined() &&
      (args.spectrum.dtype() != kFloat32 || args.spectrum.numel() != want))
    fail<ShapeError>({"fft_conv: spectrum has ", args.spectrum.numel(), " numbers, expected ", want,
                      "; it is of another filter or length (see fft_conv_spectrum)"});
  FftConvArgs a = args;
  // kernels read it aligned
  if (want && (!args.spectrum.is_contiguous() ||
               reinterpret_cast<std::uintptr_t>(args.spectrum.data_ptr()) % 64))
    a.spectrum = args.spectrum.clone();
  a.k_rev = single(args.k_rev), a.pre_gate = single(args.pre_gate),
  a.post_gate = single(args.post_gate);
  const Tensor skip = D.defined() ? single(D).contiguous() : D;
  return fused_fft_conv(single(u), single(k), skip, a).to(u.dtype());
}

Tensor causal_depthwise_conv(const Tensor& x_, const Tensor& weight, const Tensor& bias) {
  constexpr const char* who = "causal_depthwise_conv";
  need_floating(who, x_);
  if (x_.dim() != 3) fail<ShapeError>({who, ": x is ", x_.sizes(), ", expected [B, L, C]"});
  if (weight.dim() != 3 || weight.size(0) != x_.size(2) || weight.size(1) != 1 ||
      weight.size(2) < 1)
    fail<ShapeError>({who, ": weight is ", weight.sizes(), ", expected [", x_.size(2),
                      ", 1, K] with K of at least 1"});
  if (bias.defined() && !(bias.sizes() == Shape{x_.size(2)}))
    fail<ShapeError>({who, ": bias is ", bias.sizes(), ", expected [", x_.size(2), "]"});
  if (ops_detail::compute_type(x_.dtype()) != kFloat32 ||
      !has_kernels<kernels::short_conv_forward, kernels::short_conv_backward>(x_.device()))
    return plain::causal_depthwise_conv(x_, weight, bias);
  const Tensor x = single(x_).contiguous(),
               w = single(weight).reshape({x_.size(2), weight.size(2)}).contiguous(),
               b = bias.defined() ? single(bias).contiguous() : bias;
  Tensor y = empty_like(x);
  run<kernels::short_conv_forward>(x.device(), x.in(), w.in(), b.in(), y.out());
  return record("causal_depthwise_conv", y, {x, w, b}, {x, w, b},
                [](const Saved& s, const Tensor& g_) -> Tensors {
                  const Tensor x = s[0], w = s[1], b = s[2];
                  if (grad_enabled())
                    return plain_gradients(s, {x, w, b}, g_, [](const Tensors& in) {
                      return plain::causal_depthwise_conv(in[0], in[1].unsqueeze(1), in[2]);
                    });
                  const Tensor g = g_.contiguous();
                  Tensor gx = s.needs(0) ? empty_like(x) : Tensor(),
                         gw = s.needs(1) ? empty_like(w) : Tensor(),
                         gb = s.needs(2) ? empty_like(b) : Tensor();
                  run<kernels::short_conv_backward>(x.device(), g.in(), x.in(), w.in(), gx.out(),
                                                    gw.out(), gb.out());
                  return {gx, gw, gb};
                })
      .to(x_.dtype());
}

}  // namespace dropin
