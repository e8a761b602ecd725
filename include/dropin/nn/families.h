// Families: the contract of each standard component. Members of one family take the same call and replace each other.
#pragma once
#include "dropin/nn/module.h"

namespace dropin {

/// [*, in] -> [*, out]. Standard member: Linear.
class Projection : public Module {
 public:
  using Family = Projection;
  static constexpr const char* kFamily = "Projection";
  static constexpr const char* kCall = "x [*, in] -> y [*, out]";
  virtual Tensor forward(const Tensor& x) = 0;
  Tensor operator()(const Tensor& x) { return forward(x); }
  NamedTensors call(const NamedTensors& in) override { return {{"y", forward(in.get("x", type()))}}; }
};

/// What a sequence mixer may be told besides its input.
struct SequenceArgs {
  Tensor key_padding_mask;       ///< [B, Lk] bool, true = padding (ignored)
  Tensor attn_mask;              ///< [Lq, Lk] or [B, 1 or H, Lq, Lk]; bool (true = forbidden) or float (added to the scores)
  Tensor global_attention_mask;  ///< [B, L] bool, true = attends everywhere (members that know global tokens)
};

/// What step() keeps between tokens. Each member derives its own.
struct SequenceState {
  virtual ~SequenceState() = default;
};

/// [B, L, D] -> [B, L, D]. Standard members: MultiheadAttention, LSTM, GRU.
class SequenceMixer : public Module {
 public:
  using Family = SequenceMixer;
  static constexpr const char* kFamily = "SequenceMixer";
  static constexpr const char* kCall = "x [B, L, D], key_padding_mask [B, L] bool -> y [B, L, D]";
  virtual Tensor forward(const Tensor& x, const SequenceArgs& args = {}) = 0;
  Tensor operator()(const Tensor& x, const SequenceArgs& args = {}) { return forward(x, args); }
  /// Empty state for batches of `batch` and at most max_len tokens. Error when the member cannot decode with these options.
  virtual Box<SequenceState> init_state(std::int64_t batch, std::int64_t max_len);
  /// x_t [B, n, D]: the next n >= 1 tokens -> their outputs [B, n, D], equal to the matching rows of forward().
  virtual Tensor step(const Tensor& x_t, SequenceState& state);
  /// True when outputs never depend on later inputs.
  virtual bool causal() const { return false; }
  NamedTensors call(const NamedTensors& in) override;
};

/// [B, C, H, W] -> [B, C', H', W'] (or [B, C, L]). Standard members: Conv2d, DepthwiseConv2d.
class ImageMixer : public Module {
 public:
  using Family = ImageMixer;
  static constexpr const char* kFamily = "ImageMixer";
  static constexpr const char* kCall = "x [B, C, H, W] -> y [B, C', H', W']";
  virtual Tensor forward(const Tensor& x) = 0;
  Tensor operator()(const Tensor& x) { return forward(x); }
  NamedTensors call(const NamedTensors& in) override { return {{"y", forward(in.get("x", type()))}}; }
};

/// Elementwise. Standard members: GELU, SiLU, ReLU, ...
class Activation : public Module {
 public:
  using Family = Activation;
  static constexpr const char* kFamily = "Activation";
  static constexpr const char* kCall = "x of any shape -> y of the same";
  virtual Tensor forward(const Tensor& x) = 0;
  Tensor operator()(const Tensor& x) { return forward(x); }
  NamedTensors call(const NamedTensors& in) override { return {{"y", forward(in.get("x", type()))}}; }
};

/// [*, D] -> [*, D]. Standard members: MLP, GatedMLP.
class FeedForward : public Module {
 public:
  using Family = FeedForward;
  static constexpr const char* kFamily = "FeedForward";
  static constexpr const char* kCall = "x [*, D] -> y [*, D]";
  virtual Tensor forward(const Tensor& x) = 0;
  Tensor operator()(const Tensor& x) { return forward(x); }
  NamedTensors call(const NamedTensors& in) override { return {{"y", forward(in.get("x", type()))}}; }
};

/// Same shape in and out, statistics over features or the batch. Standard members: LayerNorm, BatchNorm2d.
class Norm : public Module {
 public:
  using Family = Norm;
  static constexpr const char* kFamily = "Norm";
  static constexpr const char* kCall = "x -> y of the same shape";
  virtual Tensor forward(const Tensor& x) = 0;
  Tensor operator()(const Tensor& x) { return forward(x); }
  NamedTensors call(const NamedTensors& in) override { return {{"y", forward(in.get("x", type()))}}; }
};

/// int64 ids [B, L] -> [B, L, D]. Standard member: Embedding.
class TokenEmbedding : public Module {
 public:
  using Family = TokenEmbedding;
  static constexpr const char* kFamily = "TokenEmbedding";
  static constexpr const char* kCall = "x [B, L] int64 ids -> y [B, L, D]";
  virtual Tensor forward(const Tensor& ids) = 0;
  Tensor operator()(const Tensor& ids) { return forward(ids); }
  NamedTensors call(const NamedTensors& in) override { return {{"y", forward(in.get("x", type()))}}; }
};

/// Maps images to images or vectors without parameters of its own: pooling, dropout.
class Layer : public Module {
 public:
  using Family = Layer;
  static constexpr const char* kFamily = "Layer";
  static constexpr const char* kCall = "x -> y";
  virtual Tensor forward(const Tensor& x) = 0;
  Tensor operator()(const Tensor& x) { return forward(x); }
  NamedTensors call(const NamedTensors& in) override { return {{"y", forward(in.get("x", type()))}}; }
};

}  // namespace dropin
