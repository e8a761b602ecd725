#include "dropin/model/convnet.h"
#include "dropin/model/mask_iou_net.h"
#include "dropin/model/mixnet.h"
#include "dropin/model/object_aware_decoder.h"
#include "dropin/model/prompter.h"
#include "dropin/model/transformer.h"
#include "dropin/model/transformer_decoder.h"
#include "dropin/model/transformer_encoder.h"
#include "dropin/model/vision_transformer.h"
#include "registry/lists.h"

namespace dropin {

void register_model(Registry& r) {
  r.add<Transformer>();
  r.add<TransformerDecoderLayer>();
  r.add<TransformerEncoder>();
  r.add<VisionTransformer>();
  r.add<ConvNet>();
  r.add<MixNetBlock>();
  r.add<MixNet>();
  r.add<FastMaskIoUNet>();
  r.add<ObjectAwareDecoder>();
  r.add<Prompter>();
}

}  // namespace dropin
