// The same, token by token.
#include <algorithm>

#include "dropin/sequence/longformer_attention.h"

namespace dropin {

// Keys and values of the last tokens; of all, with those of global queries, where tokens may be
// global.
struct LongformerAttention::State : KeyValueState {
  using KeyValueState::KeyValueState;
  Tensor global_keys, global_values, global;  // undefined without global tokens
  int64_t reach = 0, keep = 0;
  int64_t first_needed(int64_t t) const override {
    return global.defined() ? 0 : std::max<int64_t>(t - reach, 0);
  }
  void parts(auto&& f) {
    KeyValueState::parts(f);
    f(global_keys), f(global_values), f(global);
  }

 protected:
  Box<SequenceState> pick(const std::vector<int64_t>& r) const override {
    return detail::picked(*this, r);
  }
};

struct LongformerAttention::Projected {
  Tensor q, k, v, q_global, k_global, v_global;  // [B, H, n, Dh]
  Tensor global;                                 // [B, n] bool

  /// Those of a run's new tokens, turned to their positions.
  Projected of(const detail::RowRun& run, auto&& turned) const {
    Projected p{turned(q), turned(k), run.fresh_of(v, 2), {}, {}, {}, {}};
    if (!q_global.defined()) return p;
    p.q_global = turned(q_global);
    p.k_global = turned(k_global);
    p.v_global = run.fresh_of(v_global, 2);
    if (global.defined()) p.global = run.fresh_of(global, 1);
    return p;
  }
  /// Of these, n from `begin` on.
  Projected part(int64_t begin, int64_t n) const {
    Projected p;
    for (Tensor Projected::*t : {&Projected::q, &Projected::k, &Projected::v, &Projected::q_global,
                                 &Projected::k_global, &Projected::v_global})
      if ((this->*t).defined()) p.*t = (this->*t).narrow(2, begin, n);
    if (global.defined()) p.global = global.narrow(1, begin, n);
    return p;
  }
};

Box<SequenceState> LongformerAttention::init_state(int64_t batch, int64_t max_len,
                                                   const StateOptions& options) {
  const auto& o = options_;
  DROPIN_CHECK(o.causal, OptionError, who(), ": step() needs causal = true");
  detail::check_state_sizes(who(), batch, max_len, options, true);
  DROPIN_CHECK(!options.global_tokens || o.global_attention, OptionError, who(),
               ": global tokens need global_attention = true");
  const int64_t reach =
      o.window * *std::max_element(o.dilation.values.begin(), o.dilation.values.end());
  // twice what is kept, so that moving the kept half to the front costs one copy per token
  const int64_t capacity =
      options.global_tokens ? max_len : std::min(max_len, 2 * (reach + 1 + options.keep));
  const TensorOptions like = parameters()[0].options();
  auto s =
      Box<State>(new State(batch, max_len, o.num_heads, capacity, o.embed_dim / o.num_heads, like));
  s->reach = reach;
  s->keep = options.keep;
  if (options.global_tokens) {
    s->global_keys = zeros_like(s->keys);
    s->global_values = zeros_like(s->keys);
    s->global = zeros({batch, capacity}, TensorOptions{kBool, like.device});
  }
  return s;
}

/// What n queries behind `held` keys must not see: what is outside their head's window, [H, n, m].
Tensor LongformerAttention::outside_window(int64_t held, int64_t n) const {
  const int64_t h = options_.num_heads, m = held + n;
  Tensor hidden = empty({h, n, m}, kBool);
  for (int64_t head = 0; head < h; ++head)
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < m; ++j) {
        const int64_t back = held + i - j;
        hidden.data<bool>()[(head * n + i) * m + j] =
            back < 0 || back > options_.window * dilation(head) || back % dilation(head) != 0;
      }
  return hidden;
}

/// The outputs of tokens some of which may be global: a query sees the keys of its head's window
/// and the global ones, a global query every key, by projections of its own.
Tensor LongformerAttention::step_with_globals(State& s, const detail::RowRun& run, int64_t held,
                                              const Projected& p, const Tensor& keys,
                                              const Tensor& values, AttentionParams near) const {
  const int64_t n = p.q.size(2), m = held + n;
  const Tensor all_keys = run.of(s.global_keys), all_values = run.of(s.global_values),
               flags = run.of(s.global);
  all_keys.narrow(2, held, n).copy_(p.k_global);
  all_values.narrow(2, held, n).copy_(p.v_global);
  if (p.global.defined())
    flags.narrow(1, held, n).copy_(p.global);
  else
    flags.narrow(1, held, n).fill_(0);
  AttentionParams all;
  all.attn_mask =
      detail::broadcast_to(arange(m).reshape({1, m}) > arange(n).reshape({n, 1}) + held, {n, m})
          .to(p.q.device());
  near.attn_mask = logical_and(
      near.attn_mask,
      logical_or(logical_not(flags.narrow(1, 0, m).reshape({-1, 1, 1, m})), all.attn_mask));
  const Tensor y = attention(p.q, keys, values, near);
  if (!p.global.defined() || !any(p.global).item<bool>()) return y;
  return where(p.global.reshape({-1, 1, n, 1}),
               attention(p.q_global, all_keys.narrow(2, 0, m), all_values.narrow(2, 0, m), all), y);
}

Tensor LongformerAttention::step_run(State& s, const detail::RowRun& run,
                                     const detail::StepTokens& tokens, const Projected& all) const {
  const auto& o = options_;
  const int64_t capacity = s.keys.size(2), t0 = s.length_of(run);
  const Projected fresh = all.of(run, [&](const Tensor& x) {
    return detail::rope_of(run, tokens, run.fresh_of(x, 2), o.rope, o.rope_base, t0);
  });
  Tensors outputs;
  for (int64_t done = 0; done < run.fresh;) {
    const detail::StateRow& row = s.rows[static_cast<std::size_t>(run.begin)];
    if (row.length - row.start == capacity)
      s.forget(run, row.length - std::min(capacity, s.reach + s.keep));
    const int64_t held = row.length - row.start, n = std::min(run.fresh - done, capacity - held);
    const Projected p = fresh.part(done, n);
    const auto [keys, values] = s.append(run, p.k, p.v);
    AttentionParams near;
    near.attn_mask = outside_window(held, n).to(p.q.device()).unsqueeze(0);
    outputs.push_back(s.global.defined() ? step_with_globals(s, run, held, p, keys, values, near)
                                         : attention(p.q, keys, values, near));
    done += n;
  }
  return outputs.size() == 1 ? outputs[0] : concat(outputs, 2);
}

Tensor LongformerAttention::step(const Tensor& x_t, SequenceState& state, const StepArgs& args) {
  const auto& o = options_;
  auto& s = detail::own_state<State>(who(), state);
  const detail::StepTokens tokens = s.check_step(who(), x_t, args,
                                                 {.width = o.embed_dim,
                                                  .causal = o.causal,
                                                  .positions = o.rope != "none",
                                                  .global_tokens = true},
                                                 o.num_heads, o.embed_dim / o.num_heads);
  const Tensor& global = args.global_attention_mask;
  DROPIN_CHECK(s.global.defined() || !global.defined() || !any(global).item<bool>(), StateError,
               who(),
               ": global_attention_mask names global tokens, but the state was made without: "
               "init_state(batch, max_len, {.global_tokens = true})");
  no_grad guard;
  auto packed = [&](const Child<Linear>& proj) {
    return tokens.packed(heads(proj, x_t, false), 2);
  };
  Projected p{packed(q_proj_), packed(k_proj_), packed(v_proj_), {}, {}, {}, {}};
  if (s.global.defined()) {
    p.q_global = packed(q_global_);
    p.k_global = packed(k_global_);
    p.v_global = packed(v_global_);
    if (global.defined()) p.global = tokens.packed(global, 1);
  }
  const Tensor y =
      detail::step_rows(s.rows, tokens, p.q.sizes(), 2, p.q.options(),
                        [&](const detail::RowRun& run) { return step_run(s, run, tokens, p); });
  s.saw(tokens.n, tokens.padding);
  return out_proj_(merge_heads(y));
}

}  // namespace dropin
