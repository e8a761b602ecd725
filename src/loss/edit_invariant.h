// What EditInvariantSequenceLoss asks of its inputs before any work.
#pragma once
#include "dropin/loss/sequence_loss.h"

namespace dropin::edit_invariant {

inline constexpr const char* kWho = "EditInvariantSequenceLoss";
using Rows = std::vector<std::vector<bool>>;  ///< a flag per sample and position

void check_options(const EditInvariantSequenceLossOptions& o);
void check_inputs(const Tensor& logits, const Tensor& target, const EditInvariantArgs& args,
                  const EditInvariantSequenceLossOptions& o);
/// Where the mask, which may be undefined, is false.
Rows valid_rows(const Tensor& mask, int64_t batch, int64_t length);
/// Targets that count, whose ids are checked.
Rows valid_targets(const Tensor& target, const Tensor& mask, int64_t vocabulary,
                   int64_t ignore_index);
void check_valid_logits(const Tensor& logits, const Rows& valid);

}  // namespace dropin::edit_invariant
