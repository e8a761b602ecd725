// Plain data shared by the library, its CPU kernels and the CUDA plugin. C++17, no other dropin
// header.
#pragma once
#include <cstdint>

// X11 has a macro of this name.
#pragma push_macro("Status")
#undef Status

namespace dropin {

/// Sizes, counts and indices.
using std::int64_t;

/// Element types. Values are part of the plugin ABI: append, never reorder.
enum class DType : std::uint8_t {
  Float32,
  Float64,
  BFloat16,
  Float16,
  Int8,
  UInt8,
  Int32,
  Int64,
  Boolean
};

/// Kinds of device. Values are part of the plugin ABI.
enum class DeviceType : std::uint8_t { CPU, CUDA };

namespace abi {

constexpr int kMaxDims = 8;
constexpr int kDeviceTypes = 2;
constexpr std::uint32_t kVersion = 2;

/// A strided array that a kernel reads. Strides count elements; a broadcast dimension has stride 0.
struct TensorIn {
  const void* data = nullptr;
  DType dtype = DType::Float32;
  DeviceType device = DeviceType::CPU;
  std::uint8_t device_index = 0;
  std::int32_t ndim = 0;
  int64_t sizes[kMaxDims] = {};
  int64_t strides[kMaxDims] = {};
  template <class T>
  const T* as() const {
    return static_cast<const T*>(data);
  }
  int64_t numel() const {
    int64_t n = 1;
    for (int i = 0; i < ndim; ++i) n *= sizes[i];
    return n;
  }
  bool contiguous() const {
    int64_t expect = 1;
    for (int i = ndim - 1; i >= 0; --i) {
      if (sizes[i] != 1 && strides[i] != expect) return numel() == 0;
      expect *= sizes[i];
    }
    return true;
  }
};

/// A strided array that a kernel writes; never overlapping itself (no stride 0 over a size above
/// 1).
struct TensorOut : TensorIn {
  template <class T>
  T* as() const {
    return static_cast<T*>(const_cast<void*>(data));
  }
};

/// How a kernel's call ended; 0 when it did its work. Values are part of the plugin ABI: append,
/// never reorder.
enum Code : int {
  kDone,
  kUnsupported,  ///< there is no kernel for these dtypes or this layout
  kFailed,       ///< arguments do not fit together
  kOutOfMemory,
  kDeviceFailed,
  kOutOfRange,  ///< an index in the data points outside
};
/// What a kernel answers. The message is for people: static, or owned by the provider.
struct Status {
  Code code = kDone;
  const char* message = "";
};
inline Status ok() { return {}; }
inline Status unsupported(const char* why) { return {kUnsupported, why}; }
inline Status failed(const char* why) { return {kFailed, why}; }
inline Status out_of_memory(const char* why) { return {kOutOfMemory, why}; }
inline Status device_failed(const char* why) { return {kDeviceFailed, why}; }
inline Status out_of_range(const char* why) { return {kOutOfRange, why}; }

/// Where a kernel runs. `stream` is a cudaStream_t on CUDA, null on the CPU.
struct KernelContext {
  DeviceType device = DeviceType::CPU;
  std::int32_t index = 0;
  void* stream = nullptr;
};

/// Receives the kernels of one device; the only thing a provider sees of the library.
struct KernelTable {
  void* self = nullptr;
  DeviceType device = DeviceType::CPU;
  void (*add)(void* self, DeviceType device, const char* name, void (*fn)()) = nullptr;
  template <class K>
  void provide(typename K::Fn fn) {
    add(self, device, K::kName, reinterpret_cast<void (*)()>(fn));
  }
};

/// What a plugin may ask of the library. Memory comes from the library's cache for that device;
/// null when there is none left.
struct Host {
  void* (*allocate)(DeviceType device, std::int32_t index, int64_t bytes) = nullptr;
  void (*release)(DeviceType device, std::int32_t index, void* data, int64_t bytes) = nullptr;
};

/// What a plugin's one entry point, `const Plugin* dropin_plugin()`, answers. The first two fields
/// never change their place.
struct Plugin {
  std::uint32_t version = 0;  ///< kVersion of its build
  const char* build =
      "";  ///< a hash of the declarations both sides compiled; the library takes only its own
  const char* name = "";
  /// Looks for usable devices: their number, and in `text` (of `room` bytes) a line for each, or
  /// why there are none.
  void (*probe)(std::int32_t* count, char* text, int64_t room) = nullptr;
  void (*provide)(const Host* host, KernelTable* table) = nullptr;
};

}  // namespace abi

/// Declares a kernel: a tag type with its name and signature, the same on both sides of the table.
#define DROPIN_KERNEL(NAME, ...)                                                            \
  struct NAME {                                                                             \
    using Fn = ::dropin::abi::Status (*)(const ::dropin::abi::KernelContext&, __VA_ARGS__); \
    static constexpr const char* kName = #NAME;                                             \
  }

}  // namespace dropin

#pragma pop_macro("Status")
