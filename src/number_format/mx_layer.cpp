#include "dropin/number_format/mx_layer.h"

#include "dropin/ops/fewbit.h"

namespace dropin {

namespace detail {

namespace {
MXParams stored_params(int64_t axis, const MXProductParams& p) {
  return {.format = p.second,
          .axis = axis,
          .block_size = p.block_size,
          .rounding = p.rounding == "stochastic" ? "even" : p.rounding,
          .scale_mode = p.scale_mode};
}
int64_t row_bytes(const Shape& sizes, const std::string& format) {
  return (sizes.numel() / sizes[0] * mx_bits(format) + 7) / 8;
}
Shape scale_shape(Shape sizes, int64_t axis, const MXProductParams& p) {
  const bool nv = p.second == "NVFP4";
  const int at = static_cast<int>(axis < 0 ? axis + sizes.size() : axis);
  const int64_t block = nv ? 16 : p.block_size, blocks = (sizes[at] + block - 1) / block;
  if (nv) {  // the axis was moved to the end
    sizes[at] = sizes[sizes.size() - 1];
    sizes[sizes.size() - 1] = blocks;
  } else {
    sizes[at] = blocks;
  }
  return sizes;
}
// Rows of codes as bit streams, and back.
Tensor pack_rows(const Tensor& codes, int width) {
  const Tensor flat = codes.contiguous().reshape({codes.size(0), -1});
  if (width == 8) return flat.clone();
  const int64_t n = flat.size(1), bytes = (n * width + 7) / 8;
  Tensor r = empty({flat.size(0), bytes}, flat.options());
  for (int64_t i = 0; i < flat.size(0); ++i)
    r[i].copy_(fewbit_pack(flat[i], width).narrow(0, 0, bytes));
  return r;
}
Tensor unpack_rows(const Tensor& packed, int width, int64_t n) {
  if (width == 8) return packed;
  const int64_t whole = (n + 7) / 8 * width;
  Tensor r = empty({packed.size(0), n}, packed.options());
  for (int64_t i = 0; i < packed.size(0); ++i) {
    Tensor row = zeros({whole}, packed.options());
    row.narrow(0, 0, packed.size(1)).copy_(packed[i]);
    r[i].copy_(fewbit_unpack(row, width, n));
  }
  return r;
}
}  // namespace

void FrozenWeight::freeze(std::string_view who, const Tensor& weight, int64_t axis,
                          const MXProductParams& p) const {
  DROPIN_CHECK(p.second != "none", OptionError, who,
               ": freeze: weight_format is none; there are no codes to keep");
  DROPIN_CHECK(weight.defined(), StateError, who, ": freeze: the weight is frozen already");
  no_grad guard;
  if (p.second == "NVFP4") {
    const NVFP4Tensor q = quantize_nvfp4(weight.transpose(axis, -1).contiguous());
    *codes = pack_rows(q.codes.transpose(axis, -1), 4);
    *scales = q.scales;
    *tensor_scale = q.tensor_scale;
    return;
  }
  const MXTensor q = quantize_mx(weight, stored_params(axis, p));
  *codes = pack_rows(q.codes, mx_bits(p.second));
  *scales = q.scales;
}

Tensor FrozenWeight::thaw(const Shape& sizes, int64_t axis, const MXProductParams& p) const {
  no_grad guard;
  const Tensor c = unpack_rows(*codes, mx_bits(p.second), sizes.numel() / sizes[0]).reshape(sizes);
  if (p.second == "NVFP4")
    return dequantize_nvfp4(c.transpose(axis, -1).contiguous(), *scales, *tensor_scale)
        .transpose(axis, -1)
        .contiguous();
  return dequantize_mx(c, *scales, stored_params(axis, p));
}

void FrozenWeight::prepare(std::string_view who, Tensor& weight, const Shape& sizes, int64_t axis,
                           const MXProductParams& p, const StateDict& state,
                           const std::string& prefix) const {
  const Tensor c = state.find(prefix + "weight_codes"), s = state.find(prefix + "weight_scales");
  if (!c.defined()) {
    *codes = *scales = *tensor_scale = Tensor();
    if (!weight.defined() && state.contains(prefix + "weight")) {
      weight = zeros(sizes);
      weight.requires_grad_();
    }
    return;
  }
  DROPIN_CHECK(p.second != "none", StateError, who, ": ", prefix,
               "weight_codes is given, but weight_format is none");
  const Shape want{sizes[0], row_bytes(sizes, p.second)}, want_scales = scale_shape(sizes, axis, p);
  DROPIN_CHECK(c.dtype() == kUInt8 && c.sizes() == want, StateError, who, ": ", prefix,
               "weight_codes is ", c.dtype(), " ", c.sizes(), ", expected uint8 ", want,
               " for weight_format ", p.second);
  DROPIN_CHECK(s.defined() && s.dtype() == kUInt8 && s.sizes() == want_scales, StateError, who,
               ": ", prefix, "weight_scales is ", s.defined() ? s.sizes() : Shape{},
               ", expected uint8 ", want_scales);
  if (!codes->defined()) {
    *codes = zeros(want, kUInt8);
    *scales = zeros(want_scales, kUInt8);
    if (p.second == "NVFP4") *tensor_scale = zeros({1});
  }
  weight = Tensor();
}

MXProductParams in_mode(MXProductParams p, bool training) {
  if (!training && p.rounding == "stochastic") p.rounding = "even";
  return p;
}

}  // namespace detail

}  // namespace dropin
