// The caching allocator behind Storage.
#pragma once
#include <cstddef>

#include "dropin/core/device.h"

namespace dropin::detail {

/// 64-byte aligned; OutOfMemoryError when the device has no more, after the cache was given back.
/// bytes 0 gives null.
void* allocate(std::size_t bytes, const Device& device);
/// `bytes` as given to allocate.
void release(void* data, std::size_t bytes, const Device& device) noexcept;

}  // namespace dropin::detail
