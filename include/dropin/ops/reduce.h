// Reductions, scans, sorting. dims empty means all dimensions; negative dims count from the end.
#pragma once
#include "dropin/autograd/autograd.h"

namespace dropin {

Tensor sum(const Tensor& x, const Dims& dims = {},
           bool keepdim = false);  ///< integers and bool give int64
Tensor mean(const Tensor& x, const Dims& dims = {}, bool keepdim = false);
Tensor prod(const Tensor& x, const Dims& dims = {}, bool keepdim = false);
/// Greatest (least) values; ties share the gradient evenly, as torch.amax. ShapeError on an empty
/// reduction.
Tensor amax(const Tensor& x, const Dims& dims = {}, bool keepdim = false);
Tensor amin(const Tensor& x, const Dims& dims = {}, bool keepdim = false);
Tensor any(const Tensor& x, const Dims& dims = {}, bool keepdim = false);
Tensor all(const Tensor& x, const Dims& dims = {}, bool keepdim = false);
Tensor logsumexp(const Tensor& x, const Dims& dims, bool keepdim = false);
/// Variance with the given correction (1: unbiased).
Tensor var(const Tensor& x, const Dims& dims = {}, double correction = 1, bool keepdim = false);
Tensor std_dev(const Tensor& x, const Dims& dims = {}, double correction = 1,
               bool keepdim = false);  ///< torch.std
/// Euclidean norm.
Tensor norm(const Tensor& x, const Shape& dims = {}, bool keepdim = false);
struct ValuesIndices {
  Tensor values, indices;
};
/// The norm of order p (torch.linalg.vector_norm): (sum |x|^p)^(1/p), the greatest |x| for
/// infinity, the least for -infinity, the number of non-zero elements for 0. At 0 the gradient is
/// 0.
Tensor vector_norm(const Tensor& x, double p = 2, const Dims& dims = {}, bool keepdim = false);
/// The greatest (least) of all values, as amax() of all dimensions.
Tensor(max)(const Tensor& x);
Tensor(min)(const Tensor& x);
/// Greatest value along dim and the index of its first occurrence; the gradient goes there.
ValuesIndices(max)(const Tensor& x, int64_t dim, bool keepdim = false);
ValuesIndices(min)(const Tensor& x, int64_t dim, bool keepdim = false);
Tensor argmax(const Tensor& x, int64_t dim, bool keepdim = false);
/// Where the first greatest (least) value stands in the flattened tensor.
Tensor argmax(const Tensor& x);
Tensor argmin(const Tensor& x);
Tensor argmin(const Tensor& x, int64_t dim, bool keepdim = false);
Tensor cumsum(const Tensor& x, int64_t dim);
Tensor cumprod(const Tensor& x, int64_t dim);
Tensor logcumsumexp(const Tensor& x, int64_t dim);
/// Running maximum (values only).
Tensor cummax(const Tensor& x, int64_t dim);
/// Stable sort; NaN counts as largest.
ValuesIndices sort(const Tensor& x, int64_t dim = -1, bool descending = false);
Tensor argsort(const Tensor& x, int64_t dim = -1, bool descending = false);
ValuesIndices topk(const Tensor& x, int64_t k, int64_t dim = -1, bool largest = true);
Tensor softmax(const Tensor& x, int64_t dim);
Tensor log_softmax(const Tensor& x, int64_t dim);

}  // namespace dropin
