// Every folder with CUDA kernels, one line each. A function `void provide_<folder>(KernelTable&)`
// lives in kernels/<folder>/cuda.cu.
#pragma once
#include "dropin/abi/abi.h"

#define DROPIN_CUDA_KERNELS(X) \
  X(elementwise)               \
  X(example)                   \
  X(attention)                 \
  X(latent)                    \
  X(fft_conv)                  \
  X(deform)                    \
  X(reduce)                    \
  X(softmax)                   \
  X(norm)                      \
  X(gemm)                      \
  X(conv)                      \
  X(pool)                      \
  X(index)                     \
  X(sort)                      \
  X(random)                    \
  X(optim)                     \
  X(optim8)                    \
  X(fewbit)                    \
  X(bitlinear)                 \
  X(mx)                        \
  X(fft)                       \
  X(suppression)

namespace dropin::kernels::cuda {
#define X(folder) void provide_##folder(abi::KernelTable&);
DROPIN_CUDA_KERNELS(X)
#undef X
}  // namespace dropin::kernels::cuda
