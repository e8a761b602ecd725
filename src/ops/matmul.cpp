// Products of matrices.
#include "dropin/ops/matmul.h"

#include <string>

#include "dropin/ops/reduce.h"
#include "dropin/ops/shape.h"
#include "kernels/gemm/kernel.h"
#include "ops/common.h"

namespace dropin {

using ops_detail::same_device;

namespace {

// [.., M, K] x [.., K, N] with broadcast batch dims, off the tape. Batches that form one evenly
// strided run go to the kernel in one call.
Tensor raw_matmul(const Tensor& a, const Tensor& b) {
  const Shape sa = a.sizes(), sb = b.sizes();
  Shape ba(sa.begin(), sa.size() - 2), bb(sb.begin(), sb.size() - 2);
  const Shape batch = broadcast_shapes(ba, bb, "matmul");
  const int64_t m = sa[sa.size() - 2], k = sa.back(), n = sb.back(), t = batch.numel();
  Shape sizes = batch;
  sizes.push_back(m);
  sizes.push_back(n);
  Tensor y = empty(sizes, a.options());
  auto flattened = [&](const Tensor& x, int64_t rows, int64_t columns) {
    Shape full = batch;
    full.push_back(rows);
    full.push_back(columns);
    Tensor e = detail::broadcast_to(x, full);
    // merge the batch dims if one stride serves them all (0 for a repeated operand)
    int64_t stride = 0, extent = 1;
    bool even = true;
    for (int i = batch.size() - 1; i >= 0; --i) {
      if (batch[i] == 1) continue;
      if (extent == 1)
        stride = e.strides()[i];
      else if (e.strides()[i] != stride * extent)
        even = false;
      extent *= batch[i];
    }
    if (!even) {
      e = e.clone();
      stride = rows * columns;
    }
    return detail::alias(e, {t, rows, columns},
                         {stride, e.strides()[batch.size()], e.strides()[batch.size() + 1]},
                         e.storage_offset());
  };
  run<kernels::matmul>(a.device(), flattened(a, m, k).in(), flattened(b, k, n).in(), 0.0,
                       detail::alias(y, {t, m, n}, {m * n, n, 1}, 0).out());
  return y;
}

// Both at least 2-d, one dtype.
Tensor matrix_product(const Tensor& a, const Tensor& b) {
  // [.., M, K] x [K, N]: one tall product
  if (b.dim() == 2 && a.dim() > 2 && a.is_contiguous()) {
    Shape s = a.sizes();
    s[s.size() - 1] = b.size(1);
    return matrix_product(a.reshape({-1, a.size(-1)}), b).reshape(s);
  }
  const bool keep_a = b.requires_grad(), keep_b = a.requires_grad();
  return record("matmul", raw_matmul(a.detach(), b.detach()), {a, b},
                {keep_a ? a : Tensor(), keep_b ? b : Tensor()},
                [sa = a.sizes(), sb = b.sizes()](const Saved& s, const Tensor& g) -> Tensors {
                  return {s.needs(0) ? sum_to(matmul(g, s[1].mT()), sa) : Tensor(),
                          s.needs(1) ? sum_to(matmul(s[0].mT(), g), sb) : Tensor()};
                });
}

}  // namespace

Tensor matmul(const Tensor& a_, const Tensor& b_) {
  same_device("matmul", a_, b_);
  if (a_.dim() == 0 || b_.dim() == 0)
    fail<ShapeError>({"matmul: scalars are not matrices; use mul"});
  const DType t = promote(a_.dtype(), b_.dtype());
  if (t == kBool) fail<DTypeError>({"matmul: not for bool"});
  Tensor a = a_.to(t), b = b_.to(t);
  const int64_t ka = a.size(-1), kb = b.dim() == 1 ? b.size(0) : b.size(-2);
  if (ka != kb)
    fail<ShapeError>(
        {"matmul: ", a.sizes(), " by ", b.sizes(), ": inner sizes ", ka, " and ", kb, " differ"});
  const bool va = a.dim() == 1, vb = b.dim() == 1;
  if (va) a = a.unsqueeze(0);
  if (vb) b = b.unsqueeze(1);
  Tensor y = matrix_product(a, b);
  if (vb) y = y.squeeze(-1);
  if (va) y = y.squeeze(vb ? -1 : -2);
  return y;
}
Tensor Tensor::matmul(const Tensor& other) const { return dropin::matmul(*this, other); }

Tensor bmm(const Tensor& a, const Tensor& b) {
  DROPIN_CHECK(a.dim() == 3 && b.dim() == 3 && a.size(0) == b.size(0) && a.size(2) == b.size(1),
               ShapeError, "bmm: a is ", a.sizes(), " and b ", b.sizes(),
               ", expected [B, N, M] and [B, M, P]");
  return matmul(a, b);
}
Tensor linear(const Tensor& x_, const Tensor& w_, const Tensor& bias_) {
  if (w_.dim() != 2) fail<ShapeError>({"linear: weight is ", w_.sizes(), ", expected [out, in]"});
  if (x_.dim() == 0 || x_.size(-1) != w_.size(1))
    fail<ShapeError>({"linear: x is ", x_.sizes(), ", expected [*, ", w_.size(1),
                      "] because the weight is ", w_.sizes()});
  if (bias_.defined() && (bias_.dim() != 1 || bias_.size(0) != w_.size(0)))
    fail<ShapeError>({"linear: bias is ", bias_.sizes(), ", expected [", w_.size(0), "]"});
  if (!is_floating(x_.dtype()))
    fail<DTypeError>({"linear: x is ", x_.dtype(), ", expected a floating-point tensor"});
  same_device("linear", x_, w_);
  const DType t = promote(x_.dtype(), w_.dtype());
  const Tensor w = w_.to(t), bias = bias_.defined() ? bias_.to(t) : Tensor();
  const Tensor x = x_.to(t).contiguous().reshape(
      {x_.size(-1) ? -1 : x_.numel() / std::max<int64_t>(x_.size(-1), 1), x_.size(-1)});
  Shape sizes = x_.sizes();
  sizes[sizes.size() - 1] = w.size(0);
  if (x_.size(-1) == 0) return bias.defined() ? bias.expand(sizes) : zeros(sizes, w.options());
  Tensor y = empty({x.size(0), w.size(0)}, x.options());
  run<kernels::linear_forward>(x.device(), x.in(), w.detach().contiguous().in(),
                               bias.defined() ? bias.detach().contiguous().in() : abi::TensorIn{},
                               y.out());
  y = record("linear", y, {x, w, bias},
             {w.requires_grad() ? x : Tensor(), x.requires_grad() ? w : Tensor()},
             [](const Saved& s, const Tensor& g) -> Tensors {
               return {s.needs(0) ? matmul(g, s[1]) : Tensor(),
                       s.needs(1) ? matmul(g.mT(), s[0]) : Tensor(),
                       s.needs(2) ? sum(g, {0}) : Tensor()};
             });
  return y.reshape(sizes);
}

}  // namespace dropin
