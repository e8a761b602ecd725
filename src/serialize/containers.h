// The readers behind load_state(), one per container.
#pragma once
#include <memory>

#include "dropin/serialize/state_file.h"
#include "serialize/byte_source.h"

namespace dropin::serialize_detail {

using Source = std::shared_ptr<const ByteSource>;

/// A GGUF file of version 2 or 3, or any one file of a split model with the others beside it.
StateFile read_gguf(const Source& file);
/// What torch.save writes: a zip archive, or the form of before torch 1.6.
StateFile read_torch_archive(const Source& file);
StateFile read_legacy_torch(const Source& file);
/// NumPy's zip archive of .npy members, named without their ending; what are no numbers (texts,
/// objects) is listed with its dtype and refused when it is read.
StateFile read_npz(const Source& file);
/// A file of one array, named "arr_0" as np.savez does.
StateFile read_npy_state(const Source& file);
/// A zip archive: torch.save's or NumPy's, by its members.
StateFile read_zip_state(const Source& file);

}  // namespace dropin::serialize_detail
