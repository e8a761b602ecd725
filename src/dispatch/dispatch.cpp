#include "dropin/dispatch/dispatch.h"

#include <mutex>
#include <string>
#include <unordered_map>

#include "dispatch/plugin.h"

namespace dropin {

namespace detail {
namespace {

struct Table {
  std::mutex mutex;
  std::unordered_map<std::string, AnyFn> functions[abi::kDeviceTypes];
  std::once_flag plugin;
  CudaReport report;
  Table() {
    abi::KernelTable t{this, DeviceType::CPU, &add};
    provide_cpu_kernels(t);
  }
  static void add(void* self, DeviceType device, const char* name, AnyFn fn) {
    auto* t = static_cast<Table*>(self);
    std::lock_guard lock(t->mutex);
    t->functions[static_cast<int>(device)][name] = fn;
  }
};
Table& table() {
  static Table* t = new Table;
  return *t;
}

}  // namespace

AnyFn find_kernel(DeviceType device, const char* name) {
  if (device == DeviceType::CUDA) cuda_report();
  Table& t = table();
  std::lock_guard lock(t.mutex);
  auto& functions = t.functions[static_cast<int>(device)];
  auto it = functions.find(name);
  return it == functions.end() ? nullptr : it->second;
}

void kernel_missing(const char* name, const Device& device) {
  require_device(device);
  fail<DeviceError>({name, ": no kernel for ", device});
}

void kernel_failed(const char* name, const abi::Status& status) {
  const std::string_view why = status.message;
  switch (status.code) {
    case abi::kUnsupported:
      fail<DTypeError>({name, ": ", why});
    case abi::kOutOfMemory:
      fail<OutOfMemoryError>({name, ": ", why});
    case abi::kDeviceFailed:
      fail<DeviceError>({name, ": ", why});
    case abi::kOutOfRange:
      fail<IndexError>({name, ": ", why});
    default:
      fail<Error>({name, ": ", why});
  }
}

void wrong_device(const char* name, const Device& device, const abi::TensorIn& t) {
  fail<DeviceError>({name, ": tensors on ", device, " and ", Device(t.device, t.device_index),
                     "; move one with to()"});
}

abi::KernelContext kernel_context(const Device& device) {
  return {device.type, device.index, nullptr};
}

}  // namespace detail

const CudaReport& cuda_report() {
  detail::Table& t = detail::table();
  std::call_once(t.plugin, [&] { load_cuda_plugin(t.report, &detail::Table::add, &t); });
  return t.report;
}

}  // namespace dropin
