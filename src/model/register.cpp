#include "dropin/model/convnet.h"
#include "dropin/model/mask_iou_net.h"
#include "dropin/model/mixnet.h"
#include "dropin/model/transformer.h"
#include "registry/lists.h"

namespace dropin {

void register_model(Registry& r) {
  r.add<Transformer>();
  r.add<ConvNet>();
  r.add<MixNetBlock>();
  r.add<MixNet>();
  r.add<FastMaskIoUNet>();
}

}  // namespace dropin
