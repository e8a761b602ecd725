#include "dropin/sequence/sigmoid_attention.h"

#include <cmath>

namespace dropin {

std::vector<std::string> SigmoidAttention::examples() {
  return {
      R"({"sigmoid_bias": -2, "alibi": true, "causal": true})",
      R"({"learned_bias": true, "qk_norm": true, "rope": "half", "max_seq_len": 16, "hybrid_norm": "rms_norm", "layer_scale": 0.5})",
      R"({"window": [2, 1], "hybrid_norm": "layer_norm", "bias": false})"};
}

SigmoidAttention::SigmoidAttention(const SigmoidAttentionOptions& o) : Component(o) {
  detail::check_heads_options(who(), o.embed_dim, o.num_heads, o.rope, o.dropout);
  const int64_t d = o.embed_dim, dh = d / o.num_heads, kdim = o.kdim.value_or(d),
                vdim = o.vdim.value_or(d);
  DROPIN_CHECK(kdim > 0 && vdim > 0, OptionError, who(), ": kdim ", kdim, " and vdim ", vdim,
               " must be positive");
  DROPIN_CHECK(o.sigmoid_bias.name.empty() || o.sigmoid_bias.name == "-log_n", OptionError, who(),
               ": sigmoid_bias is \"", o.sigmoid_bias.name, "\", expected a number or \"-log_n\"");
  DROPIN_CHECK(o.max_seq_len >= 0, OptionError, who(), ": max_seq_len is ", o.max_seq_len,
               ", expected 0 (the keys of each call) or a length");
  DROPIN_CHECK(o.layer_scale >= 0, OptionError, who(), ": layer_scale is ", o.layer_scale,
               ", expected 0 (none) or a positive factor");
  DROPIN_CHECK(
      o.hybrid_norm == "none" || o.hybrid_norm == "layer_norm" || o.hybrid_norm == "rms_norm",
      OptionError, who(), ": hybrid_norm is \"", o.hybrid_norm,
      "\", expected none, layer_norm or rms_norm");
  DROPIN_CHECK(o.window.size() == 2 && o.window[0] >= -1 && o.window[1] >= -1, OptionError, who(),
               ": window must be [left, right] with entries of -1 (no bound) or more");
  q_proj_ = child<Linear>("q_proj", {.in_features = d, .out_features = d, .bias = o.bias});
  k_proj_ = child<Linear>("k_proj", {.in_features = kdim, .out_features = d, .bias = o.bias});
  v_proj_ = child<Linear>("v_proj", {.in_features = vdim, .out_features = d, .bias = o.bias});
  out_proj_ = child<Linear>("out_proj", {.in_features = d, .out_features = d, .bias = o.bias});
  detail::init_attention(q_proj_, k_proj_, v_proj_, out_proj_, kdim == d && vdim == d);
  if (o.qk_norm) {
    q_norm_ = child<LayerNorm>("q_norm", {.normalized_shape = {dh}, .eps = o.norm_eps});
    k_norm_ = child<LayerNorm>("k_norm", {.normalized_shape = {dh}, .eps = o.norm_eps});
  }
  if (o.hybrid_norm == "layer_norm")
    hybrid_norm_ = child<LayerNorm>("hybrid_norm", {.normalized_shape = {d}, .eps = o.norm_eps});
  if (o.hybrid_norm == "rms_norm")
    hybrid_norm_ = child<RMSNorm>("hybrid_norm", {.normalized_shape = {d}, .eps = o.norm_eps});
  layer_scale_ = &parameter("layer_scale", o.layer_scale > 0 ? full({d}, o.layer_scale) : Tensor());
  if (o.learned_bias && o.sigmoid_bias.name == "-log_n" && o.max_seq_len == 0)
    warn_once(
        "SigmoidAttention: learned_bias starts at 0, because \"-log_n\" without max_seq_len names "
        "no length; the output then grows with the number of keys");
  sigmoid_bias_ =
      &parameter("sigmoid_bias", o.learned_bias ? full({o.num_heads}, bias_for(1)) : Tensor());
}

double SigmoidAttention::bias_for(int64_t keys) const {
  if (options_.sigmoid_bias.name.empty()) return options_.sigmoid_bias.number;
  return -std::log(static_cast<double>(options_.max_seq_len > 0 ? options_.max_seq_len
                                                                : std::max<int64_t>(keys, 1)));
}

Tensor SigmoidAttention::project(const Child<Linear>& proj, const Child<LayerNorm>& norm,
                                 const Tensor& x) const {
  const Tensor h = split_heads(proj(x), options_.num_heads);
  return norm ? norm(h) : h;
}

Tensor SigmoidAttention::mix(Tensor q, Tensor k, const Tensor& v, AttentionParams p) const {
  const auto& o = options_;
  const int64_t lq = q.size(2), lk = k.size(2);
  p.causal = o.causal;
  p.causal_offset = lk - lq;
  if (o.window[0] >= 0) p.window_left = o.window[0];
  if (o.window[1] >= 0) p.window_right = o.window[1];
  p.scale = 1 / std::sqrt(static_cast<double>(q.size(3)));
  p.sigmoid_bias = bias_for(lk);
  if (sigmoid_bias_->defined()) {  // q . k + b / scale, as one more channel
    const Tensor b = (*sigmoid_bias_ / *p.scale).reshape({1, -1, 1, 1});
    q = concat({q, b.expand({q.size(0), q.size(1), lq, 1})}, -1);
    k = concat({k, ones({k.size(0), k.size(1), lk, 1}, k.options())}, -1);
    p.sigmoid_bias = 0;
  }
  return attention(q, k, v, p);
}

Tensor SigmoidAttention::finish(const Tensor& heads) {
  Tensor y = out_proj_(merge_heads(heads));
  if (hybrid_norm_) y = hybrid_norm_(y);
  return layer_scale_->defined() ? y * *layer_scale_ : y;
}

Tensor SigmoidAttention::attend(const Tensor& query, const Tensor& key, const Tensor& value,
                                const SequenceArgs& args) {
  const auto& o = options_;
  detail::check_attention_inputs(who(), query, key, value, o.embed_dim,
                                 o.kdim.value_or(o.embed_dim), o.vdim.value_or(o.embed_dim));
  const int64_t lq = query.size(1), lk = key.size(1);
  DROPIN_CHECK(lk > 0 || lq == 0 || o.sigmoid_bias.name.empty() || o.max_seq_len > 0, ShapeError,
               who(), ": key is ", key.sizes(),
               ", expected at least one key because sigmoid_bias = \"-log_n\"");
  if (o.sigmoid_bias.name.empty() && o.sigmoid_bias.number == 0 && !o.alibi && !o.learned_bias &&
      lk > 256)
    warn_once(
        "SigmoidAttention: sigmoid_bias = 0 without alibi: the output grows with the number of "
        "keys, and more than 256 came; \"-log_n\" keeps it");
  detail::refuse(who(), "global_attention_mask", args.global_attention_mask,
                 detail::kNoGlobalTokens);
  AttentionParams p;
  p.alibi = o.alibi;
  p.key_padding_mask = args.key_padding_mask;
  p.attn_mask = detail::check_attn_mask(who(), args.attn_mask, query.size(0), o.num_heads, lq, lk);
  DROPIN_CHECK(!p.attn_mask.defined() || p.attn_mask.dtype() == kBool, DTypeError, who(),
               ": attn_mask is ", p.attn_mask.dtype(), ", expected bool (true = forbidden)");
  p.dropout_p = is_training() ? o.dropout : 0;
  const Tensor q = rope(project(q_proj_, q_norm_, query), o.rope, o.rope_base,
                        o.causal ? lk - lq : 0),
               k = rope(project(k_proj_, k_norm_, key), o.rope, o.rope_base);
  return finish(mix(q, k, split_heads(v_proj_(value), o.num_heads), p));
}

Box<SequenceState> SigmoidAttention::init_state(int64_t batch, int64_t max_len,
                                                const StateOptions& options) {
  const auto& o = options_;
  DROPIN_CHECK(o.causal, OptionError, who(), ": step() needs causal = true");
  DROPIN_CHECK(o.sigmoid_bias.name.empty() || o.max_seq_len > 0 || o.learned_bias, OptionError,
               who(),
               ": step() needs a bias that stays the same from call to call; give max_seq_len, a "
               "number as sigmoid_bias, or learned_bias");
  detail::check_state_sizes(who(), batch, max_len, options);
  return Box<KeyValueState>(new KeyValueState(
      batch, max_len, o.num_heads, max_len, o.embed_dim / o.num_heads, parameters()[0].options()));
}

Tensor SigmoidAttention::step(const Tensor& x_t, SequenceState& state, const StepArgs& args) {
  const auto& o = options_;
  auto& s = detail::own_state<KeyValueState>(who(), state);
  const detail::StepTokens tokens = s.check_step(
      who(), x_t, args,
      {.width = o.embed_dim, .causal = o.causal, .positions = o.rope != "none" || o.alibi},
      o.num_heads, o.embed_dim / o.num_heads);
  no_grad guard;
  const Tensor q = tokens.packed(project(q_proj_, q_norm_, x_t), 2),
               k = tokens.packed(project(k_proj_, k_norm_, x_t), 2),
               v = tokens.packed(split_heads(v_proj_(x_t), o.num_heads), 2);
  const Tensor y =
      detail::step_rows(s.rows, tokens, q.sizes(), 2, q.options(), [&](const detail::RowRun& run) {
        const int64_t t = s.length_of(run);
        auto turn = [&](const Tensor& x) {
          return detail::rope_of(run, tokens, run.fresh_of(x, 2), o.rope, o.rope_base, t);
        };
        AttentionParams p;
        if (o.alibi) s.set_alibi(p, run, tokens, o.num_heads, q.options());
        const auto [keys, values] = s.append(run, turn(k), run.fresh_of(v, 2));
        return mix(turn(q), keys, values, p);
      });
  s.saw(tokens.n, tokens.padding);
  return finish(y);
}

NamedTensors SigmoidAttention::call(const NamedTensors& in) {
  const SequenceArgs args = args_of(in);
  if (!in.contains("query")) return {{"y", (*this)(in.get("x", who()), args)}};
  const Tensor key = in.get("key", who()), value = in.get("value", who());
  return {{"y", with_hooks(in.get("query", who()),
                           [&](const Tensor& query) { return attend(query, key, value, args); })}};
}

void SigmoidAttention::translate_state(StateDict& state, const std::string& prefix,
                                       std::vector<std::string>& renamed) const {
  for (const char* kind : {"weight", "bias"}) {  // the official code's names
    detail::rename_state(state, prefix + "qkv." + kind, prefix + "in_proj_" + kind, renamed);
    detail::rename_state(state, prefix + "proj." + kind, prefix + "out_proj." + kind, renamed);
  }
  detail::rename_state(state, prefix + "ls1.gamma", prefix + "layer_scale", renamed);
  detail::translate_in_proj(state, prefix, renamed);
}

}  // namespace dropin
