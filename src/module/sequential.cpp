#include "dropin/module/sequential.h"

namespace dropin::detail {

Tensor call_layer(Module& m, const Tensor& x) { return m.call({{"x", x}}).get("y", m.type()); }

}  // namespace dropin::detail
