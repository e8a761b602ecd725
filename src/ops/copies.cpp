// Copies, conversions and transfers, recorded.
#include "kernels/memory/kernel.h"
#include "ops/common.h"

namespace dropin {

Tensor Tensor::clone() const {
  Tensor y = empty(sizes(), options());
  run<kernels::copy>(device(), in(), y.out());
  return record("clone", y, {*this}, {},
                [](const Saved&, const Tensor& g) -> Tensors { return {g}; });
}
Tensor Tensor::contiguous() const { return is_contiguous() ? *this : clone(); }

Tensor Tensor::to(DType want) const {
  if (want == dtype()) return *this;
  Tensor y = empty(sizes(), {want, device()});
  run<kernels::copy>(device(), in(), y.out());
  if (!is_floating(want)) return y;
  return record("to", y, {*this}, {}, [from = dtype()](const Saved&, const Tensor& g) -> Tensors {
    return {g.to(from)};
  });
}

Tensor Tensor::to(const Device& where) const {
  if (where == device()) return *this;
  const Tensor x = detach().contiguous();
  Tensor y = empty(sizes(), {dtype(), where});
  const Device& side = where.is_cpu() ? device() : where;
  const int64_t bytes = numel() * item_size(dtype());
  run<kernels::device_copy>(side, y.data_ptr(), where.is_cpu(),
                            static_cast<const void*>(x.data_ptr()), device().is_cpu(), bytes);
  return record("to", y, {*this}, {}, [from = device()](const Saved&, const Tensor& g) -> Tensors {
    return {g.to(from)};
  });
}

}  // namespace dropin
