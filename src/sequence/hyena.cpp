// The operator: gates and long convolutions in turn.
#include "dropin/sequence/hyena.h"

#include "dropin/sequence/common.h"

namespace dropin {

namespace {

// A depthwise Conv1d's parameters; HyenaOperator applies them on [B, L, C].
class ShortFilter : public Module {
 public:
  ShortFilter(int64_t channels, int64_t taps) {
    weight = &parameter("weight", init::default_uniform({channels, 1, taps}, taps));
    bias = &parameter("bias", init::default_uniform({channels}, taps));
  }
  Tensor *weight, *bias;
};

}  // namespace

std::vector<std::string> HyenaOperator::examples() {
  return {
      R"({"order": 3, "emb_dim": 5, "w": 4, "shift": 0.05, "short_filter_order": 1})",
      R"({"order": 4, "filter_layout": "order_major", "activation": "gelu", "bias": false, "modulate": false, "short_filter_order": 4})",
      R"({"normalized": true, "lr_pos_emb": 0, "num_inner_mlps": 0})"};
}

Json HyenaOperator::options_from(std::string_view, const Json& options, const Json& around) {
  Json r = Json::object();
  if (const Json* width = options.find("embed_dim")) r.set("d_model", *width);
  for (const Json* from : {&around, &options})
    if (const Json* length = from->find("max_len")) r.set("l_max", *length);
  if (const Json* p = options.find("dropout")) r.set("dropout", *p);
  return r;
}

HyenaOperator::HyenaOperator(const HyenaOperatorOptions& o) : Component(o) {
  DROPIN_CHECK(o.d_model > 0, OptionError, who(), ": d_model is ", o.d_model,
               ", expected a positive number");
  DROPIN_CHECK(o.l_max > 0, OptionError, who(), ": l_max is ", o.l_max, ", expected at least 1");
  DROPIN_CHECK(o.order >= 2, OptionError, who(), ": order is ", o.order, ", expected at least 2");
  DROPIN_CHECK(o.short_filter_order >= 1, OptionError, who(), ": short_filter_order is ",
               o.short_filter_order, ", expected at least 1");
  DROPIN_CHECK(o.emb_dim >= 3 && o.emb_dim % 2 == 1, OptionError, who(), ": emb_dim is ", o.emb_dim,
               ", expected an odd number of at least 3");
  DROPIN_CHECK(o.activation == "id" || o.activation == "gelu", OptionError, who(),
               ": activation is \"", o.activation, "\", expected id or gelu");
  DROPIN_CHECK(o.filter_layout == "channel_major" || o.filter_layout == "order_major", OptionError,
               who(), ": filter_layout is \"", o.filter_layout,
               "\", expected channel_major or order_major");
  DROPIN_CHECK(o.dropout >= 0 && o.dropout < 1, OptionError, who(), ": dropout is ", o.dropout,
               ", expected 0 <= dropout < 1");
  DROPIN_CHECK(o.num_heads == 1 && o.num_blocks == 1, OptionError, who(), ": num_heads ",
               o.num_heads, " and num_blocks ", o.num_blocks, ": only 1 is supported");
  const int64_t wide = (o.order + 1) * o.d_model;
  in_proj_ = child<Linear>("in_proj", {.in_features = o.d_model, .out_features = wide});
  out_proj_ = child<Linear>("out_proj", {.in_features = o.d_model, .out_features = o.d_model});
  auto* taps = child<ShortFilter>("short_filter", wide, o.short_filter_order).as();
  short_weight_ = taps->weight, short_bias_ = taps->bias;
  filter_ = child<HyenaFilter>("filter_fn", {.d_model = o.d_model * (o.order - 1),
                                             .l_max = o.l_max,
                                             .filter_order = o.filter_order,
                                             .emb_dim = o.emb_dim,
                                             .num_inner_mlps = o.num_inner_mlps,
                                             .w = o.w,
                                             .modulate = o.modulate,
                                             .shift = o.shift,
                                             .fast_decay_pct = o.fast_decay_pct,
                                             .slow_decay_pct = o.slow_decay_pct,
                                             .target = o.target,
                                             .normalized = o.normalized,
                                             .bias = o.bias,
                                             .lr = o.lr,
                                             .wd = o.wd,
                                             .lr_pos_emb = o.lr_pos_emb});
}

namespace {
// The blocks of D channels of z [B, L, n D] as [B, D, L] each. They are views; their gradients are
// joined once, not padded with zeros and added one by one.
Tensors channel_blocks(const Tensor& z, int64_t n) {
  const int64_t d = z.size(2) / n;
  Tensors blocks;
  for (int64_t i = 0; i < n; ++i)
    blocks.push_back(detail::alias(z, {z.size(0), d, z.size(1)},
                                   {z.stride(0), z.stride(2), z.stride(1)},
                                   z.storage_offset() + i * d * z.stride(2)));
  return record_many(
      "channel_blocks", blocks, {z}, {},
      [sizes = z.sizes(), d, n](const Saved&, const Tensors& gs) -> Tensors {
        Tensors parts;
        TensorOptions like;
        for (const Tensor& g : gs)
          if (g.defined()) like = g.options();
        for (int64_t i = 0; i < n; ++i) {
          const Tensor& g = gs[static_cast<std::size_t>(i)];
          parts.push_back(g.defined() ? g.transpose(1, 2) : zeros({sizes[0], sizes[1], d}, like));
        }
        return {concat(parts, 2)};
      });
}
}  // namespace

HyenaFilter& HyenaOperator::filter() const {
  HyenaFilter* f = filter_.as();
  DROPIN_CHECK(f, StateError, who(),
               ": filter_fn is no HyenaFilter any more; only its filters fit here");
  return *f;
}

Tensor HyenaOperator::activate(const Tensor& y) const {
  return options_.activation == "gelu" ? gelu(y) : y;
}

Tensor HyenaOperator::forward(const Tensor& x_, const SequenceArgs& args) {
  const auto& o = options_;
  DROPIN_CHECK(x_.dim() == 3 && x_.size(2) == o.d_model, ShapeError, who(), ": x is ", x_.sizes(),
               ", expected [B, L, ", o.d_model,
               "] because d_model = ", o.d_model);  // the others' embed_dim
  detail::check_sequence(who(), x_, o.d_model, args);
  detail::refuse(who(), "attn_mask", args.attn_mask, "a convolution has no scores");
  detail::refuse(who(), "global_attention_mask", args.global_attention_mask,
                 detail::kNoGlobalTokens);
  const int64_t length = x_.size(1);
  DROPIN_CHECK(length >= 1 && length <= o.l_max, ShapeError, who(), ": x is ", x_.sizes(),
               ", expected 1 <= L <= l_max = ", o.l_max);
  const Tensor pad =
      args.key_padding_mask.defined() ? args.key_padding_mask.unsqueeze(2) : Tensor();
  auto masked = [&](const Tensor& t) { return pad.defined() ? where(pad, 0.0, t) : t; };
  const Tensor z =
      masked(causal_depthwise_conv(masked(in_proj_(masked(x_))), *short_weight_, *short_bias_));
  const Tensors blocks = channel_blocks(z, o.order + 1);
  auto block = [&](int64_t i) { return blocks[static_cast<std::size_t>(i)]; };
  const std::vector<detail::HyenaTaps> taps =
      filter().taps(length, o.order - 1, o.filter_layout == "channel_major");
  const bool noisy = is_training() && o.dropout > 0;
  Tensor v = block(o.order);
  for (int64_t s = 0; s < o.order - 1;
       ++s) {  // the gate before step s is the gate after step s - 1
    const detail::HyenaTaps& t = taps[static_cast<std::size_t>(s)];
    if (noisy)
      v = fft_conv(dropout(v * block(o.order - 1 - s), o.dropout, true), t.k, t.D,
                   {.spectrum = t.spectrum});
    else
      v = fft_conv(v, t.k, t.D,
                   {.pre_gate = s == 0 ? block(o.order - 1) : Tensor(),
                    .post_gate = block(o.order - 2 - s),
                    .spectrum = t.spectrum});
  }
  if (noisy) v = v * block(0);
  return out_proj_(activate(v.transpose(1, 2)));
}

std::vector<ParameterHint> HyenaOperator::param_groups() const {
  std::vector<ParameterHint> r = filter().param_groups();
  for (const Child<Linear>& proj : {in_proj_, out_proj_})
    for (const Tensor& p : proj->parameters())
      r.back().params.push_back(p);  // whatever stands there now
  for (const Tensor& p : {*short_weight_, *short_bias_}) r.back().params.push_back(p);
  return r;
}

}  // namespace dropin
