// Attention to a window and to global tokens, over a whole sequence.
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
  const auto n = static_cast<int64_t>(o.dilation.values.size());
  DROPIN_CHECK(n == 1 || n == o.num_heads, OptionError, who(), ": dilation has ", n,
               " entries, expected 1 or num_heads = ", o.num_heads);
  for (int64_t d : o.dilation.values)
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

// Where the global tokens of a batch stand.
struct LongformerAttention::GlobalPlaces {
  int64_t batch, length, most = 0;  ///< most: G, global tokens of the entry that has most
  Tensor flags;                     ///< [B, L] bool
  Tensor places;                    ///< [B, G] int64; the unused ones of an entry are 0
  Tensor unused;                    ///< [B, G] bool
  Tensor from, to;                  ///< rows of [B G] and the rows of [B L] that they stand for

  explicit GlobalPlaces(const Tensor& global)
      : batch(global.size(0)), length(global.size(1)), flags(global) {
    const Tensor on_cpu = global.to(Device{}).contiguous();
    const bool* flag = on_cpu.data<bool>();
    for (int64_t i = 0; i < batch; ++i)
      most = std::max(
          most, static_cast<int64_t>(std::count(flag + i * length, flag + (i + 1) * length, true)));
    places = zeros({batch, most}, kInt64);
    unused = ones({batch, most}, kBool);
    std::vector<int64_t> rows_from, rows_to;
    for (int64_t i = 0; i < batch; ++i)
      for (int64_t t = 0, next = i * most; t < length; ++t) {
        if (!flag[i * length + t]) continue;
        places.data<int64_t>()[next] = t;
        unused.data<bool>()[next] = false;
        rows_from.push_back(next++);
        rows_to.push_back(i * length + t);
      }
    auto indices = [&](std::vector<int64_t>& v) {
      const auto n = static_cast<int64_t>(v.size());
      return from_blob(v.data(), {n}, kInt64).to(global.device()).clone();
    };
    from = indices(rows_from);
    to = indices(rows_to);
    places = places.to(global.device());
    unused = unused.to(global.device());
  }

  /// Of heads [B, H, L, E] those of the global tokens, [B, H, G, E].
  Tensor of_heads(const Tensor& heads) const {
    const Shape sizes{batch, heads.size(1), most, heads.size(3)};
    return gather(heads, 2, detail::broadcast_to(places.reshape({batch, 1, most, 1}), sizes));
  }
  /// Of x [B, L, D], [B, G, D].
  Tensor of_tokens(const Tensor& x) const {
    return gather(x, 1, detail::broadcast_to(places.unsqueeze(-1), {batch, most, x.size(2)}));
  }
  /// Of attn_mask the rows (dim 2) or columns (dim 3) of the global tokens, and what must not be
  /// seen besides; undefined where nothing is hidden.
  Tensor of_mask(const Tensor& mask, int64_t dim, const Tensor& hidden) const {
    if (!mask.defined()) return hidden;
    const Tensor wide = mask.dim() == 2 ? mask.reshape({1, 1, length, length}) : mask;
    const int64_t heads = wide.size(1), rows = dim == 2 ? most : length,
                  columns = dim == 2 ? length : most;
    const Tensor at =
        dim == 2 ? places.reshape({batch, 1, most, 1}) : places.reshape({batch, 1, 1, most});
    const Tensor m = gather(detail::broadcast_to(wide, {batch, heads, length, length}), dim,
                            detail::broadcast_to(at, {batch, heads, rows, columns}));
    if (!hidden.defined()) return m;
    return m.dtype() == kBool ? logical_or(m, hidden)
                              : where(hidden, -std::numeric_limits<double>::infinity(), m);
  }
  /// y [B, L, D] with the rows of the global tokens taken from far [B, G, D].
  Tensor put(const Tensor& y, const Tensor& far) const {
    const int64_t d = y.size(2), n = to.size(0);
    const Tensor source = index_select(far.reshape({batch * most, d}), 0, from);
    return scatter(y.reshape({batch * length, d}), 0, detail::broadcast_to(to.unsqueeze(1), {n, d}),
                   source)
        .reshape({batch, length, d});
  }
};

// What a token sees around itself.
AttentionParams LongformerAttention::window_params(const SequenceArgs& args) const {
  const auto& o = options_;
  AttentionParams p;
  p.causal = o.causal;
  p.dropout_p = is_training() ? o.dropout : 0;
  p.window_left = o.window;
  p.window_right = right();
  if (*std::max_element(o.dilation.values.begin(), o.dilation.values.end()) > 1)
    for (int64_t i = 0; i < o.num_heads; ++i) p.step.push_back(dilation(i));
  p.key_padding_mask = args.key_padding_mask;
  p.attn_mask = args.attn_mask;
  return p;
}

// Everyone sees the global tokens: one softmax over window and global keys, each key once.
Tensor LongformerAttention::see_globals(const Heads& t, const GlobalPlaces& g,
                                        AttentionParams local) const {
  const Tensor& pad = local.key_padding_mask;
  AttentionParams to_global;
  to_global.dropout_p = local.dropout_p;
  to_global.key_padding_mask = g.unused;
  const Tensor later = options_.causal
                           ? g.places.reshape({g.batch, 1, 1, g.most}) >
                                 arange(g.length).to(t.q.device()).reshape({1, 1, g.length, 1})
                           : Tensor();
  to_global.attn_mask = g.of_mask(local.attn_mask, 3, later);
  local.key_padding_mask = pad.defined() ? logical_or(pad, g.flags) : g.flags;
  return merge_heads(
      merge_attention({attention_with_lse(t.q, t.k, t.v, local),
                       attention_with_lse(t.q, g.of_heads(t.k), g.of_heads(t.v), to_global)})
          .o);
}

// The global tokens see everyone, by projections of their own: [B, G, D].
Tensor LongformerAttention::globals_see(const Tensor& x, const GlobalPlaces& g,
                                        const AttentionParams& local) const {
  AttentionParams p;
  p.dropout_p = local.dropout_p;
  p.key_padding_mask = local.key_padding_mask;
  const Tensor later = options_.causal
                           ? arange(g.length).to(x.device()).reshape({1, 1, 1, g.length}) >
                                 g.places.reshape({g.batch, 1, g.most, 1})
                           : Tensor();
  p.attn_mask = g.of_mask(local.attn_mask, 2, later);
  const Tensor queries = options_.rope == "none" ? heads(q_global_, g.of_tokens(x), false)
                                                 : g.of_heads(heads(q_global_, x, true));
  return merge_heads(attention(queries, heads(k_global_, x, true), heads(v_global_, x, false), p));
}

Tensor LongformerAttention::forward(const Tensor& given, const SequenceArgs& args) {
  detail::check_sequence(who(), given, options_.embed_dim, args);
  const int64_t length = given.size(1);
  const Tensor& pad = args.key_padding_mask;
  detail::check_attn_mask(who(), args.attn_mask, given.size(0), options_.num_heads, length, length);
  Tensor global = args.global_attention_mask;
  if (global.defined() && pad.defined()) global = logical_and(global, logical_not(pad));
  const bool any_global = global.defined() && any(global).item<bool>();
  DROPIN_CHECK(!any_global || options_.global_attention, OptionError, who(),
               ": global_attention_mask names global tokens, but global_attention = false: there "
               "are no projections for them");
  // nothing that stands at a padded place is used; it may be NaN
  const Tensor x = pad.defined() ? masked_fill(given, pad.unsqueeze(-1), 0) : given;
  const Heads t{heads(q_proj_, x, true), heads(k_proj_, x, true), heads(v_proj_, x, false)};
  const AttentionParams local = window_params(args);
  Tensor y;
  if (any_global) {
    const GlobalPlaces places(global);
    y = places.put(see_globals(t, places, local), globals_see(x, places, local));
  } else {
    y = merge_heads(attention(t.q, t.k, t.v, local));
  }
  return out_proj_(pad.defined() ? masked_fill(y, pad.unsqueeze(-1), 0) : y);
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
