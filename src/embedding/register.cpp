#include "dropin/embedding/embedding.h"
#include "dropin/embedding/stable_embedding.h"
#include "registry/lists.h"

namespace dropin {

void register_embedding(Registry& r) {
  r.add<Embedding>();
  r.add<StableEmbedding>();
}

}  // namespace dropin
