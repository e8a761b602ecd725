// Reductions and scans.
#pragma once
#include "dropin/abi/abi.h"

namespace dropin::kernels {

enum class Reduce : std::int32_t { Sum, Mean, Prod, Max, Min, Any, All, LogSumExp, SumSquares };

/// y = reduction of x over the dims in which y has size 1 and stride 0 entries of `mask` are set
/// (bit i = dim i reduced). x and y have the same ndim; y has size 1 in reduced dims. Floats: all
/// but Any/All. Integers: Sum, Prod (into Int64), Max, Min. Bool: Any, All (y Bool). Max/Min
/// propagate NaN; an empty Max/Min is refused by the caller; an empty Sum is 0, Prod 1, Mean NaN,
/// LogSumExp -inf. bf16/f16 accumulate in f32. Sums are pairwise or blocked: error grows no faster
/// than O(log n) blocks. Same result for any thread count.
DROPIN_KERNEL(reduce, Reduce op, const abi::TensorIn& x, std::uint32_t mask,
              const abi::TensorOut& y);
/// mean and biased sum of squared deviations / (n - correction) per kept element; two-pass or
/// Welford. Either output may have data null.
DROPIN_KERNEL(var_mean, const abi::TensorIn& x, std::uint32_t mask, double correction,
              const abi::TensorOut& var, const abi::TensorOut& mean);
/// Index of the first maximum (or minimum) along dim; NaN wins. y Int64, size 1 at dim.
DROPIN_KERNEL(arg_reduce, bool maximum, const abi::TensorIn& x, int dim, const abi::TensorOut& y);

enum class Scan : std::int32_t { CumSum, CumProd, CumMax, LogCumSumExp };
/// Inclusive scan along dim, from the end when reverse. Float scans of f32 accumulate in f64.
DROPIN_KERNEL(scan, Scan op, const abi::TensorIn& x, int dim, bool reverse,
              const abi::TensorOut& y);

}  // namespace dropin::kernels
