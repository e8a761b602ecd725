#include "dropin/sequence/multihead_attention.h"

#include <cmath>

namespace dropin {

MultiheadAttention::MultiheadAttention(const MultiheadAttentionOptions& o) : Component(o) {
  detail::check_heads_options(who(), o.embed_dim, o.num_heads, o.rope, o.dropout);
  const int64_t hk = kv_heads(), dh = o.embed_dim / o.num_heads,
                kdim = o.kdim.value_or(o.embed_dim), vdim = o.vdim.value_or(o.embed_dim);
  DROPIN_CHECK(hk > 0 && o.num_heads % hk == 0, OptionError, who(), ": num_heads ", o.num_heads,
               " is not divisible by num_kv_heads ", hk);
  DROPIN_CHECK(kdim > 0 && vdim > 0, OptionError, who(), ": kdim ", kdim, " and vdim ", vdim,
               " must be positive");
  q_proj_ = child<Linear>(
      "q_proj", {.in_features = o.embed_dim, .out_features = o.embed_dim, .bias = o.bias});
  k_proj_ = child<Linear>("k_proj", {.in_features = kdim, .out_features = hk * dh, .bias = o.bias});
  v_proj_ = child<Linear>("v_proj", {.in_features = vdim, .out_features = hk * dh, .bias = o.bias});
  out_proj_ = child<Linear>(
      "out_proj", {.in_features = o.embed_dim, .out_features = o.embed_dim, .bias = o.bias});
  detail::init_attention(q_proj_, k_proj_, v_proj_, out_proj_,
                         kdim == o.embed_dim && vdim == o.embed_dim && hk == o.num_heads);
}

MultiheadAttention::Result MultiheadAttention::attend(const Tensor& query, const Tensor& key,
                                                      const Tensor& value,
                                                      const SequenceArgs& args) {
  const auto& o = options_;
  detail::refuse(who(), "global_attention_mask", args.global_attention_mask,
                 detail::kNoGlobalTokens);
  detail::check_attention_inputs(who(), query, key, value, o.embed_dim,
                                 o.kdim.value_or(o.embed_dim), o.vdim.value_or(o.embed_dim));
  const int64_t lq = query.size(1), lk = key.size(1);
  AttentionParams p;
  p.scale = o.scale;
  p.causal = o.causal;
  p.alibi = o.alibi;
  p.dropout_p = is_training() ? o.dropout : 0;
  p.key_padding_mask = args.key_padding_mask;
  p.attn_mask = detail::check_attn_mask(who(), args.attn_mask, query.size(0), o.num_heads, lq, lk);
  const int64_t shift = o.causal ? lk - lq : 0;
  const Tensor q = rope(split_heads(q_proj_(query), o.num_heads), o.rope, o.rope_base, shift);
  const Tensor k = rope(split_heads(k_proj_(key), kv_heads()), o.rope, o.rope_base),
               v = split_heads(v_proj_(value), kv_heads());
  Result r;
  Tensor heads;
  if (o.need_weights) {
    Tensor weights;
    heads = plain::attention(q, k, v, p, &weights);
    r.weights = o.average_attn_weights ? mean(weights, {1}) : weights;
  } else {
    heads = attention(q, k, v, p);
  }
  r.y = out_proj_(merge_heads(heads));
  return r;
}

Box<SequenceState> MultiheadAttention::init_state(int64_t batch, int64_t max_len,
                                                  const StateOptions& options) {
  DROPIN_CHECK(options_.causal, OptionError, who(), ": step() needs causal = true");
  detail::check_state_sizes(who(), batch, max_len, options);
  return Box<KeyValueState>(new KeyValueState(batch, max_len, kv_heads(), max_len,
                                              options_.embed_dim / options_.num_heads,
                                              parameters()[0].options()));
}

Tensor MultiheadAttention::step(const Tensor& x_t, SequenceState& state, const StepArgs& args) {
  const auto& o = options_;
  auto& s = detail::own_state<KeyValueState>(who(), state);
  const detail::StepTokens tokens = s.check_step(
      who(), x_t, args,
      {.width = o.embed_dim, .causal = o.causal, .positions = o.rope != "none" || o.alibi},
      kv_heads(), o.embed_dim / o.num_heads);
  no_grad guard;
  const Tensor q = tokens.packed(split_heads(q_proj_(x_t), o.num_heads), 2),
               k = tokens.packed(split_heads(k_proj_(x_t), kv_heads()), 2),
               v = tokens.packed(split_heads(v_proj_(x_t), kv_heads()), 2);
  const Tensor y =
      detail::step_rows(s.rows, tokens, q.sizes(), 2, q.options(), [&](const detail::RowRun& run) {
        const int64_t t = s.length_of(run);
        auto turn = [&](const Tensor& x) {
          return detail::rope_of(run, tokens, run.fresh_of(x, 2), o.rope, o.rope_base, t);
        };
        AttentionParams p;
        p.scale = o.scale;
        p.causal = true;
        if (o.alibi) s.set_alibi(p, run, tokens, o.num_heads, q.options());
        const auto [keys, values] = s.append(run, turn(k), run.fresh_of(v, 2));
        return attention(turn(q), keys, values, p);
      });
  s.saw(tokens.n, tokens.padding);
  return out_proj_(merge_heads(y));
}

NamedTensors MultiheadAttention::call(const NamedTensors& in) {
  const SequenceArgs args = args_of(in);
  const Tensor x = in.contains("query") ? Tensor() : in.get("x", who());
  const Tensor query = x.defined() ? x : in.get("query", who()),
               key = x.defined() ? x : in.get("key", who()),
               value = x.defined() ? x : in.get("value", who());
  Result r;
  const auto run = [&](const Tensor& q) {
    r = x.defined() ? attend(q, q, q, args) : attend(q, key, value, args);
    return r.y;
  };
  NamedTensors out{{"y", with_hooks(query, run)}};
  if (r.weights.defined()) out.set("weights", r.weights);
  return out;
}

void MultiheadAttention::translate_state(StateDict& state, const std::string& prefix,
                                         std::vector<std::string>& renamed) const {
  detail::translate_in_proj(state, prefix, renamed);
}

}  // namespace dropin
