// Storage: reference-counted bytes on one device, from the caching allocator or from outside.
#pragma once
#include <cstddef>
#include <cstdint>

#include "dropin/core/device.h"
#include "dropin/core/ref.h"

namespace dropin {

/// Frees memory that came from outside.
using Deleter = void (*)(void* context, void* data);

/// A block of bytes and a version that in-place writes advance.
class Storage : public RefCounted {
 public:
  /// `bytes` uninitialised bytes, 64-byte aligned. OutOfMemoryError if the device has none left.
  Storage(std::size_t bytes, const Device& device);
  /// Memory of the caller's; `deleter(context, data)` runs with the last reference (null: never).
  Storage(void* data, std::size_t bytes, const Device& device, Deleter deleter, void* context);
  ~Storage() override;

  void* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  const Device& device() const { return device_; }
  std::uint32_t version() const { return version_.load(std::memory_order_relaxed); }
  void bump_version() { version_.fetch_add(1, std::memory_order_relaxed); }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
  Device device_;
  Deleter deleter_ = nullptr;
  void* context_ = nullptr;
  std::atomic<std::uint32_t> version_{0};
};

/// Bytes of tensors alive now, the most there ever were, and what the cache holds from the system.
struct MemoryStats {
  int64_t allocated = 0, peak = 0, reserved = 0;
};
MemoryStats memory_stats(const Device& device = kCPU);
/// Starts a new peak at what is allocated now.
void reset_peak_memory(const Device& device = kCPU);
/// Gives cached free blocks back to the system.
void empty_cache(const Device& device = kCPU);
/// For tests: the n-th allocation from now fails as if the system had no memory; negative switches
/// it off.
void fail_allocation_after(int64_t n, const Device& device = kCPU);

}  // namespace dropin
