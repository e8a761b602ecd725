// Microscaling (MX) formats: 4 to 8 bits per value and one power-of-two scale per block (Rouhani et
// al. 2023, arXiv 2310.10537; OCP MX 1.0), and NVFP4.
#pragma once
#include <string>

#include "dropin/ops/conv.h"

namespace dropin {

/// The formats by their names. An MX block is block_size values along an axis that share a scale:
/// value = 2^(scale - 127) element, with scale - 127 = floor(log2 max|x|) - (exponent of the
/// element's largest value), and elements rounded to nearest, beyond the largest value saturated.
/// Called by name, a format gives the codes, the scales and y, the values that they stand for
/// (float32).
/// - MXFP8_E4M3: Elements of 1 sign, 4 exponent and 3 mantissa bits: to 448, smallest normal 2^-6,
/// steps of 2^-9 below it. 8.25 bits per value.
/// - MXFP8_E5M2: Elements of 1 sign, 5 exponent and 2 mantissa bits: to 57344, smallest normal
/// 2^-14, steps of 2^-16 below it. 8.25 bits per value.
/// - MXFP6_E3M2: Elements of 1 sign, 3 exponent and 2 mantissa bits: to 28, smallest normal 2^-2,
/// steps of 2^-4 below it. 6.25 bits per value.
/// - MXFP6_E2M3: Elements of 1 sign, 2 exponent and 3 mantissa bits: to 7.5, smallest normal 1,
/// steps of 2^-3 below it. 6.25 bits per value.
/// - MXFP4_E2M1: Elements of 1 sign, 2 exponent and 1 mantissa bit: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and
/// their negatives. 4.25 bits per value.
/// - MXINT8: Elements of 8 bits in two's complement, code / 64, from -127 / 64 to 127 / 64. 8.25
/// bits per value.
/// - NVFP4: 4-bit elements as in MXFP4_E2M1, one E4M3 scale per 16 values of the last axis, one
/// float32 scale for the tensor, max|x| / (6 448): value = element scale tensor_scale. 4.5 bits per
/// value.
/// - fp32: x as float32: codes and y are its values.
/// - bf16: The upper 16 bits of a float32, rounded to nearest even: 8 exponent bits as float32, 7
/// of mantissa.
/// - int8: code = round(x / scale) within [-127, 127], one scale = max|x| / 127 for the whole
/// tensor: what the block formats are compared with.
struct MXParams {
  std::string format = "MXFP8_E4M3";
  int64_t axis = -1;  ///< blocks lie along it; the last may be shorter
  int64_t block_size = 32;
  std::string rounding = "even";  ///< "even", "away" (from zero), "zero" (truncates), "stochastic"
  std::string scale_mode =
      "floor";  ///< "floor", or "ceil": the smallest scale at which nothing saturates
};
/// codes U8 (x's shape, low bits; packed: the last dimension ceil(n w / 8)), scales U8 E8M0 (x's
/// shape with `axis` replaced by its number of blocks).
struct MXTensor {
  Tensor codes, scales;
};
struct NVFP4Tensor {
  Tensor codes,
      scales;           ///< U8: E2M1 codes of x's shape, E4M3 scales per 16 values of the last axis
  Tensor tensor_scale;  ///< F32 [1]
};

/// Bits per code of a format. OptionError for an unknown one.
int mx_bits(const std::string& format);
/// Codes and scales of x (equation as above). A block with NaN or Inf: scale 255, codes 0. packed
/// (last axis only): one little-endian bit stream per row. x f32 or f64 (16-bit types as f32). Not
/// differentiable.
MXTensor quantize_mx(const Tensor& x, const MXParams& p = {}, bool packed = false);
/// 2^(scale - 127) element, F32. size: length of the last axis, needed when packed. ShapeError when
/// codes and scales do not fit; Error when a code has bits above the format's width.
Tensor dequantize_mx(const Tensor& codes, const Tensor& scales, const MXParams& p = {},
                     bool packed = false, int64_t size = 0);
/// Codes and scales of NVFP4, 16 values of the last axis per scale: T = max|x| / 2688, scale =
/// E4M3(max_block|x| / 6 / T), code = E2M1(x / (scale T)), all to nearest even. x f32 or f64. Not
/// differentiable.
NVFP4Tensor quantize_nvfp4(const Tensor& x);
/// value = element scale tensor_scale, F32 of the codes' shape. ShapeError when codes and scales do
/// not fit.
Tensor dequantize_nvfp4(const Tensor& codes, const Tensor& scales, const Tensor& tensor_scale);
/// dequantize(quantize(x)) of x's dtype in one pass; the gradient goes straight through. Also NVFP4
/// (any axis) and none (x itself).
Tensor fake_quantize_mx(const Tensor& x, const MXParams& p = {});

/// What the layers quantize: operands of the forward product, of the backward products, and the
/// gradient.
struct MXProductParams {
  std::string first = "MXFP8_E4M3", second = "MXFP8_E4M3",
              grad = "MXFP8_E5M2";  ///< x and weight, or a and b
  std::string first_bp, second_bp;  ///< empty: as forward
  int64_t block_size = 32;
  std::string rounding = "even", scale_mode = "floor";
  bool quantize_backward = true;
};
/// y = Q(x, -1) Q(w, -1)^T + bias; gradients Q(gy, -1) Q'(w, 0) and Q(gy, -2)^T Q'(x, -2), leading
/// dimensions flattened after quantization. Keeps x and w themselves. frozen: w is quantized
/// already and takes no gradient.
Tensor mx_linear(const Tensor& x, const Tensor& w, const Tensor& bias, const MXProductParams& p,
                 bool frozen = false);
/// y = conv(Q(x, 1), Q(w, 1)) + bias; gradients conv^T(Q(gy, 1), Q'(w, 0)) and the correlation of
/// Q'(x, 0) with Q(gy, 0).
Tensor mx_conv2d(const Tensor& x, const Tensor& w, const Tensor& bias, const ConvParams& conv,
                 const MXProductParams& p, bool frozen = false);
/// y = Q(a, -1) Q(b, -2) for a [.., M, K], b [.., K, N] of the same batch dimensions or b [K, N];
/// gradients Q(gy, -1) Q(b, -1)^T and Q(a, -2)^T Q(gy, -2).
Tensor mx_matmul(const Tensor& a, const Tensor& b, const MXProductParams& p);
/// OptionError naming `who` unless every format, rounding, mode and block size is known.
void check_mx(std::string_view who, const MXProductParams& p);

}  // namespace dropin
