#include "kernels/attention/tiled.h"

namespace dropin::kernels::cuda::attention {
DROPIN_ATTENTION_TYPE(float, f32)
}  // namespace dropin::kernels::cuda::attention
