#include "dropin/sequence/longformer_attention.h"

#include <algorithm>
#include <cmath>

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

Tensor LongformerAttention::heads(const Child<Linear>& proj, const Tensor& x, bool rotate,
                                  std::int64_t start) const {
  const Tensor h = split_heads(proj(x), options_.num_heads);
  return rotate ? rope(h, options_.rope, options_.rope_base, start) : h;
}

Tensor LongformerAttention::forward(const Tensor& x_, const SequenceArgs& args) {
  detail::check_sequence(who(), x_, options_.embed_dim, args);
  const auto& o = options_;
  const std::int64_t b = x_.size(0), l = x_.size(1), d = o.embed_dim, h = o.num_heads;
  const Tensor pad = args.key_padding_mask;
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

  // everyone sees the global tokens: one softmax over window and global keys, each key once
  local.key_padding_mask = pad.defined() ? logical_or(pad, global) : global;
  AttentionParams to_global;
  to_global.dropout_p = local.dropout_p;
  to_global.key_padding_mask = unused;
  if (o.causal) to_global.attn_mask = places.reshape({b, 1, 1, g}) > position.reshape({1, 1, l, 1});
  const Tensor near =
      merge_heads(merge_attention({attention_with_lse(q, k, v, local),
                                   attention_with_lse(q, pick(k), pick(v), to_global)})
                      .o);

  // global tokens see everyone
  AttentionParams from_global;
  from_global.dropout_p = local.dropout_p;
  from_global.key_padding_mask = pad;
  if (o.causal)
    from_global.attn_mask = position.reshape({1, 1, 1, l}) > places.reshape({b, 1, g, 1});
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

namespace {

// The last tokens' keys and values [B, H, capacity, Dh] in order; the oldest kept is token `start`.
struct LongformerState : SequenceState {
  Tensor keys, values, global_keys, global_values,
      global;  // the last three only with global tokens
  std::int64_t start = 0, length = 0, max_len = 0;
};

}  // namespace

Box<SequenceState> LongformerAttention::init_state(std::int64_t batch, std::int64_t max_len,
                                                   bool global_tokens) {
  DROPIN_CHECK(options_.causal, OptionError, who(), ": step() needs causal = true");
  DROPIN_CHECK(batch >= 0 && max_len >= 0, OptionError, who(), ": init_state(", batch, ", ",
               max_len, "): sizes must not be negative");
  DROPIN_CHECK(!global_tokens || options_.global_attention, OptionError, who(),
               ": global tokens need global_attention = true");
  const std::int64_t dh = options_.embed_dim / options_.num_heads,
                     furthest = *std::max_element(options_.dilation.values.begin(),
                                                  options_.dilation.values.end());
  // twice the reach, so that moving the kept half to the front costs one copy per token
  const std::int64_t capacity =
      global_tokens ? max_len : std::min(max_len, 2 * (options_.window * furthest + 1));
  auto s = Box<LongformerState>(new LongformerState);
  const TensorOptions like = parameters()[0].options();
  const Shape cache{batch, options_.num_heads, capacity, dh};
  s->keys = zeros(cache, like);
  s->values = zeros(cache, like);
  s->max_len = max_len;
  if (global_tokens) {
    s->global_keys = zeros(cache, like);
    s->global_values = zeros(cache, like);
    s->global = zeros({batch, capacity}, TensorOptions{kBool, like.device});
  }
  return s;
}

Tensor LongformerAttention::step(const Tensor& x_t, SequenceState& state,
                                 const Tensor& global_mask) {
  auto* s = dynamic_cast<LongformerState*>(&state);
  const auto& o = options_;
  DROPIN_CHECK(o.causal, OptionError, who(), ": step() needs causal = true");
  DROPIN_CHECK(s, StateError, who(), ": step() was given the state of another layer type");
  SequenceArgs args;
  args.global_attention_mask = global_mask;
  detail::check_sequence(who(), x_t, o.embed_dim, args);
  DROPIN_CHECK(x_t.size(0) == s->keys.size(0), ShapeError, who(), ": x_t has batch ", x_t.size(0),
               ", the state ", s->keys.size(0));
  DROPIN_CHECK(s->length + x_t.size(1) <= s->max_len, StateError, who(),
               ": the state is full: ", s->length, " tokens and ", x_t.size(1),
               " more exceed its capacity of ", s->max_len);
  const bool any_global = global_mask.defined() && any(global_mask).item<bool>();
  DROPIN_CHECK(!any_global || s->global.defined(), StateError, who(),
               ": global_mask names global tokens, but the state was made without: "
               "init_state(batch, max_len, true)");
  no_grad guard;
  Tensors outputs;
  const std::int64_t capacity = s->keys.size(2),
                     reach = s->global.defined() ? capacity : (capacity + 1) / 2, h = o.num_heads;
  for (std::int64_t done = 0; done < x_t.size(1);) {
    std::int64_t kept = s->length - s->start;
    if (kept == capacity) {  // the window's keys move to the front
      const std::int64_t keep = std::min(kept, reach - 1);
      for (Tensor* t : {&s->keys, &s->values})
        t->narrow(2, 0, keep).copy_(t->narrow(2, kept - keep, keep).clone());
      s->start += kept - keep;
      kept = keep;
    }
    const std::int64_t n = std::min(x_t.size(1) - done, capacity - kept), t = s->length;
    const Tensor x = x_t.narrow(1, done, n);
    s->keys.narrow(2, kept, n).copy_(heads(k_proj_, x, true, t));
    s->values.narrow(2, kept, n).copy_(heads(v_proj_, x, false));
    if (s->global.defined()) {
      if (global_mask.defined()) s->global.narrow(1, kept, n).copy_(global_mask.narrow(1, done, n));
      s->global_keys.narrow(2, kept, n).copy_(heads(k_global_, x, true, t));
      s->global_values.narrow(2, kept, n).copy_(heads(v_global_, x, false));
    }
    // query t + i sees key start + j in its head's window, or when that key is global
    const std::int64_t m = kept + n;
    Tensor hidden = empty({h, n, m}, kBool);
    for (std::int64_t head = 0; head < h; ++head)
      for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t j = 0; j < m; ++j) {
          const std::int64_t back = kept + i - j;
          hidden.data<bool>()[(head * n + i) * m + j] =
              back < 0 || back > o.window * dilation(head) || back % dilation(head) != 0;
        }
    AttentionParams p;
    p.attn_mask = hidden.to(x.device()).unsqueeze(0);
    const Tensor causal_only =
        s->global.defined()
            ? detail::broadcast_to(arange(m).reshape({1, m}) > (arange(n).reshape({n, 1}) + kept),
                                   {n, m})
                  .to(x.device())
            : Tensor();
    if (s->global.defined()) {
      const Tensor seen =
          logical_and(s->global.narrow(1, 0, m).reshape({-1, 1, 1, m}), logical_not(causal_only));
      p.attn_mask = logical_and(p.attn_mask, logical_not(seen));
    }
    Tensor y = attention(heads(q_proj_, x, true, t), s->keys.narrow(2, 0, m),
                         s->values.narrow(2, 0, m), p);
    if (any_global) {
      AttentionParams all;
      all.attn_mask = causal_only;
      const Tensor far = attention(heads(q_global_, x, true, t), s->global_keys.narrow(2, 0, m),
                                   s->global_values.narrow(2, 0, m), all);
      y = where(global_mask.narrow(1, done, n).reshape({-1, 1, n, 1}), far, y);
    }
    outputs.push_back(out_proj_(merge_heads(y)));
    s->length += n;
    done += n;
  }
  return outputs.empty() ? zeros_like(x_t) : outputs.size() == 1 ? outputs[0] : concat(outputs, 1);
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
