// The best of many stored rows for each query, by products or squared distances. Rows come in
// blocks that stay in cache while a group of queries meets them, and only the best are kept:
// nothing of size Q x N is written. Cost: 2 Q N E FLOPs (3 for distances). One query reads N E
// values once, so memory decides there; from about four queries on it is arithmetic.
#pragma once
#include "dropin/abi/abi.h"

namespace dropin::kernels {

/// All contiguous. What may be absent is without data. The score of a row is its product with the
/// query (times `units`), or -(squared distance); then times `factors`, then plus `terms`. It is
/// summed in one order whatever else is searched: equal rows have equal bits.
struct SearchInputs {
  abi::TensorIn queries;  ///< [Q, E] f32 or f64
  abi::TensorIn rows;     ///< [N, E] as queries, or f32, f16, bf16, i8
  abi::TensorIn steps;    ///< [N] f32: what 1 is worth in a row of i8; else absent
  abi::TensorIn units;    ///< [N] as queries, or absent
  abi::TensorIn factors;  ///< [N] as queries, or absent
  abi::TensorIn terms;    ///< [N] as queries, or absent
  abi::TensorIn ids;      ///< [N] i64, decide between equal scores; absent: the row's number
  abi::TensorIn chosen;   ///< [M] i64: rows to look at, in any order; absent: all
  bool l2 = false;
  template <class F>
  void tensors(F&& f) const {
    f(queries);
    f(rows);
    f(steps);
    f(units);
    f(factors);
    f(terms);
    f(ids);
    f(chosen);
  }
};

/// found i64 [Q, k]: row numbers, best score first, then smaller id; scores [Q, k] as queries.
/// Where there are fewer: -1 and -inf. A score that is NaN counts as -inf.
DROPIN_KERNEL(search_best, const SearchInputs& in, const abi::TensorOut& found,
              const abi::TensorOut& scores);
/// scores [Q, M] (or [Q, N]) of every row looked at, in their order.
DROPIN_KERNEL(search_scores, const SearchInputs& in, const abi::TensorOut& scores);

}  // namespace dropin::kernels
