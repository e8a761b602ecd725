#include "dropin/sequence/causal_conv.h"

#include "dropin/sequence/common.h"

namespace dropin {

namespace {
struct RecentState : SequenceState {
  Tensor recent;  // [B, K - 1, D]
};
}  // namespace

CausalConv1d::CausalConv1d(const CausalConv1dOptions& o) : Component(o) {
  DROPIN_CHECK(o.embed_dim > 0 && o.kernel_size > 0, OptionError, who(), ": embed_dim ",
               o.embed_dim, " and kernel_size ", o.kernel_size, " must be positive");
  weight_ = &parameter("weight", init::default_uniform({o.embed_dim, o.embed_dim, o.kernel_size},
                                                       o.embed_dim * o.kernel_size));
  bias_ =
      &parameter("bias", o.bias ? init::default_uniform({o.embed_dim}, o.embed_dim * o.kernel_size)
                                : Tensor());
}

Tensor CausalConv1d::forward(const Tensor& x, const SequenceArgs& args) {
  detail::check_sequence(who(), x, options_.embed_dim, args);
  DROPIN_CHECK(!args.attn_mask.defined(), OptionError, who(),
               ": attn_mask has no meaning for a convolution");
  if (x.size(1) == 0) return x.clone();
  const Tensor seen =
      args.key_padding_mask.defined() ? where(args.key_padding_mask.unsqueeze(2), 0.0, x) : x;
  return conv1d(seen.transpose(1, 2).contiguous(), *weight_, *bias_, 1, options_.kernel_size - 1)
      .transpose(1, 2);
}

Box<SequenceState> CausalConv1d::init_state(std::int64_t batch, std::int64_t) {
  DROPIN_CHECK(batch >= 0, OptionError, who(), ": init_state: batch is ", batch);
  auto s = Box<RecentState>(new RecentState);
  s->recent = zeros({batch, options_.kernel_size - 1, options_.embed_dim}, weight_->options());
  return s;
}

Tensor CausalConv1d::step(const Tensor& x_t, SequenceState& state) {
  auto* s = dynamic_cast<RecentState*>(&state);
  DROPIN_CHECK(s, StateError, who(), ": step() was given the state of another layer type");
  DROPIN_CHECK(x_t.dim() == 3 && x_t.size(2) == options_.embed_dim, ShapeError, who(), ": x_t is ",
               x_t.sizes(), ", expected [B, n, ", options_.embed_dim, "]");
  DROPIN_CHECK(x_t.size(0) == s->recent.size(0), ShapeError, who(), ": x_t has batch ", x_t.size(0),
               ", the state ", s->recent.size(0));
  no_grad guard;
  const Tensor all = concat({s->recent, x_t}, 1);
  s->recent = all.narrow(1, x_t.size(1), options_.kernel_size - 1).clone();
  return conv1d(all.transpose(1, 2).contiguous(), *weight_, *bias_).transpose(1, 2);
}

}  // namespace dropin
