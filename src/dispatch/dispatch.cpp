#include "dropin/dispatch/dispatch.h"

#include <mutex>
#include <string>
#include <unordered_map>

namespace dropin::detail {
namespace {

struct Table {
  std::mutex mutex;
  std::unordered_map<std::string, AnyFn> functions[abi::kDeviceTypes];
  Table() {
    abi::KernelTable t{this, DeviceType::CPU, &add};
    provide_cpu_kernels(t);
  }
  static void add(void* self, DeviceType device, const char* name, AnyFn fn) { static_cast<Table*>(self)->functions[static_cast<int>(device)][name] = fn; }
};
Table& table() {
  static Table* t = new Table;
  return *t;
}

}  // namespace

AnyFn find_kernel(DeviceType device, const char* name) {
  Table& t = table();
  std::lock_guard lock(t.mutex);
  auto& functions = t.functions[static_cast<int>(device)];
  auto it = functions.find(name);
  return it == functions.end() ? nullptr : it->second;
}

void kernel_missing(const char* name, const Device& device) { fail<DeviceError>({name, ": no kernel for ", device}); }

void kernel_failed(const char* name, const abi::Status& status) {
  const std::string_view why = status.message;
  if (why == "index out of range" || why == "target out of range") fail<IndexError>({name, ": ", why});
  if (status.code == 1) fail<DTypeError>({name, ": ", why});
  fail<Error>({name, ": ", why});
}

abi::KernelContext kernel_context(const Device& device) { return {device.type, device.index, nullptr}; }

}  // namespace dropin::detail
