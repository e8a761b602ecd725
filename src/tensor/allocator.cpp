// Freed blocks are kept by size class and handed out again: fresh pages cost about ten times reused
// ones. Size classes grow by quarters of a power of two, so at most a fifth is wasted. Blocks of 2
// MiB and more are mapped on 2 MiB boundaries and ask for huge pages. Every CUDA device has a cache
// of the same kind: its work runs in the order of one stream, so a freed block may be handed out
// while kernels still use it.
#include "tensor/allocator.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <string>
#include <vector>

#include "core/environment.h"
#include "dropin/core/error.h"
#include "dropin/dispatch/devices.h"
#include "dropin/dispatch/dispatch.h"
#include "dropin/tensor/storage.h"
#include "kernels/memory/kernel.h"

namespace dropin {
namespace {

constexpr std::size_t kSmall = 32 * 1024;  // below: malloc's own thread caches do better
constexpr std::size_t kHuge = std::size_t{2} << 20;
constexpr int kClasses = 4 * 64;

int size_class(std::size_t bytes) {
  const int log = 63 - __builtin_clzll((bytes - 1) | 1);  // bytes in (2^log, 2^(log+1)]
  const std::size_t quarter = (std::size_t{1} << log) / 4;
  return 4 * log + static_cast<int>((bytes - 1 - (std::size_t{1} << log)) / quarter);
}
std::size_t class_bytes(int c) {
  const std::size_t base = std::size_t{1} << (c / 4);
  return base + base / 4 * (static_cast<std::size_t>(c % 4) + 1);
}

void* system_allocate(std::size_t bytes) {
  if (bytes < kHuge) return std::aligned_alloc(64, (bytes + 63) / 64 * 64);
  // Map a little more and trim, so that the block starts on a huge page.
  char* p = static_cast<char*>(mmap(nullptr, bytes + kHuge, PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (p == MAP_FAILED) return nullptr;
  char* start =
      reinterpret_cast<char*>((reinterpret_cast<std::uintptr_t>(p) + kHuge - 1) / kHuge * kHuge);
  const std::size_t end = (bytes + 4095) / 4096 * 4096;
  if (start != p) munmap(p, static_cast<std::size_t>(start - p));
  if (const std::size_t tail = static_cast<std::size_t>(p + bytes + kHuge - (start + end));
      tail >= 4096)
    munmap(start + end, tail / 4096 * 4096);
  madvise(start, end, MADV_HUGEPAGE);
  return start;
}
void system_release(void* p, std::size_t bytes) {
  if (bytes < kHuge)
    std::free(p);
  else
    munmap(p, (bytes + 4095) / 4096 * 4096);
}

struct Cache {
  std::mutex mutex;
  std::vector<void*> free_blocks[kClasses];
  std::atomic<int64_t> allocated{0}, peak{0}, reserved{0};
  std::atomic<int64_t> fail_in{-1};
};
constexpr int kMaxDevices = 16;
Cache& cache(const Device& device = kCPU) {
  static Cache* c =
      new Cache[1 + kMaxDevices];  // never destroyed: tensors in static objects may outlive it
  return device.is_cpu() ? c[0] : c[1 + device.index % kMaxDevices];
}

// A machine that overcommits kills us instead of answering null, so what cannot possibly fit is
// refused here.
bool plausible(std::size_t bytes) {
  static const std::size_t total = [] {
    const long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    return pages > 0 && size > 0 ? static_cast<std::size_t>(pages) * static_cast<std::size_t>(size)
                                 : SIZE_MAX / 4;
  }();
  return bytes <= total &&
         static_cast<std::size_t>(std::max<int64_t>(cache().allocated.load(), 0)) <= total - bytes;
}

void* cpu_allocate(std::size_t bytes) {
  Cache& c = cache();
  if (c.fail_in.load(std::memory_order_relaxed) >= 0 && c.fail_in.fetch_sub(1) == 0) return nullptr;
  if (bytes < kSmall) return std::aligned_alloc(64, (bytes + 63) / 64 * 64);
  const int k = size_class(bytes);
  {
    std::lock_guard lock(c.mutex);
    auto& blocks = c.free_blocks[k];
    if (!blocks.empty()) {
      void* p = blocks.back();
      blocks.pop_back();
      return p;
    }
  }
  const std::size_t real = class_bytes(k);
  if (!plausible(real)) return nullptr;
  void* p = system_allocate(real);
  if (!p) {
    empty_cache(kCPU);
    p = system_allocate(real);
  }
  if (p) c.reserved.fetch_add(static_cast<int64_t>(real));
  return p;
}

// DROPIN_DISABLE=cache: every block of a CUDA device is its own, of the very size asked for, so
// that tools see accesses beyond it.
bool cached() {
  static const bool yes = !disabled_by_environment("cache");
  return yes;
}
int device_class(std::size_t bytes) { return size_class(std::max<std::size_t>(bytes, 512)); }

void* device_allocate(std::size_t bytes, const Device& device) {
  Cache& c = cache(device);
  if (c.fail_in.load(std::memory_order_relaxed) >= 0 && c.fail_in.fetch_sub(1) == 0) return nullptr;
  void* p = nullptr;
  if (!cached()) {
    run<kernels::device_allocate>(device, static_cast<int64_t>(bytes), &p);
    return p;
  }
  const int k = device_class(bytes);
  {
    std::lock_guard lock(c.mutex);
    auto& blocks = c.free_blocks[k];
    if (!blocks.empty()) {
      p = blocks.back();
      blocks.pop_back();
      return p;
    }
  }
  const std::size_t real = class_bytes(k);
  auto ask = [&] {
    try {
      run<kernels::device_allocate>(device, static_cast<int64_t>(real), &p);
    } catch (const OutOfMemoryError&) {
      p = nullptr;
    }
  };
  ask();
  if (!p) {
    empty_cache(device);
    ask();
  }
  if (p) c.reserved.fetch_add(static_cast<int64_t>(real));
  return p;
}
void device_release(void* p, std::size_t bytes, const Device& device) {
  if (auto f = detail::slot<kernels::device_release>(device.type))
    f(detail::kernel_context(device), p, static_cast<int64_t>(bytes));
}

void account(int64_t bytes, const Device& device) {
  Cache& c = cache(device);
  const int64_t now = c.allocated.fetch_add(bytes, std::memory_order_relaxed) + bytes;
  int64_t peak = c.peak.load(std::memory_order_relaxed);
  while (now > peak && !c.peak.compare_exchange_weak(peak, now, std::memory_order_relaxed)) {
  }
}

}  // namespace

namespace detail {

void* allocate(std::size_t bytes, const Device& device) {
  if (!device.is_cpu()) require_device(device);
  if (!bytes) return nullptr;
  void* p = device.is_cpu() ? cpu_allocate(bytes) : device_allocate(bytes, device);
  if (!p)
    fail<OutOfMemoryError>({"out of memory: ", static_cast<double>(bytes), " bytes on ", device,
                            " (", memory_stats(device).allocated, " in use)"});
  account(static_cast<int64_t>(bytes), device);
  return p;
}

void release(void* p, std::size_t bytes, const Device& device) noexcept {
  if (!p) return;
  Cache& c = cache(device);
  c.allocated.fetch_sub(static_cast<int64_t>(bytes), std::memory_order_relaxed);
  if (device.is_cpu() && bytes < kSmall) return std::free(p);
  if (!device.is_cpu() && !cached()) return device_release(p, bytes, device);
  const int k = device.is_cpu() ? size_class(bytes) : device_class(bytes);
  try {
    std::lock_guard lock(c.mutex);
    c.free_blocks[k].push_back(p);
  } catch (...) {  // no memory for the list itself
    c.reserved.fetch_sub(static_cast<int64_t>(class_bytes(k)));
    if (device.is_cpu())
      system_release(p, class_bytes(k));
    else
      device_release(p, class_bytes(k), device);
  }
}

}  // namespace detail

MemoryStats memory_stats(const Device& device) {
  const Cache& c = cache(device);
  return {c.allocated.load(), c.peak.load(), c.reserved.load()};
}
void reset_peak_memory(const Device& device) {
  cache(device).peak.store(cache(device).allocated.load());
}

void empty_cache(const Device& device) {
  Cache& c = cache(device);
  std::lock_guard lock(c.mutex);
  for (int k = 0; k < kClasses; ++k) {
    for (void* p : c.free_blocks[k]) {
      if (device.is_cpu())
        system_release(p, class_bytes(k));
      else
        device_release(p, class_bytes(k), device);
      c.reserved.fetch_sub(static_cast<int64_t>(class_bytes(k)));
    }
    c.free_blocks[k].clear();
  }
}

void fail_allocation_after(int64_t n, const Device& device) { cache(device).fail_in.store(n); }

Storage::Storage(std::size_t bytes, const Device& device)
    : data_(detail::allocate(bytes, device)), bytes_(bytes), device_(device) {}

Storage::Storage(void* data, std::size_t bytes, const Device& device, Deleter deleter,
                 void* context)
    : data_(data),
      bytes_(bytes),
      device_(device),
      deleter_(deleter ? deleter : [](void*, void*) {}),
      context_(context) {}

Storage::~Storage() {
  if (deleter_)
    deleter_(context_, data_);
  else
    detail::release(data_, bytes_, device_);
}

}  // namespace dropin
