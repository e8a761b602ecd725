#include "dropin/nn/embedding.h"
#include "dropin/nn/stable_embedding.h"
#include "registry/lists.h"

namespace dropin {

void register_token_embeddings(Registry& r) {
  r.add<Embedding>();
  r.add<StableEmbedding>();
}

}  // namespace dropin
