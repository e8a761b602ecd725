#include "dropin/nn/feed_forward.h"
#include "registry/lists.h"

namespace dropin {

void register_projections(Registry& r) {
  r.add<Linear>();
  r.add<MLP>();
  r.add<GatedMLP>();
}

}  // namespace dropin
