// Tensors in the formats of microscaling, and back.
#include "dropin/ops/microscaling.h"

#include "kernels/mx/kernel.h"
#include "kernels/mx/scalar.h"
#include "ops/common.h"
#include "ops/mx.h"

namespace dropin {

namespace {

using kernels::MxArgs;
using kernels::MxFormat;
using kernels::MxRounding;

constexpr const char* kFormats[] = {"MXFP8_E4M3", "MXFP8_E5M2", "MXFP6_E3M2",
                                    "MXFP6_E2M3", "MXFP4_E2M1", "MXINT8"};
constexpr const char* kRoundings[] = {"even", "away", "zero", "stochastic"};

template <class E, std::size_t N>
E find_name(std::string_view who, const char* what, const std::string& name,
            const char* const (&known)[N]) {
  std::string all;
  for (std::size_t i = 0; i < N; ++i) {
    if (name == known[i]) return static_cast<E>(i);
    all += (i ? ", " : "") + std::string(known[i]);
  }
  fail<OptionError>({who, ": ", what, " is \"", name, "\", expected one of ", all});
}

// Checks p for a tensor of these sizes; the last axis of a scalar is an axis of 1.
MxArgs args_for(std::string_view who, const MXParams& p, const Shape& sizes) {
  MxArgs a;
  a.format = find_name<MxFormat>(who, "format", p.format, kFormats);
  a.rounding = find_name<MxRounding>(who, "rounding", p.rounding, kRoundings);
  DROPIN_CHECK(p.scale_mode == "floor" || p.scale_mode == "ceil", OptionError, who,
               ": scale_mode is \"", p.scale_mode, "\", expected floor or ceil");
  DROPIN_CHECK(p.block_size >= 1, OptionError, who, ": block_size is ", p.block_size,
               ", expected at least 1");
  DROPIN_CHECK(sizes.size() > 0, ShapeError, who,
               ": x is a scalar, expected at least one dimension");
  DROPIN_CHECK(p.axis >= -sizes.size() && p.axis < sizes.size(), OptionError, who, ": axis is ",
               p.axis, ", expected ", -sizes.size(), " to ", sizes.size() - 1, " for ", sizes);
  const int axis = static_cast<int>(p.axis < 0 ? p.axis + sizes.size() : p.axis);
  a.ceil_scale = p.scale_mode == "ceil";
  a.block = p.block_size;
  a.n = sizes[axis];
  for (int i = 0; i < axis; ++i) a.outer *= sizes[i];
  for (int i = axis + 1; i < sizes.size(); ++i) a.inner *= sizes[i];
  a.block = std::min(a.block, std::max<int64_t>(a.n, 1));
  return a;
}
int axis_of(const MXParams& p, const Shape& sizes) {
  return static_cast<int>(p.axis < 0 ? p.axis + sizes.size() : p.axis);
}
Shape scale_sizes(Shape sizes, int axis, int64_t block) {
  sizes[axis] = (sizes[axis] + block - 1) / block;
  return sizes;
}
Tensor randoms(const MxArgs& a, const Tensor& x) {
  return a.rounding == MxRounding::Stochastic ? rand(x.sizes(), {kFloat32, x.device()}) : Tensor();
}
abi::TensorIn in(const Tensor& t) { return t.defined() ? t.in() : abi::TensorIn{}; }

}  // namespace

int mx_bits(const std::string& format) {
  if (format == "NVFP4") return 4;
  return kernels::mx_traits(find_name<MxFormat>("mx_bits", "format", format, kFormats)).width;
}

MXTensor quantize_mx(const Tensor& x_, const MXParams& p, bool packed) {
  ops_detail::need_floating("quantize_mx", x_);
  MxArgs a = args_for("quantize_mx", p, x_.sizes());
  const int axis = axis_of(p, x_.sizes());
  DROPIN_CHECK(!packed || axis == x_.dim() - 1, OptionError,
               "quantize_mx: packed needs the last axis, axis is ", p.axis);
  no_grad guard;
  const Tensor x = ops_detail::prepared(x_.detach());
  Shape code_sizes = x.sizes();
  a.packed = packed;
  const int width = kernels::mx_traits(a.format).width;
  if (packed) code_sizes[axis] = (code_sizes[axis] * width + 7) / 8;
  MXTensor r{empty(code_sizes, {kUInt8, x.device()}),
             empty(scale_sizes(x.sizes(), axis, p.block_size), {kUInt8, x.device()})};
  run<kernels::mx_quantize>(x.device(), a, x.in(), in(randoms(a, x)), r.codes.out(),
                            r.scales.out());
  return r;
}

Tensor dequantize_mx(const Tensor& codes_, const Tensor& scales_, const MXParams& p, bool packed,
                     int64_t size) {
  DROPIN_CHECK(codes_.dtype() == kUInt8 && scales_.dtype() == kUInt8, DTypeError,
               "dequantize_mx: codes are ", codes_.dtype(), " and scales ", scales_.dtype(),
               ", expected uint8");
  Shape sizes = codes_.sizes();
  DROPIN_CHECK(sizes.size() > 0, ShapeError,
               "dequantize_mx: codes are a scalar, expected at least one dimension");
  if (packed) {
    const int64_t bytes = sizes[sizes.size() - 1];
    const int width = mx_bits(p.format);
    DROPIN_CHECK(size >= 0 && (size * width + 7) / 8 == bytes, ShapeError,
                 "dequantize_mx: codes are ", codes_.sizes(), ", expected a last dimension of ",
                 (size * width + 7) / 8, " for size ", size, " in ", p.format);
    sizes[sizes.size() - 1] = size;
  }
  MxArgs a = args_for("dequantize_mx", p, sizes);
  const int axis = axis_of(p, sizes);
  DROPIN_CHECK(!packed || axis == sizes.size() - 1, OptionError,
               "dequantize_mx: packed needs the last axis, axis is ", p.axis);
  DROPIN_CHECK(scales_.sizes() == scale_sizes(sizes, axis, p.block_size), ShapeError,
               "dequantize_mx: codes are ", codes_.sizes(), " and scales ", scales_.sizes(),
               ", expected scales of ", scale_sizes(sizes, axis, p.block_size));
  a.packed = packed;
  const Tensor codes = codes_.contiguous(), scales = scales_.contiguous();
  Tensor y = empty(sizes, {kFloat32, codes.device()});
  run<kernels::mx_dequantize>(y.device(), a, codes.in(), scales.in(), y.out());
  return y;
}

NVFP4Tensor quantize_nvfp4(const Tensor& x_) {
  ops_detail::need_floating("quantize_nvfp4", x_);
  DROPIN_CHECK(x_.dim() > 0, ShapeError,
               "quantize_nvfp4: x is a scalar, expected at least one dimension");
  no_grad guard;
  const Tensor x = x_.detach().to(kFloat32).contiguous();
  NVFP4Tensor r{
      empty(x.sizes(), {kUInt8, x.device()}),
      empty(scale_sizes(x.sizes(), static_cast<int>(x.dim()) - 1, 16), {kUInt8, x.device()}),
      empty({1}, x.options())};
  run<kernels::nvfp4_quantize>(x.device(), x.in(), r.codes.out(), r.scales.out(),
                               r.tensor_scale.out());
  return r;
}

Tensor dequantize_nvfp4(const Tensor& codes_, const Tensor& scales_, const Tensor& tensor_scale) {
  DROPIN_CHECK(codes_.dtype() == kUInt8 && scales_.dtype() == kUInt8, DTypeError,
               "dequantize_nvfp4: codes are ", codes_.dtype(), " and scales ", scales_.dtype(),
               ", expected uint8");
  DROPIN_CHECK(
      codes_.dim() > 0 &&
          scales_.sizes() == scale_sizes(codes_.sizes(), static_cast<int>(codes_.dim()) - 1, 16),
      ShapeError, "dequantize_nvfp4: codes are ", codes_.sizes(), " and scales ", scales_.sizes(),
      ", expected a scale per 16 codes of the last axis");
  DROPIN_CHECK(tensor_scale.numel() == 1 && is_floating(tensor_scale.dtype()), ShapeError,
               "dequantize_nvfp4: tensor_scale is ", tensor_scale.sizes(), ", expected one float");
  const Tensor codes = codes_.contiguous(), scales = scales_.contiguous(),
               t = tensor_scale.detach().to(kFloat32).contiguous().reshape({1});
  Tensor y = empty(codes.sizes(), {kFloat32, codes.device()});
  run<kernels::nvfp4_dequantize>(y.device(), codes.in(), scales.in(), t.in(), y.out());
  return y;
}

Tensor ops_detail::mx_quantized(const Tensor& x_, const MXParams& p) {
  if (p.format == "none") return x_.detach();
  if (p.format == "NVFP4") {
    DROPIN_CHECK(x_.dim() > 0 && p.axis >= -x_.dim() && p.axis < x_.dim(), OptionError,
                 "NVFP4: axis is ", p.axis, " for a tensor of ", x_.sizes());
    const Tensor t = x_.detach().transpose(p.axis, -1);
    const NVFP4Tensor q = quantize_nvfp4(t);
    return dequantize_nvfp4(q.codes, q.scales, q.tensor_scale)
        .to(x_.dtype())
        .transpose(p.axis, -1)
        .contiguous();
  }
  const MxArgs a = args_for("fake_quantize_mx", p, x_.sizes());
  const Tensor x = ops_detail::prepared(x_.detach());
  Tensor y = empty_like(x);
  run<kernels::mx_fake_quantize>(x.device(), a, x.in(), in(randoms(a, x)), y.out());
  return y.to(x_.dtype());
}

Tensor fake_quantize_mx(const Tensor& x, const MXParams& p) {
  ops_detail::need_floating("fake_quantize_mx", x);
  return record("fake_quantize_mx", ops_detail::mx_quantized(x, p), {x}, {},
                [](const Saved&, const Tensor& g) -> Tensors { return {g}; });
}

void check_mx(std::string_view who, const MXProductParams& p) {
  for (const std::string* f : {&p.first, &p.second, &p.grad, &p.first_bp, &p.second_bp})
    if (!f->empty() && *f != "none" && *f != "NVFP4")
      find_name<MxFormat>(who, "a format", *f, kFormats);
  find_name<MxRounding>(who, "rounding", p.rounding, kRoundings);
  DROPIN_CHECK(p.scale_mode == "floor" || p.scale_mode == "ceil", OptionError, who,
               ": scale_mode is \"", p.scale_mode, "\", expected floor or ceil");
  DROPIN_CHECK(p.block_size >= 1, OptionError, who, ": block_size is ", p.block_size,
               ", expected at least 1");
}

}  // namespace dropin
