#include "dropin/model/transformer.h"

#include <cmath>

namespace dropin {

Transformer::Transformer(const TransformerOptions& o) : Component(o) {
  DROPIN_CHECK(o.vocab_size > 0 && o.num_layers > 0 && o.max_len > 0, OptionError, who(),
               ": vocab_size ", o.vocab_size, ", num_layers ", o.num_layers, " and max_len ",
               o.max_len, " must be positive");
  tokens_ =
      child<Embedding>("tokens", {.num_embeddings = o.vocab_size, .embedding_dim = o.embed_dim});
  positions_ = &parameter(
      "positions", o.rope == "none" ? init::normal({o.max_len, o.embed_dim}, 0.02) : Tensor());
  for (std::int64_t i = 0; i < o.num_layers; ++i)
    blocks_.push_back(child<TransformerBlock>("block" + std::to_string(i), o));
  norm_ = child<LayerNorm>("norm", {.normalized_shape = {o.embed_dim}});
  if (!o.tie_weights)
    head_ = child<Linear>(
        "head", {.in_features = o.embed_dim, .out_features = o.vocab_size, .bias = false});
  no_grad guard;
  tokens_.as()->weight().mul_(0.02);  // GPT-2: N(0, 0.02)
}

Tensor Transformer::embed(const Tensor& ids, std::int64_t start) {
  DROPIN_CHECK(ids.dim() == 2 && ids.dtype() == kInt64, ShapeError, who(), ": ids are ",
               ids.sizes(), " ", ids.dtype(), ", expected [B, L] int64");
  Tensor h = tokens_(ids);
  if (!positions_->defined()) return h;
  DROPIN_CHECK(start + ids.size(1) <= options_.max_len, ShapeError, who(), ": ",
               start + ids.size(1), " tokens, expected at most max_len = ", options_.max_len);
  return h + positions_->narrow(0, start, ids.size(1));
}

Tensor Transformer::logits(const Tensor& h) {
  const Tensor y = norm_(h);
  if (head_) return head_(y);
  auto* table = tokens_.as();
  const Tensor w = table ? table->weight() : tokens_->parameters()[0];
  return linear(y, w);
}

Tensor Transformer::forward(const Tensor& ids, const SequenceArgs& args) {
  Tensor h = dropout(embed(ids, 0), options_.dropout, is_training());
  for (auto& b : blocks_) h = b->forward(h, args);
  return logits(h);
}

TransformerState Transformer::init_state(std::int64_t batch) {
  TransformerState s;
  for (auto& b : blocks_) s.layers.push_back(b->mixer().init_state(batch, options_.max_len));
  return s;
}

Tensor Transformer::step(const Tensor& ids, TransformerState& state) {
  DROPIN_CHECK(state.layers.size() == blocks_.size(), StateError, who(), ": the state is for ",
               state.layers.size(), " layers, the model has ", blocks_.size());
  no_grad guard;
  Tensor h = embed(ids, state.length);
  for (std::size_t i = 0; i < blocks_.size(); ++i) h = blocks_[i]->step(h, *state.layers[i]);
  state.length += ids.size(1);
  return logits(h);
}

}  // namespace dropin
