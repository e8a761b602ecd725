// What the operation files share.
#pragma once
#include <algorithm>

#include "dropin/autograd/autograd.h"
#include "dropin/dispatch/dispatch.h"
#include "dropin/ops/elementwise.h"
#include "kernels/elementwise/kernel.h"

namespace dropin::ops_detail {

/// DeviceError unless both live on one device.
inline void same_device(const char* who, const Tensor& a, const Tensor& b) {
  if (!(a.device() == b.device()))
    fail<DeviceError>(
        {who, ": tensors on ", a.device(), " and ", b.device(), "; move one with to()"});
}
inline void need_floating(const char* who, const Tensor& x) {
  if (!is_floating(x.dtype()))
    fail<DTypeError>({who, ": expected a floating-point tensor, got ", x.dtype()});
}
/// The dtype of an operation on a tensor and two numbers.
inline DType result_type(const Tensor& x, const Scalar& a, const Scalar& b) {
  return promote(dropin::result_type(x, a), dropin::result_type(x, b));
}
inline void need_int64(const char* who, const char* what, const Tensor& x) {
  if (x.dtype() != kInt64)
    fail<DTypeError>({who, ": ", what, " is ", x.dtype(), ", expected int64"});
}
/// f32 for the 16-bit types, otherwise the dtype itself: what fused kernels compute in.
inline DType compute_type(DType t) { return t == kBFloat16 || t == kFloat16 ? kFloat32 : t; }
/// A tensor with x's values, contiguous, of the compute type, recorded.
inline Tensor prepared(const Tensor& x) {
  return x.defined() ? x.to(compute_type(x.dtype())).contiguous() : x;
}
/// t beside x: in its dtype, contiguous; undefined stays so.
inline Tensor as_beside(const Tensor& t, const Tensor& x) {
  return t.defined() ? t.to(x.dtype()).contiguous() : t;
}
/// IndexError with the first entry of `index` (int64) that is neither in 0 .. n - 1 nor `ignored`.
[[noreturn]] void out_of_range(const char* who, const char* what, const Tensor& index, int64_t n,
                               int64_t ignored);
/// Runs a kernel that reads `index`; where it answers that an entry is not in 0 .. n - 1, the
/// IndexError holds the first one, its place and the bound. `ignored` is allowed as well.
template <class F>
void indexed(const char* who, const char* what, const Tensor& index, int64_t n, F run_kernel,
             int64_t ignored = -1) {
  try {
    run_kernel();
  } catch (const IndexError&) {
    out_of_range(who, what, index, n, ignored);
  }
}
/// Gumbel noise of uniform numbers in [0, 1): finite for each of them.
Tensor gumbel_noise(const Tensor& u);
/// The sorted, wrapped, distinct dims as a bit mask; all dims when empty.
std::uint32_t dim_mask(const Shape& dims, int64_t ndim, const char* who);

}  // namespace dropin::ops_detail
