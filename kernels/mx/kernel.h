// Microscaling formats (OCP MX 1.0) and NVFP4. Arrays are contiguous; x is seen as [outer, n,
// inner], blocks of `block` values lie along n (the last may be shorter).
#pragma once
#include "dropin/abi/abi.h"

namespace dropin::kernels {

enum class MxFormat : std::int32_t { E4M3, E5M2, E3M2, E2M3, E2M1, Int8 };
enum class MxRounding : std::int32_t { Even, Away, Zero, Stochastic };

struct MxArgs {
  MxFormat format = MxFormat::E4M3;
  MxRounding rounding = MxRounding::Even;
  bool ceil_scale = false;  ///< the smallest scale at which nothing saturates
  bool packed = false;      ///< codes as a bit stream per row of bytes; inner is 1
  int64_t outer = 1, n = 0, inner = 1, block = 32;
};

/// x f32 or f64 -> codes U8 [outer, n, inner] (packed: [outer, ceil(n w / 8)]), scales U8 [outer,
/// ceil(n / block), inner]. u f32 in [0, 1), of x's size, for Stochastic; else data null.
DROPIN_KERNEL(mx_quantize, const MxArgs& a, const abi::TensorIn& x, const abi::TensorIn& u,
              const abi::TensorOut& codes, const abi::TensorOut& scales);
/// y f32. Fails when a code has bits above the format's width.
DROPIN_KERNEL(mx_dequantize, const MxArgs& a, const abi::TensorIn& codes,
              const abi::TensorIn& scales, const abi::TensorOut& y);
/// y = dequantize(quantize(x)), of x's dtype; y may be x.
DROPIN_KERNEL(mx_fake_quantize, const MxArgs& a, const abi::TensorIn& x, const abi::TensorIn& u,
              const abi::TensorOut& y);
/// NVFP4: x f32 [rows, n], blocks of 16 along n. codes U8 [rows, n] E2M1, scales U8 [rows, ceil(n /
/// 16)] E4M3, tensor_scale f32 [1]. A block with NaN or Inf: scale NaN, codes 0.
DROPIN_KERNEL(nvfp4_quantize, const abi::TensorIn& x, const abi::TensorOut& codes,
              const abi::TensorOut& scales, const abi::TensorOut& tensor_scale);
DROPIN_KERNEL(nvfp4_dequantize, const abi::TensorIn& codes, const abi::TensorIn& scales,
              const abi::TensorIn& tensor_scale, const abi::TensorOut& y);

}  // namespace dropin::kernels
