#include "dropin/sequence/causal_conv.h"

#include "dropin/sequence/common.h"

namespace dropin {

namespace {
struct RecentState : SequenceState {
  using SequenceState::SequenceState;
  detail::RecentTokens recent;
  void parts(auto&& f) { f(recent.data); }

 protected:
  Box<SequenceState> pick(const std::vector<int64_t>& rows) const override {
    return detail::picked(*this, rows);
  }
  void take_back(int64_t n, const std::vector<int64_t>& real) override {
    recent.take_back(n, real);
  }
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
  detail::refuse(who(), "attn_mask", args.attn_mask, "a convolution has no scores");
  detail::refuse(who(), "global_attention_mask", args.global_attention_mask,
                 detail::kNoGlobalTokens);
  if (x.size(1) == 0) return x.clone();
  const Tensor seen =
      args.key_padding_mask.defined() ? where(args.key_padding_mask.unsqueeze(2), 0.0, x) : x;
  return conv1d(seen.transpose(1, 2).contiguous(), *weight_, *bias_, 1, options_.kernel_size - 1)
      .transpose(1, 2);
}

Box<SequenceState> CausalConv1d::init_state(int64_t batch, int64_t max_len,
                                            const StateOptions& options) {
  detail::check_state_sizes(who(), batch, max_len, options);
  auto s = Box<RecentState>(new RecentState(batch));
  s->recent = {batch, options_.kernel_size - 1, options_.embed_dim, options, weight_->options()};
  return s;
}

Tensor CausalConv1d::step(const Tensor& x_t, SequenceState& state, const StepArgs& args) {
  auto& s = detail::own_state<RecentState>(who(), state);
  const detail::StepTokens tokens =
      detail::check_step(who(), x_t, s, args, {.width = options_.embed_dim});
  no_grad guard;
  const Tensor x = tokens.packed(x_t, 1), seen = s.recent.before(x).transpose(1, 2).contiguous();
  if (tokens.n == 0) return x.clone();
  const Tensor y = tokens.unpacked(conv1d(seen, *weight_, *bias_).transpose(1, 2), 1);
  s.recent.push(x, tokens);
  s.saw(tokens.n, tokens.padding);
  return y;
}

}  // namespace dropin
