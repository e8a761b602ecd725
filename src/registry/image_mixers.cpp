#include "dropin/nn/conv.h"
#include "dropin/nn/microscaling.h"
#include "registry/lists.h"

namespace dropin {

void register_image_mixers(Registry& r) {
  r.add<Conv2d>();
  r.add<DepthwiseConv2d>();
  r.add<SeparableConv2d>();
  r.add<MXConv2d>();
  r.add<Conv1d>();
  r.add<MaxPool2d>();
  r.add<AvgPool2d>();
  r.add<AdaptiveAvgPool2d>();
}

}  // namespace dropin
