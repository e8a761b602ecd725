#include "dropin/nn/sequential.h"

namespace dropin::detail {

Tensor call_layer(Module& m, const Tensor& x) {
  if (auto* s = dynamic_cast<SequenceMixer*>(&m)) return s->forward(x);
  NamedTensors out = m.call({{"x", x}});
  return out.get("y", m.type());
}

}  // namespace dropin::detail
