#include "dropin/nn/embedding.h"
#include "registry/lists.h"

namespace dropin {

void register_token_embeddings(Registry& r) { r.add<Embedding>(); }

}  // namespace dropin
