#include "dropin/feed_forward/feed_forward.h"
#include "registry/lists.h"

namespace dropin {

void register_feed_forward(Registry& r) {
  r.add<MLP>();
  r.add<GatedMLP>();
}

}  // namespace dropin
