#include "dropin/nn/convnet.h"
#include "dropin/nn/transformer.h"
#include "dropin/vision/mask_iou_net.h"
#include "dropin/vision/mixnet.h"
#include "registry/lists.h"

namespace dropin {

void register_models(Registry& r) {
  r.add<Transformer>();
  r.add<ConvNet>();
  r.add<MixNet>();
  r.add<FastMaskIoUNet>();
}

}  // namespace dropin
