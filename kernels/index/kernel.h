// Indexing. Index tensors are Int64; an index outside its range answers failed("index out of
// range") before anything is written. Any dtype, any strides.
#pragma once
#include "dropin/abi/abi.h"

namespace dropin::kernels {

/// y[..i..] = x[..index[..i..]..] along dim (torch.gather); index and y of one shape.
DROPIN_KERNEL(gather, const abi::TensorIn& x, int dim, const abi::TensorIn& index,
              const abi::TensorOut& y);
/// y[..index[..i..]..] += src (add) or = src along dim (torch.scatter / scatter_add).
/// Deterministic: in index order.
DROPIN_KERNEL(scatter, const abi::TensorIn& index, const abi::TensorIn& src, int dim, bool add,
              const abi::TensorOut& y);
/// y = x.index_select(dim, index [n]); fast when what follows dim is contiguous (embedding).
DROPIN_KERNEL(index_select, const abi::TensorIn& x, int dim, const abi::TensorIn& index,
              const abi::TensorOut& y);
/// y.index_add_(dim, index [n], src). Deterministic.
DROPIN_KERNEL(index_add, const abi::TensorIn& index, const abi::TensorIn& src, int dim,
              const abi::TensorOut& y);
/// Flat positions of the true (non-zero) elements of a contiguous x, ascending, into out (Int64,
/// numel(x) long); count receives how many.
DROPIN_KERNEL(nonzero, const abi::TensorIn& x, const abi::TensorOut& out, int64_t* count);

}  // namespace dropin::kernels
