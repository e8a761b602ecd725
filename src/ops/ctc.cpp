// Connectionist temporal classification. Glossary: l' a target with blanks between and around its
// labels, S its length; alpha[t][s] the log-probability of all beginnings that stand at s after t
// steps, beta[t][s] that of all ends from there on; both with step t itself.
#include "dropin/ops/ctc.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "dropin/ops/loss.h"
#include "dropin/ops/reduce.h"
#include "kernels/hd.h"
#include "ops/common.h"

namespace dropin {

namespace {

constexpr double kNever = -kernels::kInf<double>;

double log_sum(double a, double b) {
  const double top = std::max(a, b);
  return top == kNever ? kNever : top + std::log1p(std::exp(std::min(a, b) - top));
}

/// One sample: its steps in log_probs, and l'.
struct CtcSample {
  const double* log_probs;  ///< of step 0; steps are `stride` apart
  int64_t stride, steps;
  std::vector<int64_t> path;  ///< l'
  int64_t size() const { return static_cast<int64_t>(path.size()); }
  double at(int64_t t, int64_t s) const {
    return log_probs[t * stride + path[static_cast<std::size_t>(s)]];
  }
  /// Whether a path may come to s from s - 2: not over a blank that parts two equal labels.
  bool may_skip(int64_t s) const {
    return s % 2 == 1 && s > 1 &&
           path[static_cast<std::size_t>(s)] != path[static_cast<std::size_t>(s - 2)];
  }
};
/// [steps, S] of log-probabilities.
struct CtcTable {
  std::vector<double> v;
  int64_t width;
  CtcTable(int64_t steps, int64_t s) : v(static_cast<std::size_t>(steps * s), kNever), width(s) {}
  double& operator()(int64_t t, int64_t s) { return v[static_cast<std::size_t>(t * width + s)]; }
};

CtcTable ctc_forward(const CtcSample& x) {
  CtcTable a(x.steps, x.size());
  for (int64_t s = 0; s < std::min<int64_t>(2, x.size()); ++s) a(0, s) = x.at(0, s);
  for (int64_t t = 1; t < x.steps; ++t)
    for (int64_t s = 0; s < x.size(); ++s) {
      double sum = a(t - 1, s);
      if (s > 0) sum = log_sum(sum, a(t - 1, s - 1));
      if (x.may_skip(s)) sum = log_sum(sum, a(t - 1, s - 2));
      a(t, s) = sum + x.at(t, s);
    }
  return a;
}
CtcTable ctc_backward(const CtcSample& x) {
  CtcTable b(x.steps, x.size());
  const int64_t last = x.steps - 1, n = x.size();
  for (int64_t s = std::max<int64_t>(0, n - 2); s < n; ++s) b(last, s) = x.at(last, s);
  for (int64_t t = last - 1; t >= 0; --t)
    for (int64_t s = 0; s < n; ++s) {
      double sum = b(t + 1, s);
      if (s + 1 < n) sum = log_sum(sum, b(t + 1, s + 1));
      if (s + 2 < n && x.may_skip(s + 2)) sum = log_sum(sum, b(t + 1, s + 2));
      b(t, s) = sum + x.at(t, s);
    }
  return b;
}

/// The loss of one sample; slope (null: not asked for) receives its derivative by log_probs, laid
/// out as they are.
double ctc_of_sample(const CtcSample& x, bool zero_infinity, double* slope) {
  const int64_t n = x.size();
  if (x.steps == 0) return n > 1 && !zero_infinity ? -kNever : 0;
  CtcTable alpha = ctc_forward(x);
  const int64_t last = x.steps - 1;
  const double total = n > 1 ? log_sum(alpha(last, n - 1), alpha(last, n - 2)) : alpha(last, 0);
  if (total == kNever && zero_infinity) return 0;
  if (slope) {
    CtcTable beta = ctc_backward(x);
    for (int64_t t = 0; t < x.steps; ++t)
      for (int64_t s = 0; s < n; ++s)  // what both tables count of step t is taken out once
        slope[t * x.stride + x.path[static_cast<std::size_t>(s)]] -=
            std::exp(alpha(t, s) + beta(t, s) - x.at(t, s) - total);
  }
  return -total;
}

/// The arguments, checked: batches of steps, classes, and where each target begins.
struct CtcBatch {
  int64_t steps, batch, classes;
  std::vector<int64_t> inputs, lengths, labels, begins;
};

std::vector<int64_t> ctc_lengths(const char* name, const Tensor& t, int64_t batch, int64_t most) {
  DROPIN_CHECK(t.dtype() == kInt64 && t.numel() == batch && t.dim() < 2, ShapeError,
               "ctc_loss: ", name, " is ", t.dtype(), " ", t.sizes(), ", expected int64 [", batch,
               "]");
  std::vector<int64_t> v = t.to_vector<int64_t>();
  for (const int64_t n : v)
    DROPIN_CHECK(n >= 0 && n <= most, OptionError, "ctc_loss: ", name, " has ", n,
                 ", expected 0 to ", most);
  return v;
}

CtcBatch ctc_batch(const Tensor& x, const Tensor& targets, const Tensor& input_lengths,
                   const Tensor& target_lengths, int64_t blank) {
  ops_detail::need_floating("ctc_loss", x);
  ops_detail::need_int64("ctc_loss", "the target", targets);
  DROPIN_CHECK(x.dim() == 3 && x.numel() > 0, ShapeError, "ctc_loss: log_probs is ", x.sizes(),
               ", expected [T, N, C] with a value at least");
  CtcBatch b{x.size(0), x.size(1), x.size(2), {}, {}, targets.to_vector<int64_t>(), {}};
  DROPIN_CHECK(blank >= 0 && blank < b.classes, OptionError, "ctc_loss: blank is ", blank,
               ", expected 0 to ", b.classes - 1);
  const bool padded = targets.dim() == 2;
  DROPIN_CHECK(targets.dim() == 1 || (padded && targets.size(0) == b.batch), ShapeError,
               "ctc_loss: targets is ", targets.sizes(), ", expected [", b.batch,
               ", S] or [sum of target_lengths]");
  b.inputs = ctc_lengths("input_lengths", input_lengths, b.batch, b.steps);
  b.lengths = ctc_lengths("target_lengths", target_lengths, b.batch,
                          padded ? targets.size(1) : targets.numel());
  int64_t at = 0;
  for (int64_t n = 0; n < b.batch; ++n) {
    b.begins.push_back(padded ? n * targets.size(1) : at);
    at += b.lengths[static_cast<std::size_t>(n)];
  }
  DROPIN_CHECK(padded || at == targets.numel(), ShapeError, "ctc_loss: targets is ",
               targets.sizes(), ", expected [", at, "], the sum of target_lengths");
  for (int64_t n = 0; n < b.batch; ++n)
    for (int64_t i = 0; i < b.lengths[static_cast<std::size_t>(n)]; ++i) {
      const int64_t c =
          b.labels[static_cast<std::size_t>(b.begins[static_cast<std::size_t>(n)] + i)];
      DROPIN_CHECK(c >= 0 && c < b.classes && c != blank, OptionError, "ctc_loss: target ", c,
                   " of sample ", n, ", expected 0 to ", b.classes - 1, " and not the blank ",
                   blank);
    }
  return b;
}

CtcSample ctc_sample(const CtcBatch& b, const double* log_probs, int64_t n, int64_t blank) {
  const auto i = static_cast<std::size_t>(n);
  CtcSample s{log_probs + n * b.classes, b.batch * b.classes, b.inputs[i], {blank}};
  for (int64_t k = 0; k < b.lengths[i]; ++k) {
    s.path.push_back(b.labels[static_cast<std::size_t>(b.begins[i] + k)]);
    s.path.push_back(blank);
  }
  return s;
}

}  // namespace

Tensor ctc_loss(const Tensor& log_probs, const Tensor& targets, const Tensor& input_lengths,
                const Tensor& target_lengths, int64_t blank, std::string_view reduction,
                bool zero_infinity) {
  DROPIN_CHECK(reduction == "mean" || reduction == "sum" || reduction == "none", OptionError,
               "ctc_loss: reduction is \"", reduction, "\", expected mean, sum or none");
  if (log_probs.dim() == 2) {
    const Tensor one = ctc_loss(log_probs.unsqueeze(1), targets.reshape({1, -1}), input_lengths,
                                target_lengths, blank, reduction, zero_infinity);
    return one.reshape({});
  }
  const CtcBatch b = ctc_batch(log_probs, targets, input_lengths, target_lengths, blank);
  const Tensor x = log_probs.detach().to(kFloat64, kCPU).contiguous();
  const bool wanted = grad_enabled() && log_probs.requires_grad();
  Tensor slope = wanted ? zeros_like(x) : Tensor(), each = empty({b.batch}, kFloat64);
  for (int64_t n = 0; n < b.batch; ++n)
    each.data<double>()[n] = ctc_of_sample(ctc_sample(b, x.data<double>(), n, blank), zero_infinity,
                                           wanted ? slope.data<double>() + n * b.classes : nullptr);
  if (wanted) slope = slope.to(log_probs.dtype(), log_probs.device());
  Tensor loss = record("ctc_loss", each.to(log_probs.dtype(), log_probs.device()), {log_probs},
                       {slope}, [](const Saved& s, const Tensor& g) -> Tensors {
                         if (grad_enabled())
                           fail<AutogradError>({"ctc_loss: has no second derivatives"});
                         return {s[0] * g.reshape({1, -1, 1})};
                       });
  if (reduction == "none") return loss;
  if (reduction == "sum") return loss.sum();
  const Tensor length = clamp_min(target_lengths.reshape({-1}), 1).to(loss.dtype(), loss.device());
  return (loss / length).mean();
}

}  // namespace dropin
