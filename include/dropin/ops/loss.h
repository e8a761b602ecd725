// Losses and dropout. reduction: "mean", "sum" or "none".
#pragma once
#include <string_view>

#include "dropin/autograd/autograd.h"

namespace dropin {

/// logits [N, C] or [N, C, *], target int64 class ids [N] or [N, *]; PyTorch's label smoothing,
/// ignore_index and class weights.
Tensor cross_entropy(const Tensor& logits, const Tensor& target, const Tensor& weight = {},
                     std::string_view reduction = "mean", int64_t ignore_index = -100,
                     double label_smoothing = 0);
Tensor nll_loss(const Tensor& log_probs, const Tensor& target, std::string_view reduction = "mean");
Tensor mse_loss(const Tensor& x, const Tensor& y, std::string_view reduction = "mean");
Tensor l1_loss(const Tensor& x, const Tensor& y, std::string_view reduction = "mean");
Tensor binary_cross_entropy(const Tensor& p, const Tensor& target,
                            std::string_view reduction = "mean");
Tensor binary_cross_entropy_with_logits(const Tensor& x, const Tensor& target,
                                        std::string_view reduction = "mean");
/// Zeroes with probability p and scales the rest by 1/(1-p) when training.
Tensor dropout(const Tensor& x, double p, bool training, Generator* g = nullptr);

}  // namespace dropin
