// The devices beside the CPU: whether their plugin was found, what it found, and how to wait for
// them.
#pragma once
#include <string>
#include <vector>

#include "dropin/core/device.h"

namespace dropin {

/// A place where the CUDA plugin was looked for, and what came of it.
struct PluginPlace {
  std::string path, outcome;
};
/// What the first mention of a CUDA device found out. devices: one line each; why: when there are
/// none.
struct CudaReport {
  int count = 0;
  std::vector<std::string> devices;
  std::string plugin, why;
  std::vector<PluginPlace> tried;
};
/// Loads the plugin when first asked. Places, in order: the file that DROPIN_CUDA_PLUGIN names
/// (then no other); the folders of DROPIN_PLUGIN_PATH, separated by colons; the folder of the
/// library or the program and ../lib beside it; where this library was to be installed; the
/// system's own search. DROPIN_DISABLE=cuda: nowhere.
const CudaReport& cuda_report();
/// 1 for the CPU, the number of usable devices for CUDA.
int device_count(DeviceType type);
/// DeviceError, with what was tried, unless the device is there.
void require_device(const Device& device);
/// Waits until the device has done all that was asked of it. An error of a kernel shows here at the
/// latest.
void synchronize(const Device& device);

/// A mark in a device's work, for timing. Nothing happens on the CPU.
class DeviceEvent {
 public:
  explicit DeviceEvent(const Device& device) : device_(device) {}
  DeviceEvent(const DeviceEvent&) = delete;
  DeviceEvent& operator=(const DeviceEvent&) = delete;
  ~DeviceEvent();
  void record();
  /// Milliseconds from `begin` to this; both were recorded on one CUDA device.
  double milliseconds_since(const DeviceEvent& begin) const;

 private:
  Device device_;
  void* event_ = nullptr;
};

}  // namespace dropin
