// SequenceMixer: the contract of the room.
#pragma once
#include "dropin/module/family.h"

namespace dropin {

/// What a sequence mixer may be told besides its input.
struct SequenceArgs {
  Tensor key_padding_mask;  ///< [B, Lk] bool, true = padding (ignored)
  Tensor attn_mask;  ///< [Lq, Lk] or [B, 1 or H, Lq, Lk]; bool (true = forbidden) or float (added
                     ///< to the scores)
  Tensor global_attention_mask;  ///< [B, L] bool, true = attends everywhere (members that know
                                 ///< global tokens)
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
  static FamilyInfo family();
  virtual Tensor forward(const Tensor& x, const SequenceArgs& args = {}) = 0;
  Tensor operator()(const Tensor& x, const SequenceArgs& args = {}) { return forward(x, args); }
  /// Empty state for batches of `batch` and at most max_len tokens. Error when the member cannot
  /// decode with these options.
  virtual Box<SequenceState> init_state(std::int64_t batch, std::int64_t max_len);
  /// x_t [B, n, D]: the next n >= 1 tokens -> their outputs [B, n, D], equal to the matching rows
  /// of forward().
  virtual Tensor step(const Tensor& x_t, SequenceState& state);
  /// True when outputs never depend on later inputs.
  virtual bool causal() const { return false; }
  NamedTensors call(const NamedTensors& in) override;
};

}  // namespace dropin
