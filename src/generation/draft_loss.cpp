// Memory: logits of every head; cross-entropies take the rows with labels only.
#include "dropin/generation/draft_tree.h"
#include "kernels/hd.h"

namespace dropin {

namespace {

constexpr const char* kLoss = "draft_heads_loss";
constexpr int64_t kIgnored = -100;

// Rows [B, n, X] of t [B, L, X] from `start`, those numbered.
Tensor rows_of(const Tensor& t, int64_t start, int64_t n, const Tensor& numbers) {
  return index_select(t.narrow(1, start, n).reshape({-1, t.size(2)}), 0, numbers);
}

void check_loss(const Tensor& logits, const Tensor& labels, const DraftHeadsLossOptions& o,
                const Tensor& base_logits, const Tensor& head_hidden, const Tensor& base_hidden) {
  DROPIN_CHECK(logits.dim() == 4 && is_floating(logits.dtype()), ShapeError, kLoss, ": logits are ",
               logits.dtype(), " ", logits.sizes(), ", expected floats [H, B, L, V]");
  const int64_t b = logits.size(1), l = logits.size(2), v = logits.size(3);
  DROPIN_CHECK(labels.dtype() == kInt64 && labels.sizes() == Shape({b, l}), ShapeError, kLoss,
               ": labels are ", labels.dtype(), " ", labels.sizes(), ", expected int64 [", b, ", ",
               l, "]");
  for (const int64_t y : labels.to_vector<int64_t>())
    DROPIN_CHECK(y == kIgnored || (y >= 0 && y < v), IndexError, kLoss, ": labels hold ", y,
                 ", expected 0 to ", v - 1, " or ", kIgnored);
  if (o.teacher_weight != 0) {
    DROPIN_CHECK(base_logits.defined(), StateError, kLoss, ": teacher_weight needs base_logits");
    DROPIN_CHECK(base_logits.sizes() == Shape({b, l, v}), ShapeError, kLoss, ": base_logits are ",
                 base_logits.sizes(), ", expected ", Shape({b, l, v}));
  }
  if (o.reconstruction_weight != 0) {
    DROPIN_CHECK(head_hidden.defined() && base_hidden.defined(), StateError, kLoss,
                 ": reconstruction_weight needs head_hidden and base_hidden");
    DROPIN_CHECK(head_hidden.dim() == 4 && base_hidden.dim() == 3 &&
                     head_hidden.size(0) == logits.size(0) &&
                     base_hidden.sizes() == Shape({b, l, head_hidden.size(3)}) &&
                     head_hidden.size(1) == b && head_hidden.size(2) == l,
                 ShapeError, kLoss, ": head_hidden is ", head_hidden.sizes(), " and base_hidden ",
                 base_hidden.sizes(), ", expected [", logits.size(0), ", ", b, ", ", l,
                 ", D] and [", b, ", ", l, ", D]");
  }
}

// Numbers of the rows t = 0 .. n - 1 of each sample whose label `ahead` places on is not ignored.
Tensor labelled(const Tensor& labels, int64_t ahead, int64_t n) {
  const std::vector<int64_t> y = labels.narrow(1, ahead, n).to_vector<int64_t>();
  std::vector<int64_t> r;
  for (std::size_t i = 0; i < y.size(); ++i)
    if (y[i] != kIgnored) r.push_back(static_cast<int64_t>(i));
  return tensor(r).to(labels.device());
}

}  // namespace

DraftHeadsLoss draft_heads_loss(const Tensor& logits, const Tensor& labels,
                                const DraftHeadsLossOptions& o, const Tensor& base_logits,
                                const Tensor& head_hidden, const Tensor& base_hidden) {
  check_loss(logits, labels, o, base_logits, head_hidden, base_hidden);
  const int64_t heads = logits.size(0), length = logits.size(2);
  Tensors per_head;
  Tensor loss = zeros({}, logits.options());
  double decay = 1;
  for (int64_t i = 0; i < heads; ++i, decay *= o.head_decay) {
    Tensor sum = zeros({}, logits.options());
    const int64_t n = length - 2 - i;
    const Tensor rows = n > 0 ? labelled(labels, i + 2, n) : Tensor();
    if (rows.defined() && rows.numel() > 0) {
      const Tensor q = rows_of(logits[i], 0, n, rows);
      const Tensor y = index_select(labels.narrow(1, i + 2, n).reshape({-1}), 0, rows);
      if (o.lm_weight != 0) sum = sum + cross_entropy(q, y) * o.lm_weight;
      if (o.teacher_weight != 0) {
        const Tensor p = softmax(rows_of(base_logits, i + 1, n, rows).detach(), -1);
        const auto count = static_cast<double>(rows.numel());
        sum = sum - dropin::sum(p * log_softmax(q, -1)) * (o.teacher_weight / count);
      }
    }
    if (o.reconstruction_weight != 0 && n + 1 > 0) {
      const Tensor near = labelled(labels, i + 1, n + 1);
      if (near.numel() > 0)
        sum = sum + smooth_l1_loss(rows_of(head_hidden[i], 0, n + 1, near),
                                   rows_of(base_hidden, i + 1, n + 1, near)) *
                        o.reconstruction_weight;
    }
    per_head.push_back(sum);
    loss = loss + sum * decay;
  }
  return {loss, per_head.empty() ? zeros({0}, logits.options()) : stack(per_head)};
}

}  // namespace dropin
