#include "kernels/attention/tiled.h"

namespace dropin::kernels::cuda::attention {
DROPIN_ATTENTION_TYPE(bf16, bf16)
}  // namespace dropin::kernels::cuda::attention
