#include "dropin/norm/norm.h"
#include "registry/lists.h"

namespace dropin {

void register_norm(Registry& r) {
  r.add<LayerNorm>();
  r.add<RMSNorm>();
  r.add<GroupNorm>();
  r.add<BatchNorm2d>();
}

}  // namespace dropin
