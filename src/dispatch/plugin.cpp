// The CUDA plugin: looked for once, at the first mention of a CUDA device.
#include <dlfcn.h>
#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <string_view>

#include "core/environment.h"
#include "dispatch/plugin.h"
#include "dropin/dispatch/devices.h"
#include "dropin/dispatch/dispatch.h"
#include "kernels/memory/kernel.h"
#include "tensor/allocator.h"

namespace dropin {
namespace {

constexpr const char* kFile = "libdropin_cuda.so";

std::vector<std::string> places() {
  namespace fs = std::filesystem;
  if (const char* path = std::getenv("DROPIN_CUDA_PLUGIN"); path && *path) return {path};
  std::vector<std::string> r;
  auto add = [&](const fs::path& folder) {
    if (folder.empty()) return;
    std::string p = (folder / kFile).lexically_normal().string();
    for (const std::string& q : r)
      if (p == q) return;
    r.push_back(std::move(p));
  };
  if (const char* text = std::getenv("DROPIN_PLUGIN_PATH")) {
    std::string_view rest = text;
    while (!rest.empty()) {
      const std::size_t colon = rest.find(':');
      add(std::string(rest.substr(0, colon)));
      rest = colon == std::string_view::npos ? std::string_view() : rest.substr(colon + 1);
    }
  }
  std::error_code error;
  Dl_info info;
  for (const fs::path& file :
       {dladdr(reinterpret_cast<const void*>(&device_count), &info) && info.dli_fname
            ? fs::path(info.dli_fname)
            : fs::path(),
        fs::read_symlink("/proc/self/exe", error)}) {
    const fs::path folder = fs::weakly_canonical(file, error).parent_path();
    if (error || folder.empty()) continue;
    add(folder);
    add(folder.parent_path() / "bin");  // a build's tests lie beside its programs
    add(folder.parent_path() / "lib");
  }
#ifdef DROPIN_INSTALLED_LIBDIR
  add(DROPIN_INSTALLED_LIBDIR);
#endif
  r.push_back(kFile);
  return r;
}

void* host_allocate(DeviceType type, std::int32_t index, int64_t bytes) {
  try {
    return detail::allocate(static_cast<std::size_t>(bytes), {type, index});
  } catch (...) {
    return nullptr;
  }
}
void host_release(DeviceType type, std::int32_t index, void* data, int64_t bytes) {
  detail::release(data, static_cast<std::size_t>(bytes), {type, index});
}

// Takes the plugin at `path`; true when it has a usable device. The module stays loaded: its
// kernels may be in use.
bool take(const std::string& path, CudaReport& r,
          void (*add)(void*, DeviceType, const char*, detail::AnyFn), void* table) {
  auto outcome = [&](std::string text) {
    r.tried.push_back({path, std::move(text)});
    return false;
  };
  if (path.find('/') != std::string::npos) {
    std::error_code error;
    if (!std::filesystem::exists(path, error)) return outcome("no such file");
  }
  void* module = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!module) {
    const char* why = dlerror();
    return outcome(why ? why : "it cannot be opened");
  }
  auto entry = reinterpret_cast<const abi::Plugin* (*)()>(dlsym(module, "dropin_plugin"));
  if (!entry) return outcome("it has no function dropin_plugin: not a plugin of dropin");
  const abi::Plugin* p = entry();
  if (p->version != abi::kVersion)
    return outcome(fmt::format(
        "it speaks version {} of the plugin interface, this library {}; build both from one tree",
        p->version, abi::kVersion));
  if (std::string_view(p->build) != build_id())
    return outcome(
        fmt::format("it is of another build ({}, this library is {}); build both from one tree",
                    p->build, build_id()));
  char text[4096] = "";
  std::int32_t count = 0;
  p->probe(&count, text, sizeof text);
  std::vector<std::string> lines;
  std::string_view rest = text;
  while (!rest.empty()) {
    const std::size_t end = rest.find('\n');
    lines.emplace_back(rest.substr(0, end));
    rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 1);
  }
  if (count <= 0) {
    r.why = lines.empty() ? "no usable device" : lines[0];
    return outcome(r.why);
  }
  static const abi::Host host{&host_allocate, &host_release};
  abi::KernelTable t{table, DeviceType::CUDA, add};
  p->provide(&host, &t);
  r.count = count;
  r.devices = std::move(lines);
  r.plugin = p->name;
  r.tried.push_back({path, "opened"});
  return true;
}

}  // namespace

const char* build_id() { return DROPIN_BUILD_ID; }

void load_cuda_plugin(CudaReport& r, void (*add)(void*, DeviceType, const char*, detail::AnyFn),
                      void* table) {
  if (disabled_by_environment("cuda")) {
    r.why = "DROPIN_DISABLE names cuda";
    return;
  }
  for (const std::string& path : places())
    if (take(path, r, add, table)) return r.why.clear();
  if (r.why.empty()) r.why = "no plugin was found that fits";
}

int device_count(DeviceType type) { return type == DeviceType::CPU ? 1 : cuda_report().count; }

void require_device(const Device& device) {
  if (device.is_cpu()) return;
  const CudaReport& r = cuda_report();
  if (device.index < r.count) return;
  if (r.count > 0)
    fail<DeviceError>({device, ": there ", r.count == 1 ? "is" : "are", " ", r.count,
                       " CUDA device", r.count == 1 ? "" : "s", ", counted from 0"});
  std::string tried;
  for (const PluginPlace& p : r.tried)
    tried += fmt::format("{}{}: {}", tried.empty() ? "" : "; ", p.path, p.outcome);
  fail<DeviceError>({device, ": no CUDA device: ", r.why, tried.empty() ? "" : " (tried ", tried,
                     tried.empty() ? "" : ")"});
}

void synchronize(const Device& device) {
  if (device.is_cpu()) return;
  require_device(device);
  run<kernels::device_synchronize>(device, 0);
}

DeviceEvent::~DeviceEvent() {
  if (event_)
    if (auto f = detail::slot<kernels::device_event_release>(device_.type))
      f(detail::kernel_context(device_), event_);
}
void DeviceEvent::record() {
  if (!device_.is_cpu()) run<kernels::device_event_record>(device_, &event_);
}
double DeviceEvent::milliseconds_since(const DeviceEvent& begin) const {
  double ms = 0;
  if (event_ && begin.event_)
    run<kernels::device_event_elapsed>(device_, begin.event_, event_, &ms);
  return ms;
}

}  // namespace dropin
