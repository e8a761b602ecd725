#include <algorithm>

#include "dropin/text/corruption.h"

namespace dropin {

namespace {

constexpr const char* kLoss = "newline_loss";

// Options and inputs, padding included.
void check_newline_loss(const Tensor& logits, const Tensor& labels, const Tensor& padding,
                        const NewlineLossOptions& o) {
  DROPIN_CHECK(o.loss_margin >= 0 && o.loss_margin <= 0.5, OptionError, kLoss, ": loss_margin is ",
               o.loss_margin, ", expected 0 to 0.5");
  DROPIN_CHECK(o.auxiliary_weight >= 0, OptionError, kLoss, ": auxiliary_weight is ",
               o.auxiliary_weight, ", expected 0 or more");
  DROPIN_CHECK(is_floating(logits.dtype()), DTypeError, kLoss, ": logits are ", logits.dtype(),
               ", expected floats");
  DROPIN_CHECK(labels.dtype() == kInt64, DTypeError, kLoss, ": labels are ", labels.dtype(),
               ", expected int64");
  DROPIN_CHECK(logits.dim() == 3 && logits.size(2) >= 1, ShapeError, kLoss, ": logits is ",
               logits.sizes(), ", expected [B, L, K]");
  const Shape tokens{logits.size(0), logits.size(1)};
  DROPIN_CHECK(labels.sizes() == tokens, ShapeError, kLoss, ": labels is ", labels.sizes(),
               ", expected ", tokens);
  DROPIN_CHECK(padding.dtype() == kBool, DTypeError, kLoss, ": key_padding_mask is ",
               padding.dtype(), ", expected bool");
  DROPIN_CHECK(padding.sizes() == tokens, ShapeError, kLoss, ": key_padding_mask is ",
               padding.sizes(), ", expected ", tokens);
}

// Labels of tokens that are not padded; auxiliary: of so many classes behind the first.
void check_newline_labels(const Tensor& used, bool auxiliary, int64_t classes) {
  if (used.numel() == 0) return;
  const int64_t least = amin(used).item<int64_t>(), most = amax(used).item<int64_t>();
  DROPIN_CHECK(least >= 0, IndexError, kLoss, ": a label is ", least, ", expected 0 or more");
  DROPIN_CHECK(!auxiliary || most <= classes, IndexError, kLoss, ": a label is ", most,
               ", expected 0 to ", classes, ", the last of the logits");
}

}  // namespace

Tensor newline_loss(const Tensor& logits, const Tensor& labels, const Tensor& key_padding_mask,
                    const NewlineLossOptions& o) {
  Tensor padding = key_padding_mask;
  if (!padding.defined()) padding = zeros(labels.sizes(), {kBool, labels.device()});
  check_newline_loss(logits, labels, padding, o);
  const bool auxiliary = o.auxiliary_weight > 0;
  const int64_t classes = logits.size(2) - 1;
  DROPIN_CHECK(!auxiliary || classes >= 1, ShapeError, kLoss, ": logits is ", logits.sizes(),
               " and auxiliary_weight ", o.auxiliary_weight, ", expected classes behind the first");
  const Tensor used = masked_fill(labels, padding, 0);
  check_newline_labels(used, auxiliary, classes);
  const double n = static_cast<double>(sum(logical_not(padding)).item<int64_t>());
  const Tensor outside = padding.unsqueeze(2), rows = masked_fill(logits, outside, 0);
  const Tensor target = where(used == 1, 0.5 + o.loss_margin,
                              full(labels.sizes(), 0.5 - o.loss_margin, logits.options()));
  const Tensor each = binary_cross_entropy_with_logits(rows.select(2, 0), target, "none");
  Tensor loss = sum(masked_fill(each, padding, 0)) / std::max(n, 1.0);
  if (auxiliary) {
    const Tensor marks = where(used > 1, used - 1, zeros_like(used));
    const Tensor wanted = masked_fill(marks, padding, -100);  // ignored
    const Tensor all = cross_entropy(rows.narrow(2, 1, classes).reshape({-1, classes}),
                                     wanted.reshape({-1}), {}, "sum");
    loss = loss + all * (o.auxiliary_weight / std::max(n, 1.0));
  }
  return loss;
}

}  // namespace dropin
