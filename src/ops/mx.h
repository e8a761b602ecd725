// What the files of microscaling share.
#pragma once
#include "dropin/ops/microscaling.h"

namespace dropin::ops_detail {

/// Off the tape: dequantize(quantize(x)) along an axis.
Tensor mx_quantized(const Tensor& x, const MXParams& p);

}  // namespace dropin::ops_detail
