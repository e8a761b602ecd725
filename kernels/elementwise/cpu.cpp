// The elementwise kernels: which row function, then the strided engine.
#include "kernels/elementwise/kernel.h"

#include <algorithm>

#include "kernels/elementwise/rows.h"

namespace dropin::kernels {
void provide_copy_cpu(abi::KernelTable& t);  // cpu_copy.cpp
namespace {

using abi::KernelContext;
using abi::Status;
using abi::TensorIn;
using abi::TensorOut;

bool same_sizes(const TensorIn& x, const TensorIn& y) {
  return x.ndim == y.ndim && std::equal(x.sizes, x.sizes + x.ndim, y.sizes);
}
#define REQUIRE(COND, WHY)  \
  if (!(COND)) [[unlikely]] \
  return abi::failed(WHY)

constexpr bool tests(Unary op) { return op >= Unary::LogicalNot; }
constexpr bool tests(Binary op) { return op >= Binary::Eq; }

Status unary_cpu(const KernelContext&, Unary op, const TensorIn& x, const TensorOut& y) {
  REQUIRE(same_sizes(x, y), "sizes differ");
  REQUIRE(y.dtype == (tests(op) ? DType::Boolean : x.dtype), "y has the wrong dtype");
  const Row row = unary_row(op, row_dtype(x.dtype));
  if (!row) return abi::unsupported("not defined for this dtype");
  map(row, {}, y, {&x});
  return abi::ok();
}

Status binary_cpu(const KernelContext&, Binary op, const TensorIn& a, const TensorIn& b,
                  const TensorOut& y) {
  REQUIRE(same_sizes(a, y) && same_sizes(b, y), "sizes differ");
  REQUIRE(a.dtype == b.dtype && y.dtype == (tests(op) ? DType::Boolean : a.dtype), "dtypes differ");
  const Row row = binary_row(op, row_dtype(a.dtype));
  if (!row) return abi::unsupported("not defined for this dtype");
  std::atomic<bool> bad{false};
  map(row, {.bad = &bad}, y, {&a, &b});
  return bad.load(std::memory_order_relaxed) ? abi::failed("integer division by zero") : abi::ok();
}

Status unary_grad_cpu(const KernelContext&, UnaryGrad op, const TensorIn& g, const TensorIn& s,
                      const TensorOut& gx) {
  REQUIRE(same_sizes(g, gx) && same_sizes(s, gx), "sizes differ");
  REQUIRE(g.dtype == gx.dtype && s.dtype == gx.dtype, "dtypes differ");
  const Row row = unary_grad_row(op, row_dtype(gx.dtype));
  if (!row) return abi::unsupported("gradients need a float dtype");
  map(row, {}, gx, {&g, &s});
  return abi::ok();
}

Status affine_cpu(const KernelContext&, const TensorIn& x, double mul, double add,
                  const TensorOut& y) {
  REQUIRE(same_sizes(x, y), "sizes differ");
  REQUIRE(x.dtype == y.dtype, "dtypes differ");
  const Row row = affine_row(row_dtype(y.dtype));
  if (!row) return abi::unsupported("not defined for bool");
  map(row, {.a = mul, .b = add}, y, {&x});
  return abi::ok();
}

Status axpy_cpu(const KernelContext&, double alpha, const TensorIn& x, const TensorOut& y) {
  REQUIRE(same_sizes(x, y), "sizes differ");
  REQUIRE(x.dtype == y.dtype, "dtypes differ");
  const Row row = axpy_row(row_dtype(y.dtype));
  if (!row) return abi::unsupported("not defined for bool");
  map(row, {.a = alpha}, y, {&y, &x});
  return abi::ok();
}

Status where_cpu(const KernelContext&, const TensorIn& cond, const TensorIn& a, const TensorIn& b,
                 const TensorOut& y) {
  REQUIRE(same_sizes(cond, y) && same_sizes(a, y) && same_sizes(b, y), "sizes differ");
  REQUIRE(cond.dtype == DType::Boolean && a.dtype == y.dtype && b.dtype == y.dtype,
          "dtypes differ");
  // bfloat16 and float16 go through float and come back unchanged.
  map(where_row(row_dtype(y.dtype)), {}, y, {&cond, &a, &b});
  return abi::ok();
}

Status clamp_cpu(const KernelContext&, const TensorIn& x, double lo, double hi,
                 const TensorOut& y) {
  REQUIRE(same_sizes(x, y), "sizes differ");
  REQUIRE(x.dtype == y.dtype, "dtypes differ");
  const Row row = clamp_row(row_dtype(y.dtype));
  if (!row) return abi::unsupported("not defined for bool");
  map(row, {.a = lo, .b = hi}, y, {&x});
  return abi::ok();
}

}  // namespace

void provide_elementwise_cpu(abi::KernelTable& t) {
  t.provide<unary>(&unary_cpu);
  t.provide<binary>(&binary_cpu);
  t.provide<unary_grad>(&unary_grad_cpu);
  t.provide<affine>(&affine_cpu);
  t.provide<axpy>(&axpy_cpu);
  t.provide<where>(&where_cpu);
  t.provide<clamp>(&clamp_cpu);
  provide_copy_cpu(t);
}

}  // namespace dropin::kernels
