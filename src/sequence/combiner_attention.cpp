#include "dropin/sequence/combiner_attention.h"

#include <cmath>

#include "dropin/module/init.h"
#include "dropin/ops/masked.h"
#include "sequence/combiner.h"

namespace dropin {

using combiner::either;
using combiner::Keys;
using combiner::Region;
using combiner::Rows;
using combiner::Summary;

std::vector<std::string> CombinerAttention::examples() {
  return {R"({"causal": true, "pool": "mean", "pool_act": "relu", "span": 4})",
          R"({"variant": "logsparse", "causal": true, "pool": "sum"})",
          R"({"variant": "axial_vertical", "causal": true, "bias": false})",
          R"({"variant": "axial_horizontal", "pool_act": "deepset", "pool": "mean"})",
          R"({"variant": "axial_mixture", "span": 0, "causal": true})",
          R"({"variant": "axial_rowmajor", "causal": true, "row_summary": "proj"})",
          R"({"variant": "axial_rowmajor", "row_summary": "wsum", "exclude_self_span": true})"};
}

double CombinerAttention::core_flops(const Options& o, const Shape& x) {
  const double l = static_cast<double>(x[1]),
               s = o.span ? static_cast<double>(o.span) : std::max(1.0, std::sqrt(l)),
               keys = o.variant == "logsparse" ? 2 * std::log2(std::max(l, 2.0)) : s + l / s;
  return 4 * static_cast<double>(x[0]) * l * static_cast<double>(o.embed_dim) * keys;
}

namespace {
void check_choice(std::string_view who, const char* name, const std::string& value,
                  std::initializer_list<const char*> choices) {
  std::string all;
  for (const char* c : choices) {
    if (value == c) return;
    all += (all.empty() ? "" : ", ") + std::string(c);
  }
  fail<OptionError>({who, ": ", name, " is \"", value, "\", expected one of ", all});
}
}  // namespace

CombinerAttention::CombinerAttention(const CombinerAttentionOptions& o) : Component(o) {
  detail::check_heads_options(who(), o.embed_dim, o.num_heads, "none", o.dropout);
  check_choice(who(), "variant", o.variant,
               {"fixed", "logsparse", "axial_vertical", "axial_horizontal", "axial_mixture",
                "axial_rowmajor"});
  check_choice(who(), "pool", o.pool, {"max", "mean", "sum"});
  check_choice(who(), "pool_act", o.pool_act, {"identity", "relu", "deepset"});
  check_choice(who(), "row_summary", o.row_summary, {"none", "wsum", "proj"});
  DROPIN_CHECK(o.span >= 0, OptionError, who(), ": span is ", o.span,
               ", expected 0 (the square root of the length) or a number of tokens");
  DROPIN_CHECK(o.variant != "logsparse" || o.causal, OptionError, who(),
               ": variant logsparse hides the future; causal = false is not to be had");
  DROPIN_CHECK(o.row_summary == "none" || o.variant == "axial_rowmajor", OptionError, who(),
               ": row_summary is \"", o.row_summary, "\", expected none with variant ", o.variant);
  const int64_t d = o.embed_dim, dh = d / o.num_heads;
  add_projections(d, o.bias, o.bias);
  auto xavier = [](const Shape& s) { return init::xavier_uniform(s, s[1], s[0]); };
  init_projections(xavier);
  no_grad guard;
  auto square = [&](const char* name, int64_t width, bool bias) {
    const Child<Linear> c =
        child<Linear>(name, {.in_features = width, .out_features = width, .bias = bias});
    c.as()->weight().copy_(xavier({width, width}));
    if (bias) c.as()->bias().zero_();
    return c;
  };
  if (o.pool_act == "deepset") {
    pool_q_ = square("pool_q", dh, false);
    pool_k_ = square("pool_k", dh, false);
  }
  if (o.row_summary != "proj") return;
  row_out_ = square("row_out", d, o.bias);
  row_key_ = square("row_key", d, o.bias);
  row_norm_ = child<LayerNorm>("row_norm", {.normalized_shape = {d}});
}

Tensor CombinerAttention::scaled_queries(const Tensor& x) const {
  const int64_t h = options_.num_heads, dh = options_.embed_dim / h;
  return split_heads(q_proj_(x), h) * (1 / std::sqrt(static_cast<double>(dh)));
}

Tensor CombinerAttention::acted(const Tensor& x, const Child<Linear>& deep) const {
  return deep ? relu(deep(x)) : options_.pool_act == "relu" ? relu(x) : x;
}

std::pair<Tensor, Tensor> CombinerAttention::row_major(const Tensor& q, const Tensor& k,
                                                       const Tensor& v, const Tensor& x) const {
  const Tensor p = softmax(matmul(q, k.mT()), -1), seen = weighted_values(p, v, true);
  if (options_.row_summary == "wsum") return {weighted_values(p, k, true), seen};
  if (options_.row_summary == "none") return {k, seen};
  return {split_heads(row_key_(row_norm_(row_out_(merge_heads(seen)) + x)), options_.num_heads),
          seen};
}

Tensor CombinerAttention::mix_rows(const Tokens& t) const {
  const auto& o = options_;
  const int64_t length = t.q.size(2);
  int64_t s = o.span;
  if (s == 0)
    while (s * s < length) ++s;
  if (o.variant == "fixed")
    if (const Tensor y = mix_tiled(t, s); y.defined()) return y;
  const Rows r(t.q, t.k, t.v, t.pad, s);
  const Tensor dead = logical_not(r.live);  // [B, 1, n, s]
  std::vector<Keys> parts;
  parts.push_back(r.by_rows(r.key, r.value,
                            either(dead.unsqueeze(3), r.hidden_columns(o.causal, false)), true));
  const Region rows{acted(r.query, pool_q_), acted(r.key, pool_k_), r.key, r.value, r.live};
  if (o.variant == "fixed") {
    const Summary w = combiner::whole(rows, o.pool);  // [B, H, n, e]
    parts.push_back(r.by_rows(w.k.unsqueeze(2), w.v.unsqueeze(2),
                              either(logical_not(w.exists).reshape({-1, 1, 1, 1, r.n}),
                                     r.hidden_rows(o.causal, o.causal || o.exclude_self_span)),
                              false));
  } else if (o.variant == "axial_rowmajor") {
    const Tensor p = masked_softmax(matmul(r.query, r.key.mT()), dead.unsqueeze(3)),
                 v = weighted_values(p, r.value, true);  // [B, H, n, s, e]
    Tensor k = r.key;
    if (o.row_summary == "wsum") k = weighted_values(p, r.key, true);
    if (o.row_summary == "proj") {
      const Tensor x = pad(t.x, {0, 0, 0, r.n * s - length});
      k = split_heads(row_key_(row_norm_(row_out_(merge_heads(v.flatten(2, 3))) + x)), o.num_heads)
              .reshape(v.sizes());
    }
    parts.push_back(r.by_columns(r.turned(k), r.turned(v),
                                 either(dead.transpose(2, 3).unsqueeze(2),
                                        r.hidden_rows(o.causal, o.causal || o.exclude_self_span)),
                                 false));
  } else {
    add_axial(parts, r, rows, o);
  }
  return r.flat(combiner::attend(parts, o.dropout, is_training()));
}

// Rows as strands, and the summaries as keys of their own: two tiled attentions, merged as if their
// keys were one list.
Tensor CombinerAttention::mix_tiled(const Tokens& t, int64_t s) const {
  const auto& o = options_;
  const int64_t h = t.q.size(1), length = t.q.size(2);
  AttentionParams own{.scale = 1, .causal = o.causal, .key_padding_mask = t.pad, .segment = s};
  own.step.assign(static_cast<std::size_t>(h), 1);
  if (is_training()) own.dropout_p = o.dropout;
  if (!attention_is_tiled(t.q, t.k, t.v, own)) return {};
  const Rows r(t.q, t.k, t.v, t.pad, s);
  const bool whole_rows = !t.pad.defined() && length % s == 0;
  const Summary w = combiner::whole({acted(r.query, pool_q_), acted(r.key, pool_k_), r.key, r.value,
                                     whole_rows ? Tensor() : r.live},
                                    o.pool);
  AttentionParams regions{.scale = 1};
  if (w.exists.defined()) regions.key_padding_mask = logical_not(w.exists).reshape({-1, r.n});
  if (o.causal || o.exclude_self_span) {
    const Tensor row = floor_divide(arange(length), s).unsqueeze(1),
                 region = arange(r.n).unsqueeze(0);
    regions.attn_mask = (o.causal ? region >= row : region == row).to(t.q.device());
  }
  return merge_attention(
             {attention_with_lse(t.q, t.k, t.v, own), attention_with_lse(t.q, w.k, w.v, regions)})
      .o;
}

Tensor CombinerAttention::mix_log(const Tokens& t) const {
  const auto& o = options_;
  const int64_t b = t.q.size(0), h = t.q.size(1), l = t.q.size(2), e = t.q.size(3);
  const Tensor dead = (t.pad.defined() ? t.pad : zeros({b, l}, {kBool, t.q.device()})).unsqueeze(1),
               live = logical_not(dead);
  std::vector<Keys> parts;
  auto add = [&](const Tensor& k, const Tensor& v, const Tensor& forbidden, bool direct) {
    const Tensor clean = masked_fill(v, forbidden, 0);  // 0 times a NaN
    parts.push_back({sum(t.q * k, {-1}, true), forbidden,
                     [clean](const Tensor& p) { return p * clean; }, direct});
  };
  add(t.k, t.v, dead.unsqueeze(-1), true);
  const Region all{acted(t.q, pool_q_), acted(t.k, pool_k_), t.k, t.v, live};
  for (int64_t level = 0; (l - 1) >> level > 0; ++level) {
    const int64_t blocks = l >> level, size = int64_t{1} << level;
    Region cut = all.each([&](const Tensor& x) {
      return x.dim() == 4 ? x.narrow(2, 0, blocks * size).reshape({b, h, blocks, size, e})
                          : x.narrow(2, 0, blocks * size).reshape({b, 1, blocks, size});
    });
    const Summary w = combiner::whole(cut, o.pool);
    Tensor at = empty({l}, kInt64), unset = empty({l}, kBool);
    for (int64_t i = 0; i < l; ++i) {
      at.data<int64_t>()[i] = std::max<int64_t>((i >> level) - 1, 0);
      unset.data<bool>()[i] = ((i >> level) & 1) == 0;
    }
    at = at.to(t.q.device());
    const Tensor forbidden =
        logical_or(index_select(logical_not(w.exists), 2, at), unset.to(t.q.device()));
    add(index_select(w.k, 2, at), index_select(w.v, 2, at), forbidden.unsqueeze(-1), false);
  }
  return combiner::attend(parts, o.dropout, is_training());
}

Tensor CombinerAttention::mix(const Tokens& t) const {
  if (t.q.numel() == 0) return t.q;
  return options_.variant == "logsparse" ? mix_log(t) : mix_rows(t);
}

Tensor CombinerAttention::forward(const Tensor& x, const SequenceArgs& args) {
  const auto& o = options_;
  detail::check_sequence(who(), x, o.embed_dim, args);
  detail::refuse(who(), "attn_mask", args.attn_mask,
                 "tokens meet through regions, most pairs have no score");
  detail::refuse(who(), "global_attention_mask", args.global_attention_mask,
                 detail::kNoGlobalTokens);
  const Tensor& pad_mask = args.key_padding_mask;
  const Tensor clean = pad_mask.defined() ? masked_fill(x, pad_mask.unsqueeze(-1), 0) : x;
  return out_proj_(merge_heads(mix({scaled_queries(x), split_heads(k_proj_(clean), o.num_heads),
                                    split_heads(v_proj_(clean), o.num_heads), clean, pad_mask})));
}

}  // namespace dropin
