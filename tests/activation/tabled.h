// Activations with tables.
#pragma once
#include "support.h"

namespace dropin {

inline const char* const kTabled[] = {"gelu",      "silu",     "sigmoid",   "tanh",       "selu",
                                      "elu",       "celu",     "softplus",  "logsigmoid", "mish",
                                      "hardswish", "softsign", "tanhshrink"};

}  // namespace dropin
