#include "dropin/norm/norm.h"
#include "registry/lists.h"

namespace dropin {

void register_norm(Registry& r) {
  r.add<LayerNorm>();
  r.add<RMSNorm>();
  r.add<GroupNorm>();
  r.add<BatchNorm1d>();
  r.add<BatchNorm2d>();
  r.add<InstanceNorm1d>();
  r.add<InstanceNorm2d>();
}

}  // namespace dropin
