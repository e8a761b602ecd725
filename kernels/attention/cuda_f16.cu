#include "kernels/attention/tiled.h"

namespace dropin::kernels::cuda::attention {
DROPIN_ATTENTION_TYPE(f16, f16)
}  // namespace dropin::kernels::cuda::attention
