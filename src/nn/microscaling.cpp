#include "dropin/nn/microscaling.h"

#include "dropin/nn/init.h"
#include "dropin/ops/fewbit.h"

namespace dropin {

namespace detail {

namespace {
MXParams stored_params(std::int64_t axis, const MXProductParams& p) {
  return {.format = p.second, .axis = axis, .block_size = p.block_size, .rounding = p.rounding == "stochastic" ? "even" : p.rounding, .scale_mode = p.scale_mode};
}
std::int64_t row_bytes(const Shape& sizes, const std::string& format) { return (sizes.numel() / sizes[0] * mx_bits(format) + 7) / 8; }
Shape scale_shape(Shape sizes, std::int64_t axis, const MXProductParams& p) {
  const bool nv = p.second == "NVFP4";
  const int at = static_cast<int>(axis < 0 ? axis + sizes.size() : axis);
  const std::int64_t block = nv ? 16 : p.block_size, blocks = (sizes[at] + block - 1) / block;
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
  const std::int64_t n = flat.size(1), bytes = (n * width + 7) / 8;
  Tensor r = empty({flat.size(0), bytes}, flat.options());
  for (std::int64_t i = 0; i < flat.size(0); ++i) r[i].copy_(fewbit_pack(flat[i], width).narrow(0, 0, bytes));
  return r;
}
Tensor unpack_rows(const Tensor& packed, int width, std::int64_t n) {
  if (width == 8) return packed;
  const std::int64_t whole = (n + 7) / 8 * width;
  Tensor r = empty({packed.size(0), n}, packed.options());
  for (std::int64_t i = 0; i < packed.size(0); ++i) {
    Tensor row = zeros({whole}, packed.options());
    row.narrow(0, 0, packed.size(1)).copy_(packed[i]);
    r[i].copy_(fewbit_unpack(row, width, n));
  }
  return r;
}
}  // namespace

void FrozenWeight::freeze(std::string_view who, const Tensor& weight, std::int64_t axis, const MXProductParams& p) const {
  DROPIN_CHECK(p.second != "none", OptionError, who, ": freeze: weight_format is none; there are no codes to keep");
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

Tensor FrozenWeight::thaw(const Shape& sizes, std::int64_t axis, const MXProductParams& p) const {
  no_grad guard;
  const Tensor c = unpack_rows(*codes, mx_bits(p.second), sizes.numel() / sizes[0]).reshape(sizes);
  if (p.second == "NVFP4") return dequantize_nvfp4(c.transpose(axis, -1).contiguous(), *scales, *tensor_scale).transpose(axis, -1).contiguous();
  return dequantize_mx(c, *scales, stored_params(axis, p));
}

void FrozenWeight::prepare(std::string_view who, Tensor& weight, const Shape& sizes, std::int64_t axis, const MXProductParams& p, const StateDict& state, const std::string& prefix) const {
  const Tensor c = state.find(prefix + "weight_codes"), s = state.find(prefix + "weight_scales");
  if (!c.defined()) {
    *codes = *scales = *tensor_scale = Tensor();
    if (!weight.defined() && state.contains(prefix + "weight")) {
      weight = zeros(sizes);
      weight.requires_grad_();
    }
    return;
  }
  DROPIN_CHECK(p.second != "none", StateError, who, ": ", prefix, "weight_codes is given, but weight_format is none");
  const Shape want{sizes[0], row_bytes(sizes, p.second)}, want_scales = scale_shape(sizes, axis, p);
  DROPIN_CHECK(c.dtype() == kUInt8 && c.sizes() == want, StateError, who, ": ", prefix, "weight_codes is ", c.dtype(), " ", c.sizes(), ", expected uint8 ", want, " for weight_format ", p.second);
  DROPIN_CHECK(s.defined() && s.dtype() == kUInt8 && s.sizes() == want_scales, StateError, who, ": ", prefix, "weight_scales is ", s.defined() ? s.sizes() : Shape{}, ", expected uint8 ",
               want_scales);
  if (!codes->defined()) {
    *codes = zeros(want, kUInt8);
    *scales = zeros(want_scales, kUInt8);
    if (p.second == "NVFP4") *tensor_scale = zeros({1});
  }
  weight = Tensor();
}

}  // namespace detail

namespace {
// Random rounding is for training.
MXProductParams in_mode(MXProductParams p, bool training) {
  if (!training && p.rounding == "stochastic") p.rounding = "even";
  return p;
}
}  // namespace

std::vector<std::string> MXLinear::examples() {
  return {R"({"weight_format": "MXFP4_E2M1", "act_format": "MXFP6_E2M3", "grad_format": "MXINT8", "block_size": 3, "rounding": "away", "scale_mode": "ceil"})",
          R"({"weight_format": "none", "act_format": "none", "quantize_backward": false, "bias": false})"};
}

MXLinear::MXLinear(const MXLinearOptions& o) : Component(o), params_(detail::mx_layer_params(o)) {
  DROPIN_CHECK(o.in_features > 0 && o.out_features > 0, OptionError, who(), ": in_features ", o.in_features, " and out_features ", o.out_features, " must be positive");
  check_mx(who(), params_);
  weight_ = &parameter("weight", init::default_uniform({o.out_features, o.in_features}, o.in_features));
  bias_ = &parameter("bias", o.bias ? init::default_uniform({o.out_features}, o.in_features) : Tensor());
  stored_ = {&buffer("weight_codes", Tensor()), &buffer("weight_scales", Tensor()), &buffer("weight_tensor_scale", Tensor())};
}

Tensor MXLinear::forward(const Tensor& x) {
  const auto& o = options_;
  DROPIN_CHECK(x.dim() > 0 && x.size(-1) == o.in_features, ShapeError, who(), ": x is ", x.sizes(), ", expected [*, ", o.in_features, "] because in_features = ", o.in_features);
  DROPIN_CHECK(!frozen() || !is_training(), StateError, who(), ": the weight is frozen; the layer cannot be trained");
  const Tensor w = frozen() ? stored_.thaw({o.out_features, o.in_features}, -1, params_) : *weight_;
  return mx_linear(x, w, *bias_, in_mode(params_, is_training()), frozen());
}

void MXLinear::freeze() {
  stored_.freeze(who(), *weight_, -1, params_);
  *weight_ = Tensor();
}

void MXLinear::translate_state(StateDict& state, const std::string& prefix, std::vector<std::string>&) const {
  stored_.prepare(who(), *weight_, {options_.out_features, options_.in_features}, -1, params_, state, prefix);
}

std::vector<std::string> MXConv2d::examples() {
  return {R"({"weight_format": "MXFP6_E3M2", "act_format": "MXINT8", "groups": 2, "stride": 2, "block_size": 3})"};
}

MXConv2d::MXConv2d(const MXConv2dOptions& o) : Component(o), conv_(o.conv()), params_(detail::mx_layer_params(o)) {
  detail::check_conv(who(), conv_);
  check_mx(who(), params_);
  const std::int64_t fan_in = o.in_channels / o.groups * o.kernel_size.h * o.kernel_size.w;
  weight_ = &parameter("weight", init::default_uniform(weight_sizes(), fan_in));
  bias_ = &parameter("bias", o.bias ? init::default_uniform({o.out_channels}, fan_in) : Tensor());
  stored_ = {&buffer("weight_codes", Tensor()), &buffer("weight_scales", Tensor()), &buffer("weight_tensor_scale", Tensor())};
}

Shape MXConv2d::weight_sizes() const {
  return {options_.out_channels, options_.in_channels / options_.groups, options_.kernel_size.h, options_.kernel_size.w};
}

Tensor MXConv2d::forward(const Tensor& x) {
  const auto& o = options_;
  DROPIN_CHECK(x.dim() == 4 && x.size(1) == o.in_channels, ShapeError, who(), ": x is ", x.sizes(), ", expected [B, ", o.in_channels, ", H, W]");
  DROPIN_CHECK(!frozen() || !is_training(), StateError, who(), ": the weight is frozen; the layer cannot be trained");
  const Tensor w = frozen() ? stored_.thaw(weight_sizes(), 1, params_) : *weight_;
  return mx_conv2d(x, w, *bias_, detail::conv_params(conv_, x.size(2), x.size(3)), in_mode(params_, is_training()), frozen());
}

void MXConv2d::freeze() {
  stored_.freeze(who(), *weight_, 1, params_);
  *weight_ = Tensor();
}

void MXConv2d::translate_state(StateDict& state, const std::string& prefix, std::vector<std::string>&) const {
  stored_.prepare(who(), *weight_, weight_sizes(), 1, params_, state, prefix);
}

MXMatmul::MXMatmul(const MXMatmulOptions& o) : Component(o) {
  params_ = {.first = o.a_format, .second = o.b_format, .grad = o.grad_format, .block_size = o.block_size, .rounding = o.rounding, .scale_mode = o.scale_mode,
             .quantize_backward = o.quantize_backward};
  check_mx(who(), params_);
}

Tensor MXMatmul::forward(const Tensor& a, const Tensor& b) { return mx_matmul(a, b, in_mode(params_, is_training())); }

}  // namespace dropin
