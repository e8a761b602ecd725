// The cheapest one-to-one assignment.
#pragma once
#include "dropin/autograd/autograd.h"

namespace dropin {

/// cost [R, C] -> for each column the row that it is assigned to, int64 [C], so that the sum of
/// costs is least: every column has a row where C <= R, else every row a column and -1 stands for
/// none (Kuhn & Munkres; O(R C min(R, C)), in float64). OptionError for costs that are not finite.
/// No gradient.
Tensor hungarian(const Tensor& cost);

namespace detail {
/// The same of rows * columns numbers, row after row.
std::vector<int64_t> assigned_rows(const double* cost, int64_t rows, int64_t columns);
}  // namespace detail

}  // namespace dropin
