#include "dropin/sequence/dcmh_attention.h"

#include <cmath>

#include "dropin/module/init.h"
#include "sequence/mixed_heads.h"

namespace dropin {

std::vector<std::string> DCMHAttention::examples() {
  return {R"({"causal": false, "static": true, "bias": true, "rank": 3, "dyn_hidden": 5})",
          R"({"window_size": 3, "qk_norm": true, "rope_base": 10000, "key_wise": false})",
          R"({"causal": false, "window_size": 2, "query_wise": false})"};
}

DCMHAttention::DCMHAttention(const DCMHAttentionOptions& o) : Component(o) {
  detail::check_heads_options(who(), o.embed_dim, o.num_heads, o.rope_base != 0 ? "half" : "none",
                              0);
  DROPIN_CHECK(o.rank >= 1, OptionError, who(), ": rank is ", o.rank, ", expected at least 1");
  DROPIN_CHECK(o.dyn_hidden >= 0, OptionError, who(), ": dyn_hidden is ", o.dyn_hidden,
               ", expected 0 (4 num_heads) or a width");
  DROPIN_CHECK(o.window_size >= 0, OptionError, who(), ": window_size is ", o.window_size,
               ", expected 0 (none) or a distance");
  DROPIN_CHECK(o.rope_base >= 0, OptionError, who(), ": rope_base is ", o.rope_base,
               ", expected 0 (none) or a positive base");
  add_projections(o.embed_dim, o.bias, o.bias);
  init_projections([](const Shape& s) { return init::xavier_uniform(s, s[1], s[0]); });
  const int64_t d = o.embed_dim, h = o.num_heads, dh = d / h,
                hidden = o.dyn_hidden ? o.dyn_hidden : 4 * h;
  auto real = [](int64_t n) { return static_cast<double>(n); };
  if (o.qk_norm) {
    q_scale_ = &child<Parameters>("q_norm").as()->add("scale", ones({dh}));
    k_scale_ = &child<Parameters>("k_norm").as()->add("scale", ones({dh}));
  }
  Parameters& dynamic = *child<Parameters>("dyn_w_proj").as();
  dw1_ = &dynamic.add("dw1", init::normal({d, 1, 4, hidden}, std::sqrt(2 / real(d + hidden))));
  qkw_ = &dynamic.add("qkw",
                      init::normal({1, 4, hidden, 2 * o.rank, h},
                                   0.02 / (std::sqrt(real(2 * h * o.rank)) * real(h + o.rank))));
  dd_ = &dynamic.add("dd", init::normal({d, 1, 4 * h}, 0.05 * std::sqrt(2 / real(h + d))));
  if (!o.static_mixing) return;
  static_[0] = &dynamic.bundle("pre_proj").add("w", zeros({1, h, h}));
  static_[1] = &dynamic.bundle("post_proj").add("w", zeros({1, h, h}));
}

Tensor DCMHAttention::project(const Child<Linear>& proj, const Tensor* scale,
                              const Tensor& x) const {
  const Tensor heads = split_heads(proj(x), options_.num_heads);
  return scale ? rms_norm(heads, *scale, 1e-6) : heads;
}

Tensor DCMHAttention::dynamic(const Tensor& x, int64_t side) const {
  const int64_t b = x.size(0), l = x.size(1), d = options_.embed_dim, h = options_.num_heads,
                r = options_.rank;
  Tensors parts;
  for (const int64_t c : {side, side + 2}) {
    const Tensor hidden = gelu(matmul(x, dw1_->select(2, c).reshape({d, -1})));
    const Tensor w =
        matmul(hidden, qkw_->select(1, c).reshape({-1, 2 * r * h})).reshape({b, l, 2 * r, h});
    parts.push_back(rms_norm(w.narrow(2, 0, r), {}, 1e-6).flatten(2));
    parts.push_back(w.narrow(2, r, r).flatten(2));
    parts.push_back(tanh(matmul(x, dd_->narrow(2, c * h, h).reshape({d, h}))));
  }
  return concat(parts, -1);
}

Tensor DCMHAttention::mix(const Tensor& q, const Tensor& k, const Tensor& v,
                          const Tensor& of_queries, const Tensor& of_keys,
                          const SequenceArgs& args) const {
  const Tensor fixed = static_[0] ? concat({*static_[0], *static_[1]}, 0) : Tensor();
  return detail::mixed_heads({q, k, v, options_.query_wise ? of_queries : Tensor(),
                              options_.key_wise ? of_keys : Tensor(), fixed},
                             options_, args);
}

Tensor DCMHAttention::forward(const Tensor& x, const SequenceArgs& args) {
  const auto& o = options_;
  detail::check_sequence(who(), x, o.embed_dim, args);
  detail::refuse(who(), "global_attention_mask", args.global_attention_mask,
                 detail::kNoGlobalTokens);
  const int64_t l = x.size(1);
  detail::check_attn_mask(who(), args.attn_mask, x.size(0), o.num_heads, l, l);
  const Tensor& pad = args.key_padding_mask;
  const Tensor clean = pad.defined() ? masked_fill(x, pad.unsqueeze(-1), 0) : x;
  const std::string style = o.rope_base > 0 ? "half" : "none";
  const Tensor q = rope(project(q_proj_, q_scale_, x), style, o.rope_base),
               k = rope(project(k_proj_, k_scale_, clean), style, o.rope_base),
               v = split_heads(v_proj_(clean), o.num_heads);
  return out_proj_(merge_heads(mix(q, k, v, dynamic(x, 0), dynamic(clean, 1), args)));
}

// Keys, values, and the factors of each key's mixing matrices.
struct DCMHAttention::State : KeyValueState {
  using KeyValueState::KeyValueState;
  Tensor factors;  ///< [B, capacity, 2 (2R + 1) H]
  void parts(auto&& f) {
    KeyValueState::parts(f);
    f(factors);
  }

 protected:
  Box<SequenceState> pick(const std::vector<int64_t>& r) const override {
    return detail::picked(*this, r);
  }
};

Box<SequenceState> DCMHAttention::init_state(int64_t batch, int64_t max_len,
                                             const StateOptions& options) {
  const auto& o = options_;
  DROPIN_CHECK(o.causal, OptionError, who(), ": step() needs causal = true");
  detail::check_state_sizes(who(), batch, max_len, options);
  const TensorOptions like = parameters()[0].options();
  auto s =
      Box<State>(new State(batch, max_len, o.num_heads, max_len, o.embed_dim / o.num_heads, like));
  s->factors = zeros({batch, max_len, 2 * (2 * o.rank + 1) * o.num_heads}, like);
  return s;
}

Tensor DCMHAttention::step(const Tensor& x_t, SequenceState& state, const StepArgs& args) {
  const auto& o = options_;
  auto& s = detail::own_state<State>(who(), state);
  const detail::StepTokens tokens = s.check_step(
      who(), x_t, args, {.width = o.embed_dim, .causal = o.causal, .positions = o.rope_base > 0},
      o.num_heads, o.embed_dim / o.num_heads);
  no_grad guard;
  const std::string style = o.rope_base > 0 ? "half" : "none";
  const Tensor x = tokens.packed(x_t, 1), q = project(q_proj_, q_scale_, x),
               k = project(k_proj_, k_scale_, x), v = split_heads(v_proj_(x), o.num_heads),
               of_queries = dynamic(x, 0), of_keys = dynamic(x, 1);
  const Tensor y =
      detail::step_rows(s.rows, tokens, q.sizes(), 2, q.options(), [&](const detail::RowRun& run) {
        const int64_t t = s.length_of(run), held = t + run.fresh;
        auto turn = [&](const Tensor& heads) {
          return detail::rope_of(run, tokens, run.fresh_of(heads, 2), style, o.rope_base, t);
        };
        run.of(s.factors).narrow(1, t, run.fresh).copy_(run.fresh_of(of_keys, 1));
        const auto [keys, values] = s.append(run, turn(k), run.fresh_of(v, 2));
        return mix(turn(q), keys, values, run.fresh_of(of_queries, 1),
                   run.of(s.factors).narrow(1, 0, held), {});
      });
  s.saw(tokens.n, tokens.padding);
  return out_proj_(merge_heads(y));
}

void DCMHAttention::translate_state(StateDict& state, const std::string& prefix,
                                    std::vector<std::string>& renamed) const {
  for (const char* kind : {"weight", "bias"}) {  // the official code's names
    for (const auto& [theirs, ours] : {std::pair{"wq.", "q_proj."},
                                       {"wk.", "k_proj."},
                                       {"wv.", "v_proj."},
                                       {"wo.", "out_proj."}})
      detail::rename_state(state, prefix + theirs + kind, prefix + ours + kind, renamed);
    detail::rename_state(state, prefix + "wqkv." + kind, prefix + "in_proj_" + kind, renamed);
  }
  ProjectedMixer::translate_state(state, prefix, renamed);
}

}  // namespace dropin
