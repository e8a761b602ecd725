// DLPack, Eigen and raw memory.
#include <Eigen/Core>

#include "dropin/interop/dlpack.h"
#include "dropin/interop/eigen.h"
#include "dropin/interop/span.h"
#include "support.h"

namespace dropin {
namespace {

using testing::expect_values;

TEST(DLPack, RoundTripSharesMemoryAndFreesOnce) {
  for (const DType t :
       {kFloat32, kFloat64, kBFloat16, kFloat16, kInt8, kUInt8, kInt32, kInt64, kBool}) {
    Tensor x = tensor({0, 1, 1, 0, 1, 1}, {2, 3}, t);
    dlpack::DLManagedTensor* m = to_dlpack(x.transpose(0, 1));
    EXPECT_EQ(m->dl_tensor.ndim, 2);
    EXPECT_EQ(m->dl_tensor.strides[0], 1);
    Tensor y = from_dlpack(m);
    EXPECT_EQ(y.dtype(), t);
    EXPECT_EQ(y.data_ptr(), x.data_ptr());
    x = {};
    expect_values(y, {0, 0, 1, 1, 1, 1});
  }
}

TEST(DLPack, VersionedFormAndItsRefusals) {
  dlpack::DLManagedTensorVersioned* m = to_dlpack_versioned(arange(0, 4));
  EXPECT_EQ(m->version.major, 1u);
  m->flags = dlpack::kReadOnly;
  EXPECT_ERROR(from_dlpack(m), Error, "read-only");
  m->flags = 0;
  m->version.major = 2;
  EXPECT_ERROR(from_dlpack(m), Error, "version 2.0");
  m->version.major = 1;
  m->dl_tensor.dtype.lanes = 4;
  EXPECT_ERROR(from_dlpack(m), DTypeError, "4 lanes");
  m->dl_tensor.dtype.lanes = 1;
  m->dl_tensor.device.device_type = 10;
  EXPECT_ERROR(from_dlpack(m), DeviceError, "device type 10");
  m->dl_tensor.device.device_type = 1;
  m->dl_tensor.byte_offset = 8;
  m->dl_tensor.shape[0] = 3;
  m->dl_tensor.strides = nullptr;
  expect_values(from_dlpack(m), {1, 2, 3});
  EXPECT_ERROR(to_dlpack(zeros({2}).requires_grad_()), AutogradError, "detach()");
}

TEST(Eigen, MapsShareMemory) {
  Tensor x = tensor({1, 2, 3, 4, 5, 6}, {2, 3}, kFloat64);
  auto m = as_eigen<double>(x.transpose(0, 1));
  EXPECT_EQ(m(2, 0), 3);
  m(2, 0) = 30;
  expect_values(x, {1, 2, 30, 4, 5, 6});
  expect_values(from_eigen(as_eigen<double>(x) * 2.0), {2, 4, 60, 8, 10, 12});
  EXPECT_ERROR(as_eigen<float>(x), DTypeError, "float64");
  EXPECT_ERROR(as_eigen<double>(zeros({1, 1, 1}, kFloat64)), ShapeError, "[m, n]");
}

TEST(Span, ViewsMemory) {
  std::vector<float> v{1, 2, 3, 4};
  Tensor t = from_span(std::span<float>(v), {2, 2});
  t.mul_(2.0);
  EXPECT_EQ(v[3], 8);
  EXPECT_EQ(as_span<float>(t)[2], 6);
  EXPECT_ERROR(as_span<float>(t.transpose(0, 1)), Error, "contiguous");
  EXPECT_ERROR(from_span(std::span<float>(v), {3}), ShapeError, "4 elements");
}

}  // namespace
}  // namespace dropin
