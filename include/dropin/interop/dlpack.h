// DLPack: tensors to and from other libraries without a copy. The structs are the published ABI
// (legacy and 1.x), in a namespace of their own so that <dlpack/dlpack.h> may be included beside
// them; a pointer to one is a pointer to the other.
#pragma once
#include <cstdint>

#include "dropin/tensor/tensor.h"

namespace dropin {
namespace dlpack {

enum DeviceKind : std::int32_t { kCPUDevice = 1, kCUDADevice = 2, kCUDAHost = 3 };
enum TypeCode : std::uint8_t { kInt = 0, kUInt = 1, kFloat = 2, kBfloat = 4, kBool = 6 };
enum Flags : std::uint64_t { kReadOnly = 1, kIsCopied = 2 };

struct DLDevice {
  std::int32_t device_type, device_id;
};
struct DLDataType {
  std::uint8_t code, bits;
  std::uint16_t lanes;
};
struct DLTensor {
  void* data;
  DLDevice device;
  std::int32_t ndim;
  DLDataType dtype;
  int64_t* shape;
  int64_t* strides;  ///< in elements; null: row-major
  std::uint64_t byte_offset;
};
/// Before version 1.
struct DLManagedTensor {
  DLTensor dl_tensor;
  void* manager_ctx;
  void (*deleter)(DLManagedTensor* self);
};
struct DLPackVersion {
  std::uint32_t major, minor;
};
/// Version 1.x.
struct DLManagedTensorVersioned {
  DLPackVersion version;
  void* manager_ctx;
  void (*deleter)(DLManagedTensorVersioned* self);
  std::uint64_t flags;
  DLTensor dl_tensor;
};

}  // namespace dlpack

/// A view of the tensor's memory for another library, which calls the deleter when it is done. The
/// tape stays behind: AutogradError when the tensor requires a gradient; use detach().
dlpack::DLManagedTensor* to_dlpack(const Tensor& t);
dlpack::DLManagedTensorVersioned* to_dlpack_versioned(const Tensor& t);

/// A tensor over another library's memory; takes the managed tensor over and calls its deleter with
/// the last reference. On an error (a dtype, device, rank or version we do not have, negative
/// strides, read-only memory) it is not taken over and stays the caller's.
Tensor from_dlpack(dlpack::DLManagedTensor* managed);
Tensor from_dlpack(dlpack::DLManagedTensorVersioned* managed);

}  // namespace dropin
