// Included before hwy/foreach_target.h: which instruction sets the CPU kernels are compiled for. A
// portable baseline, AVX2 and AVX-512 cover x86; every further target costs a full compilation of
// each kernel file for a few percent.
#pragma once
#include "hwy/detect_targets.h"

#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
