#include "dropin/nn/activation.h"
#include "dropin/nn/embedding.h"
#include "dropin/nn/norm.h"
#include "registry/lists.h"

namespace dropin {

void register_layers(Registry& r) {
  r.add<LayerNorm>();
  r.add<RMSNorm>();
  r.add<GroupNorm>();
  r.add<BatchNorm2d>();
  r.add<GELU>();
  r.add<SiLU>();
  r.add<ReLU>();
  r.add<ReLU6>();
  r.add<LeakyReLU>();
  r.add<ELU>();
  r.add<SELU>();
  r.add<Sigmoid>();
  r.add<Tanh>();
  r.add<Softplus>();
  r.add<Softsign>();
  r.add<Hardswish>();
  r.add<CELU>();
  r.add<LogSigmoid>();
  r.add<Mish>();
  r.add<Tanhshrink>();
  r.add<Hardtanh>();
  r.add<Hardsigmoid>();
  r.add<Hardshrink>();
  r.add<Softshrink>();
  r.add<Threshold>();
  r.add<Dropout>();
}

}  // namespace dropin
