#include <cmath>

#include "dropin/quantizer/vector_quantizer.h"

namespace dropin {

void detail::check_moving_average(std::string_view who, double decay, double eps) {
  DROPIN_CHECK(decay >= 0 && decay < 1, OptionError, who, ": decay is ", decay,
               ", expected 0 <= decay < 1");
  DROPIN_CHECK(eps > 0 && std::isfinite(eps), OptionError, who, ": eps is ", eps,
               ", expected a positive number");
}

VqEma vq_ema_update(const Tensor& x, const Tensor& indices, const VqEma& before,
                    const VqEmaUpdateOptions& o) {
  const char* who = "vq_ema_update";
  detail::check_moving_average(who, o.decay, o.eps);
  DROPIN_CHECK(before.embedding.dim() == 2, ShapeError, who, ": embedding is ",
               before.embedding.sizes(), ", expected [K, D]");
  const int64_t codes = before.embedding.size(0), width = before.embedding.size(1);
  DROPIN_CHECK(before.ema_cluster_size.sizes() == Shape{codes} &&
                   before.ema_w.sizes() == before.embedding.sizes(),
               ShapeError, who, ": ema_cluster_size is ", before.ema_cluster_size.sizes(),
               ", ema_w ", before.ema_w.sizes(), ", expected [K] and [K, D] of embedding ",
               before.embedding.sizes());
  DROPIN_CHECK(x.dim() == 2 && x.size(1) == width && indices.sizes() == Shape{x.size(0)},
               ShapeError, who, ": x is ", x.sizes(), ", indices ", indices.sizes(),
               ", expected [N, ", width, "] and [N]");
  DROPIN_CHECK(indices.dtype() == kInt64, DTypeError, who, ": indices are ", indices.dtype(),
               ", expected int64");
  no_grad guard;
  DROPIN_CHECK(x.numel() == 0 || all(isfinite(x)).item<bool>(), Error, who,
               ": x holds NaN or infinity, expected finite frames");
  std::vector<double> size = before.ema_cluster_size.to_vector(), w = before.ema_w.to_vector();
  std::vector<double> count(size.size()), sums(w.size());
  const std::vector<double> frames = x.to_vector();
  const auto ids = indices.to_vector<int64_t>();
  const auto stride = static_cast<std::size_t>(width);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    DROPIN_CHECK(ids[i] >= 0 && ids[i] < codes, IndexError, who, ": index ", ids[i],
                 ", expected 0 to ", codes - 1);
    const auto k = static_cast<std::size_t>(ids[i]);
    count[k] += 1;
    for (std::size_t d = 0; d < stride; ++d) sums[k * stride + d] += frames[i * stride + d];
  }
  double total = 0;
  for (std::size_t k = 0; k < size.size(); ++k)
    total += size[k] = o.decay * size[k] + (1 - o.decay) * count[k];
  const double smoothed = total / (total + static_cast<double>(codes) * o.eps);
  std::vector<double> embedding(w.size());
  for (std::size_t k = 0; k < size.size(); ++k) {
    size[k] = (size[k] + o.eps) * smoothed;
    for (std::size_t d = k * stride; d < (k + 1) * stride; ++d) {
      w[d] = o.decay * w[d] + (1 - o.decay) * sums[d];
      embedding[d] = w[d] / size[k];
    }
  }
  const Shape table{codes, width};
  return {tensor(embedding, table, before.embedding.options()),
          tensor(size, {codes}, before.ema_cluster_size.options()),
          tensor(w, table, before.ema_w.options())};
}

}  // namespace dropin
