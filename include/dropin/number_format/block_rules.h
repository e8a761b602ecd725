// Blocks of small floats with a scale each, by the rules of other libraries.
#pragma once
#include <string>
#include <vector>

#include "dropin/ops/microscaling.h"

namespace dropin {

/// One library's way from 32 values to 32 codes and a scale byte, 2^(byte - 127). Where they
/// differ, for a block of greatest magnitude m, and `largest` the greatest value of the elements:
/// | rule | scale exponent | ties | zeros | NaN, inf | byte 0 |
/// | --- | --- | --- | --- | --- | --- |
/// | ocp (ours, quantize_mx) | floor(log2 m) - emax | even | 0 | byte 255 | 2^-127 |
/// | torchao.floor | floor(log2 m) - emax | even | 0 | NaN: 255 | halves what is tiny |
/// | torchao.ceil | one more unless m is a power of two | even | 0 | NaN: 255 | as floor |
/// | torchao.even | of m rounded to the elements' mantissa | even | 0 | NaN: 255 | as floor |
/// | torchao.rceil | ceil(log2(m / largest)) | even | 0 | NaN: 255 | values are not scaled |
/// | gguf (E2M1 only) | floor(log2 m) - 2, wraps below 2^-125 | to zero | 0 | zeros | 2^-127 |
/// | mlx (E2M1 only) | ceil(log2(m / 6)), wraps below -127 | to zero | 127 | byte 128, zeros |
/// 2^-127 | Versions: torchao 0.18.0, gguf 0.19.0, mlx 0.32.4.
const std::vector<std::string>& block_rules();

/// Codes and scales of x [.., n], n a multiple of 32, in blocks of the last axis. element: F8_E4M3,
/// F8_E5M2, F6_E2M3, F6_E3M2 or F4. codes U8 of x's shape, one a byte; scales U8 [.., n / 32]. x is
/// read as float32. Not differentiable. OptionError, ShapeError.
MXTensor quantize_blocks(const Tensor& x, const std::string& element,
                         const std::string& rule = "ocp");
/// code 2^(scale - 127), float32. Byte 255 is NaN, by the rule gguf 2^128; code 8 of
/// F4 is +0 by gguf, otherwise -0.
Tensor dequantize_blocks(const Tensor& codes, const Tensor& scales, const std::string& element,
                         const std::string& rule = "ocp");

/// NVFP4 as torchao (0.18.0): scale = E4M3(clip(m / 6, 2^-6, 448)) for 16 values of greatest
/// magnitude m, or of m / 6 / p with a scale p of the whole tensor (max / 2688; 0: none). codes U8
/// of x's shape, scales U8 (E4M3) [.., n / 16]. OptionError, ShapeError.
MXTensor quantize_nvfp4_torchao(const Tensor& x, float per_tensor_scale = 0);
/// code (per_tensor_scale scale), float32; 0: code scale.
Tensor dequantize_nvfp4_torchao(const Tensor& codes, const Tensor& scales,
                                float per_tensor_scale = 0);

}  // namespace dropin
