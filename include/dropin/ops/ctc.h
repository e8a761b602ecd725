// Connectionist temporal classification.
#pragma once
#include <string_view>

#include "dropin/autograd/autograd.h"

namespace dropin {

/// torch.nn.functional.ctc_loss (Graves et al. 2006): minus the log-probability of each target
/// under all its alignments with blanks. log_probs [T, N, C] (or [T, C]), log-softmax over C;
/// targets int64 [N, S], or one after another [sum of lengths]; input_lengths, target_lengths int64
/// [N]. "mean" divides each loss by its target's length (at least 1) first. zero_infinity: targets
/// that no alignment of that length holds give 0, with gradient 0, instead of infinity. OptionError
/// for lengths that do not fit and targets that are blank or not below C. Computed on the CPU, in
/// float64 inside; not for second derivatives (AutogradError).
Tensor ctc_loss(const Tensor& log_probs, const Tensor& targets, const Tensor& input_lengths,
                const Tensor& target_lengths, int64_t blank = 0,
                std::string_view reduction = "mean", bool zero_infinity = false);

}  // namespace dropin
