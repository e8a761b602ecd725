#include "dropin/ops/functional.h"

#include <cmath>
#include <numbers>

#include "dropin/ops/conv.h"
#include "dropin/ops/matmul.h"
#include "dropin/ops/normalize.h"
#include "dropin/ops/reduce.h"
#include "dropin/ops/shape.h"
#include "ops/common.h"

namespace dropin {

Tensor erfc(const Tensor& x) { return 1 - erf(x); }
Tensor log10(const Tensor& x) { return log(x) / std::numbers::ln10; }
Tensor count_nonzero(const Tensor& x, const Dims& dims) { return sum(x.detach() != 0, dims); }
Tensor diff(const Tensor& x, int64_t dim) {
  const int64_t n = x.size(dim);
  if (n == 0) return x;
  return x.narrow(dim, 1, n - 1) - x.narrow(dim, 0, n - 1);
}
Tensor trace(const Tensor& x) {
  DROPIN_CHECK(x.dim() == 2, ShapeError, "trace: x is ", x.sizes(), ", expected [n, m]");
  return x.diagonal().sum();
}
Tensor tile(const Tensor& x, const Shape& repeats) {
  Shape all = repeats;
  while (all.size() < x.dim()) all.insert(0, 1);
  return repeat(x, all);
}
Tensors meshgrid(const Tensors& xs) {
  Shape sizes;
  for (const Tensor& x : xs) {
    DROPIN_CHECK(x.dim() == 1, ShapeError, "meshgrid: a tensor is ", x.sizes(), ", expected [n]");
    sizes.push_back(x.numel());
  }
  Tensors r;
  for (int i = 0; i < sizes.size(); ++i) {
    Shape along;
    for (int d = 0; d < sizes.size(); ++d) along.push_back(d == i ? sizes[i] : 1);
    r.push_back(xs[static_cast<std::size_t>(i)].reshape(along).expand(sizes));
  }
  return r;
}
Tensor bincount(const Tensor& x, const Tensor& weights, int64_t minlength) {
  ops_detail::need_int64("bincount", "x", x);
  DROPIN_CHECK(x.dim() == 1, ShapeError, "bincount: x is ", x.sizes(), ", expected [n]");
  const int64_t low = x.numel() ? amin(x).item<int64_t>() : 0,
                high = x.numel() ? amax(x).item<int64_t>() : -1;
  DROPIN_CHECK(low >= 0, OptionError, "bincount: x holds ", low, ", expected at least 0");
  DROPIN_CHECK(minlength >= 0, OptionError, "bincount: minlength is ", minlength,
               ", expected at least 0");
  const Tensor each = weights.defined() ? weights : ones_like(x);
  return scatter_add(zeros({std::max(high + 1, minlength)}, each.options()), 0, x, each);
}
Tensor cdist(const Tensor& a, const Tensor& b) {
  DROPIN_CHECK(a.dim() >= 2 && b.dim() >= 2 && a.size(-1) == b.size(-1), ShapeError,
               "cdist: tensors of ", a.sizes(), " and ", b.sizes(),
               ", expected [*, n, d] and "
               "[*, m, d]");
  return norm(a.unsqueeze(-2) - b.unsqueeze(-3), {-1});
}

Tensor glu(const Tensor& x, int64_t dim) {
  const int64_t n = x.size(dim);
  DROPIN_CHECK(n % 2 == 0, ShapeError, "glu: dimension ", dim, " of ", x.sizes(),
               " is odd, expected two halves");
  return x.narrow(dim, 0, n / 2) * sigmoid(x.narrow(dim, n / 2, n / 2));
}
Tensor softmin(const Tensor& x, int64_t dim) { return softmax(-x, dim); }
// -log of an exponential number: 1 - u is never 0, and where u is 0 the exponential is the least
// normal number instead.
Tensor ops_detail::gumbel_noise(const Tensor& u) {
  constexpr double kLeast = 1.1754943508222875e-38;
  return -log(clamp_min(-log1p(-u), kLeast));
}

Tensor gumbel_softmax(const Tensor& x, double tau, bool hard, int64_t dim, Generator* g) {
  DROPIN_CHECK(tau > 0, OptionError, "gumbel_softmax: tau is ", tau, ", expected above 0");
  ops_detail::need_floating("gumbel_softmax", x);
  // a 16-bit number is 0 too often to draw by
  const Tensor u = rand(x.sizes(), {ops_detail::compute_type(x.dtype()), x.device()}, g),
               noise = ops_detail::gumbel_noise(u).to(x.dtype());
  const Tensor soft = softmax((x + noise) / tau, dim);
  if (!hard) return soft;
  const Tensor top = argmax(soft.detach(), dim, true);
  const Tensor one = scatter(zeros_like(soft), dim, top, ones(top.sizes(), soft.options()));
  return one - soft.detach() + soft;
}

namespace {
void need_factor(const char* who, const Tensor& x, int64_t r, bool fits) {
  DROPIN_CHECK(r > 0, OptionError, who, ": the factor is ", r, ", expected a positive number");
  DROPIN_CHECK(fits, ShapeError, who, ": x is ", x.sizes(), ", which does not go by a factor of ",
               r);
}
}  // namespace
Tensor pixel_shuffle(const Tensor& x, int64_t r) {
  need_factor("pixel_shuffle", x, r, r > 0 && x.dim() == 4 && x.size(1) % (r * r) == 0);
  const int64_t b = x.size(0), c = x.size(1) / (r * r), h = x.size(2), w = x.size(3);
  return x.reshape({b, c, r, r, h, w}).permute({0, 1, 4, 2, 5, 3}).reshape({b, c, h * r, w * r});
}
Tensor pixel_unshuffle(const Tensor& x, int64_t r) {
  need_factor("pixel_unshuffle", x, r,
              r > 0 && x.dim() == 4 && x.size(2) % r == 0 && x.size(3) % r == 0);
  const int64_t b = x.size(0), c = x.size(1), h = x.size(2) / r, w = x.size(3) / r;
  return x.reshape({b, c, h, r, w, r}).permute({0, 1, 3, 5, 2, 4}).reshape({b, c * r * r, h, w});
}

namespace {
PoolParams row_pool(const char* who, const Tensor& x, int64_t kernel, int64_t stride,
                    int64_t padding) {
  DROPIN_CHECK(x.dim() == 3, ShapeError, who, ": x is ", x.sizes(), ", expected [B, C, L]");
  return {.kernel = {1, kernel}, .stride = {1, stride ? stride : kernel}, .padding = {0, padding}};
}
}  // namespace
Tensor max_pool1d(const Tensor& x, int64_t kernel, int64_t stride, int64_t padding) {
  return max_pool2d(x.unsqueeze(2), row_pool("max_pool1d", x, kernel, stride, padding)).squeeze(2);
}
Tensor avg_pool1d(const Tensor& x, int64_t kernel, int64_t stride, int64_t padding) {
  return avg_pool2d(x.unsqueeze(2), row_pool("avg_pool1d", x, kernel, stride, padding)).squeeze(2);
}
Tensor adaptive_avg_pool1d(const Tensor& x, int64_t output_size) {
  DROPIN_CHECK(x.dim() == 3, ShapeError, "adaptive_avg_pool1d: x is ", x.sizes(),
               ", expected [B, C, L]");
  return adaptive_avg_pool2d(x.unsqueeze(2), {1, output_size}).squeeze(2);
}

Tensor pairwise_distance(const Tensor& a, const Tensor& b, double p, double eps) {
  return vector_norm(a - b + eps, p, {-1});
}

namespace {
Tensor reduced_loss(const char* who, const Tensor& loss, std::string_view reduction) {
  DROPIN_CHECK(reduction == "mean" || reduction == "sum" || reduction == "none", OptionError, who,
               ": reduction is \"", reduction, "\", expected mean, sum or none");
  return reduction == "mean" ? mean(loss) : reduction == "sum" ? sum(loss) : loss;
}
}  // namespace
Tensor cosine_embedding_loss(const Tensor& a, const Tensor& b, const Tensor& target, double margin,
                             std::string_view reduction) {
  const Tensor cosine = cosine_similarity(a, b);
  DROPIN_CHECK(target.sizes() == cosine.sizes(), ShapeError,
               "cosine_embedding_loss: the target is ", target.sizes(), ", expected ",
               cosine.sizes());
  return reduced_loss("cosine_embedding_loss", where(target > 0, 1 - cosine, relu(cosine - margin)),
                      reduction);
}
Tensor margin_ranking_loss(const Tensor& a, const Tensor& b, const Tensor& target, double margin,
                           std::string_view reduction) {
  return reduced_loss("margin_ranking_loss", relu(-(target * (a - b)) + margin), reduction);
}
Tensor triplet_margin_loss(const Tensor& anchor, const Tensor& positive, const Tensor& negative,
                           double margin, double p, double eps, std::string_view reduction) {
  const Tensor near = pairwise_distance(anchor, positive, p, eps),
               far = pairwise_distance(anchor, negative, p, eps);
  return reduced_loss("triplet_margin_loss", relu(near - far + margin), reduction);
}
Tensor poisson_nll_loss(const Tensor& x, const Tensor& target, bool log_input, double eps,
                        std::string_view reduction) {
  return reduced_loss("poisson_nll_loss",
                      log_input ? exp(x) - target * x : x - target * log(x + eps), reduction);
}
Tensor gaussian_nll_loss(const Tensor& x, const Tensor& target, const Tensor& var, double eps,
                         std::string_view reduction) {
  DROPIN_CHECK(all(var.detach() >= 0).item<bool>(), OptionError,
               "gaussian_nll_loss: var holds a negative number");
  const Tensor v = var + clamp_min(eps - var.detach(), 0);
  return reduced_loss("gaussian_nll_loss", (log(v) + square(x - target) / v) * 0.5, reduction);
}

}  // namespace dropin
