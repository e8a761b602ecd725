// Every CPU kernel folder, one line each. A function `void provide_<folder>_cpu(abi::KernelTable&)`
// lives in kernels/<folder>/cpu.cpp.
#include <hwy/targets.h>

#include "core/environment.h"
#include "dropin/dispatch/dispatch.h"

#define DROPIN_CPU_KERNELS(X) \
  X(elementwise)              \
  X(example)                  \
  X(attention)                \
  X(latent)                   \
  X(mixed_heads)              \
  X(reduce)                   \
  X(softmax)                  \
  X(norm)                     \
  X(optim)                    \
  X(optim8)                   \
  X(fewbit)                   \
  X(bitlinear)                \
  X(mx)                       \
  X(gemm)                     \
  X(conv)                     \
  X(pool)                     \
  X(index)                    \
  X(sort)                     \
  X(suppression)              \
  X(deform)                   \
  X(masks)                    \
  X(random)                   \
  X(fft)                      \
  X(fft_conv)                 \
  X(traces)                   \
  X(search)                   \
  X(ssd)

namespace dropin {
namespace kernels {
#define X(folder) void provide_##folder##_cpu(abi::KernelTable&);
DROPIN_CPU_KERNELS(X)
#undef X
}  // namespace kernels

void provide_cpu_kernels(abi::KernelTable& table) {
  if (disabled_by_environment("simd"))
    hwy::DisableTargets(~int64_t{0});  // all but the lowest, which is always there
#define X(folder) kernels::provide_##folder##_cpu(table);
  DROPIN_CPU_KERNELS(X)
#undef X
}

}  // namespace dropin
