// SequenceMixer: the contract of the room.
#pragma once
#include "dropin/module/family.h"

namespace dropin {

/// What a sequence mixer may be told besides its input. A member uses an argument or refuses it in
/// words (OptionError), never drops it.
struct SequenceArgs {
  Tensor key_padding_mask;  ///< [B, Lk] bool, true = padding (ignored)
  Tensor attn_mask;  ///< [Lq, Lk] or [B, 1 or H, Lq, Lk]; bool (true = forbidden) or float (added
                     ///< to the scores)
  Tensor global_attention_mask;  ///< [B, L] bool, true = attends everywhere (members that know
                                 ///< global tokens)
};

/// What step() may be told besides its tokens.
struct StepArgs {
  Tensor key_padding_mask;  ///< [B, n] bool, true = padding: never context, its output is finite
                            ///< and means nothing, and positions do not count it
  Tensor positions;  ///< [B, n] int64: where the tokens stand, for rotary positions and ALiBi;
                     ///< undefined: the number of real tokens before them
  Tensor global_attention_mask;  ///< [B, n] bool, true = a global token (members that know them)
};

/// What a state is made for besides its size.
struct StateOptions {
  int64_t keep = 0;            ///< tokens that rollback() can take back at least; what a kept token
                               ///< costs is said at init_state() of each member
  bool global_tokens = false;  ///< later steps may name global tokens (members that know them)
};

/// What step() keeps between tokens. Each member derives its own. Entries of the batch may hold
/// different numbers of real tokens (StepArgs::key_padding_mask).
class SequenceState {
 public:
  SequenceState() = default;
  explicit SequenceState(int64_t batch) : batch_(batch) {}
  virtual ~SequenceState() = default;
  /// Tokens seen per entry, padding included.
  int64_t length() const { return length_; }
  /// Entries of the batch.
  int64_t batch() const { return batch_; }
  /// A copy that shares nothing which step() changes.
  Box<SequenceState> clone() const;
  /// A new state of the batch entries `indices`, in their order; repeats are allowed (beam search).
  /// IndexError on an entry that is not there.
  Box<SequenceState> select(const std::vector<int64_t>& indices) const;
  /// The same; indices [n] int64.
  Box<SequenceState> select(const Tensor& indices) const;
  /// Takes the last n tokens back: what follows is as if they had never been seen. StateError when
  /// more than length() are asked for, or more than the state keeps (StateOptions::keep).
  void rollback(int64_t n);
  /// What step() tells when it is done: n tokens were seen, of which padding [B, n] (or undefined:
  /// none) on the CPU names those that are not real.
  void saw(int64_t n, const Tensor& padding);

 protected:
  /// A new state of the entries `rows`, all of them there.
  virtual Box<SequenceState> pick(const std::vector<int64_t>& rows) const;
  /// Takes back the last n tokens, of which real[b] of entry b were no padding. Checks before it
  /// changes anything.
  virtual void take_back(int64_t n, const std::vector<int64_t>& real);

 private:
  struct Padded {
    int64_t at;              // which token
    std::vector<bool> rows;  // entries that it pads
  };
  int64_t batch_ = 0, length_ = 0;
  std::vector<Padded> padded_;  // in order
};

/// [B, L, D] -> [B, L, D]. Standard members: MultiheadAttention, LSTM, GRU.
class SequenceMixer : public Module {
 public:
  using Family = SequenceMixer;
  using Args = SequenceArgs;
  static constexpr const char* kFamily = "SequenceMixer";
  static FamilyInfo family();
  virtual Tensor forward(const Tensor& x, const SequenceArgs& args = {}) = 0;
  Tensor operator()(const Tensor& x, const SequenceArgs& args = {}) {
    return with_hooks(x, [&](const Tensor& in) { return forward(in, args); });
  }
  bool runs_hooks() const override { return true; }
  /// Empty state for batches of `batch` and at most max_len real tokens each. Error when the member
  /// cannot decode with these options.
  virtual Box<SequenceState> init_state(int64_t batch, int64_t max_len,
                                        const StateOptions& options = {});
  /// x_t [B, n, D]: the next n tokens -> their outputs [B, n, D], equal to the matching rows of
  /// forward(). With padding, each entry's outputs are those of the entry alone without its
  /// padding.
  virtual Tensor step(const Tensor& x_t, SequenceState& state, const StepArgs& args = {});
  /// True when outputs never depend on later inputs.
  virtual bool causal() const { return false; }
  NamedTensors call(const NamedTensors& in) override;

 protected:
  /// key_padding_mask, attn_mask and global_attention_mask of named inputs.
  static SequenceArgs args_of(const NamedTensors& in);
};

}  // namespace dropin
