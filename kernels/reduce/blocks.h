// What the reduction driver (cpu.cpp) asks of the vector code (cpu_blocks.cpp): partial results of
// one block.
#pragma once
#include "dropin/abi/abi.h"
#include "kernels/reduce/kernel.h"

namespace dropin::kernels {

enum class Fold : std::int32_t {
  Sum,
  Prod,
  Max,
  Min,
  SumSquares,
  SumExp /* of x - shift <= 0 */,
  SumSquaredDeviations /* from shift */
};

/// A partial result: f for float inputs, i for the others.
union Partial {
  double f;
  int64_t i;
};

struct FoldFns {
  Partial init;
  Partial (*merge)(Partial a, Partial b);
  /// n contiguous elements.
  Partial (*row)(const void* x, int64_t n, double shift);
  /// acc[c] = merge(acc[c], fold of x[r * stride + c] over r < rows), c < columns <= kColumns.
  /// shift has a value per column, or is null.
  void (*columns)(const void* x, int64_t stride, int64_t rows, int64_t columns, const double* shift,
                  Partial* acc);
};
constexpr int64_t kColumns = 1024;

/// Float32 and Float64.
FoldFns float_fold(Fold fold, DType t);
/// Int8, UInt8, Int32, Int64, and Bool for Max (any) and Min (all).
FoldFns int_fold(Fold fold, DType t);

/// Product of the sizes of the kept dims, and of the reduced ones.
int64_t kept_count(const abi::TensorIn& x, std::uint32_t mask);
int64_t reduced_count(const abi::TensorIn& x, std::uint32_t mask);

/// Means, and sums of squared deviations from them (two passes). Float32 and Float64.
void moments(const abi::TensorIn& x, std::uint32_t mask, double* mean, double* squares);

/// Position of the first largest (smallest) of n contiguous elements; NaN wins. Float32 and
/// Float64.
int64_t arg_row(DType t, bool maximum, const void* x, int64_t n);

}  // namespace dropin::kernels
