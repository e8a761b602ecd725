// Elementwise primitives. Inputs are already broadcast to y's sizes (stride 0 where they repeat);
// any strides, any overlap-free y.
#pragma once
#include "dropin/abi/abi.h"

namespace dropin::kernels {

/// y = f(x). Float dtypes (f32, f64; bf16/f16 computed in f32): all. Integers: Neg, Abs, Sign,
/// Square. Bool: LogicalNot.
enum class Unary : std::int32_t {
  Neg,
  Abs,
  Sign,
  Square,
  Exp,
  Exp2,
  Expm1,
  Log,
  Log2,
  Log1p,
  Sqrt,
  Rsqrt,
  Reciprocal,
  Sin,
  Cos,
  Tan,
  Asin,
  Acos,
  Atan,
  Sinh,
  Cosh,
  Tanh,
  Sigmoid,
  LogSigmoid,
  Softplus,
  Relu,
  Silu,
  Gelu /* erf */,
  GeluTanh,
  Erf,
  Floor,
  Ceil,
  Round /* half to even */,
  Trunc,
  LogicalNot,
  IsNan,
  IsInf,
  IsFinite  // these four write Bool
};

/// y = f(a, b); a, b of one dtype, y of the same, or Bool for the comparisons and logic. NaN
/// propagates through Maximum/Minimum. Div is true division (floats only); FloorDiv and Remainder
/// follow Python's sign (integers and floats).
enum class Binary : std::int32_t {
  Add,
  Sub,
  Mul,
  Div,
  FloorDiv,
  Remainder,
  Pow,
  Maximum,
  Minimum,
  Atan2,
  Eq,
  Ne,
  Lt,
  Le,
  Gt,
  Ge,
  LogicalAnd,
  LogicalOr,
  LogicalXor
};

/// Gradients of unary functions in one pass: gx = g * f'(.) where `s` is the saved tensor named
/// here.
enum class UnaryGrad : std::int32_t {
  Tanh /* s = y */,
  Sigmoid /* y */,
  Exp /* y */,
  Sqrt /* y */,
  Rsqrt /* y */,
  Reciprocal /* y */,
  Relu /* y */,
  Log /* x */,
  Silu /* x */,
  Gelu /* x */,
  GeluTanh /* x */,
  Softplus /* x */,
  Square /* x */,
  Abs /* x */,
  Sin /* x */,
  Cos /* x */
};

DROPIN_KERNEL(unary, Unary op, const abi::TensorIn& x, const abi::TensorOut& y);
DROPIN_KERNEL(binary, Binary op, const abi::TensorIn& a, const abi::TensorIn& b,
              const abi::TensorOut& y);
DROPIN_KERNEL(unary_grad, UnaryGrad op, const abi::TensorIn& g, const abi::TensorIn& s,
              const abi::TensorOut& gx);
/// y = x * mul + add, y and x of one dtype (floats or integers; mul and add are rounded to it).
DROPIN_KERNEL(affine, const abi::TensorIn& x, double mul, double add, const abi::TensorOut& y);
/// y += alpha * x, same dtype; x broadcast to y's sizes. The accumulation of gradients.
DROPIN_KERNEL(axpy, double alpha, const abi::TensorIn& x, const abi::TensorOut& y);
/// y = cond ? a : b; cond Bool.
DROPIN_KERNEL(where, const abi::TensorIn& cond, const abi::TensorIn& a, const abi::TensorIn& b,
              const abi::TensorOut& y);
/// y = clamp(x, lo, hi); NaN passes through.
DROPIN_KERNEL(clamp, const abi::TensorIn& x, double lo, double hi, const abi::TensorOut& y);
/// y = x converted to y's dtype. Any pair of dtypes, any strides. Float to integer truncates,
/// saturates, NaN gives 0; to bool: x != 0. Fast for contiguous, for a transposed last pair of dims
/// (blocked), and for rows that are contiguous.
DROPIN_KERNEL(copy, const abi::TensorIn& x, const abi::TensorOut& y);
/// y[...] = value, converted as by copy.
DROPIN_KERNEL(fill, double value, const abi::TensorOut& y);

}  // namespace dropin::kernels
