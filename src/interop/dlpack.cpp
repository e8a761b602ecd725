#include "dropin/interop/dlpack.h"

namespace dropin {
namespace {

using namespace dlpack;

constexpr DLDataType kTypes[] = {
    {kFloat, 32, 1},       {kFloat, 64, 1},       {kBfloat, 16, 1},
    {kFloat, 16, 1},       {dlpack::kInt, 8, 1},  {kUInt, 8, 1},
    {dlpack::kInt, 32, 1}, {dlpack::kInt, 64, 1}, {dlpack::kBool, 8, 1}};

// What an exported tensor keeps alive.
template <class Managed>
struct Exported {
  Managed managed{};
  Tensor tensor;
  Shape sizes, strides;
};

template <class Managed>
Managed* export_tensor(const Tensor& t) {
  if (t.requires_grad())
    fail<AutogradError>(
        {"to_dlpack: the tensor requires a gradient, which DLPack cannot carry; use detach()"});
  auto* e = new Exported<Managed>;
  e->tensor = t;
  e->sizes = t.sizes();
  e->strides = t.strides();
  DLTensor& d = e->managed.dl_tensor;
  d.data = t.data_ptr();
  d.device = {t.device().is_cpu() ? kCPUDevice : kCUDADevice, t.device().index};
  d.ndim = static_cast<std::int32_t>(t.dim());
  d.dtype = kTypes[static_cast<int>(t.dtype())];
  d.shape = e->sizes.begin();
  d.strides = e->strides.begin();
  e->managed.manager_ctx = e;
  e->managed.deleter = [](Managed* self) {
    delete static_cast<Exported<Managed>*>(self->manager_ctx);
  };
  return &e->managed;
}

template <class Managed>
Tensor import_tensor(Managed* managed) {
  if (!managed) fail<Error>({"from_dlpack: null"});
  const DLTensor& d = managed->dl_tensor;
  int type = -1;
  for (int i = 0; i < 9; ++i)
    if (kTypes[i].code == d.dtype.code && kTypes[i].bits == d.dtype.bits && d.dtype.lanes == 1)
      type = i;
  if (type < 0)
    fail<DTypeError>({"from_dlpack: type code ", static_cast<int>(d.dtype.code), " of ",
                      static_cast<int>(d.dtype.bits), " bits and ", static_cast<int>(d.dtype.lanes),
                      " lanes is not one of ours"});
  if (d.device.device_type != kCPUDevice && d.device.device_type != kCUDADevice &&
      d.device.device_type != kCUDAHost)
    fail<DeviceError>({"from_dlpack: device type ", d.device.device_type,
                       "; there are 1 (cpu), 2 (cuda) and 3 (cuda host)"});
  if (d.ndim < 0 || d.ndim > abi::kMaxDims || (d.ndim && !d.shape))
    fail<ShapeError>(
        {"from_dlpack: ", d.ndim, " dimensions; at most ", abi::kMaxDims, " are supported"});
  const Shape sizes(d.shape, d.ndim),
      strides = d.strides ? Shape(d.strides, d.ndim) : contiguous_strides(sizes);
  const Device device =
      d.device.device_type == kCUDADevice ? Device(DeviceType::CUDA, d.device.device_id) : kCPU;
  char* data = static_cast<char*>(d.data) + d.byte_offset;
  if (reinterpret_cast<std::uintptr_t>(data) %
      static_cast<std::uintptr_t>(item_size(static_cast<DType>(type))))
    fail<Error>({"from_dlpack: the data is not aligned to its ",
                 item_size(static_cast<DType>(type)), "-byte elements"});
  return from_blob(
      data, sizes, {static_cast<DType>(type), device}, strides,
      [](void* context, void*) {
        auto* m = static_cast<Managed*>(context);
        if (m->deleter) m->deleter(m);
      },
      managed);
}

}  // namespace

DLManagedTensor* to_dlpack(const Tensor& t) { return export_tensor<DLManagedTensor>(t); }
DLManagedTensorVersioned* to_dlpack_versioned(const Tensor& t) {
  DLManagedTensorVersioned* m = export_tensor<DLManagedTensorVersioned>(t);
  m->version = {1, 0};
  return m;
}

Tensor from_dlpack(DLManagedTensor* managed) { return import_tensor(managed); }
Tensor from_dlpack(DLManagedTensorVersioned* managed) {
  if (managed && managed->version.major != 1)
    fail<Error>({"from_dlpack: version ", managed->version.major, ".", managed->version.minor,
                 "; 1.x is supported"});
  if (managed && (managed->flags & kReadOnly))
    fail<Error>({"from_dlpack: the memory is read-only; a tensor may be written. Copy it first"});
  return import_tensor(managed);
}

}  // namespace dropin
