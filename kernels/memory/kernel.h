// Memory of a device that is not the CPU. The CPU provides none of these: its allocator and memcpy live in the library.
#pragma once
#include "dropin/abi/abi.h"

namespace dropin::kernels {

DROPIN_KERNEL(device_allocate, std::int64_t bytes, void** data);
DROPIN_KERNEL(device_release, void* data, std::int64_t bytes);
/// Contiguous bytes between the device and the host, or within the device; complete when it returns if the host takes part.
DROPIN_KERNEL(device_copy, void* destination, bool destination_on_host, const void* source, bool source_on_host, std::int64_t bytes);
DROPIN_KERNEL(device_synchronize, int unused);

}  // namespace dropin::kernels
