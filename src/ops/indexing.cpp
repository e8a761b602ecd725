// Indexing by tensors, brought back to rows of a matrix.
#include "dropin/ops/indexing.h"

#include "autograd/tape.h"
#include "dropin/ops/reduce.h"
#include "dropin/ops/shape.h"
#include "kernels/index/kernel.h"
#include "ops/common.h"

namespace dropin {

using ops_detail::same_device;

namespace {

/// How an indexing goes over x: the indexed dimensions first, flat, and what is left of x behind.
struct IndexPlan {
  Shape order;    ///< x's dimensions, the indexed ones first
  Shape chosen;   ///< sizes of the index tensors, broadcast
  Shape rest;     ///< sizes of the dimensions that are not indexed
  Shape rows;     ///< sizes of those that are
  Tensor row;     ///< int64 [chosen, flat]: which row of x, seen as [rows, rest]
  int place = 0;  ///< how many dimensions of the rest stand before the chosen ones in the result
};

/// Every index as int64 tensors, a dimension of x each: a mask as its true positions.
Tensors index_per_dimension(const Tensor& x, const Tensors& indices) {
  Tensors each;
  for (const Tensor& i : indices) {
    if (!i.defined() || i.dtype() == kInt64) {
      each.push_back(i.defined() ? i.detach() : i);
      continue;
    }
    DROPIN_CHECK(i.dtype() == kBool, DTypeError, "index: an index is ", i.dtype(),
                 ", expected int64 or bool");
    const auto first = static_cast<int64_t>(each.size());
    bool fits = i.dim() > 0 && first + i.dim() <= x.dim();
    for (int64_t d = 0; fits && d < i.dim(); ++d) fits = i.size(d) == x.size(first + d);
    DROPIN_CHECK(fits, ShapeError, "index: a mask is ", i.sizes(), " at dimension ", first,
                 " of a tensor ", x.sizes());
    same_device("index", x, i);
    const Tensor at = nonzero(i);
    for (int64_t d = 0; d < i.dim(); ++d) each.push_back(at.select(1, d));
  }
  DROPIN_CHECK(static_cast<int64_t>(each.size()) <= x.dim(), IndexError, "index: ", each.size(),
               " indices for a tensor ", x.sizes());
  return each;
}

/// An index from 0, IndexError unless all of it is within the dimension.
Tensor within_dimension(const Tensor& i, const Shape& sizes, int d) {
  const int64_t n = sizes[d];
  if (i.numel() == 0) return i;
  const auto low = amin(i).item<int64_t>(), high = amax(i).item<int64_t>();
  DROPIN_CHECK(low >= -n && high < n, IndexError, "index: ", low < -n ? low : high,
               " is out of range for dimension ", d, " of ", sizes);
  return low < 0 ? where(i < 0, i + n, i) : i;
}

IndexPlan plan_index(const Tensor& x, const Tensors& indices) {
  const Tensors each = index_per_dimension(x, indices);
  IndexPlan p;
  Shape later;
  int first = -1, last = -1;
  for (int d = 0; d < x.dim(); ++d) {
    const bool indexed =
        d < static_cast<int>(each.size()) && each[static_cast<std::size_t>(d)].defined();
    if (!indexed) {
      later.push_back(d);
      p.rest.push_back(x.sizes()[d]);
      continue;
    }
    const Tensor& i = each[static_cast<std::size_t>(d)];
    same_device("index", x, i);
    p.chosen = first < 0 ? i.sizes() : broadcast_shapes(p.chosen, i.sizes(), "index");
    p.order.push_back(d);
    p.rows.push_back(x.sizes()[d]);
    if (first < 0) first = d;
    last = d;
  }
  DROPIN_CHECK(first >= 0, IndexError, "index: no index is given for a tensor ", x.sizes());
  p.place = last - first + 1 == p.order.size() ? first : 0;
  for (const int64_t d : p.order) {
    const Tensor i =
        within_dimension(each[static_cast<std::size_t>(d)], x.sizes(), static_cast<int>(d));
    p.row = p.row.defined() ? p.row * x.size(d) + i : i;
  }
  p.row = p.row.expand(p.chosen).contiguous().reshape({-1});
  for (const int64_t d : later) p.order.push_back(d);
  return p;
}

Shape joined_sizes(const Shape& a, const Shape& b) {
  Shape s = a;
  for (const int64_t n : b) s.push_back(n);
  return s;
}

/// x as [rows, rest], flat.
Tensor as_index_rows(const Tensor& x, const IndexPlan& p) {
  return x.permute(p.order).reshape({p.rows.numel(), p.rest.numel()});
}

/// The order of [rest before, chosen, rest behind], of dimensions in the order [chosen, rest]; and
/// the way back.
Shape chosen_to_place(const IndexPlan& p, bool back) {
  const int chosen = p.chosen.size(), all = chosen + p.rest.size();
  Shape order, inverse;
  for (int i = 0; i < p.place; ++i) order.push_back(chosen + i);
  for (int i = 0; i < chosen; ++i) order.push_back(i);
  for (int i = chosen + p.place; i < all; ++i) order.push_back(i);
  if (!back) return order;
  inverse = order;
  for (int i = 0; i < all; ++i) inverse[static_cast<int>(order[i])] = i;
  return inverse;
}

/// values, broadcast to what the index reads, as rows [chosen, rest] of x's dtype.
Tensor value_rows(const Tensor& x, const Tensor& values, const IndexPlan& p) {
  same_device("index_put", x, values);
  DROPIN_CHECK(can_cast(values.dtype(), x.dtype()), DTypeError, "index_put: values are ",
               values.dtype(), ", the tensor ", x.dtype());
  const Shape forward = joined_sizes(p.chosen, p.rest), order = chosen_to_place(p, false);
  Shape placed;
  for (const int64_t d : order) placed.push_back(forward[static_cast<int>(d)]);
  DROPIN_CHECK(broadcast_shapes(values.sizes(), placed, "index_put") == placed, ShapeError,
               "index_put: values are ", values.sizes(), ", which do not broadcast to ", placed);
  return values.to(x.dtype())
      .expand(placed)
      .permute(chosen_to_place(p, true))
      .reshape({p.row.numel(), p.rest.numel()});
}

Tensor rows_put(const Tensor& rows, const Tensor& row, const Tensor& values, bool accumulate) {
  if (accumulate) return index_add(rows, 0, row, values);
  return scatter(rows, 0, row.unsqueeze(1).expand(values.sizes()), values);
}

}  // namespace

Tensor index(const Tensor& x, const Tensors& indices) {
  const IndexPlan p = plan_index(x, indices);
  const Tensor y = index_select(as_index_rows(x, p), 0, p.row);
  return y.reshape(joined_sizes(p.chosen, p.rest)).permute(chosen_to_place(p, false));
}

Tensor index_put(const Tensor& x, const Tensors& indices, const Tensor& values, bool accumulate) {
  const IndexPlan p = plan_index(x, indices);
  const Tensor y = rows_put(as_index_rows(x, p), p.row, value_rows(x, values, p), accumulate);
  Shape back = p.order;
  for (int i = 0; i < p.order.size(); ++i) back[static_cast<int>(p.order[i])] = i;
  return y.reshape(joined_sizes(p.rows, p.rest)).permute(back);
}

Tensor& Tensor::index_put_(const Tensors& indices, const Tensor& values, bool accumulate) {
  const bool recorded = detail::check_in_place(*this, values.requires_grad(), "index_put_");
  if (recorded || !is_contiguous() || values.impl()->storage == impl_->storage)
    return copy_(dropin::index_put(*this, indices, values, accumulate));
  no_grad guard;
  const IndexPlan p = plan_index(*this, indices);
  for (int i = 0; i < p.order.size(); ++i)  // the rows of another order would be a copy
    if (p.order[i] != i) return copy_(dropin::index_put(*this, indices, values, accumulate));
  const Tensor rows = as_index_rows(*this, p), v = value_rows(*this, values, p);
  if (accumulate)
    run<kernels::index_add>(device(), p.row.in(), v.in(), 0, rows.out());
  else
    run<kernels::scatter>(device(), p.row.unsqueeze(1).expand(v.sizes()).in(), v.in(), 0, false,
                          rows.out());
  bump_version();
  return *this;
}
Tensor& Tensor::index_put_(const Tensors& indices, const Scalar& value, bool accumulate) {
  if (!value.fits(dtype())) does_not_fit(value, dtype(), "index_put_");
  return index_put_(indices, scalar(value, options()), accumulate);
}
Tensor Tensor::index_put(const Tensors& indices, const Tensor& values, bool accumulate) const {
  return dropin::index_put(*this, indices, values, accumulate);
}

Indexed Tensor::index(const Tensors& indices) const {
  return {dropin::index(*this, indices), *this, indices};
}
Indexed Tensor::index(const Tensor& index) const { return this->index(Tensors{index}); }
Indexed Tensor::operator[](const Tensor& index) const { return this->index(Tensors{index}); }

}  // namespace dropin
