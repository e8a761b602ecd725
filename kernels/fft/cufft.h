// cuFFT, opened when first asked for.
#pragma once
#include "kernels/cuda/device.h"

namespace dropin::kernels::cuda {

/// In place: `count` complex transforms of n that lie one after the other, f32 or f64.
/// kUnsupported: cuFFT is not there; nothing was done.
Status cufft_complex(const KernelContext& c, bool wide, void* data, int64_t n, int64_t count,
                     bool inverse);

}  // namespace dropin::kernels::cuda
