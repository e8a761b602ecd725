// Torch tensors as dropin tensors and back, without copies. Included by dropin/interop/torch.h.
#pragma once
#include <torch/torch.h>

#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "dropin/tensor/tensor.h"

namespace dropin::interop {

/// Words for a sentence from a torch value.
template <class T>
std::string torch_words(const T& v) {
  std::ostringstream s;
  s << v;
  return s.str();
}

/// DTypeError on a dtype that dropin does not have.
inline DType dtype_from_torch(torch::ScalarType t) {
  switch (t) {
    case torch::kFloat32:
      return kFloat32;
    case torch::kFloat64:
      return kFloat64;
    case torch::kBFloat16:
      return kBFloat16;
    case torch::kFloat16:
      return kFloat16;
    case torch::kInt8:
      return kInt8;
    case torch::kUInt8:
      return kUInt8;
    case torch::kInt32:
      return kInt32;
    case torch::kInt64:
      return kInt64;
    case torch::kBool:
      return kBool;
    default:
      fail<DTypeError>(
          {"torch tensor: dtype is ", torch_words(t),
           ", expected float32, float64, bfloat16, float16, int8, uint8, int32, int64 or bool"});
  }
}
inline torch::ScalarType dtype_to_torch(DType t) {
  switch (t) {
    case DType::Float32:
      return torch::kFloat32;
    case DType::Float64:
      return torch::kFloat64;
    case DType::BFloat16:
      return torch::kBFloat16;
    case DType::Float16:
      return torch::kFloat16;
    case DType::Int8:
      return torch::kInt8;
    case DType::UInt8:
      return torch::kUInt8;
    case DType::Int32:
      return torch::kInt32;
    case DType::Int64:
      return torch::kInt64;
    case DType::Boolean:
      return torch::kBool;
  }
  fail<DTypeError>({"torch has no ", t});
}

/// The torch tensor's own memory as a dropin tensor, off both tapes; it lives as long as either. An
/// undefined tensor stays undefined. DTypeError as above, DeviceError when it is neither on the CPU
/// nor on CUDA, Error when it is not strided (sparse, quantized) or has more than 8 dimensions.
inline Tensor from_torch(const torch::Tensor& t) {
  if (!t.defined()) return {};
  if (t.layout() != torch::kStrided || t.is_quantized())
    fail<Error>({"torch tensor: layout is ", torch_words(t.layout()),
                 t.is_quantized() ? " and quantized" : "", ", expected a strided one"});
  if (!t.is_cpu() && !t.is_cuda())
    fail<DeviceError>({"torch tensor: is on ", torch_words(t.device()), ", expected cpu or cuda"});
  if (t.dim() > abi::kMaxDims)
    fail<ShapeError>(
        {"torch tensor: has ", t.dim(), " dimensions, at most ", abi::kMaxDims, " are supported"});
  const torch::Tensor real = t.is_conj() || t.is_neg() ? t.resolve_conj().resolve_neg() : t;
  const DType dtype = dtype_from_torch(real.scalar_type());
  const Device device = real.is_cuda() ? Device(DeviceType::CUDA, real.get_device()) : kCPU;
  auto keep = std::make_unique<torch::Tensor>(real.detach());
  Tensor r = from_blob(
      real.data_ptr(), Shape(real.sizes().data(), static_cast<int>(real.dim())), {dtype, device},
      Shape(real.strides().data(), static_cast<int>(real.dim())),
      [](void* context, void*) { delete static_cast<torch::Tensor*>(context); }, keep.get());
  keep.release();
  return r;
}

/// The dropin tensor's own memory as a torch tensor, off both tapes; it lives as long as either.
inline torch::Tensor to_torch(const Tensor& t) {
  if (!t.defined()) return {};
  const torch::Device device =
      t.device().is_cuda()
          ? torch::Device(torch::kCUDA, static_cast<torch::DeviceIndex>(t.device().index))
          : torch::Device(torch::kCPU);
  const auto options = torch::TensorOptions().dtype(dtype_to_torch(t.dtype())).device(device);
  const auto sizes = std::vector<int64_t>(t.sizes().begin(), t.sizes().end()),
             strides = std::vector<int64_t>(t.strides().begin(), t.strides().end());
  if (t.numel() == 0) return torch::empty(sizes, options);
  const Tensor keep = t.detach();
  return torch::from_blob(
      keep.data_ptr(), sizes, strides, [keep](void*) {}, options);
}

/// How often the tensor was changed in place; 0 for inference tensors, which keep no count.
inline std::uint32_t version_of(const torch::Tensor& t) {
  return t.is_inference() ? 0 : static_cast<std::uint32_t>(t._version());
}

}  // namespace dropin::interop
