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
  for (int64_t i = 0; i < o.num_layers; ++i)
    blocks_.push_back(child<TransformerBlock>("block" + std::to_string(i), o));
  norm_ = child<LayerNorm>("norm", {.normalized_shape = {o.embed_dim}});
  if (!o.tie_weights)
    head_ = child<Linear>(
        "head", {.in_features = o.embed_dim, .out_features = o.vocab_size, .bias = false});
  no_grad guard;
  tokens_.as()->weight().mul_(0.02);  // GPT-2: N(0, 0.02)
}

void Transformer::check_ids(const Tensor& ids) const {
  DROPIN_CHECK(ids.dim() == 2 && ids.dtype() == kInt64, ShapeError, who(), ": ids are ",
               ids.sizes(), " ", ids.dtype(), ", expected [B, L] int64");
}

Tensor Transformer::logits(const Tensor& h) {
  const Tensor y = norm_(h);
  return head_ ? head_(y) : linear(y, table());
}

Tensor Transformer::table() const {
  auto* own = tokens_.as();
  return own ? own->weight() : tokens_->parameters()[0];
}

Tensor Transformer::forward(const Tensor& ids, const SequenceArgs& args) {
  check_ids(ids);
  const int64_t length = ids.size(1);
  DROPIN_CHECK(!positions_->defined() || length <= options_.max_len, ShapeError, who(), ": ",
               length, " tokens, expected at most max_len = ", options_.max_len);
  Tensor h = tokens_(ids);
  if (positions_->defined()) h = h + positions_->narrow(0, 0, length);
  h = dropout(h, options_.dropout, is_training());
  for (auto& b : blocks_) h = b(h, args);
  return logits(h);
}

// --- step

namespace {
// Real tokens seen per entry; what was seen last is remembered by the base.
class SeenTokens : public SequenceState {
 public:
  explicit SeenTokens(int64_t batch)
      : SequenceState(batch), real(static_cast<std::size_t>(batch), 0) {}
  std::vector<int64_t> real;

 protected:
  Box<SequenceState> pick(const std::vector<int64_t>& rows) const override {
    auto s = Box<SeenTokens>(new SeenTokens(*this));
    s->real.clear();
    for (const int64_t row : rows) s->real.push_back(real[static_cast<std::size_t>(row)]);
    return s;
  }
  void take_back(int64_t, const std::vector<int64_t>& gone) override {
    for (std::size_t b = 0; b < real.size(); ++b) real[b] -= gone[b];
  }
};

// Where each token of a step stands: the number of real tokens before it. Counts them into `seen`.
Tensor places_of(int64_t batch, int64_t n, const Tensor& padding, std::vector<int64_t>& seen) {
  Tensor places = zeros({batch, n}, kInt64);
  auto* at = places.data<int64_t>();
  for (int64_t b = 0; b < batch; ++b) {
    int64_t& count = seen[static_cast<std::size_t>(b)];
    for (int64_t i = 0; i < n; ++i) {
      const bool real = !padding.defined() || !padding.data<bool>()[b * n + i];
      at[b * n + i] = real ? count++ : 0;
    }
  }
  return places;
}
}  // namespace

TransformerState TransformerState::clone() const {
  TransformerState s;
  for (const auto& l : layers_) s.layers_.push_back(l->clone());
  s.seen_ = seen_->clone();
  return s;
}

TransformerState TransformerState::select(const std::vector<int64_t>& indices) const {
  TransformerState s;
  s.seen_ = seen_->select(indices);
  for (const auto& l : layers_) s.layers_.push_back(l->select(indices));
  return s;
}

void TransformerState::rollback(int64_t n) {
  TransformerState s = clone();
  for (auto& l : s.layers_) l->rollback(n);
  s.seen_->rollback(n);
  *this = std::move(s);
}

TransformerState Transformer::init_state(int64_t batch, const StateOptions& options) {
  TransformerState s;
  for (auto& b : blocks_)
    s.layers_.push_back(b->mixer().init_state(batch, options_.max_len, options));
  s.seen_ = Box<SequenceState>(new SeenTokens(batch));
  return s;
}

// sizes [B, n] of the tokens.
void Transformer::check_step(const Shape& sizes, const TransformerState& state,
                             const StepArgs& args) const {
  DROPIN_CHECK(state.layers_.size() == blocks_.size(), StateError, who(), ": the state is for ",
               state.layers_.size(), " layers, the model has ", blocks_.size());
  DROPIN_CHECK(sizes[0] == state.batch(), ShapeError, who(), ": ids have batch ", sizes[0],
               ", the state ", state.batch());
  const Tensor& mask = args.key_padding_mask;
  DROPIN_CHECK(!mask.defined() || (mask.dtype() == kBool && mask.sizes() == sizes), ShapeError,
               who(), ": key_padding_mask is ", mask.defined() ? mask.sizes() : Shape{},
               ", expected bool ", sizes);
}

Tensor Transformer::step(const Tensor& ids, TransformerState& state, const StepArgs& args) {
  check_ids(ids);
  check_step(ids.sizes(), state, args);
  no_grad guard;
  return step_embedded(tokens_(ids), state, args);
}

Tensor Transformer::step_soft(const Tensor& probs, TransformerState& state, const StepArgs& args) {
  DROPIN_CHECK(probs.dim() == 3 && probs.size(2) == options_.vocab_size, ShapeError, who(),
               ": probs are ", probs.sizes(), ", expected [B, n, ", options_.vocab_size, "]");
  check_step({probs.size(0), probs.size(1)}, state, args);
  no_grad guard;
  const Tensor w = table();
  return step_embedded(matmul(probs.to(w.dtype(), w.device()), w), state, args);
}

// x [B, n, D]: embedded tokens.
Tensor Transformer::step_embedded(const Tensor& x, TransformerState& state, const StepArgs& args) {
  auto& seen = static_cast<SeenTokens&>(*state.seen_);
  const Tensor& mask = args.key_padding_mask;
  const Tensor padding = mask.defined() ? mask.to(kCPU).contiguous() : Tensor();
  std::vector<int64_t> real = seen.real;
  const Tensor places = places_of(x.size(0), x.size(1), padding, real);
  for (const int64_t count : real)
    DROPIN_CHECK(!positions_->defined() || count <= options_.max_len, ShapeError, who(), ": ",
                 count, " tokens, expected at most max_len = ", options_.max_len);
  Tensor h = positions_->defined() ? x + embedding(*positions_, places.to(x.device())) : x;
  for (std::size_t i = 0; i < blocks_.size(); ++i) h = blocks_[i]->step(h, *state.layers_[i], args);
  seen.real = std::move(real);
  seen.saw(x.size(1), padding);
  return logits(h);
}

}  // namespace dropin
