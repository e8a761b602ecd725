// Functions that both a CPU's and a CUDA compiler turn into code.
#pragma once

#ifdef __CUDACC__
#define DROPIN_HD __host__ __device__
#else
#define DROPIN_HD
#endif
