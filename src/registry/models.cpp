#include "dropin/nn/convnet.h"
#include "dropin/nn/transformer.h"
#include "registry/lists.h"

namespace dropin {

void register_models(Registry& r) {
  r.add<Transformer>();
  r.add<ConvNet>();
}

}  // namespace dropin
