#include "dropin/ops/normalize.h"

#include "dropin/ops/elementwise.h"
#include "dropin/ops/reduce.h"
#include "ops/common.h"

namespace dropin {

Tensor normalize(const Tensor& x, int64_t dim, double eps) {
  ops_detail::need_floating("normalize", x);
  if (!(eps > 0)) fail<OptionError>({"normalize: eps is ", eps, ", expected a positive number"});
  const int d = wrap_dim(dim, x.dim(), "normalize");
  if (x.numel() == 0) return x;
  const Tensor length = norm(x.detach(), {d}, true), short_ = length <= eps;
  if (!any(short_).item<bool>()) return x / norm(x, {d}, true);
  // the lengths of short vectors are left out of the tape: theirs has a pole at 0
  const Tensor safe = where(short_, 1.0, x);
  return where(short_, x.detach() * (1 / eps), safe / norm(safe, {d}, true));
}

Tensor cosine_similarity(const Tensor& a, const Tensor& b, double eps) {
  if (!(a.sizes() == b.sizes()) || a.dim() == 0)
    fail<ShapeError>(
        {"cosine_similarity: a is ", a.sizes(), ", b ", b.sizes(), ", expected the same [*, E]"});
  return sum(normalize(a, -1, eps) * normalize(b, -1, eps), {-1});
}

}  // namespace dropin
