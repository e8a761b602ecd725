// Microscaling (MX) formats: 4 to 8 bits per value and one power-of-two scale per block (Rouhani et al. 2023, arXiv 2310.10537; OCP MX 1.0), and NVFP4.
#pragma once
#include <string>

#include "dropin/ops/conv.h"

namespace dropin {

/// format: MXFP8_E4M3, MXFP8_E5M2, MXFP6_E3M2, MXFP6_E2M3, MXFP4_E2M1 or MXINT8 (where layers say so also NVFP4, none).
struct MXParams {
  std::string format = "MXFP8_E4M3";
  std::int64_t axis = -1;          ///< blocks lie along it; the last may be shorter
  std::int64_t block_size = 32;
  std::string rounding = "even";   ///< "even", "away" (from zero), "zero" (truncates), "stochastic"
  std::string scale_mode = "floor";  ///< "floor", or "ceil": the smallest scale at which nothing saturates
};
/// codes U8 (x's shape, low bits; packed: the last dimension ceil(n w / 8)), scales U8 E8M0 (x's shape with `axis` replaced by its number of blocks).
struct MXTensor {
  Tensor codes, scales;
};
struct NVFP4Tensor {
  Tensor codes, scales;  ///< U8: E2M1 codes of x's shape, E4M3 scales per 16 values of the last axis
  Tensor tensor_scale;   ///< F32 [1]
};

/// Bits per code of a format. OptionError for an unknown one.
int mx_bits(const std::string& format);
/// A block with NaN or Inf: scale 255, codes 0. packed (last axis only): one little-endian bit stream per row. x f32 or f64 (16-bit types as f32). Not differentiable.
MXTensor quantize_mx(const Tensor& x, const MXParams& p = {}, bool packed = false);
/// F32. size: length of the last axis, needed when packed. ShapeError when codes and scales do not fit; Error when a code has bits above the format's width.
Tensor dequantize_mx(const Tensor& codes, const Tensor& scales, const MXParams& p = {}, bool packed = false, std::int64_t size = 0);
NVFP4Tensor quantize_nvfp4(const Tensor& x);
Tensor dequantize_nvfp4(const Tensor& codes, const Tensor& scales, const Tensor& tensor_scale);
/// dequantize(quantize(x)) of x's dtype in one pass; the gradient goes straight through. Also NVFP4 (any axis) and none (x itself).
Tensor fake_quantize_mx(const Tensor& x, const MXParams& p = {});

/// What the layers quantize: operands of the forward product, of the backward products, and the gradient.
struct MXProductParams {
  std::string first = "MXFP8_E4M3", second = "MXFP8_E4M3", grad = "MXFP8_E5M2";  ///< x and weight, or a and b
  std::string first_bp, second_bp;  ///< empty: as forward
  std::int64_t block_size = 32;
  std::string rounding = "even", scale_mode = "floor";
  bool quantize_backward = true;
};
/// y = Q(x, -1) Q(w, -1)^T + bias; gradients Q(gy, -1) Q'(w, 0) and Q(gy, -2)^T Q'(x, -2), leading dimensions flattened after quantization. Keeps x and w themselves.
/// frozen: w is quantized already and takes no gradient.
Tensor mx_linear(const Tensor& x, const Tensor& w, const Tensor& bias, const MXProductParams& p, bool frozen = false);
/// y = conv(Q(x, 1), Q(w, 1)) + bias; gradients conv^T(Q(gy, 1), Q'(w, 0)) and the correlation of Q'(x, 0) with Q(gy, 0).
Tensor mx_conv2d(const Tensor& x, const Tensor& w, const Tensor& bias, const ConvParams& conv, const MXProductParams& p, bool frozen = false);
/// y = Q(a, -1) Q(b, -2) for a [.., M, K], b [.., K, N] of the same batch dimensions or b [K, N]; gradients Q(gy, -1) Q(b, -1)^T and Q(a, -2)^T Q(gy, -2).
Tensor mx_matmul(const Tensor& a, const Tensor& b, const MXProductParams& p);
/// OptionError naming `who` unless every format, rounding, mode and block size is known.
void check_mx(std::string_view who, const MXProductParams& p);

}  // namespace dropin
