#include "dropin/loss/mixup.h"

namespace dropin {

namespace {

void need_whole(const char* who, const char* name, const Tensor& t, const Shape& want,
                int64_t end) {
  DROPIN_CHECK(t.dtype() == kInt64, DTypeError, who, ": ", name, " is ", t.dtype(),
               ", expected int64");
  DROPIN_CHECK(t.sizes() == want, ShapeError, who, ": ", name, " is ", t.sizes(), ", expected ",
               want);
  if (t.numel() == 0) return;
  const int64_t low = amin(t).item<int64_t>(), high = amax(t).item<int64_t>();
  DROPIN_CHECK(low >= 0 && high < end, IndexError, who, ": ", name, " holds ", low < 0 ? low : high,
               ", expected 0 to ", end - 1);
}
void need_shares(const char* who, const Tensor& lam, int64_t m) {
  DROPIN_CHECK(is_floating(lam.dtype()), DTypeError, who, ": lam is ", lam.dtype(),
               ", expected a floating-point tensor");
  DROPIN_CHECK(lam.sizes() == Shape{m}, ShapeError, who, ": lam is ", lam.sizes(), ", expected [",
               m, "]");
  DROPIN_CHECK(all(logical_and(lam >= 0.0, lam <= 1.0)).item<bool>(), OptionError, who,
               ": lam holds a number outside [0, 1], expected shares");
}
// v [m] beside t [m, ...].
Tensor beside(const Tensor& v, const Tensor& t) {
  Shape s{v.size(0)};
  while (s.size() < t.dim()) s.push_back(1);
  return v.reshape(s);
}

}  // namespace

MixupRows mixup_batch(const Tensor& x, const Tensor& target, const Tensor& pick,
                      const Tensor& partner, const Tensor& lam_) {
  const char* who = "MixupBatch";
  DROPIN_CHECK(x.dim() >= 1 && is_floating(x.dtype()), ShapeError, who, ": x is ", x.dtype(), " ",
               x.sizes(), ", expected floats [n, ...]");
  const int64_t n = x.size(0);
  DROPIN_CHECK(n > 0, ShapeError, who, ": x is ", x.sizes(), ", expected a row at least");
  DROPIN_CHECK(pick.dim() == 1, ShapeError, who, ": pick is ", pick.sizes(), ", expected [m]");
  const int64_t m = pick.size(0);
  need_whole(who, "pick", pick, {m}, n);
  need_whole(who, "partner", partner, {m}, m);
  need_shares(who, lam_, m);
  const bool soft = is_floating(target.dtype());
  DROPIN_CHECK(target.dim() >= 1 && target.size(0) == n && (soft || target.dim() == 1), ShapeError,
               who, ": target is ", target.dtype(), " ", target.sizes(), ", expected int64 [", n,
               "] or floats [", n, ", C]");
  const Tensor other = index_select(pick, 0, partner), lam = lam_.detach().to(x.dtype());
  const Tensor a = index_select(x, 0, pick), b = index_select(x, 0, other), share = beside(lam, a);
  return {concat({x, a * share + b * (1 - share)}), index_select(target, 0, pick),
          index_select(target, 0, other)};
}

Tensor mixup_mp_loss(const Tensor& logits_, const Tensor& target, const MixupTargets& mixed,
                     const MixupMPLossOptions& o) {
  const char* who = "MixupMPLoss";
  DROPIN_CHECK(o.pseudo_weight >= 0, OptionError, who, ": pseudo_weight is ", o.pseudo_weight,
               ", expected at least 0");
  DROPIN_CHECK(is_floating(logits_.dtype()), DTypeError, who, ": logits is ", logits_.dtype(),
               ", expected a floating-point tensor");
  const bool one = o.binary && (logits_.dim() == 1 || (logits_.dim() == 2 && logits_.size(1) == 1));
  DROPIN_CHECK(o.binary ? one : logits_.dim() == 2 && logits_.size(1) > 0, ShapeError, who,
               ": logits is ", logits_.sizes(), ", expected ",
               o.binary ? "[n + m] or [n + m, 1] because binary = true" : "[n + m, C]");
  const Tensor logits = one ? logits_.reshape({logits_.numel()}) : logits_;
  DROPIN_CHECK(target.dim() >= 1 && target.size(0) > 0, ShapeError, who, ": target is ",
               target.sizes(), ", expected a row at least");
  const bool none = !mixed.target_a.defined() && !mixed.target_b.defined() && !mixed.lam.defined();
  DROPIN_CHECK(
      none || (mixed.target_a.defined() && mixed.target_b.defined() && mixed.lam.defined()),
      OptionError, who, ": expected all of target_a, target_b and lam, or none");
  const int64_t n = target.size(0), m = none ? 0 : mixed.lam.dim() == 1 ? mixed.lam.size(0) : -1;
  DROPIN_CHECK(m >= 0 && logits.size(0) == n + m, ShapeError, who, ": logits is ", logits_.sizes(),
               ", expected ", n, " rows of target and ", none ? 0 : mixed.lam.numel(), " of lam");
  if (!none) need_shares(who, mixed.lam, m);
  auto losses = [&](const char* name, const Tensor& z, const Tensor& y) {
    const int64_t rows = z.size(0);
    if (o.binary) {
      DROPIN_CHECK(y.numel() == rows, ShapeError, who, ": ", name, " is ", y.sizes(),
                   ", expected [", rows, "]");
      return softplus(z) - z * y.reshape({rows}).to(z.dtype());
    }
    const Tensor p = log_softmax(z, 1);
    if (!is_floating(y.dtype())) {
      need_whole(who, name, y, {rows}, z.size(1));
      return -gather(p, 1, y.unsqueeze(1)).squeeze(1);
    }
    DROPIN_CHECK(y.sizes() == z.sizes(), ShapeError, who, ": ", name, " is ", y.sizes(),
                 ", expected ", z.sizes());
    return -sum(p * y.to(z.dtype()), {1});
  };
  Tensor real = losses("target", logits.narrow(0, 0, n), target);
  if (const Tensor& w = mixed.weight; w.defined()) {
    DROPIN_CHECK(w.sizes() == Shape{n} && is_floating(w.dtype()), ShapeError, who, ": weight is ",
                 w.dtype(), " ", w.sizes(), ", expected floats [", n, "]");
    DROPIN_CHECK(!any(w < 0.0).item<bool>(), OptionError, who,
                 ": weight holds a negative number, expected at least 0");
    real = real * w.detach().to(real.dtype());
  }
  Tensor total = sum(real);
  if (m > 0) {
    const Tensor z = logits.narrow(0, n, m), lam = mixed.lam.detach().to(z.dtype());
    const Tensor a = losses("target_a", z, mixed.target_a),
                 b = losses("target_b", z, mixed.target_b);
    total = total + sum(lam * a + (1 - lam) * b) * o.pseudo_weight;
  }
  return total * (1 / static_cast<double>(n + m));
}

}  // namespace dropin
