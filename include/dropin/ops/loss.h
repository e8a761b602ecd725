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
/// torch.nn.functional.smooth_l1_loss: 0.5 d^2 / beta where |d| < beta, else |d| - 0.5 beta; beta 0
/// is l1_loss. OptionError on a negative beta.
Tensor smooth_l1_loss(const Tensor& x, const Tensor& y, std::string_view reduction = "mean",
                      double beta = 1);
/// torch.nn.functional.huber_loss: delta times smooth_l1_loss with beta = delta. OptionError unless
/// delta is above 0.
Tensor huber_loss(const Tensor& x, const Tensor& y, std::string_view reduction = "mean",
                  double delta = 1);
/// torch.nn.functional.kl_div of log-probabilities x from the target's probabilities (or their
/// logarithms): target (log target - x), 0 where the target is 0. reduction also "batchmean", the
/// sum over x.size(0).
Tensor kl_div(const Tensor& x, const Tensor& target, std::string_view reduction = "mean",
              bool log_target = false);
/// Zeroes with probability p and scales the rest by 1/(1-p) when training.
Tensor dropout(const Tensor& x, double p, bool training, Generator* g = nullptr);

}  // namespace dropin
