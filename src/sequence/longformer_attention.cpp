#include "dropin/sequence/longformer_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace dropin {

std::vector<std::string> LongformerAttention::examples() {
  return {R"({"window": 2})",
          R"({"window": 1, "dilation": [1, 3], "causal": true, "global_attention": false})",
          R"({"window": 2, "window_right": 0, "rope": "half", "bias": false})"};
}

LongformerAttention::LongformerAttention(const LongformerAttentionOptions& o) : Component(o) {
  detail::check_heads_options(who(), o.embed_dim, o.num_heads, o.rope, o.dropout);
  DROPIN_CHECK(o.window >= 1, OptionError, who(), ": window is ", o.window,
               ", expected at least 1");
  DROPIN_CHECK(o.window_right >= -1, OptionError, who(), ": window_right is ", o.window_right,
               ", expected -1 (as window) or more");
  DROPIN_CHECK(!o.causal || o.window_right <= 0, OptionError, who(), ": window_right is ",
               o.window_right, ", but a causal token sees nothing to its right");
  const auto n = static_cast<std::int64_t>(o.dilation.values.size());
  DROPIN_CHECK(n == 1 || n == o.num_heads, OptionError, who(), ": dilation has ", n,
               " entries, expected 1 or num_heads = ", o.num_heads);
  for (std::int64_t d : o.dilation.values)
    DROPIN_CHECK(d >= 1, OptionError, who(), ": dilation is ", d, ", expected at least 1");
  const LinearOptions square{
      .in_features = o.embed_dim, .out_features = o.embed_dim, .bias = o.bias};
  q_proj_ = child<Linear>("q_proj", square);
  k_proj_ = child<Linear>("k_proj", square);
  v_proj_ = child<Linear>("v_proj", square);
  out_proj_ = child<Linear>("out_proj", square);
  if (o.global_attention) {
    q_global_ = child<Linear>("q_proj_global", square);
    k_global_ = child<Linear>("k_proj_global", square);
    v_global_ = child<Linear>("v_proj_global", square);
  }
  no_grad guard;
  for (auto* p : {&q_proj_, &k_proj_, &v_proj_})
    p->as()->weight().copy_(
        init::xavier_uniform({o.embed_dim, o.embed_dim}, o.embed_dim, o.embed_dim));
  if (o.bias)
    for (auto* p : {&q_proj_, &k_proj_, &v_proj_, &out_proj_}) p->as()->bias().zero_();
  if (!o.global_attention) return;
  for (auto [to, from] :
       {std::pair{&q_global_, &q_proj_},
        {&k_global_, &k_proj_},
        {&v_global_, &v_proj_}}) {  // copies of the local ones, as the paper starts
    to->as()->weight().copy_(from->as()->weight());
    if (o.bias) to->as()->bias().zero_();
  }
}

Tensor LongformerAttention::heads(const Child<Linear>& proj, const Tensor& x, bool rotate) const {
  const Tensor h = split_heads(proj(x), options_.num_heads);
  return rotate ? rope(h, options_.rope, options_.rope_base) : h;
}

Tensor LongformerAttention::forward(const Tensor& x_, const SequenceArgs& args) {
  detail::check_sequence(who(), x_, options_.embed_dim, args);
  const auto& o = options_;
  const std::int64_t b = x_.size(0), l = x_.size(1), d = o.embed_dim, h = o.num_heads;
  const Tensor mask = detail::check_attn_mask(who(), args.attn_mask, b, h, l, l),
               pad = args.key_padding_mask;
  Tensor global = args.global_attention_mask;
  if (global.defined() && pad.defined()) global = logical_and(global, logical_not(pad));
  const bool any_global = global.defined() && any(global).item<bool>();
  DROPIN_CHECK(!any_global || o.global_attention, OptionError, who(),
               ": global_attention_mask names global tokens, but global_attention = false: there "
               "are no projections for them");
  const Tensor x = pad.defined()
                       ? masked_fill(x_, pad.unsqueeze(-1), 0)
                       : x_;  // nothing that stands at a padded place is used; it may be NaN

  const Tensor q = heads(q_proj_, x, true), k = heads(k_proj_, x, true),
               v = heads(v_proj_, x, false);
  AttentionParams local;
  local.causal = o.causal;
  local.dropout_p = is_training() ? o.dropout : 0;
  local.window_left = o.window;
  local.window_right = right();
  if (*std::max_element(o.dilation.values.begin(), o.dilation.values.end()) > 1)
    for (std::int64_t i = 0; i < h; ++i) local.step.push_back(dilation(i));
  local.key_padding_mask = pad;
  local.attn_mask = mask;
  if (!any_global) {
    const Tensor y = merge_heads(attention(q, k, v, local));
    return out_proj_(pad.defined() ? masked_fill(y, pad.unsqueeze(-1), 0) : y);
  }

  // where the global tokens stand: places [B, G], the unused ones of a row masked
  std::vector<std::vector<std::int64_t>> at(static_cast<std::size_t>(b));
  const Tensor flags = global.to(Device{}).contiguous();
  std::int64_t g = 0;
  for (std::int64_t i = 0; i < b; ++i) {
    auto& row = at[static_cast<std::size_t>(i)];
    for (std::int64_t t = 0; t < l; ++t)
      if (flags.data<bool>()[i * l + t]) row.push_back(t);
    g = std::max(g, static_cast<std::int64_t>(row.size()));
  }
  Tensor places = zeros({b, g}, kInt64), unused = ones({b, g}, kBool);
  std::vector<std::int64_t> from, to;  // rows of [B * G], rows of [B * L]
  for (std::int64_t i = 0; i < b; ++i)
    for (std::int64_t t = 0; t < static_cast<std::int64_t>(at[static_cast<std::size_t>(i)].size());
         ++t) {
      const std::int64_t place = at[static_cast<std::size_t>(i)][static_cast<std::size_t>(t)];
      places.data<std::int64_t>()[i * g + t] = place;
      unused.data<bool>()[i * g + t] = false;
      from.push_back(i * g + t);
      to.push_back(i * l + place);
    }
  places = places.to(x.device());
  unused = unused.to(x.device());
  auto pick = [&](const Tensor& heads) {
    return gather(
        heads, 2,
        detail::broadcast_to(places.reshape({b, 1, g, 1}), {b, heads.size(1), g, heads.size(3)}));
  };
  const Tensor position = arange(l).to(x.device()).to(kInt64);
  // attn_mask's rows or columns of the global tokens, and what must not be seen besides
  const Tensor wide = mask.defined() && mask.dim() == 2 ? mask.reshape({1, 1, l, l}) : mask;
  auto picked_mask = [&](std::int64_t dim, const Tensor& hidden) {
    if (!wide.defined()) return hidden;
    const Shape all{b, wide.size(1), l, l};
    const std::int64_t rows = dim == 2 ? g : l, columns = dim == 2 ? l : g;
    const Tensor at = dim == 2 ? places.reshape({b, 1, g, 1}) : places.reshape({b, 1, 1, g}),
                 m = gather(detail::broadcast_to(wide, all), dim,
                            detail::broadcast_to(at, {b, wide.size(1), rows, columns}));
    if (!hidden.defined()) return m;
    return m.dtype() == kBool ? logical_or(m, hidden)
                              : where(hidden, -std::numeric_limits<double>::infinity(), m);
  };

  // everyone sees the global tokens: one softmax over window and global keys, each key once
  local.key_padding_mask = pad.defined() ? logical_or(pad, global) : global;
  AttentionParams to_global;
  to_global.dropout_p = local.dropout_p;
  to_global.key_padding_mask = unused;
  to_global.attn_mask = picked_mask(
      3, o.causal ? places.reshape({b, 1, 1, g}) > position.reshape({1, 1, l, 1}) : Tensor());
  const Tensor near =
      merge_heads(merge_attention({attention_with_lse(q, k, v, local),
                                   attention_with_lse(q, pick(k), pick(v), to_global)})
                      .o);

  // global tokens see everyone
  AttentionParams from_global;
  from_global.dropout_p = local.dropout_p;
  from_global.key_padding_mask = pad;
  from_global.attn_mask = picked_mask(
      2, o.causal ? position.reshape({1, 1, 1, l}) > places.reshape({b, 1, g, 1}) : Tensor());
  const Tensor queries =
      o.rope == "none"
          ? heads(q_global_, gather(x, 1, detail::broadcast_to(places.unsqueeze(-1), {b, g, d})),
                  false)
          : pick(heads(q_global_, x, true));
  const Tensor far = merge_heads(
      attention(queries, heads(k_global_, x, true), heads(v_global_, x, false), from_global));

  const auto n = static_cast<std::int64_t>(to.size());
  auto indices = [&](std::vector<std::int64_t>& v) {
    return from_blob(v.data(), {n}, kInt64).to(x.device()).clone();
  };
  const Tensor source = index_select(far.reshape({b * g, d}), 0, indices(from));
  const Tensor y = scatter(near.reshape({b * l, d}), 0,
                           detail::broadcast_to(indices(to).unsqueeze(1), {n, d}), source)
                       .reshape({b, l, d});
  return out_proj_(pad.defined() ? masked_fill(y, pad.unsqueeze(-1), 0) : y);
}

// Keys and values of the last tokens; of all, with those of global queries, where tokens may be
// global.
struct LongformerAttention::State : KeyValueState {
  using KeyValueState::KeyValueState;
  Tensor global_keys, global_values, global;  // undefined without global tokens
  std::int64_t reach = 0, keep = 0;
  std::int64_t first_needed(std::int64_t t) const override {
    return global.defined() ? 0 : std::max<std::int64_t>(t - reach, 0);
  }
  void parts(auto&& f) {
    KeyValueState::parts(f);
    f(global_keys), f(global_values), f(global);
  }

 protected:
  Box<SequenceState> pick(const std::vector<std::int64_t>& r) const override {
    return detail::picked(*this, r);
  }
};

struct LongformerAttention::Projected {
  Tensor q, k, v, q_global, k_global, v_global;  // [B, H, n, Dh]
  Tensor global;                                 // [B, n] bool
};

Box<SequenceState> LongformerAttention::init_state(std::int64_t batch, std::int64_t max_len,
                                                   const StateOptions& options) {
  const auto& o = options_;
  DROPIN_CHECK(o.causal, OptionError, who(), ": step() needs causal = true");
  detail::check_state_sizes(who(), batch, max_len, options, true);
  DROPIN_CHECK(!options.global_tokens || o.global_attention, OptionError, who(),
               ": global tokens need global_attention = true");
  const std::int64_t reach =
      o.window * *std::max_element(o.dilation.values.begin(), o.dilation.values.end());
  // twice what is kept, so that moving the kept half to the front costs one copy per token
  const std::int64_t capacity =
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

Tensor LongformerAttention::step_run(State& s, const detail::RowRun& run,
                                     const detail::StepTokens& tokens, const Projected& p) const {
  const auto& o = options_;
  const std::int64_t capacity = s.keys.size(2), h = o.num_heads, t0 = s.length_of(run);
  auto turned = [&](const Tensor& x) {
    return detail::rope_of(run, tokens, run.fresh_of(x, 2), o.rope, o.rope_base, t0);
  };
  const Tensor q = turned(p.q), k = turned(p.k), v = run.fresh_of(p.v, 2);
  const bool with_global = s.global.defined();
  Tensor q_global, k_global, v_global, global;
  if (with_global) {
    q_global = turned(p.q_global);
    k_global = turned(p.k_global);
    v_global = run.fresh_of(p.v_global, 2);
    if (p.global.defined()) global = run.fresh_of(p.global, 1);
  }
  Tensors outputs;
  for (std::int64_t done = 0; done < run.fresh;) {
    const detail::StateRow& row = s.rows[static_cast<std::size_t>(run.begin)];
    if (row.length - row.start == capacity)
      s.forget(run, row.length - std::min(capacity, s.reach + s.keep));
    const std::int64_t held = row.length - row.start,
                       n = std::min(run.fresh - done, capacity - held), m = held + n;
    const auto [keys, values] = s.append(run, k.narrow(2, done, n), v.narrow(2, done, n));
    // a query sees the keys of its head's window, and those that are global
    Tensor hidden = empty({h, n, m}, kBool);
    for (std::int64_t head = 0; head < h; ++head)
      for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t j = 0; j < m; ++j) {
          const std::int64_t back = held + i - j;
          hidden.data<bool>()[(head * n + i) * m + j] =
              back < 0 || back > o.window * dilation(head) || back % dilation(head) != 0;
        }
    AttentionParams near;
    near.attn_mask = hidden.to(q.device()).unsqueeze(0);
    const Tensor mine = q.narrow(2, done, n);
    if (!with_global) {
      outputs.push_back(attention(mine, keys, values, near));
      done += n;
      continue;
    }
    const Tensor all_keys = run.of(s.global_keys), all_values = run.of(s.global_values),
                 flags = run.of(s.global);
    all_keys.narrow(2, held, n).copy_(k_global.narrow(2, done, n));
    all_values.narrow(2, held, n).copy_(v_global.narrow(2, done, n));
    const Tensor now = global.defined() ? global.narrow(1, done, n) : Tensor();
    if (now.defined())
      flags.narrow(1, held, n).copy_(now);
    else
      flags.narrow(1, held, n).fill_(0);
    AttentionParams all;
    all.attn_mask =
        detail::broadcast_to(arange(m).reshape({1, m}) > arange(n).reshape({n, 1}) + held, {n, m})
            .to(q.device());
    near.attn_mask = logical_and(
        near.attn_mask,
        logical_or(logical_not(flags.narrow(1, 0, m).reshape({-1, 1, 1, m})), all.attn_mask));
    Tensor y = attention(mine, keys, values, near);
    if (now.defined() && any(now).item<bool>())
      y = where(now.reshape({-1, 1, n, 1}),
                attention(q_global.narrow(2, done, n), all_keys.narrow(2, 0, m),
                          all_values.narrow(2, 0, m), all),
                y);
    outputs.push_back(y);
    done += n;
  }
  return outputs.size() == 1 ? outputs[0] : concat(outputs, 2);
}

Tensor LongformerAttention::step(const Tensor& x_t, SequenceState& state, const StepArgs& args) {
  const auto& o = options_;
  auto& s = detail::own_state<State>(who(), state);
  const detail::StepTokens tokens = detail::check_step(who(), x_t, s, args,
                                                       {.width = o.embed_dim,
                                                        .causal = o.causal,
                                                        .positions = o.rope != "none",
                                                        .global_tokens = true});
  s.check_heads(who(), o.num_heads, o.embed_dim / o.num_heads);
  detail::check_room(who(), s.rows, tokens, s.max_len);
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

void LongformerAttention::translate_state(StateDict& state, const std::string& prefix,
                                          std::vector<std::string>& renamed) const {
  detail::translate_in_proj(state, prefix, renamed);
  const std::pair<const char*, const char*> names[] = {{"self.query.", "q_proj."},
                                                       {"self.key.", "k_proj."},
                                                       {"self.value.", "v_proj."},
                                                       {"self.query_global.", "q_proj_global."},
                                                       {"self.key_global.", "k_proj_global."},
                                                       {"self.value_global.", "v_proj_global."},
                                                       {"output.dense.", "out_proj."}};
  for (const char* lead : {"attention.", ""})
    for (const auto& [theirs, ours] : names)
      for (const char* kind : {"weight", "bias"})
        detail::rename_state(state, prefix + lead + theirs + kind, prefix + ours + kind, renamed);
  // weights of a layer that knows no global tokens: the global projections start as copies of the
  // local ones
  if (!options_.global_attention) return;
  auto each = [&](auto&& f) {
    for (const char* which : {"q_proj", "k_proj", "v_proj"})
      for (const char* kind : {".weight", ".bias"})
        f(prefix + which + kind, prefix + which + "_global" + kind);
  };
  bool any = false;
  each([&](const std::string&, const std::string& global) { any = any || state.contains(global); });
  if (any) return;
  each([&](const std::string& local, const std::string& global) {
    const Tensor t = state.find(local);
    if (!t.defined()) return;
    state.set(global, t);
    renamed.push_back(local + " -> also " + global);
  });
}

}  // namespace dropin
