// One typed slot per kernel and device. A kernel is found by its tag type:
// run<kernels::matmul>(device, args...).
#pragma once
#include <atomic>
#include <utility>

#include "dropin/abi/abi.h"
#include "dropin/core/device.h"
#include "dropin/core/error.h"

#pragma push_macro("Status")  // X11's
#undef Status

namespace dropin {

namespace detail {
using AnyFn = void (*)();
/// The function provided under this name for the device, loading the device's plugin when first
/// asked; null if there is none.
AnyFn find_kernel(DeviceType device, const char* name);
[[noreturn]] void kernel_missing(const char* name, const Device& device);
[[noreturn]] void kernel_failed(const char* name, const abi::Status& status);
[[noreturn]] void wrong_device(const char* name, const Device& device, const abi::TensorIn& t);
inline void check_device(const char* name, const Device& device, const abi::TensorIn& t) {
  if (t.data && (t.device != device.type || t.device_index != device.index)) [[unlikely]]
    wrong_device(name, device, t);
}
inline void check_device(const char* name, const Device& device, const abi::TensorOut& t) {
  check_device(name, device, static_cast<const abi::TensorIn&>(t));
}
/// A struct that holds arrays lists them: `template <class F> void tensors(F&& f) const`.
template <class A>
void check_device(const char* name, const Device& device, const A& a) {
  if constexpr (requires { a.tensors([](const abi::TensorIn&) {}); })
    a.tensors([&](const abi::TensorIn& t) { check_device(name, device, t); });
}
abi::KernelContext kernel_context(const Device& device);
template <class K>
struct Slot {
  static inline std::atomic<AnyFn> fn[abi::kDeviceTypes] = {};
};
template <class K>
typename K::Fn slot(DeviceType t) {
  auto& s = Slot<K>::fn[static_cast<int>(t)];
  AnyFn f = s.load(std::memory_order_acquire);
  if (!f) [[unlikely]]
    s.store(f = find_kernel(t, K::kName), std::memory_order_release);
  return reinterpret_cast<typename K::Fn>(f);
}
}  // namespace detail

/// True when every kernel K is provided for the device.
template <class... K>
bool has_kernels(const Device& device) {
  return (... && (detail::slot<K>(device.type) != nullptr));
}

/// Runs kernel K on the device. DeviceError when it is missing or an array lives elsewhere, Error
/// when it answers a failure.
template <class K, class... A>
void run(const Device& device, A&&... args) {
  auto f = detail::slot<K>(device.type);
  if (!f) [[unlikely]]
    detail::kernel_missing(K::kName, device);
  (detail::check_device(K::kName, device, args), ...);
  if (abi::Status s = f(detail::kernel_context(device), std::forward<A>(args)...); s.code)
      [[unlikely]]
    detail::kernel_failed(K::kName, s);
}

/// The CPU's list: one line per kernel folder, in src/dispatch/cpu_kernels.cpp.
void provide_cpu_kernels(abi::KernelTable& table);

}  // namespace dropin

#pragma pop_macro("Status")
