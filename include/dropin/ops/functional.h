// More of torch and torch.nn.functional, put together from other operations.
#pragma once
#include <string_view>
#include <vector>

#include "dropin/autograd/autograd.h"

namespace dropin {

// --- of torch
Tensor erfc(const Tensor& x);
Tensor log10(const Tensor& x);
/// How many elements are not 0; int64.
Tensor count_nonzero(const Tensor& x, const Dims& dims = {});
/// Differences of neighbours along dim.
Tensor diff(const Tensor& x, int64_t dim = -1);
/// Sum of a matrix's diagonal.
Tensor trace(const Tensor& x);
/// repeat() of x, whose missing dimensions come in front.
Tensor tile(const Tensor& x, const Shape& repeats);
/// Vectors as a grid: the i-th result holds the i-th vector along dimension i (indexing "ij").
Tensors meshgrid(const Tensors& xs);
/// How often each of 0, 1, ... stands in x [n] int64 (or the sum of its weights); at least
/// minlength counts. OptionError for negative numbers.
Tensor bincount(const Tensor& x, const Tensor& weights = {}, int64_t minlength = 0);
/// Distances [*, n, m] between rows of a [*, n, d] and b [*, m, d], Euclidean.
Tensor cdist(const Tensor& a, const Tensor& b);

// --- of torch.nn.functional
/// The first half of x along dim times the sigmoid of the second.
Tensor glu(const Tensor& x, int64_t dim = -1);
Tensor softmin(const Tensor& x, int64_t dim);
/// softmax((x + noise) / tau) with Gumbel noise; hard: the largest as 1, with the gradient of the
/// soft one.
Tensor gumbel_softmax(const Tensor& x, double tau = 1, bool hard = false, int64_t dim = -1,
                      Generator* g = nullptr);
/// x [B, C r^2, H, W] -> [B, C, H r, W r], and back.
Tensor pixel_shuffle(const Tensor& x, int64_t upscale_factor);
Tensor pixel_unshuffle(const Tensor& x, int64_t downscale_factor);
/// x [B, C, L]; windows of `kernel` every `stride` (0: kernel).
Tensor max_pool1d(const Tensor& x, int64_t kernel, int64_t stride = 0, int64_t padding = 0);
Tensor avg_pool1d(const Tensor& x, int64_t kernel, int64_t stride = 0, int64_t padding = 0);
Tensor adaptive_avg_pool1d(const Tensor& x, int64_t output_size);
/// |a - b + eps| of rows, of order p.
Tensor pairwise_distance(const Tensor& a, const Tensor& b, double p = 2, double eps = 1e-6);
/// target 1: 1 - cosine; -1: what the cosine has above margin. a, b [N, D] (or [D]), target [N].
Tensor cosine_embedding_loss(const Tensor& a, const Tensor& b, const Tensor& target,
                             double margin = 0, std::string_view reduction = "mean");
/// max(0, -target (a - b) + margin).
Tensor margin_ranking_loss(const Tensor& a, const Tensor& b, const Tensor& target,
                           double margin = 0, std::string_view reduction = "mean");
/// max(0, d(anchor, positive) - d(anchor, negative) + margin), d by pairwise_distance.
Tensor triplet_margin_loss(const Tensor& anchor, const Tensor& positive, const Tensor& negative,
                           double margin = 1, double p = 2, double eps = 1e-6,
                           std::string_view reduction = "mean");
/// exp(x) - target x, or of rates themselves x - target log(x + eps).
Tensor poisson_nll_loss(const Tensor& x, const Tensor& target, bool log_input = true,
                        double eps = 1e-8, std::string_view reduction = "mean");
/// (log v + (x - target)^2 / v) / 2, v = max(var, eps), whose gradient goes to var.
Tensor gaussian_nll_loss(const Tensor& x, const Tensor& target, const Tensor& var,
                         double eps = 1e-6, std::string_view reduction = "mean");

}  // namespace dropin
