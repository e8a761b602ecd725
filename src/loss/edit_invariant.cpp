#include "loss/edit_invariant.h"

#include <cmath>

#include "kernels/hd.h"
#include "ops/common.h"

namespace dropin::edit_invariant {

void check_options(const EditInvariantSequenceLossOptions& o) {
  DROPIN_CHECK(!o.ngrams.empty(), OptionError, kWho, ": ngrams is empty, expected an order");
  DROPIN_CHECK(o.weights.empty() || o.weights.size() == o.ngrams.size(), OptionError, kWho, ": ",
               static_cast<int64_t>(o.weights.size()), " weights, expected one for each of ",
               static_cast<int64_t>(o.ngrams.size()), " ngrams");
  double total = 0;
  for (const double w : o.weights) {
    DROPIN_CHECK(w >= 0 && std::isfinite(w), OptionError, kWho, ": a weight is ", w,
                 ", expected 0 or more");
    total += w;
  }
  DROPIN_CHECK(o.weights.empty() || total > 0, OptionError, kWho,
               ": all weights are 0, expected a positive one");
  DROPIN_CHECK(
      o.position == "gumbel_softmax" || o.position == "softmax" || o.position == "logsumexp",
      OptionError, kWho, ": position is \"", o.position,
      "\", expected gumbel_softmax, softmax or logsumexp");
  DROPIN_CHECK(o.tau > 0 && std::isfinite(o.tau), OptionError, kWho, ": tau is ", o.tau,
               ", expected a positive number");
  DROPIN_CHECK(o.min_log_prob < 0 && std::isfinite(o.min_log_prob), OptionError, kWho,
               ": min_log_prob is ", o.min_log_prob, ", expected a negative number");
  DROPIN_CHECK(o.label_smoothing >= 0 && o.label_smoothing < 1, OptionError, kWho,
               ": label_smoothing is ", o.label_smoothing, ", expected 0 <= label_smoothing < 1");
  DROPIN_CHECK(std::isfinite(o.ngram_factor) && std::isfinite(o.ce_factor), OptionError, kWho,
               ": ngram_factor ", o.ngram_factor, " and ce_factor ", o.ce_factor,
               ", expected finite numbers");
}

static void check_mask(const char* name, const Tensor& mask, const Shape& sizes) {
  if (!mask.defined()) return;
  DROPIN_CHECK(mask.dtype() == kBool, DTypeError, kWho, ": ", name, " is ", mask.dtype(),
               ", expected bool");
  DROPIN_CHECK(mask.sizes() == sizes, ShapeError, kWho, ": ", name, " is ", mask.sizes(),
               ", expected ", sizes);
}

void check_inputs(const Tensor& logits, const Tensor& target, const EditInvariantArgs& args,
                  const EditInvariantSequenceLossOptions& o) {
  DROPIN_CHECK(logits.dim() == 3 && logits.size(1) > 0 && logits.size(2) > 0, ShapeError, kWho,
               ": logits is ", logits.sizes(), ", expected [B, T > 0, V > 0]");
  ops_detail::need_floating(kWho, logits);
  ops_detail::need_int64(kWho, "target", target);
  const int64_t batch = logits.size(0), length = logits.size(1);
  DROPIN_CHECK(target.dim() == 2 && target.size(0) == batch, ShapeError, kWho, ": target is ",
               target.sizes(), ", expected [", batch, ", S] because logits is ", logits.sizes());
  check_mask("target_padding_mask", args.target_padding_mask, target.sizes());
  check_mask("output_padding_mask", args.output_padding_mask, {batch, length});
  DROPIN_CHECK(o.ce_factor == 0 || length == target.size(1), ShapeError, kWho, ": ce_factor is ",
               o.ce_factor,
               ", so the target is expected to be as long as the output: ", target.size(1), " for ",
               length);
  if (!args.gumbel.defined()) return;
  const Shape want{static_cast<int64_t>(o.ngrams.size()), batch, length, target.size(1)};
  DROPIN_CHECK(args.gumbel.sizes() == want, ShapeError, kWho, ": gumbel is ", args.gumbel.sizes(),
               ", expected ", want);
  ops_detail::need_floating(kWho, args.gumbel);
  DROPIN_CHECK(all(isfinite(args.gumbel.detach())).item<bool>(), Error, kWho,
               ": gumbel holds NaN or infinity, expected finite noise");
}

Rows valid_rows(const Tensor& mask, int64_t batch, int64_t length) {
  Rows r(at(batch), std::vector<bool>(at(length), true));
  if (!mask.defined()) return r;
  const std::vector<double> m = mask.to_vector();
  for (std::size_t i = 0; i < m.size(); ++i) r[i / at(length)][i % at(length)] = m[i] == 0;
  return r;
}

Rows valid_targets(const Tensor& target, const Tensor& mask, int64_t vocabulary,
                   int64_t ignore_index) {
  const int64_t length = target.size(1);
  Rows r = valid_rows(mask, target.size(0), length);
  const std::vector<int64_t> ids = target.to_vector<int64_t>();
  for (int64_t i = 0; i < target.numel(); ++i) {
    const int64_t id = ids[at(i)], b = i / length, s = i % length;
    if (id == ignore_index) r[at(b)][at(s)] = false;
    DROPIN_CHECK(!r[at(b)][at(s)] || (id >= 0 && id < vocabulary), IndexError, kWho,
                 ": the target of sample ", b, " at position ", s, " is ", id, ", expected 0 to ",
                 vocabulary - 1, " or ignore_index ", ignore_index);
  }
  return r;
}

void check_valid_logits(const Tensor& logits, const Rows& valid) {
  if (logits.numel() == 0) return;
  const std::vector<double> most = amax(logits.detach(), {2}).to_vector();
  const auto length = at(logits.size(1));
  for (std::size_t i = 0; i < most.size(); ++i)
    DROPIN_CHECK(!valid[i / length][i % length] || std::isfinite(most[i]), Error, kWho,
                 ": the logits of sample ", static_cast<int64_t>(i / length), " at position ",
                 static_cast<int64_t>(i % length), " reach ", most[i],
                 ", expected a finite greatest logit");
}

}  // namespace dropin::edit_invariant
