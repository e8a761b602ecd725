// The row functions, one file per group; each picks its instruction set once per kernel call. Null
// when the dtype has no such function.
#pragma once
#include "kernels/elementwise/kernel.h"
#include "kernels/strided.h"

namespace dropin::kernels {

Row unary_row(Unary op,
              DType t);  // float ops on Float32/Float64 rows, the others on their own dtype
Row unary_grad_row(UnaryGrad op, DType t);  // Float32, Float64
Row binary_row(Binary op, DType t);         // floats: Float32, Float64; integers and Bool
Row affine_row(DType t);                    // a x + b
Row axpy_row(DType t);                      // in[0] + a in[1]
Row where_row(DType t);                     // in[0] ? in[1] : in[2]; by item size
Row clamp_row(DType t);

/// The dtype a row works in: bfloat16 and float16 reach it as float.
constexpr DType row_dtype(DType t) { return is_half(t) ? DType::Float32 : t; }

}  // namespace dropin::kernels
