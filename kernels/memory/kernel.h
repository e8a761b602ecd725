// Memory, events and order of a device that is not the CPU. The CPU provides none of these: its
// allocator and memcpy live in the library.
#pragma once
#include "dropin/abi/abi.h"

namespace dropin::kernels {

/// Straight from the system; the library keeps freed blocks and hands them out again in the order
/// of the device's stream.
DROPIN_KERNEL(device_allocate, int64_t bytes, void** data);
/// Waits for the device first.
DROPIN_KERNEL(device_release, void* data, int64_t bytes);
/// Contiguous bytes between the device and the host, or within the device; complete when it returns
/// if the host takes part.
DROPIN_KERNEL(device_copy, void* destination, bool destination_on_host, const void* source,
              bool source_on_host, int64_t bytes);
/// Waits until everything asked of the device is done.
DROPIN_KERNEL(device_synchronize, int unused);
/// Marks this point of the device's work; *event is made when null.
DROPIN_KERNEL(device_event_record, void** event);
/// Milliseconds between two recorded events, waiting for both.
DROPIN_KERNEL(device_event_elapsed, void* begin, void* end, double* milliseconds);
DROPIN_KERNEL(device_event_release, void* event);
/// Free and total bytes of the device.
DROPIN_KERNEL(device_memory, int64_t* free, int64_t* total);

}  // namespace dropin::kernels
