// One list per family; each lives in its own file and names its members, a line each.
#pragma once
#include "dropin/registry/registry.h"

namespace dropin {

#define DROPIN_FAMILY_LISTS(X) \
  X(sequence_mixers)           \
  X(projections)               \
  X(image_mixers)              \
  X(layers)                    \
  X(activations)               \
  X(token_embeddings)          \
  X(models)                    \
  X(optimizers)                \
  X(data)                      \
  X(suppressions)              \
  X(vision)                    \
  X(number_formats)

#define X(list) void register_##list(Registry& r);
DROPIN_FAMILY_LISTS(X)
#undef X

}  // namespace dropin
