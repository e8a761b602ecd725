// One list per room; each lives in its room (src/<room>/register.cpp) and names its members, a line
// each.
#pragma once
#include "dropin/registry/registry.h"

namespace dropin {

#define DROPIN_ROOM_LISTS(X) \
  X(sequence)                \
  X(projection)              \
  X(feed_forward)            \
  X(convolution)             \
  X(norm)                    \
  X(activation)              \
  X(module)                  \
  X(embedding)               \
  X(model)                   \
  X(optimizer)               \
  X(data)                    \
  X(detection)               \
  X(number_format)           \
  X(loss)                    \
  X(retrieval)               \
  X(metric)                  \
  X(quantizer)               \
  X(dynamics)                \
  X(generation)              \
  X(text)

#define X(room) void register_##room(Registry& r);
DROPIN_ROOM_LISTS(X)
#undef X

}  // namespace dropin
