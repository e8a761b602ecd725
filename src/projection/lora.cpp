#include "dropin/projection/lora.h"

#include <cmath>

namespace dropin {

void detail::FrozenProjection::create(int64_t in, int64_t out, bool bias, double p_drop) {
  DROPIN_CHECK(in > 0 && out > 0, OptionError, type(), ": in_features ", in, " and out_features ",
               out, " must be positive");
  check_dropout(type(), p_drop);
  dropout_ = p_drop;
  weight_ = &parameter("weight", init::default_uniform({out, in}, in));
  bias_ = &parameter("bias", bias ? init::default_uniform({out}, in) : Tensor());
  weight_->requires_grad_(false);
  if (bias) bias_->requires_grad_(false);
}

void detail::FrozenProjection::merge() {
  DROPIN_CHECK(!merged(), StateError, type(), ": merge(): it is merged already");
  DROPIN_CHECK(!is_training(), StateError, type(), ": merge(): expected eval() before");
  no_grad guard;
  added_ = update().detach();
  weight_->add_(added_);
}
void detail::FrozenProjection::unmerge() {
  DROPIN_CHECK(merged(), StateError, type(), ": unmerge(): it is not merged");
  no_grad guard;
  weight_->sub_(added_);
  added_ = {};
}

int64_t detail::FrozenProjection::num_trainable() const {
  int64_t n = 0;
  for (const Tensor& p : parameters())
    if (p.requires_grad()) n += p.numel();
  return n;
}

Tensor detail::FrozenProjection::forward(const Tensor& x) {
  const int64_t in = weight_->size(1);
  DROPIN_CHECK(x.dim() > 0 && x.size(-1) == in, ShapeError, type(), ": x is ", x.sizes(),
               ", expected [*, ", in, "] because in_features = ", in);
  DROPIN_CHECK(is_floating(x.dtype()), DTypeError, type(), ": x is ", x.dtype(),
               ", expected a floating-point tensor");
  DROPIN_CHECK(!merged() || !is_training(), StateError, type(),
               ": it is merged; expected unmerge() before training");
  // a swap carries over tensors that want gradients; here they get none
  const Tensor bias = bias_->defined() ? bias_->detach() : Tensor(),
               y = linear(x, weight_->detach(), bias);
  return merged() ? y : y + updated(dropout(x, dropout_, is_training()));
}

namespace {
void check_rank(std::string_view who, const LoRALinearOptions& o) {
  DROPIN_CHECK(o.rank >= 1, OptionError, who, ": rank is ", o.rank, ", expected at least 1");
}
}  // namespace

LoRALinear::LoRALinear(const LoRALinearOptions& o) : Component(o) {
  create(o.in_features, o.out_features, o.bias, o.dropout);
  check_rank(who(), o);
  a_ = &parameter("lora_A", init::default_uniform({o.rank, o.in_features}, o.in_features));
  b_ = &parameter("lora_B", zeros({o.out_features, o.rank}));
}

DoRALinear::DoRALinear(const LoRALinearOptions& o) : Component(o) {
  create(o.in_features, o.out_features, o.bias, o.dropout);
  check_rank(who(), o);
  a_ = &parameter("lora_A", init::default_uniform({o.rank, o.in_features}, o.in_features));
  b_ = &parameter("lora_B", zeros({o.out_features, o.rank}));
  magnitude_ = &parameter("magnitude", norm(*weight_, {-1}));
}

void DoRALinear::reset_magnitude() {
  no_grad guard;
  magnitude_->copy_(norm(directed(), {-1}));
}

Tensor DoRALinear::directed() const {
  return weight_->detach() +
         matmul(*b_, *a_) * (options_.alpha / static_cast<double>(options_.rank));
}

Tensor DoRALinear::update() const {
  const Tensor w = directed(), length = norm(w.detach(), {-1});
  return w * (*magnitude_ / length).unsqueeze(1) - weight_->detach();
}

}  // namespace dropin
