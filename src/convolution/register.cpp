#include "dropin/convolution/conv.h"
#include "dropin/convolution/conv_transpose.h"
#include "dropin/convolution/deform_conv.h"
#include "dropin/convolution/mix_conv.h"
#include "dropin/convolution/mx_conv.h"
#include "dropin/convolution/pool.h"
#include "dropin/convolution/smp_conv.h"
#include "dropin/convolution/sparse_ift_conv.h"
#include "dropin/convolution/tunable_conv.h"
#include "dropin/convolution/upsample.h"
#include "registry/lists.h"

namespace dropin {

void register_convolution(Registry& r) {
  r.add<Conv2d>();
  r.add<DepthwiseConv2d>();
  r.add<SeparableConv2d>();
  r.add<MixConv2d>();
  r.add<DeformConv2d>();
  r.add<ModulatedDeformConv2d>();
  r.add<MXConv2d>();
  r.add<SparseIFTConv2d>();
  r.add<TunableConv2d>();
  r.add<SMPConv1d>();
  r.add<SMPConv2d>();
  r.add<Conv1d>();
  r.add<ConvTranspose1d>();
  r.add<ConvTranspose2d>();
  r.add<MaxPool2d>();
  r.add<AvgPool2d>();
  r.add<AdaptiveAvgPool2d>();
  r.add<Upsample>();
}

}  // namespace dropin
