// Normalisations.
#pragma once
#include "dropin/autograd/autograd.h"

namespace dropin {

/// Over the last `normalized.size()` dimensions; weight and bias of those sizes or undefined.
Tensor layer_norm(const Tensor& x, const Shape& normalized, const Tensor& weight = {},
                  const Tensor& bias = {}, double eps = 1e-5);
/// x / sqrt(mean(x^2) + eps) * weight over the last dimension.
Tensor rms_norm(const Tensor& x, const Tensor& weight = {}, double eps = 1e-6);
/// x [B, C, *], statistics per sample and group of channels; weight, bias [C] or undefined.
Tensor group_norm(const Tensor& x, int64_t groups, const Tensor& weight = {},
                  const Tensor& bias = {}, double eps = 1e-5);
/// x [B, C, *]. training: batch statistics, and running_* (if defined) move towards them by
/// momentum (unbiased variance); otherwise running statistics. ShapeError when training with one
/// value per channel.
Tensor batch_norm(const Tensor& x, const Tensor& running_mean, const Tensor& running_var,
                  const Tensor& weight, const Tensor& bias, bool training, double momentum = 0.1,
                  double eps = 1e-5);

namespace plain {  // the definitions: oracle, fallback, and the way to second derivatives
Tensor layer_norm(const Tensor& x, const Shape& normalized, const Tensor& weight,
                  const Tensor& bias, double eps);
Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps);
Tensor batch_norm_train(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps);
}  // namespace plain

}  // namespace dropin
