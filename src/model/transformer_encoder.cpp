#include "dropin/model/transformer_encoder.h"

#include "dropin/module/state_names.h"

namespace dropin {

// --- TransformerEncoderLayer

TransformerEncoderLayer::TransformerEncoderLayer(const TransformerEncoderOptions& o)
    : Component(o) {
  mixer_ = child<MultiheadAttention>(
      "mixer", {.embed_dim = o.embed_dim, .num_heads = o.num_heads, .dropout = o.dropout});
  norm1_ = child<LayerNorm>("norm1", {.normalized_shape = {o.embed_dim}, .eps = o.layer_norm_eps});
  ff_ = child<MLP>("ff", {.embed_dim = o.embed_dim,
                          .hidden_dim = o.hidden_dim,
                          .activation = o.activation,
                          .dropout = o.dropout});
  norm2_ = child<LayerNorm>("norm2", {.normalized_shape = {o.embed_dim}, .eps = o.layer_norm_eps});
}

Tensor TransformerEncoderLayer::forward(const Tensor& x, const SequenceArgs& args) {
  auto drop = [&](const Tensor& t) { return dropout(t, options_.dropout, is_training()); };
  if (options_.norm_first) {
    const Tensor h = x + drop(mixer_(norm1_(x), args));
    return h + drop(ff_(norm2_(h)));
  }
  const Tensor h = norm1_(x + drop(mixer_(x, args)));
  return norm2_(h + drop(ff_(h)));
}

NamedTensors TransformerEncoderLayer::call(const NamedTensors& in) {
  return {{"y", (*this)(in.get("x", who()), {.key_padding_mask = in.find("key_padding_mask")})}};
}

void TransformerEncoderLayer::translate_state(StateDict& state, const std::string& prefix,
                                              std::vector<std::string>& renamed) const {
  detail::rename_prefixes(state, prefix,
                          {// torch.nn.TransformerEncoderLayer
                           {"self_attn.", "mixer."},
                           {"linear1.", "ff.fc1."},
                           {"linear2.", "ff.fc2."},
                           // BERT
                           {"attention.self.query.", "mixer.q_proj."},
                           {"attention.self.key.", "mixer.k_proj."},
                           {"attention.self.value.", "mixer.v_proj."},
                           {"attention.output.dense.", "mixer.out_proj."},
                           {"attention.output.LayerNorm.", "norm1."},
                           {"intermediate.dense.", "ff.fc1."},
                           {"output.dense.", "ff.fc2."},
                           {"output.LayerNorm.", "norm2."},
                           // Hugging Face's ViT
                           {"attention.attention.query.", "mixer.q_proj."},
                           {"attention.attention.key.", "mixer.k_proj."},
                           {"attention.attention.value.", "mixer.v_proj."},
                           {"attention.q_proj.", "mixer.q_proj."},  // transformers 5, in memory
                           {"attention.k_proj.", "mixer.k_proj."},
                           {"attention.v_proj.", "mixer.v_proj."},
                           {"attention.o_proj.", "mixer.out_proj."},
                           {"layernorm_before.", "norm1."},
                           {"layernorm_after.", "norm2."},
                           // timm
                           {"attn.qkv.weight", "mixer.in_proj_weight"},
                           {"attn.qkv.bias", "mixer.in_proj_bias"},
                           {"attn.proj.", "mixer.out_proj."},
                           {"mlp.fc1.", "ff.fc1."},
                           {"mlp.fc2.", "ff.fc2."},
                           // torchvision
                           {"ln_1.", "norm1."},
                           {"ln_2.", "norm2."},
                           {"self_attention.", "mixer."},
                           {"mlp.0.", "ff.fc1."},
                           {"mlp.3.", "ff.fc2."},
                           {"mlp.linear_1.", "ff.fc1."},
                           {"mlp.linear_2.", "ff.fc2."}},
                          renamed);
  for (const char* norm : {"norm1.", "norm2."})  // the first TensorFlow checkpoints
    detail::rename_prefixes(state, prefix + norm, {{"gamma", "weight"}, {"beta", "bias"}}, renamed);
}

// --- TransformerEncoder

std::vector<std::string> TransformerEncoder::examples() {
  return {R"({"vocab_size": 0, "max_len": 0, "norm_first": true, "pooling": "mean"})",
          R"({"type_vocab_size": 2, "activation": "relu", "pooling": "tanh", "final_norm": true})"};
}

Sample TransformerEncoder::sample(const Options& o, const SampleSpec& s) {
  static constexpr int64_t kLengths[] = {9, 16, 128, 512};
  const int64_t most = o.max_len ? o.max_len : kLengths[3];
  if (o.vocab_size > 0) return sample_ids(s, o.vocab_size, std::min(s.of(kLengths), most));
  const int64_t length = s.length >= 0 ? s.length : std::min(s.of(kLengths), most),
                batch = s.batch >= 0 ? s.batch : 2;
  return {{{"x", s.normal({batch, length, o.embed_dim})}}};
}

Work TransformerEncoder::work(const Workload& w) {
  const bool ids = !is_floating(w.x.dtype());
  const int64_t tokens = ids ? w.x.numel() : w.x.size(0) * w.x.size(1);
  return work_of_places(w, static_cast<double>(tokens));
}

TransformerEncoder::TransformerEncoder(const TransformerEncoderOptions& o) : Component(o) {
  DROPIN_CHECK(o.vocab_size >= 0 && o.max_len >= 0 && o.type_vocab_size >= 0, OptionError, who(),
               ": vocab_size ", o.vocab_size, ", max_len ", o.max_len, " and type_vocab_size ",
               o.type_vocab_size, " must not be negative");
  DROPIN_CHECK(o.num_layers > 0, OptionError, who(), ": num_layers is ", o.num_layers,
               ", expected at least 1");
  DROPIN_CHECK(
      o.pooling == "none" || o.pooling == "first" || o.pooling == "mean" || o.pooling == "tanh",
      OptionError, who(), ": pooling is \"", o.pooling, "\", expected none, first, mean or tanh");
  const LayerNormOptions norm{.normalized_shape = {o.embed_dim}, .eps = o.layer_norm_eps};
  if (o.vocab_size > 0)
    tokens_ = child<Embedding>("tokens", {.num_embeddings = o.vocab_size,
                                          .embedding_dim = o.embed_dim,
                                          .padding_idx = o.padding_idx});
  positions_ =
      &parameter("positions", o.max_len ? init::normal({o.max_len, o.embed_dim}, 0.02) : Tensor());
  if (o.type_vocab_size > 0)
    types_ = child<Embedding>("types",
                              {.num_embeddings = o.type_vocab_size, .embedding_dim = o.embed_dim});
  if (o.embedding_norm.value_or(o.vocab_size > 0 && !o.norm_first))
    norm_embedding_ = child<LayerNorm>("norm_embedding", norm);
  for (int64_t i = 0; i < o.num_layers; ++i)
    layers_.push_back(child<TransformerEncoderLayer>("layer" + std::to_string(i), o));
  if (o.final_norm.value_or(o.norm_first)) norm_ = child<LayerNorm>("norm", norm);
  if (o.pooling == "tanh")
    pooler_ = child<Linear>("pooler", {.in_features = o.embed_dim, .out_features = o.embed_dim});
  no_grad guard;
  for (const Child<Embedding>* table : {&tokens_, &types_})  // BERT: N(0, 0.02)
    if (*table) table->as()->weight().mul_(0.02);
}

Tensor TransformerEncoder::embed(const Tensor& x, const EncoderArgs& args) {
  const auto& o = options_;
  if (tokens_)
    DROPIN_CHECK(x.dim() == 2 && x.dtype() == kInt64, ShapeError, who(), ": x is ", x.dtype(), " ",
                 x.sizes(), ", expected int64 ids [B, L]");
  else
    DROPIN_CHECK(x.dim() == 3 && x.size(2) == o.embed_dim && is_floating(x.dtype()), ShapeError,
                 who(), ": x is ", x.dtype(), " ", x.sizes(), ", expected floats [B, L, ",
                 o.embed_dim, "] because embed_dim = ", o.embed_dim, " and vocab_size = 0");
  const int64_t length = x.size(1);
  DROPIN_CHECK(!o.max_len || length <= o.max_len, ShapeError, who(), ": ", length,
               " tokens, expected at most max_len = ", o.max_len);
  const Tensor& types = args.token_type_ids;
  if (types.defined()) {
    DROPIN_CHECK(o.type_vocab_size > 0, OptionError, who(),
                 ": token_type_ids are given, but type_vocab_size = 0");
    DROPIN_CHECK(types.dim() == 2 && types.size(0) == x.size(0) && types.size(1) == length,
                 ShapeError, who(), ": token_type_ids is ", types.sizes(), ", expected [",
                 x.size(0), ", ", length, "]");
  }
  Tensor h = tokens_ ? tokens_(x) : x;
  if (types_) h = h + types_(types.defined() ? types : zeros({1, length}, {kInt64, x.device()}));
  if (positions_->defined()) h = h + positions_->narrow(0, 0, length);
  if (norm_embedding_) h = norm_embedding_(h);
  return dropout(h, o.dropout, is_training());
}

Tensor TransformerEncoder::pool(const Tensor& h, const Tensor& padding) {
  const std::string& how = options_.pooling;
  if (how == "none") return h;
  DROPIN_CHECK(h.size(1) > 0, ShapeError, who(), ": pooling needs a token, expected L >= 1");
  if (how == "mean") {
    if (!padding.defined()) return mean(h, {1});
    const Tensor real = logical_not(padding).to(h.dtype()).unsqueeze(2);
    return sum(where(padding.unsqueeze(2), 0.0, h), {1}) /
           clamp(sum(real, {1}), 1, static_cast<double>(h.size(1)));
  }
  const Tensor first = h.select(1, 0);
  return how == "tanh" ? tanh(pooler_(first)) : first;
}

Tensor TransformerEncoder::forward(const Tensor& x, const EncoderArgs& args) {
  Tensor h = embed(x, args);
  for (auto& layer : layers_) h = layer(h, {.key_padding_mask = args.key_padding_mask});
  return pool(norm_ ? norm_(h) : h, args.key_padding_mask);
}

NamedTensors TransformerEncoder::call(const NamedTensors& in) {
  return {{"y", (*this)(in.get("x", who()), {.key_padding_mask = in.find("key_padding_mask"),
                                             .token_type_ids = in.find("token_type_ids")})}};
}

void TransformerEncoder::translate_state(StateDict& state, const std::string& prefix,
                                         std::vector<std::string>& renamed) const {
  detail::rename_prefixes(state, prefix, {{"bert.", ""}}, renamed);
  if (state.take(prefix + "embeddings.position_ids").defined())
    renamed.push_back(prefix + "embeddings.position_ids -> (not a parameter)");
  detail::rename_prefixes(state, prefix,
                          {{"embeddings.word_embeddings.", "tokens."},
                           {"embeddings.position_embeddings.weight", "positions"},
                           {"embeddings.token_type_embeddings.", "types."},
                           {"embeddings.LayerNorm.", "norm_embedding."},
                           {"pooler.dense.", "pooler."}},
                          renamed);
  detail::rename_prefixes(state, prefix + "norm_embedding.",
                          {{"gamma", "weight"}, {"beta", "bias"}}, renamed);
  for (int64_t i = 0; i < options_.num_layers; ++i) {
    const std::string n = std::to_string(i) + ".", ours = "layer" + n;
    detail::rename_prefixes(
        state, prefix,
        {{"layers." + n, ours}, {"encoder.layer." + n, ours}, {"encoder.layers." + n, ours}},
        renamed);
  }
}

}  // namespace dropin
