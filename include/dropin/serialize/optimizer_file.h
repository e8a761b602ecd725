// Optimizer states of PyTorch and bitsandbytes.
#pragma once
#include <string>

#include "dropin/optimizer/optimizer.h"
#include "dropin/serialize/state_file.h"

namespace dropin {

/// The state that a file holds of an optimizer, as optimizer.load_state_dict() takes it: what
/// torch.save(optimizer.state_dict(), PATH) wrote, or a dict in which that lies under `prefix`
/// ("optimizer"), or the same in flat names with param_groups as JSON in a safetensors' metadata.
/// bitsandbytes (0.50.2) keeps one-byte states under "__bnb_optimizer_quant_state__"; their codes
/// are ours, of the same dynamic map. Options that this optimizer does not have are left out where
/// they are off (null, false, 0), otherwise StateError naming them. StateError too for another
/// map; FileError when there is no such state.
StateDict read_optimizer_state(const StateFile& file, const Optimizer& optimizer,
                               const std::string& prefix = "");
/// The state of an 8-bit optimizer in bitsandbytes' names, flat: state.0.step,
/// state.0.__bnb_optimizer_quant_state__.state1, absmax1, qmap1, ...; in Python a dict of dicts by
/// the dots, integer keys as integers, loads into the same optimizer there. Small states stay F32,
/// as theirs.
StateDict bitsandbytes_state(const Optimizer& optimizer);

}  // namespace dropin
