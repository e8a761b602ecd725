// Block-wise 8-bit quantization with the dynamic map (Dettmers et al. 2022, section 2).
#pragma once
#include "dropin/tensor/tensor.h"

namespace dropin {

/// One byte per value and one float per block.
struct Blockwise {
  Tensor codes;   ///< uint8, the shape of x
  Tensor absmax;  ///< float32 [ceil(numel / block_size)]
};

/// The 256 values of the dynamic map, float32, ascending; code = index. Decade i = 0..6 holds n =
/// 2^i values (2^(i+1) when unsigned) at 10^(i-6) (0.1 + 0.9 (j + 1/2) / n), j = 0..n-1, signed
/// also their negatives; and 0 and 1 (Dettmers et al. 2022, section 1.3).
Tensor create_dynamic_map(bool is_signed = true);
/// x (floating, any shape; row-major order) -> the codes of the entries nearest to x / absmax of
/// its block; on a tie the even code. Values that are not finite count as 0. Not differentiable.
/// DTypeError for integers, OptionError when block_size < 1.
Blockwise quantize_blockwise(const Tensor& x, bool is_signed = true, int64_t block_size = 256);
/// float32 of codes' shape. DTypeError, ShapeError when absmax has not one value per block.
Tensor dequantize_blockwise(const Tensor& codes, const Tensor& absmax, bool is_signed = true,
                            int64_t block_size = 256);

}  // namespace dropin
