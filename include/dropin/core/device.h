// Device: where a tensor lives.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "dropin/abi/abi.h"

namespace dropin {

/// "cpu", "cuda" or "cuda:1". Parsing anything else is a DeviceError.
struct Device {
  DeviceType type = DeviceType::CPU;
  std::int32_t index = 0;
  Device() = default;
  Device(DeviceType t, std::int32_t i = 0) : type(t), index(i) {}
  Device(std::string_view text);
  Device(const char* text) : Device(std::string_view(text)) {}
  bool is_cpu() const { return type == DeviceType::CPU; }
  bool is_cuda() const { return type == DeviceType::CUDA; }
  bool operator==(const Device& o) const { return type == o.type && index == o.index; }
  std::string str() const;
};

inline const Device kCPU{DeviceType::CPU};
inline const Device kCUDA{DeviceType::CUDA};

}  // namespace dropin
