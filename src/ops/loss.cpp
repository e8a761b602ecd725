#include "dropin/ops/loss.h"

#include <cmath>

#include "dropin/ops/matmul.h"
#include "dropin/ops/reduce.h"
#include "dropin/ops/shape.h"
#include "kernels/random/kernel.h"
#include "kernels/softmax/kernel.h"
#include "ops/common.h"

namespace dropin {

using ops_detail::need_floating;
using ops_detail::need_int64;

namespace {

Tensor reduced(const char* who, const Tensor& loss, std::string_view reduction) {
  if (reduction == "mean") return mean(loss);
  if (reduction == "sum") return sum(loss);
  if (reduction != "none")
    fail<OptionError>({who, ": reduction is \"", reduction, "\", expected mean, sum or none"});
  return loss;
}
void same_sizes(const char* who, const Tensor& x, const Tensor& y) {
  if (!(x.sizes() == y.sizes()))
    fail<ShapeError>({who, ": the input is ", x.sizes(), ", the target ", y.sizes()});
}

// In recorded operations; the oracle of the kernel and the way to second derivatives.
Tensor plain_cross_entropy(const Tensor& x, const Tensor& target, const Tensor& weight,
                           int64_t ignore_index, double smoothing) {
  const Tensor keep = ne(target, full({}, ignore_index, target.options()));
  const Tensor t = where(keep, target, zeros_like(target)).unsqueeze(1), logp = log_softmax(x, -1);
  Tensor hit = -gather(logp, 1, t).squeeze(1), smooth = -logp;
  if (weight.defined()) {
    hit = hit * index_select(weight, 0, t.squeeze(1));
    smooth = smooth * weight;
  }
  const Tensor loss =
      hit * (1 - smoothing) + sum(smooth, {1}) * (smoothing / static_cast<double>(x.size(1)));
  return loss * keep.to(x.dtype());
}

}  // namespace

Tensor cross_entropy(const Tensor& logits, const Tensor& target, const Tensor& weight_,
                     std::string_view reduction, int64_t ignore_index, double smoothing) {
  const char* who = "cross_entropy";
  need_floating(who, logits);
  need_int64(who, "the target", target);
  if (logits.dim() < 2)
    fail<ShapeError>({who, ": logits are ", logits.sizes(), ", expected [N, C, *]"});
  if (!(smoothing >= 0 && smoothing <= 1))
    fail<OptionError>({who, ": label_smoothing is ", smoothing, ", expected 0 to 1"});
  Shape want = logits.sizes();
  want.erase(1);
  if (!(target.sizes() == want))
    fail<ShapeError>({who, ": the target is ", target.sizes(), ", expected ", want, " for logits ",
                      logits.sizes()});
  const int64_t c = logits.size(1);
  if (weight_.defined() && !(weight_.sizes() == Shape{c}))
    fail<ShapeError>({who, ": weight is ", weight_.sizes(), ", expected [", c, "]"});
  if (logits.dim() > 2) {
    const Tensor rows = logits.transpose(1, -1).reshape({-1, c}),
                 t = target.dim() > 1 ? target.transpose(1, -1).reshape({-1})
                                      : target.reshape({-1});
    // [N, d1, .., dk] with dims 1 and k swapped in both, so that rows and targets stay paired
    Tensor loss = cross_entropy(rows, t, weight_, reduction, ignore_index, smoothing);
    if (reduction != "none") return loss;
    Shape swapped = target.sizes();
    if (target.dim() > 2) std::swap(swapped[1], swapped[swapped.size() - 1]);
    loss = loss.reshape(swapped);
    return target.dim() > 2 ? loss.transpose(1, -1) : loss;
  }
  const Tensor x = ops_detail::prepared(logits), t = target.detach().contiguous(),
               w = weight_.defined() ? weight_.detach().to(x.dtype()).contiguous() : Tensor();
  const int64_t n = x.size(0);
  Tensor loss = empty({n}, x.options()), lse = empty({n}, x.options());
  const kernels::CrossEntropyInputs in{x.in(), t.in(), w.in(), ignore_index, smoothing};
  ops_detail::indexed(
      who, "target", t, c,
      [&] { run<kernels::cross_entropy_forward>(x.device(), in, loss.out(), lse.out()); },
      ignore_index);
  loss = record(who, loss, {x}, {x, t, w, lse},
                [ignore_index, smoothing](const Saved& s, const Tensor& g) -> Tensors {
                  const Tensor x = s[0], t = s[1], w = s[2];
                  if (grad_enabled())
                    return plain_gradients(s, {x}, g, [&](const Tensors& in) {
                      return plain_cross_entropy(in[0], t, w, ignore_index, smoothing);
                    });
                  Tensor gx = empty_like(x);
                  run<kernels::cross_entropy_backward>(
                      x.device(), g.contiguous().in(),
                      kernels::CrossEntropyInputs{x.in(), t.in(), w.in(), ignore_index, smoothing},
                      s[3].in(), gx.out());
                  return {gx};
                });
  if (reduction != "mean") return reduced(who, loss, reduction);
  // torch's mean: over the rows that count, by their weights
  const Tensor keep = ne(t, full({}, ignore_index, t.options()));
  const Tensor count =
      w.defined() ? sum(index_select(w, 0, where(keep, t, zeros_like(t))) * keep.to(x.dtype()))
                  : sum(keep).to(x.dtype());
  return sum(loss) / count;
}

Tensor nll_loss(const Tensor& log_probs, const Tensor& target, std::string_view reduction) {
  need_int64("nll_loss", "the target", target);
  if (log_probs.dim() != 2 || !(target.sizes() == Shape{log_probs.size(0)}))
    fail<ShapeError>({"nll_loss: log_probs ", log_probs.sizes(), " with target ", target.sizes(),
                      ", expected [N, C] and [N]"});
  return reduced("nll_loss", -gather(log_probs, 1, target.unsqueeze(1)).squeeze(1), reduction);
}
Tensor mse_loss(const Tensor& x, const Tensor& y, std::string_view reduction) {
  same_sizes("mse_loss", x, y);
  return reduced("mse_loss", square(x - y), reduction);
}
Tensor l1_loss(const Tensor& x, const Tensor& y, std::string_view reduction) {
  same_sizes("l1_loss", x, y);
  return reduced("l1_loss", abs(x - y), reduction);
}
Tensor smooth_l1_loss(const Tensor& x, const Tensor& y, std::string_view reduction, double beta) {
  DROPIN_CHECK(beta >= 0, OptionError, "smooth_l1_loss: beta is ", beta, ", expected at least 0");
  same_sizes("smooth_l1_loss", x, y);
  if (beta == 0) return reduced("smooth_l1_loss", abs(x - y), reduction);
  const Tensor d = x - y, near = clamp(d, -beta, beta);
  // near (d - near / 2) is d^2 / 2 inside and beta |d| - beta^2 / 2 outside
  return reduced("smooth_l1_loss", near * (d - near * 0.5) * (1 / beta), reduction);
}
Tensor huber_loss(const Tensor& x, const Tensor& y, std::string_view reduction, double delta) {
  DROPIN_CHECK(delta > 0, OptionError, "huber_loss: delta is ", delta, ", expected above 0");
  return smooth_l1_loss(x, y, reduction, delta) * delta;
}
Tensor kl_div(const Tensor& x, const Tensor& target, std::string_view reduction, bool log_target) {
  same_sizes("kl_div", x, target);
  Tensor loss;
  if (log_target) {
    loss = exp(target) * (target - x);
  } else {
    const Tensor none = target == 0;
    loss = where(none, 0.0, target * log(where(none, 1.0, target))) - target * x;
  }
  if (reduction != "batchmean") return reduced("kl_div", loss, reduction);
  DROPIN_CHECK(x.dim() > 0, ShapeError, "kl_div: x is ", x.sizes(), ", expected a batch");
  return sum(loss) * (1.0 / static_cast<double>(x.size(0)));
}
Tensor binary_cross_entropy(const Tensor& p, const Tensor& target, std::string_view reduction) {
  const char* who = "binary_cross_entropy";
  same_sizes(who, p, target);
  const Tensor v = p.detach(), t = target.detach();
  DROPIN_CHECK(
      v.numel() == 0 || all(logical_and(v >= 0, v <= 1)).item<bool>(), Error, who,
      ": p holds a value outside 0 to 1 (or NaN), expected probabilities; for logits there "
      "is binary_cross_entropy_with_logits");
  // as torch: logarithms are bounded from below, and the slope's denominator
  const double inf = std::numeric_limits<double>::infinity();
  auto floored = [inf](const Tensor& logarithm) { return clamp(logarithm, -100, inf); };
  const Tensor loss =
      record(who, (t - 1.0) * floored(log1p(-v)) - t * floored(log(v)), {p, target}, {p, target},
             [inf](const Saved& s, const Tensor& g) -> Tensors {
               const Tensor q = s[0];
               return {s.needs(0) ? g * (q - s[1]) / clamp((1.0 - q) * q, 1e-12, inf) : Tensor(),
                       s.needs(1) ? g * (log1p(-q) - log(q)) : Tensor()};
             });
  return reduced(who, loss, reduction);
}
Tensor binary_cross_entropy_with_logits(const Tensor& x, const Tensor& target,
                                        std::string_view reduction) {
  const char* who = "binary_cross_entropy_with_logits";
  same_sizes(who, x, target);
  const Tensor v = x.detach(), t = target.detach();
  // by its slope: that of abs or relu would be wrong at a logit of 0
  const Tensor loss = record(who, (1.0 - t) * v - logsigmoid(v), {x, target}, {x, target},
                             [](const Saved& s, const Tensor& g) -> Tensors {
                               return {s.needs(0) ? g * (sigmoid(s[0]) - s[1]) : Tensor(),
                                       s.needs(1) ? -(g * s[0]) : Tensor()};
                             });
  return reduced(who, loss, reduction);
}

Tensor dropout(const Tensor& x, double p, bool training, Generator* g) {
  if (!(p >= 0 && p <= 1)) fail<OptionError>({"dropout: p is ", p, ", expected 0 to 1"});
  need_floating("dropout", x);
  if (!training || p == 0) return x;
  if (p == 1) return x * 0.0;
  if (!g) g = &default_generator();
  const Tensor v = x.detach().contiguous();
  Tensor y = empty_like(v), mask = empty(v.sizes(), {kBool, v.device()});
  const std::uint64_t offset = g->advance((static_cast<std::uint64_t>(v.numel()) + 3) / 4);
  run<kernels::dropout>(v.device(), v.in(), p, g->seed(), offset, y.out(), mask.out());
  return record("dropout", y, {x}, {mask}, [p](const Saved& s, const Tensor& g) -> Tensors {
    return {where(s[0], g * (1 / (1 - p)), 0.0)};
  });
}

}  // namespace dropin
