// In-place operations: checked before any work, differentiated where they must be.
#include "autograd/tape.h"
#include "dropin/ops/elementwise.h"
#include "ops/common.h"
#include "tensor/write.h"

namespace dropin {

namespace {

/// Error when several of self's elements are one place in memory, so that a write would be read
/// again.
void need_own_memory(const Tensor& self, const char* who) {
  for (int i = 0; i < self.dim(); ++i)
    if (self.strides()[i] == 0 && self.sizes()[i] > 1)
      fail<Error>({who, ": the tensor of sizes ", self.sizes(), " is expanded (strides ",
                   self.strides(), "): several elements share memory; clone() it first"});
}
void need_cast(const Tensor& self, DType result, const char* who) {
  if (!can_cast(result, self.dtype()))
    fail<DTypeError>(
        {who, ": the result is ", result, ", which a tensor of ", self.dtype(), " can not hold"});
}
void need_sizes(const Tensor& self, const Tensor& other, const char* who) {
  if (!(broadcast_shapes(self.sizes(), other.sizes(), who) == self.sizes()))
    fail<ShapeError>({who, ": ", other.sizes(), " does not broadcast to ", self.sizes()});
}

void put(const Tensor& self, const Tensor& values) {
  run<kernels::copy>(self.device(), values.in(), self.out());
  self.bump_version();
}

/// self = f(self), where f saves its operand for backward when it is told to, and then gets a copy.
template <class F>
Tensor& computed(Tensor& self, bool recorded, bool saves, const char* who, F f) {
  if (!recorded) {
    no_grad guard;
    put(self, f(self).to(self.dtype()));
    return self;
  }
  const Tensor value = f(saves ? self.clone() : self).to(self.dtype());
  const Tensor next = detail::next_history(self, value, true, who);
  put(self, value);
  detail::take_history(self, next);
  return self;
}

/// self with all its elements replaced by what f writes, whatever they were.
template <class F>
Tensor& filled(Tensor& self, const char* who, F f) {
  const bool recorded = detail::check_in_place(self, false, who);
  const Tensor next = recorded ? detail::next_history(self, self.detach(), false, who) : Tensor();
  f(self);
  self.bump_version();
  if (recorded) detail::take_history(self, next);
  return self;
}

/// What every operation with another tensor checks. True when it must be recorded.
bool checked(const Tensor& self, const Tensor& other, DType result, const char* who) {
  ops_detail::same_device(who, self, other);
  need_sizes(self, other, who);
  need_cast(self, result, who);
  need_own_memory(self, who);
  return detail::check_in_place(self, other.requires_grad(), who);
}
bool checked(const Tensor& self, DType result, const char* who) {
  need_cast(self, result, who);
  need_own_memory(self, who);
  return detail::check_in_place(self, false, who);
}

DType quotient_type(DType t) { return is_floating(t) ? t : kFloat32; }

/// self * m + a, where `number` is the one of the two that the caller gave: in the tensor's own
/// memory when that is exact, else f(self).
template <class F>
Tensor& scaled(Tensor& self, const Scalar& number, double m, double a, const char* who, F f) {
  const bool recorded = checked(self, result_type(self, number), who);
  if (recorded || self.dtype() == kBool || !number.fits_double())
    return computed(self, recorded, false, who, f);
  run<kernels::affine>(self.device(), self.in(), m, a, self.out());
  self.bump_version();
  return self;
}

}  // namespace

Tensor& Tensor::copy_(const Tensor& src) {
  need_sizes(*this, src, "copy_");
  need_own_memory(*this, "copy_");
  if (detail::check_in_place(*this, src.requires_grad(), "copy_")) {
    const Tensor value = src.to(device()).to(dtype()).expand(sizes());
    const Tensor next = detail::next_history(*this, value, false, "copy_");
    put(*this, value.impl()->storage == impl_->storage ? value.detach().clone() : value);
    detail::take_history(*this, next);
    return *this;
  }
  Tensor s = src.detach().to(device());
  if (s.impl()->storage == impl_->storage) s = s.clone();  // may overlap
  put(*this, detail::broadcast_to(s, sizes()));
  return *this;
}

Tensor& Tensor::fill_(const Scalar& value) {
  if (!value.fits(dtype())) does_not_fit(value, dtype(), "fill_");
  return filled(*this, "fill_", [&](const Tensor& x) { detail::fill(x, value); });
}
Tensor& Tensor::uniform_(double a, double b, Generator* g) {
  need_own_memory(*this, "uniform_");
  return filled(*this, "uniform_", [&](const Tensor& x) {
    detail::random_into(x, kernels::Distribution::Uniform, a, b, g);
  });
}
Tensor& Tensor::normal_(double mean, double std, Generator* g) {
  need_own_memory(*this, "normal_");
  return filled(*this, "normal_", [&](const Tensor& x) {
    detail::random_into(x, kernels::Distribution::Normal, mean, std, g);
  });
}

Tensor& Tensor::add_(const Tensor& other, const Scalar& alpha) {
  const bool recorded = checked(*this, other, result_type(*this, other), "add_");
  if (recorded || dtype() != other.dtype() || dtype() == kBool || !alpha.fits_double() ||
      (alpha.is_floating() && !is_floating(dtype())) || other.impl()->storage == impl_->storage)
    return computed(*this, recorded, false, "add_",
                    [&](const Tensor& x) { return dropin::add(x, other, alpha); });
  run<kernels::axpy>(device(), alpha.to_double(), detail::broadcast_to(other, sizes()).in(), out());
  bump_version();
  return *this;
}
Tensor& Tensor::sub_(const Tensor& other, const Scalar& alpha) {
  if (dtype() == kBool || other.dtype() == kBool)
    fail<DTypeError>({"sub_: not for bool; use logical_xor"});
  return add_(other, alpha.is_floating() ? Scalar(-alpha.to_double()) : Scalar(-alpha.to_int64()));
}
Tensor& Tensor::add_(const Scalar& v) {
  return scaled(*this, v, 1, v.to_double(), "add_", [&](const Tensor& x) { return x + v; });
}
Tensor& Tensor::sub_(const Scalar& v) {
  if (dtype() == kBool || v.dtype() == kBool)
    fail<DTypeError>({"sub_: not for bool; use logical_xor"});
  return scaled(*this, v, 1, -v.to_double(), "sub_", [&](const Tensor& x) { return x - v; });
}
Tensor& Tensor::mul_(const Tensor& other) {
  const bool recorded = checked(*this, other, result_type(*this, other), "mul_");
  return computed(*this, recorded, other.requires_grad(), "mul_",
                  [&](const Tensor& x) { return x * other; });
}
Tensor& Tensor::mul_(const Scalar& v) {
  return scaled(*this, v, v.to_double(), 0, "mul_", [&](const Tensor& x) { return x * v; });
}
Tensor& Tensor::div_(const Tensor& other) {
  const bool recorded = checked(*this, other, quotient_type(result_type(*this, other)), "div_");
  return computed(*this, recorded, other.requires_grad(), "div_",
                  [&](const Tensor& x) { return x / other; });
}
Tensor& Tensor::div_(const Scalar& v) {
  const bool recorded = checked(*this, quotient_type(result_type(*this, v)), "div_");
  return computed(*this, recorded, false, "div_", [&](const Tensor& x) { return x / v; });
}
Tensor& Tensor::clamp_(const Scalar& lo, const Scalar& hi) {
  const bool recorded = checked(*this, ops_detail::result_type(*this, lo, hi), "clamp_");
  return computed(*this, recorded, true, "clamp_",
                  [&](const Tensor& x) { return dropin::clamp(x, lo, hi); });
}
Tensor& Tensor::masked_fill_(const Tensor& mask, const Scalar& value) {
  need_sizes(*this, mask, "masked_fill_");
  need_own_memory(*this, "masked_fill_");
  const bool recorded = detail::check_in_place(*this, false, "masked_fill_");
  return computed(*this, recorded, false, "masked_fill_",
                  [&](const Tensor& x) { return dropin::masked_fill(x, mask, value); });
}

}  // namespace dropin
