#include "dropin/text/sentence_segmenter.h"

#include "dropin/module/state_names.h"

namespace dropin {

std::vector<std::string> SentenceSegmenter::examples() {
  return {R"({"lookahead": 3, "lookahead_split_layers": 1, "num_labels": 4})",
          R"({"lookahead": null, "position_offset": 0, "lora_rank": 2, "lora_alpha": 4})"};
}

Sample SentenceSegmenter::sample(const Options& o, const SampleSpec& s) {
  static constexpr int64_t kLengths[] = {9, 16, 128, 512};
  const int64_t most = o.max_positions - o.position_offset,
                length = s.length >= 0 ? s.length : std::min(s.of(kLengths), most),
                batch = s.batch >= 0 ? s.batch : 2;
  return {{{"ids", s.integers(o.vocab_size, {batch, length})}}};
}

void SentenceSegmenter::check_options() const {
  const auto& o = options_;
  for (const auto& [name, v] : {std::pair{"vocab_size", o.vocab_size},
                                {"embed_dim", o.embed_dim},
                                {"num_heads", o.num_heads},
                                {"mlp_dim", o.mlp_dim},
                                {"num_layers", o.num_layers},
                                {"max_positions", o.max_positions},
                                {"num_labels", o.num_labels},
                                {"block_size", o.block_size}})
    DROPIN_CHECK(v > 0, OptionError, who(), ": ", name, " is ", v, ", expected at least 1");
  DROPIN_CHECK(o.embed_dim % o.num_heads == 0, OptionError, who(), ": embed_dim ", o.embed_dim,
               " is not divisible by num_heads ", o.num_heads);
  DROPIN_CHECK(o.lookahead.value_or(0) >= 0, OptionError, who(), ": lookahead is ",
               o.lookahead.value_or(0), ", expected at least 0");
  DROPIN_CHECK(o.lookahead_split_layers.value_or(1) >= 1, OptionError, who(),
               ": lookahead_split_layers is ", o.lookahead_split_layers.value_or(1),
               ", expected at least 1");
  for (const auto& [name, v] :
       {std::pair{"bos_id", o.bos_id}, {"eos_id", o.eos_id}, {"pad_id", o.pad_id}})
    DROPIN_CHECK(v >= 0 && v < o.vocab_size, OptionError, who(), ": ", name, " is ", v,
                 ", expected 0 to below vocab_size = ", o.vocab_size);
  DROPIN_CHECK(o.position_offset >= 0 && o.position_offset < o.max_positions, OptionError, who(),
               ": position_offset is ", o.position_offset,
               ", expected 0 to below max_positions = ", o.max_positions);
  DROPIN_CHECK(o.stride >= 1 && o.stride <= o.block_size, OptionError, who(), ": stride is ",
               o.stride, ", expected 1 to block_size = ", o.block_size);
  DROPIN_CHECK(o.weighting == "uniform" || o.weighting == "hat", OptionError, who(),
               ": weighting is \"", o.weighting, "\", expected uniform or hat");
  DROPIN_CHECK(o.lora_rank >= 0, OptionError, who(), ": lora_rank is ", o.lora_rank,
               ", expected at least 0");
  DROPIN_CHECK(o.lora_rank > 0 || o.lora_alpha == 0, OptionError, who(), ": lora_alpha is ",
               o.lora_alpha, " and lora_rank 0, expected a rank above 0");
  detail::check_segment_options(who(), cutting());
}

SegmentTextOptions SentenceSegmenter::cutting() const {
  const auto& o = options_;
  return {.threshold = o.threshold,
          .paragraphs = o.paragraphs,
          .paragraph_threshold = o.paragraph_threshold,
          .strip_whitespace = o.strip_whitespace,
          .split_on_input_newlines = o.split_on_input_newlines,
          .min_length = o.min_length,
          .max_length = o.max_length,
          .prior = o.prior,
          .target_length = o.target_length,
          .spread = o.spread,
          .algorithm = o.algorithm,
          .length_mode = o.length_mode};
}

Child<Projection> SentenceSegmenter::projection(Parameters& in, const char* name, int64_t from,
                                                int64_t to, bool adapted) {
  if (!adapted) return in.child<Linear>(name, {.in_features = from, .out_features = to});
  return in.child<LoRALinear>(name, {.in_features = from,
                                     .out_features = to,
                                     .rank = options_.lora_rank,
                                     .alpha = options_.lora_alpha});
}

SentenceSegmenter::Layer SentenceSegmenter::layer(Parameters& in, int64_t i) {
  const auto& o = options_;
  const LayerNormOptions norm{.normalized_shape = {o.embed_dim}, .eps = o.layer_norm_eps};
  const bool adapted = o.lora_rank > 0;
  const int64_t d = o.embed_dim;
  Layer l;
  Parameters& attention = in.bundle("attention");
  Parameters& self = attention.bundle("self");
  l.query = projection(self, "query", d, d, adapted);
  l.key = projection(self, "key", d, d, false);
  l.value = projection(self, "value", d, d, adapted);
  Parameters& attended = attention.bundle("output");
  l.output = projection(attended, "dense", d, d, false);
  l.norm1 = attended.child<LayerNorm>("LayerNorm", norm);
  l.up = projection(in.bundle("intermediate"), "dense", d, o.mlp_dim, adapted);
  Parameters& out = in.bundle("output");
  l.down = projection(out, "dense", o.mlp_dim, d, false);
  l.norm2 = out.child<LayerNorm>("LayerNorm", norm);
  if (o.lookahead) {
    const int64_t looking = o.lookahead_split_layers.value_or(o.num_layers);
    l.ahead = i < looking ? *o.lookahead / looking : 0;
  }
  return l;
}

SentenceSegmenter::SentenceSegmenter(const SentenceSegmenterOptions& o) : Component(o) {
  check_options();
  Parameters& roberta = *child<Parameters>("roberta").as();
  Parameters& tables = roberta.bundle("embeddings");
  const int64_t d = o.embed_dim;
  words_ = tables.child<Embedding>("word_embeddings",
                                   {.num_embeddings = o.vocab_size, .embedding_dim = d});
  positions_ = tables.child<Embedding>("position_embeddings",
                                       {.num_embeddings = o.max_positions, .embedding_dim = d});
  types_ =
      tables.child<Embedding>("token_type_embeddings", {.num_embeddings = 1, .embedding_dim = d});
  norm_ = tables.child<LayerNorm>("LayerNorm", {.normalized_shape = {d}, .eps = o.layer_norm_eps});
  Parameters& layers = roberta.bundle("encoder").bundle("layer");
  for (int64_t i = 0; i < o.num_layers; ++i)
    layers_.push_back(layer(layers.bundle(std::to_string(i)), i));
  classifier_ = child<Linear>("classifier", {.in_features = d, .out_features = o.num_labels});
  no_grad guard;
  for (auto& [name, p] : named_parameters()) {  // BERT: N(0, 0.02)
    const bool weight = name.ends_with("weight") && name.find("LayerNorm") == std::string::npos;
    if (weight) p.normal_(0, 0.02);
    if (name.ends_with("bias")) p.zero_();
    const bool trained =
        name.find(".lora_") != std::string::npos || name.compare(0, 11, "classifier.") == 0;
    if (o.lora_rank > 0 && !trained) p.requires_grad_(false);
  }
}

Tensor SentenceSegmenter::embed(const Tensor& ids, const Tensor& padding) {
  const int64_t offset = options_.position_offset, length = ids.size(1);
  Tensor places = arange(offset, offset + length).to(kInt64).to(ids.device()).unsqueeze(0);
  if (padding.defined()) {
    const Tensor real = cumsum(logical_not(padding).to(kInt64), 1) + (offset - 1);
    places = where(padding, std::max<int64_t>(offset - 1, 0), real);
  }
  const Tensor type = types_(zeros({1, 1}, {kInt64, ids.device()}));
  return norm_(words_(ids) + positions_(places) + type);
}

Tensor SentenceSegmenter::run(const Layer& l, const Tensor& x, const Tensor& padding) {
  AttentionParams p;
  p.key_padding_mask = padding;
  if (l.ahead >= 0) p.window_right = l.ahead;
  auto heads = [&](const Child<Projection>& c) { return split_heads(c(x), options_.num_heads); };
  const Tensor seen = merge_heads(attention(heads(l.query), heads(l.key), heads(l.value), p));
  const Tensor h = l.norm1(x + l.output(seen));
  return l.norm2(h + l.down(gelu(l.up(h))));
}

Tensor SentenceSegmenter::logits(const Tensor& ids, const Tensor& key_padding_mask) {
  const auto& o = options_;
  DROPIN_CHECK(ids.dtype() == kInt64, DTypeError, who(), ": ids are ", ids.dtype(),
               ", expected int64");
  DROPIN_CHECK(ids.dim() == 2, ShapeError, who(), ": ids is ", ids.sizes(), ", expected [B, L]");
  DROPIN_CHECK(ids.size(1) <= o.max_positions - o.position_offset, ShapeError, who(), ": ",
               ids.size(1), " tokens, expected at most max_positions - position_offset = ",
               o.max_positions - o.position_offset);
  if (key_padding_mask.defined()) {
    DROPIN_CHECK(key_padding_mask.dtype() == kBool, DTypeError, who(), ": key_padding_mask is ",
                 key_padding_mask.dtype(), ", expected bool");
    DROPIN_CHECK(key_padding_mask.sizes() == ids.sizes(), ShapeError, who(),
                 ": key_padding_mask is ", key_padding_mask.sizes(), ", expected ", ids.sizes(),
                 " as ids");
  }
  Tensor h = embed(ids, key_padding_mask);
  for (const Layer& l : layers_) h = run(l, h, key_padding_mask);
  return classifier_(h);
}

NamedTensors SentenceSegmenter::call(const NamedTensors& in) {
  if (in.contains("text")) {
    in.find("key_padding_mask");  // of the encoder alone; a text has no padding
    return TextSegmenter::call(in);
  }
  return {{"logits", logits(in.get("ids", who()), in.find("key_padding_mask"))}};
}

void SentenceSegmenter::for_adapters(const std::function<void(LoRALinear&)>& f) {
  DROPIN_CHECK(options_.lora_rank > 0, StateError, who(),
               ": there are no adapters, expected lora_rank above 0");
  for (const Layer& l : layers_)
    for (const Child<Projection>* c : {&l.query, &l.value, &l.up})
      if (auto* adapter = c->as<LoRALinear>()) f(*adapter);
}

bool SentenceSegmenter::merged() const {
  return options_.lora_rank > 0 && layers_[0].query.as<LoRALinear>() &&
         layers_[0].query.as<LoRALinear>()->merged();
}
void SentenceSegmenter::merge_lora() {
  DROPIN_CHECK(!merged(), StateError, who(), ": merge_lora(): it is merged already");
  DROPIN_CHECK(!is_training(), StateError, who(), ": merge_lora(): expected eval() before");
  for_adapters([](LoRALinear& l) { l.merge(); });
}
void SentenceSegmenter::unmerge() {
  DROPIN_CHECK(merged(), StateError, who(), ": unmerge(): it is not merged");
  for_adapters([](LoRALinear& l) { l.unmerge(); });
}

void SentenceSegmenter::translate_state(StateDict& state, const std::string& prefix,
                                        std::vector<std::string>& renamed) const {
  if (state.take(prefix + "roberta.embeddings.position_ids").defined())
    renamed.push_back(prefix + "roberta.embeddings.position_ids -> (not a parameter)");
  std::vector<std::string> names;
  for (const auto& [name, t] : state)
    if (name.compare(0, prefix.size(), prefix) == 0) names.push_back(name);
  for (const std::string& name : names) {  // <linear>.loras.<name>.lora_A
    const std::size_t from = name.find(".loras."), to = name.rfind(".lora_");
    if (from != std::string::npos && to != std::string::npos && to > from)
      detail::rename_state(state, name, name.substr(0, from) + name.substr(to), renamed);
  }
}

}  // namespace dropin
