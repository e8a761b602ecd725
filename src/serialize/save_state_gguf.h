// The GGUF half of save_state().
#pragma once
#include "dropin/serialize/save_state.h"

namespace dropin::serialize_detail {

std::string saved_gguf_format(const StoredTensor& t, const std::string& path,
                              const SaveStateOptions& options);
std::string save_as_gguf(const std::string& path, const std::vector<StoredTensor>& tensors,
                         const SaveStateOptions& options);

}  // namespace dropin::serialize_detail
