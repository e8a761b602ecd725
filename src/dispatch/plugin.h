// How the kernel table meets the CUDA plugin.
#pragma once
#include "dropin/dispatch/devices.h"
#include "dropin/dispatch/dispatch.h"

namespace dropin {

/// A hash of the declarations that the library and its plugins share.
const char* build_id();
/// Looks for the plugin and hands its kernels to `add`.
void load_cuda_plugin(CudaReport& report,
                      void (*add)(void* self, DeviceType device, const char* name,
                                  detail::AnyFn fn),
                      void* self);

}  // namespace dropin
