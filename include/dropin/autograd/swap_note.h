// A mark that swap() leaves on parameters, for the optimizers that hold them.
#pragma once
#include <cstdint>
#include <memory>
#include <string>

#include "dropin/tensor/tensor.h"

namespace dropin {

/// What a swap() did to the model of a parameter.
struct SwapNote {
  std::uint64_t number = 0;  ///< of the swap, counted from 1 in this process
  std::string text;          ///< what happened and what to do, as a part of a sentence
};
/// Counts a swap; its number.
std::uint64_t count_swap();
/// The number of the last swap.
std::uint64_t swaps_so_far();
/// Hangs the note on the parameter, in place of an older one. Copies of the handle share it; clones
/// do not.
void note_swap(const Tensor& parameter, std::shared_ptr<const SwapNote> note);
/// The parameter's note, or null.
std::shared_ptr<const SwapNote> swap_note(const Tensor& parameter);

}  // namespace dropin
