// The functions of a tensor as its methods.
#include "dropin/ops/elementwise.h"
#include "dropin/ops/indexing.h"
#include "dropin/ops/matmul.h"
#include "dropin/ops/reduce.h"
#include "dropin/ops/shape.h"

namespace dropin {

Tensor Tensor::sum(const Dims& dims, bool keepdim) const {
  return dropin::sum(*this, dims, keepdim);
}
Tensor Tensor::mean(const Dims& dims, bool keepdim) const {
  return dropin::mean(*this, dims, keepdim);
}
Tensor Tensor::prod(const Dims& dims, bool keepdim) const {
  return dropin::prod(*this, dims, keepdim);
}
Tensor Tensor::amax(const Dims& dims, bool keepdim) const {
  return dropin::amax(*this, dims, keepdim);
}
Tensor Tensor::amin(const Dims& dims, bool keepdim) const {
  return dropin::amin(*this, dims, keepdim);
}
Tensor Tensor::any(const Dims& dims, bool keepdim) const {
  return dropin::any(*this, dims, keepdim);
}
Tensor Tensor::all(const Dims& dims, bool keepdim) const {
  return dropin::all(*this, dims, keepdim);
}
Tensor Tensor::logsumexp(const Dims& dims, bool keepdim) const {
  return dropin::logsumexp(*this, dims, keepdim);
}
Tensor Tensor::var(const Dims& dims, double correction, bool keepdim) const {
  return dropin::var(*this, dims, correction, keepdim);
}
Tensor Tensor::std(const Dims& dims, double correction, bool keepdim) const {
  return std_dev(*this, dims, correction, keepdim);
}
Tensor Tensor::norm(const Shape& dims, bool keepdim) const {
  return dropin::norm(*this, dims, keepdim);
}
Tensor Tensor::p_norm(double p, const Dims& dims, bool keepdim) const {
  return vector_norm(*this, p, dims, keepdim);
}

Tensor Tensor::max() const { return dropin::max(*this); }
ValuesIndices Tensor::max(int64_t dim, bool keepdim) const {
  return dropin::max(*this, dim, keepdim);
}
Tensor Tensor::min() const { return dropin::min(*this); }
ValuesIndices Tensor::min(int64_t dim, bool keepdim) const {
  return dropin::min(*this, dim, keepdim);
}
Tensor Tensor::argmax() const { return dropin::argmax(*this); }
Tensor Tensor::argmax(int64_t dim, bool keepdim) const {
  return dropin::argmax(*this, dim, keepdim);
}
Tensor Tensor::argmin() const { return dropin::argmin(*this); }
Tensor Tensor::argmin(int64_t dim, bool keepdim) const {
  return dropin::argmin(*this, dim, keepdim);
}
ValuesIndices Tensor::sort(int64_t dim, bool descending) const {
  return dropin::sort(*this, dim, descending);
}
Tensor Tensor::argsort(int64_t dim, bool descending) const {
  return dropin::argsort(*this, dim, descending);
}
ValuesIndices Tensor::topk(int64_t k, int64_t dim, bool largest) const {
  return dropin::topk(*this, k, dim, largest);
}
Tensor Tensor::cumsum(int64_t dim) const { return dropin::cumsum(*this, dim); }
Tensor Tensor::cumprod(int64_t dim) const { return dropin::cumprod(*this, dim); }
Tensor Tensor::softmax(int64_t dim) const { return dropin::softmax(*this, dim); }
Tensor Tensor::log_softmax(int64_t dim) const { return dropin::log_softmax(*this, dim); }

Tensor Tensor::clamp_min(const Scalar& lo) const { return dropin::clamp_min(*this, lo); }
Tensor Tensor::clamp_max(const Scalar& hi) const { return dropin::clamp_max(*this, hi); }
Tensor Tensor::add(const Tensor& other, const Scalar& alpha) const {
  return dropin::add(*this, other, alpha);
}
Tensor Tensor::add(const Scalar& v) const { return dropin::add(*this, v); }
Tensor Tensor::sub(const Tensor& other) const { return dropin::sub(*this, other); }
Tensor Tensor::sub(const Scalar& v) const { return dropin::sub(*this, v); }
Tensor Tensor::mul(const Tensor& other) const { return dropin::mul(*this, other); }
Tensor Tensor::mul(const Scalar& v) const { return dropin::mul(*this, v); }
Tensor Tensor::div(const Tensor& other) const { return dropin::div(*this, other); }
Tensor Tensor::div(const Scalar& v) const { return dropin::div(*this, v); }
Tensor Tensor::eq(const Tensor& other) const { return dropin::eq(*this, other); }
Tensor Tensor::eq(const Scalar& v) const { return dropin::eq(*this, v); }
Tensor Tensor::ne(const Tensor& other) const { return dropin::ne(*this, other); }
Tensor Tensor::ne(const Scalar& v) const { return dropin::ne(*this, v); }
Tensor Tensor::lt(const Tensor& other) const { return dropin::lt(*this, other); }
Tensor Tensor::lt(const Scalar& v) const { return dropin::lt(*this, v); }
Tensor Tensor::le(const Tensor& other) const { return dropin::le(*this, other); }
Tensor Tensor::le(const Scalar& v) const { return dropin::le(*this, v); }
Tensor Tensor::gt(const Tensor& other) const { return dropin::gt(*this, other); }
Tensor Tensor::gt(const Scalar& v) const { return dropin::gt(*this, v); }
Tensor Tensor::ge(const Tensor& other) const { return dropin::ge(*this, other); }
Tensor Tensor::ge(const Scalar& v) const { return dropin::ge(*this, v); }
Tensor Tensor::neg() const { return dropin::neg(*this); }
Tensor Tensor::log1p() const { return dropin::log1p(*this); }
Tensor Tensor::expm1() const { return dropin::expm1(*this); }
Tensor Tensor::rsqrt() const { return dropin::rsqrt(*this); }
Tensor Tensor::reciprocal() const { return dropin::reciprocal(*this); }
Tensor Tensor::sign() const { return dropin::sign(*this); }
Tensor Tensor::floor() const { return dropin::floor(*this); }
Tensor Tensor::ceil() const { return dropin::ceil(*this); }
Tensor Tensor::round() const { return dropin::round(*this); }
Tensor Tensor::sin() const { return dropin::sin(*this); }
Tensor Tensor::cos() const { return dropin::cos(*this); }
Tensor Tensor::erf() const { return dropin::erf(*this); }
Tensor Tensor::isnan() const { return dropin::isnan(*this); }
Tensor Tensor::isfinite() const { return dropin::isfinite(*this); }
Tensor Tensor::pow(const Tensor& exponent) const { return dropin::pow(*this, exponent); }
bool Tensor::equal(const Tensor& other) const { return dropin::equal(*this, other); }
bool Tensor::allclose(const Tensor& other, double rtol, double atol, bool equal_nan) const {
  return dropin::allclose(*this, other, rtol, atol, equal_nan);
}
Tensor Tensor::mm(const Tensor& other) const { return dropin::mm(*this, other); }
Tensor Tensor::bmm(const Tensor& other) const { return dropin::bmm(*this, other); }
Tensor Tensor::dot(const Tensor& other) const { return dropin::dot(*this, other); }

Tensor Tensor::masked_select(const Tensor& mask) const {
  return dropin::masked_select(*this, mask);
}
Tensor Tensor::where(const Tensor& condition, const Tensor& other) const {
  return dropin::where(condition, *this, other);
}
Tensor Tensor::where(const Tensor& condition, const Scalar& other) const {
  return dropin::where(condition, *this, other);
}
Tensor Tensor::nonzero() const { return dropin::nonzero(*this); }
Tensor Tensor::index_select(int64_t dim, const Tensor& index) const {
  return dropin::index_select(*this, dim, index);
}
Tensor Tensor::index_add(int64_t dim, const Tensor& index, const Tensor& src) const {
  return dropin::index_add(*this, dim, index, src);
}
Tensor Tensor::gather(int64_t dim, const Tensor& index) const {
  return dropin::gather(*this, dim, index);
}
Tensor Tensor::scatter(int64_t dim, const Tensor& index, const Tensor& src) const {
  return dropin::scatter(*this, dim, index, src);
}
Tensor Tensor::scatter_add(int64_t dim, const Tensor& index, const Tensor& src) const {
  return dropin::scatter_add(*this, dim, index, src);
}
Tensor Tensor::roll(int64_t shift, int64_t dim) const { return dropin::roll(*this, shift, dim); }
Tensor Tensor::repeat(const Shape& repeats) const { return dropin::repeat(*this, repeats); }
Tensor Tensor::repeat_interleave(int64_t repeats, int64_t dim) const {
  return dropin::repeat_interleave(*this, repeats, dim);
}
Tensor Tensor::tril(int64_t diagonal) const { return dropin::tril(*this, diagonal); }
Tensor Tensor::triu(int64_t diagonal) const { return dropin::triu(*this, diagonal); }
Tensors Tensor::split(int64_t size, int64_t dim) const { return dropin::split(*this, size, dim); }
Tensors Tensor::split(const Shape& sizes, int64_t dim) const {
  return dropin::split(*this, sizes, dim);
}
Tensors Tensor::chunk(int64_t chunks, int64_t dim) const {
  return dropin::chunk(*this, chunks, dim);
}
Tensors Tensor::unbind(int64_t dim) const { return dropin::unbind(*this, dim); }
Tensor Tensor::movedim(int64_t from, int64_t to) const { return dropin::movedim(*this, from, to); }

Tensor Tensor::t() const {
  if (dim() > 2)
    fail<ShapeError>({"t: the tensor is ", sizes(), ", expected at most 2 dimensions"});
  return dim() < 2 ? *this : transpose(0, 1);
}
Tensor Tensor::squeeze() const {
  Tensor y = *this;
  for (int d = static_cast<int>(dim()) - 1; d >= 0; --d) y = y.squeeze(d);
  return y;
}
Tensor Tensor::unflatten(int64_t dim_, const Shape& parts) const {
  const int d = wrap_dim(dim_, dim(), "unflatten");
  if (dim() == 0) fail<ShapeError>({"unflatten: the tensor has no dimensions"});
  int64_t known = 1, free = 0;
  for (const int64_t n : parts) n == -1 ? ++free : known *= n;
  const int64_t n = sizes()[d];
  if (parts.empty() || free > 1 || known < (free ? 1 : 0) || (free ? n % known != 0 : known != n))
    fail<ShapeError>({"unflatten: dimension ", dim_, " of ", sizes(), " is not ", parts});
  Shape s;
  for (int i = 0; i < d; ++i) s.push_back(sizes()[i]);
  for (const int64_t part : parts) s.push_back(part == -1 ? n / known : part);
  for (int i = d + 1; i < dim(); ++i) s.push_back(sizes()[i]);
  return reshape(s);
}

}  // namespace dropin
