// What a tensor is, off the tape: factories, access, aliasing. Views that are recorded live in
// ops/views.cpp.
#include "dropin/tensor/tensor.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "dropin/dispatch/dispatch.h"
#include "kernels/elementwise/kernel.h"
#include "tensor/write.h"

namespace dropin {

void Tensor::undefined() {
  fail<Error>({"tensor: used before it was given a value (an undefined tensor)"});
}
void Tensor::wrong_type(DType asked) const {
  fail<DTypeError>({"tensor: data<", asked, ">() on a tensor of dtype ", dtype()});
}

int wrap_dim(int64_t dim, int64_t ndim, const char* who) {
  const int64_t n = ndim == 0 ? 1 : ndim;  // torch: a scalar has the dims -1 and 0
  if (dim < -n || dim >= n)
    fail<IndexError>(
        {who, ": dimension ", dim, " is out of range for a tensor of ", ndim, " dimensions"});
  return static_cast<int>(dim < 0 ? dim + n : dim);
}

int64_t Tensor::size(int64_t d) const {
  if (dim() == 0) fail<IndexError>({"size: dimension ", d, " of a scalar"});
  return get().sizes[wrap_dim(d, dim(), "size")];
}
int64_t Tensor::stride(int64_t d) const { return get().strides[wrap_dim(d, dim(), "stride")]; }

bool Tensor::is_contiguous() const {
  const TensorImpl& t = get();
  int64_t expect = 1;
  for (int i = t.sizes.size() - 1; i >= 0; --i) {
    if (t.sizes[i] != 1 && t.strides[i] != expect) return t.numel == 0;
    expect *= t.sizes[i];
  }
  return true;
}

abi::TensorIn Tensor::in() const {
  abi::TensorIn r;
  if (!impl_) return r;
  r.data = data_ptr();
  r.dtype = impl_->dtype;
  r.device = device().type;
  r.device_index = static_cast<std::uint8_t>(device().index);
  r.ndim = impl_->sizes.size();
  std::copy(impl_->sizes.begin(), impl_->sizes.end(), r.sizes);
  std::copy(impl_->strides.begin(), impl_->strides.end(), r.strides);
  return r;
}
abi::TensorOut Tensor::out() const {
  abi::TensorOut r;
  static_cast<abi::TensorIn&>(r) = in();
  return r;
}

int64_t Scalar::to_int64() const {
  if (!is_floating()) return whole_;
  if (real_ != real_) return 0;
  if (real_ >= 0x1p63) return std::numeric_limits<int64_t>::max();
  return real_ <= -0x1p63 ? std::numeric_limits<int64_t>::min() : static_cast<int64_t>(real_);
}

namespace {

template <class T>
bool holds(const Scalar& v) {
  if constexpr (std::is_same_v<T, bool>) return true;
  if (!std::is_integral_v<T>) {
    const double x = v.to_double();
    const double most = std::is_same_v<T, double>     ? std::numeric_limits<double>::max()
                        : std::is_same_v<T, float>    ? std::numeric_limits<float>::max()
                        : std::is_same_v<T, bfloat16> ? 0x1.fep127
                                                      : 65504;
    return !std::isfinite(x) || std::abs(x) <= most;
  }
  if constexpr (std::is_integral_v<T>) {
    constexpr bool wraps = std::is_unsigned_v<T>;
    constexpr double least = std::numeric_limits<T>::min();
    constexpr double beyond = 2 * static_cast<double>(T{1} << (8 * sizeof(T) - 1 - !wraps));
    if (v.is_floating()) return v.to_double() >= least && v.to_double() < beyond;
    if constexpr (sizeof(T) == 8) return true;
    const auto x = static_cast<double>(v.to_int64());
    return x >= (wraps ? 1 - beyond : least) && x < beyond;
  }
}

}  // namespace

bool Scalar::fits(DType t) const {
  return visit_dtype(t, [&](auto z) { return holds<decltype(z)>(*this); });
}

void does_not_fit(const Scalar& v, DType t, const char* who) {
  if (v.is_floating()) fail<DTypeError>({who, ": ", v.to_double(), " does not fit into ", t});
  fail<DTypeError>({who, ": ", v.to_int64(), " does not fit into ", t});
}

std::vector<int64_t> Tensor::whole_values() const {
  const Tensor x = detach().to(kInt64).to(kCPU).contiguous();
  const int64_t* p = x.data<int64_t>();
  return {p, p + x.numel()};
}
std::vector<double> Tensor::values() const {
  const Tensor x = detach().to(kFloat64).to(kCPU).contiguous();
  const double* p = x.data<double>();
  return {p, p + x.numel()};
}
namespace {
void check_single(const Tensor& t) {
  if (t.numel() != 1)
    fail<ShapeError>({"item: the tensor is ", t.sizes(), ", expected exactly one element"});
}
}  // namespace
int64_t Tensor::item_as_int64() const {
  check_single(*this);
  if (dtype() == kInt64 && device().is_cpu()) return *data<int64_t>();
  return whole_values()[0];
}
double Tensor::item_as_double() const {
  check_single(*this);
  if (dtype() == kFloat32 && device().is_cpu()) return *data<float>();
  if (dtype() == kInt64 && device().is_cpu()) return static_cast<double>(*data<int64_t>());
  return values()[0];
}

namespace {

std::size_t checked_bytes(const Shape& sizes, DType dtype) {
  int64_t n = item_size(dtype);
  bool empty = false;
  for (int64_t s : sizes) {
    if (s < 0) fail<ShapeError>({"tensor: negative size in ", sizes});
    if (s == 0)
      empty = true;
    else if (__builtin_mul_overflow(n, s, &n))
      fail<OutOfMemoryError>(
          {"tensor: ", sizes, " of ", dtype, " has more bytes than can be counted"});
  }
  return empty ? 0 : static_cast<std::size_t>(n);
}

Tensor make(Ref<Storage> storage, const Shape& sizes, const Shape& strides, int64_t offset,
            DType dtype) {
  auto impl = make_ref<TensorImpl>();
  impl->storage = std::move(storage);
  impl->sizes = sizes;
  impl->strides = strides;
  impl->offset = offset;
  impl->dtype = dtype;
  impl->numel = sizes.numel();
  return Tensor(std::move(impl));
}

}  // namespace

namespace detail {

Tensor alias(const Tensor& x, const Shape& sizes, const Shape& strides, int64_t offset) {
  return make(x.impl()->storage, sizes, strides, offset, x.dtype());
}

Tensor broadcast_to(const Tensor& x, const Shape& sizes) {
  if (x.sizes() == sizes) return x;
  const int lead = sizes.size() - static_cast<int>(x.dim());
  Shape strides = sizes;
  for (int i = 0; i < sizes.size(); ++i)
    strides[i] = i < lead || x.sizes()[i - lead] == 1 ? 0 : x.strides()[i - lead];
  return alias(x, sizes, strides, x.storage_offset());
}

void fill(const Tensor& t, const Scalar& value) {
  double v = value.to_double();
  if (!value.is_floating() && !is_floating(t.dtype()) && t.dtype() != kBool && t.dtype() != kInt64)
    v = visit_dtype(t.dtype(), [&](auto z) {  // an integer wraps round, as in torch
      return static_cast<double>(static_cast<decltype(z)>(value.to_int64()));
    });
  else if (!value.fits_double()) {  // the kernel takes a double; an integer goes by way of a tensor
    const int64_t whole = value.to_int64();
    const Tensor one = from_blob(const_cast<int64_t*>(&whole), {}, kInt64);
    run<kernels::copy>(t.device(), broadcast_to(one.to(t.dtype()).to(t.device()), t.sizes()).in(),
                       t.out());
    return;
  }
  if (v == 0 && !std::signbit(v) && t.device().is_cpu() && t.is_contiguous()) {
    if (t.numel())
      std::memset(t.data_ptr(), 0, static_cast<std::size_t>(t.numel() * item_size(t.dtype())));
  } else {
    run<kernels::fill>(t.device(), v, t.out());
  }
}

}  // namespace detail

Tensor empty(const Shape& sizes, const TensorOptions& o) {
  return make(make_ref<Storage>(checked_bytes(sizes, o.dtype), o.device), sizes,
              contiguous_strides(sizes), 0, o.dtype);
}
Tensor full(const Shape& sizes, const Scalar& value, const TensorOptions& o) {
  if (!value.fits(o.dtype)) does_not_fit(value, o.dtype, "full");
  Tensor t = empty(sizes, o);
  detail::fill(t, value);
  return t;
}
Tensor zeros(const Shape& sizes, const TensorOptions& o) { return full(sizes, 0, o); }
Tensor ones(const Shape& sizes, const TensorOptions& o) { return full(sizes, 1, o); }
Tensor empty_like(const Tensor& x) { return empty(x.sizes(), x.options()); }
Tensor zeros_like(const Tensor& x) { return zeros(x.sizes(), x.options()); }
Tensor ones_like(const Tensor& x) { return ones(x.sizes(), x.options()); }
Tensor full_like(const Tensor& x, const Scalar& value) {
  return full(x.sizes(), value, x.options());
}
Tensor scalar(const Scalar& value, const TensorOptions& o) {
  Tensor t = empty({}, o);
  detail::fill(t, value);
  return t;
}

Tensor tensor(const std::vector<double>& values, const Shape& sizes, const TensorOptions& o) {
  if (sizes.numel() != static_cast<int64_t>(values.size()))
    fail<ShapeError>({"tensor: ", values.size(), " values for the shape ", sizes});
  Tensor t = empty(sizes, kFloat64);
  std::copy(values.begin(), values.end(), t.data<double>());
  return t.to(o.dtype).to(o.device);
}
Tensor tensor(const std::vector<double>& values, const TensorOptions& o) {
  return tensor(values, {static_cast<int64_t>(values.size())}, o);
}

Tensor detail::whole_tensor(const std::vector<int64_t>& values, const Shape& sizes,
                            const TensorOptions& o) {
  if (sizes.numel() != static_cast<int64_t>(values.size()))
    fail<ShapeError>({"tensor: ", values.size(), " values for the shape ", sizes});
  Tensor t = empty(sizes, kInt64);
  std::copy(values.begin(), values.end(), t.data<int64_t>());
  return t.to(o.dtype).to(o.device);
}

namespace {

Tensor whole_range(int64_t start, int64_t end, int64_t step, const TensorOptions& o) {
  // counted in unsigned numbers: the distance of two int64 may not be one
  const auto u = [](int64_t v) { return static_cast<std::uint64_t>(v); };
  const std::uint64_t distance = step > 0 ? u(end) - u(start) : u(start) - u(end);
  const std::uint64_t stride = step > 0 ? u(step) : 0 - u(step);
  const bool any = step > 0 ? start < end : start > end;
  const std::uint64_t count = any ? (distance - 1) / stride + 1 : 0;
  if (count > std::uint64_t{1'000'000'000'000})
    fail<OutOfMemoryError>({"arange: ", static_cast<double>(count), " values"});
  std::vector<int64_t> v(count);
  for (std::uint64_t i = 0; i < count; ++i) v[i] = static_cast<int64_t>(u(start) + i * u(step));
  return detail::whole_tensor(v, {static_cast<int64_t>(count)}, o);
}

}  // namespace

Tensor arange(const Scalar& start_, const Scalar& end_, const Scalar& step_,
              const TensorOptions& o) {
  const double start = start_.to_double(), end = end_.to_double(), step = step_.to_double();
  if (step == 0 || !std::isfinite(step) || !std::isfinite(start) || !std::isfinite(end))
    fail<OptionError>({"arange: from ", start, " to ", end, " by ", step});
  if (!start_.is_floating() && !end_.is_floating() && !step_.is_floating())
    return whole_range(start_.to_int64(), end_.to_int64(), step_.to_int64(), o);
  const double count = std::ceil((end - start) / step);
  if (count > 1e12) fail<OutOfMemoryError>({"arange: ", count, " values"});
  std::vector<double> v(static_cast<std::size_t>(std::max(count, 0.0)));
  for (std::size_t i = 0; i < v.size(); ++i) v[i] = start + static_cast<double>(i) * step;
  return tensor(v, o);
}
Tensor arange(const Scalar& start, const Scalar& end, const Scalar& step) {
  const bool real = start.is_floating() || end.is_floating() || step.is_floating();
  return arange(start, end, step, real ? kFloat32 : kInt64);
}
Tensor arange(const Scalar& end) { return arange(0, end); }
Tensor linspace(double start, double end, int64_t steps, const TensorOptions& o) {
  if (steps < 0) fail<OptionError>({"linspace: steps is ", steps, ", expected at least 0"});
  std::vector<double> v(static_cast<std::size_t>(steps));
  for (int64_t i = 0; i < steps; ++i) {  // from both ends, so that the last value is exact
    const double d = steps > 1 ? (end - start) / static_cast<double>(steps - 1) : 0;
    v[static_cast<std::size_t>(i)] = i < steps / 2 || steps == 1
                                         ? start + static_cast<double>(i) * d
                                         : end - static_cast<double>(steps - 1 - i) * d;
  }
  return tensor(v, o);
}
Tensor eye(int64_t n, int64_t m, const TensorOptions& o) {
  if (m < 0) m = n;
  Tensor t = zeros({n, m}, o);
  Tensor d = detail::alias(t, {std::min(n, m)}, {m + 1}, 0);
  run<kernels::fill>(o.device, 1.0, d.out());
  return t;
}

Tensor from_blob(void* data, const Shape& sizes, const TensorOptions& o, const Shape& strides,
                 Deleter deleter, void* context) {
  std::size_t bytes = checked_bytes(sizes, o.dtype);
  if (!data && bytes) fail<Error>({"from_blob: null data for the shape ", sizes});
  if (!strides.empty()) {
    if (strides.size() != sizes.size())
      fail<ShapeError>({"from_blob: strides ", strides, " for the shape ", sizes});
    int64_t last = 0;
    for (int i = 0; i < sizes.size(); ++i) {
      if (strides[i] < 0) fail<ShapeError>({"from_blob: negative stride in ", strides});
      last += (sizes[i] - 1) * strides[i];
    }
    if (bytes) bytes = static_cast<std::size_t>((last + 1) * item_size(o.dtype));
  }
  return make(make_ref<Storage>(data, bytes, o.device, deleter, context), sizes,
              strides.empty() ? contiguous_strides(sizes) : strides, 0, o.dtype);
}

}  // namespace dropin
