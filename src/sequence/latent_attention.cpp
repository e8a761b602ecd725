#include "dropin/sequence/latent_attention.h"

#include <cmath>
#include <limits>

#include "dropin/ops/latent.h"

namespace dropin {

namespace {

struct LatentState : SequenceState {
  using SequenceState::SequenceState;
  Tensor sums;  ///< latent_state()
  detail::Snapshots kept;
  void parts(auto&& f) { f(sums), f(kept.before, 0); }

 protected:
  Box<SequenceState> pick(const std::vector<int64_t>& rows) const override {
    return detail::picked(*this, rows);
  }
  void take_back(int64_t n, const std::vector<int64_t>&) override { sums = kept.take_back(n)[0]; }
};

}  // namespace

std::vector<std::string> LatentAttention::examples() {
  return {R"({"causal": true, "num_latents": 6, "chunk_size": 3})",
          R"({"num_latents": 2, "bias": true, "scale": 0.5})"};
}

LatentAttention::LatentAttention(const LatentAttentionOptions& o) : Component(o) {
  detail::check_heads_options(who(), o.embed_dim, o.num_heads, "none", o.dropout);
  const int64_t n = latents(), d = o.embed_dim;
  DROPIN_CHECK(n >= o.num_heads && n % o.num_heads == 0, OptionError, who(), ": num_latents ", n,
               " is not a positive multiple of num_heads ", o.num_heads);
  DROPIN_CHECK(o.chunk_size >= 1, OptionError, who(), ": chunk_size is ", o.chunk_size,
               ", expected at least 1");
  q_proj_ = child<Linear>("q_proj", {.in_features = d, .out_features = n, .bias = o.bias});
  k_proj_ = child<Linear>("k_proj", {.in_features = d, .out_features = n, .bias = o.bias});
  v_proj_ = child<Linear>("v_proj", {.in_features = d, .out_features = d, .bias = o.bias});
  out_proj_ = child<Linear>("out_proj", {.in_features = d, .out_features = d, .bias = o.bias});
  no_grad guard;
  for (auto* p :
       {&q_proj_, &k_proj_, &v_proj_, &out_proj_}) {  // LeCun normal: cut at two standard
                                                      // deviations, and widened to make up for it
    p->as()->weight().copy_(init::trunc_normal(
        p->as()->weight().sizes(), 1 / (0.87962566103423978 * std::sqrt(static_cast<double>(d)))));
    if (o.bias) p->as()->bias().zero_();
  }
}

Tensor LatentAttention::scores(const Child<Linear>& proj, const Tensor& x) const {
  const Tensor s = split_heads(proj(x), options_.num_heads);
  return options_.scale == 1 ? s : s * options_.scale;
}

Tensor LatentAttention::forward(const Tensor& x, const SequenceArgs& args) {
  const auto& o = options_;
  detail::check_sequence(who(), x, o.embed_dim, args);
  detail::refuse(who(), "attn_mask", args.attn_mask,
                 "tokens meet through latents, there is no score of a pair");
  detail::refuse(who(), "global_attention_mask", args.global_attention_mask,
                 detail::kNoGlobalTokens);
  const Tensor p = dropout(softmax(scores(q_proj_, x), -1), o.dropout, is_training());
  return out_proj_(
      merge_heads(latent_attention(p, scores(k_proj_, x), split_heads(v_proj_(x), o.num_heads),
                                   o.causal, args.key_padding_mask, o.chunk_size)));
}

Box<SequenceState> LatentAttention::init_state(int64_t batch, int64_t max_len,
                                               const StateOptions& options) {
  const auto& o = options_;
  DROPIN_CHECK(o.causal, OptionError, who(), ": step() needs causal = true");
  detail::check_state_sizes(who(), batch, max_len, options);
  auto s = Box<LatentState>(new LatentState(batch));
  s->sums = latent_state(batch, o.num_heads, latents() / o.num_heads, o.embed_dim / o.num_heads,
                         parameters()[0].options());
  s->kept.keep = options.keep;
  return s;
}

Tensor LatentAttention::step(const Tensor& x_t, SequenceState& state, const StepArgs& args) {
  const auto& o = options_;
  auto& s = detail::own_state<LatentState>(who(), state);
  const detail::StepTokens tokens =
      detail::check_step(who(), x_t, s, args, {.width = o.embed_dim, .causal = o.causal});
  no_grad guard;
  const bool padded = tokens.padding.defined();
  const Tensor x = padded ? masked_fill(x_t, tokens.hidden.unsqueeze(-1), 0) : x_t;
  const Tensor p = softmax(scores(q_proj_, x), -1);
  Tensor k = scores(k_proj_, x), v = split_heads(v_proj_(x), o.num_heads);
  if (padded)  // a latent never sees it
    k = masked_fill(k, tokens.hidden.unsqueeze(1).unsqueeze(-1),
                    -std::numeric_limits<double>::infinity());
  const Tensor y = detail::step_remembered(
      s.kept, tokens.n,
      [&](int64_t first, int64_t n) {
        return merge_heads(latent_scan(p.narrow(2, first, n), k.narrow(2, first, n),
                                       v.narrow(2, first, n), s.sums, o.chunk_size));
      },
      [&] { return Tensors{s.sums.clone()}; });
  s.saw(tokens.n, tokens.padding);
  return out_proj_(y);
}

void LatentAttention::translate_state(StateDict& state, const std::string& prefix,
                                      std::vector<std::string>& renamed) const {
  // the official JAX code stores [in, out]
  for (const auto& [theirs, ours] :
       {std::pair{"Wq", "q_proj"}, {"Wk", "k_proj"}, {"Wv", "v_proj"}, {"o_proj", "out_proj"}})
    for (const char* tail : {"", ".kernel"}) {
      const Tensor t = state.take(prefix + theirs + tail);
      if (!t.defined()) continue;
      state.set(prefix + ours + ".weight", t.dim() == 2 ? t.mT() : t);
      renamed.push_back(prefix + theirs + tail + " -> " + prefix + ours + ".weight, transposed");
    }
}

}  // namespace dropin
