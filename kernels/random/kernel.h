// Random numbers from Philox4x32-10, counter-based: element i depends on (seed, offset, i) only,
// whatever the thread count or device.
#pragma once
#include "dropin/abi/abi.h"

namespace dropin::kernels {

enum class Distribution : std::int32_t {
  Uniform /* [a, b) */,
  Normal /* mean a, std b; Box-Muller */,
  Bernoulli /* P(1) = a */,
  Integer /* a..b-1 */
};

/// Fills contiguous y. Element i uses word i % 4 of the block with counter offset + i / 4 (Normal:
/// pairs of words of that block; f64 and Integer: two words an element, so i / 2). Bernoulli into
/// integers and bool: one word. The caller advances its offset by ceil(numel / 4) (f64, Integer: /
/// 2) blocks.
DROPIN_KERNEL(random_fill, Distribution d, double a, double b, std::uint64_t seed,
              std::uint64_t offset, const abi::TensorOut& y);
/// y = x * keep / (1 - p), keep Bernoulli(1 - p), one word an element whatever the dtype (the mask
/// is the same for all); mask (Bool) receives keep.
DROPIN_KERNEL(dropout, const abi::TensorIn& x, double p, std::uint64_t seed, std::uint64_t offset,
              const abi::TensorOut& y, const abi::TensorOut& mask);

}  // namespace dropin::kernels
