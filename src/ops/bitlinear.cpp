#include "dropin/ops/bitlinear.h"

#include <cmath>

#include "dropin/ops/matmul.h"
#include "dropin/ops/reduce.h"
#include "kernels/bitlinear/kernel.h"
#include "ops/common.h"

namespace dropin {

namespace {

bool is_ternary(const char* who, std::string_view variant) {
  DROPIN_CHECK(variant == "b1" || variant == "b1.58", OptionError, who, ": variant is \"", variant,
               "\", expected b1 or b1.58");
  return variant == "b1.58";
}
int64_t row_bytes(int64_t k, bool ternary) { return ternary ? (k + 3) / 4 : (k + 7) / 8; }

BitPackedWeight pack(const Tensor& weight, bool ternary, int64_t groups) {
  const Tensor w = weight.detach().to(kFloat32).contiguous();
  BitPackedWeight r{empty({w.size(0), row_bytes(w.size(1), ternary)}, {kUInt8, w.device()}),
                    empty({groups}, w.options())};
  run<kernels::bit_pack_weight>(w.device(), ternary, w.in(), r.packed.out(), r.scale.out());
  return r;
}
Tensor unpack(const BitPackedWeight& p, bool ternary, int64_t k) {
  Tensor w = empty({p.packed.size(0), k}, p.scale.options());
  run<kernels::bit_unpack_weight>(w.device(), ternary, p.packed.in(), p.scale.in(), w.out());
  return w;
}

/// `value` in forward, the identity of x in backward.
Tensor straight_through(const Tensor& value, const Tensor& x) {
  return record("straight_through", value.detach(), {x}, {},
                [](const Saved&, const Tensor& g) -> Tensors { return {g}; });
}

}  // namespace

BitPackedWeight bitlinear_pack_weight(const Tensor& weight, std::string_view variant,
                                      int64_t groups) {
  const bool ternary = is_ternary("bitlinear_pack_weight", variant);
  ops_detail::need_floating("bitlinear_pack_weight", weight);
  DROPIN_CHECK(weight.dim() == 2 && weight.numel() > 0, ShapeError,
               "bitlinear_pack_weight: weight is ", weight.sizes(),
               ", expected [out, in], not empty");
  DROPIN_CHECK(groups >= 1 && weight.size(0) % groups == 0, OptionError,
               "bitlinear_pack_weight: weight_groups ", groups, " does not divide the ",
               weight.size(0), " rows");
  return pack(weight, ternary, groups);
}

Tensor bitlinear_unpack_weight(const Tensor& packed, const Tensor& scale, std::string_view variant,
                               int64_t in_features) {
  const bool ternary = is_ternary("bitlinear_unpack_weight", variant);
  DROPIN_CHECK(packed.dtype() == kUInt8, DTypeError, "bitlinear_unpack_weight: packed is ",
               packed.dtype(), ", expected uint8");
  DROPIN_CHECK(packed.dim() == 2, ShapeError, "bitlinear_unpack_weight: packed is ", packed.sizes(),
               ", expected [out, bytes]");
  const int64_t k = in_features ? in_features : packed.size(1) * (ternary ? 4 : 8);
  DROPIN_CHECK(k > 0 && row_bytes(k, ternary) == packed.size(1), ShapeError,
               "bitlinear_unpack_weight: packed is ", packed.sizes(), ", expected [out, ",
               row_bytes(k, ternary), "] for in_features ", in_features, " of variant ", variant);
  DROPIN_CHECK(scale.dim() == 1 && scale.size(0) >= 1 && packed.size(0) % scale.size(0) == 0,
               ShapeError, "bitlinear_unpack_weight: scale is ", scale.sizes(),
               ", expected a value per group of the ", packed.size(0), " rows");
  if (ternary) {
    const Tensor bytes = packed.to(kCPU).contiguous();
    const std::uint8_t* b = bytes.data<std::uint8_t>();
    for (int64_t i = 0; i < bytes.numel(); ++i)
      DROPIN_CHECK((b[i] & b[i] >> 1 & 0x55) == 0, Error, "bitlinear_unpack_weight: packed holds ",
                   static_cast<int>(b[i]), " in row ", i / packed.size(1),
                   ", where a weight has code 3, which stands for none");
  }
  return unpack({packed.contiguous(), scale.detach().to(kFloat32).contiguous()}, ternary, k);
}

Tensor plain::bit_linear(const Tensor& h, const Tensor& weight, const Tensor& bias,
                         const BitLinearParams& p) {
  const int64_t k = h.size(-1), n = weight.size(0);
  Tensor hq, wq;
  {
    no_grad guard;
    const Tensor v =
        h.detach().reshape({-1, p.act_groups, k / p.act_groups});  // [tokens, slices, K / slices]
    const Shape over = p.per_tensor ? Shape{0, 2} : Shape{2};
    const double q = static_cast<double>(p.qmax);
    // a slice with NaN or Inf is NaN as a whole
    const Tensor poison = sum(v * 0.0, over, true);
    if (v.numel() == 0)
      hq = h.detach();
    else if (p.shift) {
      const Tensor e = amin(v, over, true) + poison,
                   t = clamp(amax(v, over, true) - e, 1e-5, INFINITY);
      hq = (clamp(round((v - e) * (q / t)), 0, 127) * (t / q) + e).reshape(h.sizes());
    } else {
      const Tensor t = clamp(amax(abs(v), over, true), 1e-5, INFINITY) + poison;
      hq = (clamp(round(v * (q / t)), -128, 127) * (t / q)).reshape(h.sizes());
    }
    const Tensor w = weight.detach().reshape({p.weight_groups, -1});
    const Tensor size = mean(abs(w), {1}, true);
    if (p.ternary) {
      const Tensor b = clamp(size, 1e-5, INFINITY);
      wq = clamp(round(w / b), -1, 1) * b;
    } else {
      wq = ((w > mean(w, {1}, true)).to(w.dtype()) * 2.0 - 1.0) * size;
    }
    wq = wq.reshape({n, k});
  }
  return linear(straight_through(hq, h), straight_through(wq, weight), bias);
}

Tensor bit_linear(const Tensor& h_, const Tensor& weight, const Tensor& bias,
                  const BitLinearParams& p, const BitPackedWeight& given) {
  ops_detail::need_floating("bit_linear", h_);
  DROPIN_CHECK(weight.defined() || given.packed.defined(), StateError,
               "bit_linear: neither a weight nor its packed form is given");
  DROPIN_CHECK(h_.dim() > 0 && h_.size(-1) > 0 && h_.size(-1) % p.act_groups == 0, ShapeError,
               "bit_linear: h is ", h_.sizes(),
               ", expected [*, K] with K divisible by act_groups = ", p.act_groups);
  const int64_t k = h_.size(-1), n = weight.defined() ? weight.size(0) : given.packed.size(0);
  if (weight.defined())
    DROPIN_CHECK(weight.dim() == 2 && weight.size(1) == k, ShapeError, "bit_linear: weight is ",
                 weight.sizes(), ", expected [out, ", k, "]");
  if (h_.dtype() == kFloat64)
    return plain::bit_linear(
        h_, weight.defined() ? weight : unpack(given, p.ternary, k).to(kFloat64), bias, p);
  const Tensor flat = h_.to(kFloat32).contiguous().reshape({h_.numel() / k, k}),
               b = bias.defined() ? bias.to(kFloat32).contiguous() : bias;
  const Tensor h = flat.detach();
  const kernels::BitActivations a{p.shift, p.per_tensor, static_cast<std::int32_t>(p.qmax),
                                  p.act_groups};
  const BitPackedWeight w =
      given.packed.defined() ? given : pack(weight, p.ternary, p.weight_groups);
  const int64_t m = h.size(0), scales = p.per_tensor ? 1 : m;
  Tensor q = empty({m, k}, {kInt8, h.device()}), t = empty({scales, p.act_groups}, h.options()),
         e = p.shift ? empty({scales, p.act_groups}, h.options()) : Tensor();
  run<kernels::bit_quantize_activations>(h.device(), a, h.in(), q.out(), t.out(),
                                         e.defined() ? e.out() : abi::TensorOut{});
  Tensor y = empty({m, n}, h.options());
  run<kernels::bit_linear>(h.device(), p.ternary, a, kernels::BitCodes{q.in(), t.in(), e.in()},
                           kernels::BitWeight{w.packed.in(), w.scale.in()},
                           b.defined() ? b.detach().in() : abi::TensorIn{}, y.out());
  const Tensor master = weight.defined() ? weight.to(kFloat32) : weight;
  y = record("bit_linear", y, {flat, master, b}, {q, t, e, w.packed, w.scale},
             [a, ternary = p.ternary, k](const Saved& s, const Tensor& g) -> Tensors {
               if (grad_enabled())
                 fail<AutogradError>(
                     {"bit_linear: its gradient goes straight through the quantization and cannot "
                      "be differentiated again; float64 can"});
               Tensor gh, gw;
               if (s.needs(0)) gh = matmul(g, unpack({s[3], s[4]}, ternary, k));
               if (s.needs(1)) {
                 const Tensor q = s[0], e = s[2];
                 Tensor h = empty(q.sizes(), g.options());
                 run<kernels::bit_dequantize_activations>(q.device(), a, q.in(), s[1].in(),
                                                          e.defined() ? e.in() : abi::TensorIn{},
                                                          h.out());
                 gw = matmul(g.mT(), h);
               }
               return {gh, gw, s.needs(2) ? sum(g, {0}) : Tensor()};
             });
  Shape sizes = h_.sizes();
  sizes[sizes.size() - 1] = n;
  return y.reshape(sizes).to(h_.dtype());
}

}  // namespace dropin
