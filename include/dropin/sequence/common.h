// What the members of the room share: checks, states of keys and values, initial values, PyTorch's
// packed names.
#pragma once
#include <typeinfo>

#include "dropin/module/state_names.h"
#include "dropin/projection/linear.h"
#include "dropin/sequence/contract.h"

namespace dropin {

/// Parameters with options for the optimizer: optimizer.add_param_group(g.params, g.options).
struct ParameterHint {
  Tensors params;
  Json options;  ///< {} for the optimizer's own
};

namespace detail {
/// Splits PyTorch's packed in_proj_weight / in_proj_bias under `prefix` into q_proj, k_proj,
/// v_proj, and renames q_proj_weight, ...
void translate_in_proj(StateDict& state, const std::string& prefix,
                       std::vector<std::string>& renamed);
/// The checks of options that all attention layers share.
void check_heads_options(std::string_view who, int64_t embed_dim, int64_t num_heads,
                         const std::string& rope, double dropout);
/// query [B, Lq, D], key [B, Lk, kdim], value [B, Lk, vdim].
void check_attention_inputs(std::string_view who, const Tensor& query, const Tensor& key,
                            const Tensor& value, int64_t embed_dim, int64_t kdim, int64_t vdim);
/// attn_mask is undefined, [Lq, Lk] or [B, 1 or H, Lq, Lk]; returns it.
Tensor check_attn_mask(std::string_view who, const Tensor& mask, int64_t batch, int64_t heads,
                       int64_t lq, int64_t lk);
/// PyTorch's start: weights xavier_uniform (packed: as one [3D, D] matrix), out_proj Linear's
/// default, biases 0.
void init_attention(const Child<Linear>& q, const Child<Linear>& k, const Child<Linear>& v,
                    const Child<Linear>& out, bool packed);
/// The checks all attention layers share: x is [B, L, D], masks have the right shape and dtype.
void check_sequence(std::string_view who, const Tensor& x, int64_t embed_dim,
                    const SequenceArgs& args);
/// [B, L] bool, when defined.
void check_mask(std::string_view who, const char* name, const Tensor& mask, const Tensor& x);
/// OptionError when an argument that the member cannot use was given: "who: name is not supported:
/// why".
void refuse(std::string_view who, const char* name, const Tensor& given, const char* why);
/// Keys or values [B, H, L, Dh] that are 0 at padded places, so that nothing leaks from there, into
/// gradients neither.
Tensor without_padding(const Tensor& heads, const Tensor& key_padding_mask);
inline constexpr const char* kNoGlobalTokens = "this member has no global tokens";
inline constexpr const char* kNoPositions = "nothing here depends on positions";

// --- what the states of step() share

/// Where an entry of the batch stands.
struct StateRow {
  int64_t length = 0;  ///< real tokens seen
  int64_t start = 0;   ///< what a member counts from: the oldest token still held, or the
                       ///< tokens that came at once
  bool operator==(const StateRow&) const = default;
};

/// The tokens of one step: how many of each entry are real, and where they stand.
struct StepTokens {
  int64_t n = 0;               ///< tokens, padding included
  std::vector<int64_t> fresh;  ///< [B]: real ones
  Tensor padding;              ///< [B, n] bool on the CPU; undefined: all are real
  Tensor hidden;               ///< the same where the layer computes
  Tensor order;                ///< [B, n]: the real tokens first
  Tensor place;                ///< [B, n]: where a token lies in that order
  Tensor positions;            ///< [B, n] int64 in that order; undefined unless given
  /// x with the real tokens first along `dim` (dim 0 is the batch), then zeros.
  Tensor packed(const Tensor& x, int64_t dim) const;
  /// Back to the order of the call; padding gets 0.
  Tensor unpacked(const Tensor& y, int64_t dim) const;
};

/// What a member's step() can be told, and how wide its tokens are.
struct StepLimits {
  int64_t width;
  bool causal = true;          ///< OptionError otherwise
  bool positions = false;      ///< StepArgs::positions has a meaning
  bool global_tokens = false;  ///< StepArgs::global_attention_mask has a meaning
};
/// The checks that every step() makes, before it changes anything.
StepTokens check_step(std::string_view who, const Tensor& x_t, const SequenceState& state,
                      const StepArgs& args, const StepLimits& limits);
/// StateError when the real tokens do not fit into max_len.
void check_room(std::string_view who, const std::vector<StateRow>& rows, const StepTokens& tokens,
                int64_t max_len);
/// init_state()'s checks.
void check_state_sizes(std::string_view who, int64_t batch, int64_t max_len,
                       const StateOptions& options, bool global_tokens = false);
/// A member's own state behind the general one.
template <class State>
State& own_state(std::string_view who, SequenceState& state) {
  DROPIN_CHECK(typeid(state) == typeid(State), StateError, who,
               ": step() was given the state of another layer type");
  return static_cast<State&>(state);
}

/// Neighbouring entries that stand alike and take equally many tokens: they are computed together.
struct RowRun {
  int64_t begin, rows, fresh;
  Tensor of(const Tensor& x) const { return x.narrow(0, begin, rows); }
  /// Their real tokens in x packed along `dim`.
  Tensor fresh_of(const Tensor& x, int64_t dim) const { return of(x).narrow(dim, 0, fresh); }
};
std::vector<RowRun> runs_of(const std::vector<StateRow>& rows, const StepTokens& tokens);

/// f(run), outputs of a run's real tokens along `dim`, over all runs; `sizes` is the whole result.
/// f makes the rows' lengths grow.
template <class F>
Tensor step_rows(const std::vector<StateRow>& rows, const StepTokens& tokens, const Shape& sizes,
                 int64_t dim, const TensorOptions& like, F&& f) {
  Tensor y;
  const std::vector<RowRun> runs = runs_of(rows, tokens);
  if (runs.size() != 1 || tokens.padding.defined() || tokens.n == 0) y = zeros(sizes, like);
  for (const RowRun& run : runs) {
    if (run.fresh == 0) continue;
    const Tensor part = f(run);
    if (y.defined())
      run.fresh_of(y, dim).copy_(part);
    else
      y = part;
  }
  return tokens.unpacked(y, dim);
}

/// Takes the entries `rows` of what a state holds: tensors (the batch is dimension `dim`), lists of
/// tensors, and numbers per entry.
class RowPicker {
 public:
  explicit RowPicker(const std::vector<int64_t>& rows) : rows_(rows) {}
  void operator()(Tensor& t, int64_t dim = 0) const;
  void operator()(std::vector<Tensors>& lists, int64_t dim) const;
  void operator()(std::vector<StateRow>& rows) const;

 private:
  const std::vector<int64_t>& rows_;
};
/// SequenceState::pick() of a state whose parts(f) calls f for all it holds per entry.
template <class State>
Box<SequenceState> picked(const State& from, const std::vector<int64_t>& rows) {
  auto s = Box<State>(new State(from));
  s->parts(RowPicker(rows));
  return s;
}

/// The states before the last `keep` tokens, for members whose state is a few tensors.
struct Snapshots {
  int64_t keep = 0;
  std::vector<Tensors> before;  ///< oldest first
  void push(Tensors state);
  /// The state before the last n tokens; forgets it and what came after.
  Tensors take_back(int64_t n);
};
/// f(first, count) over n tokens, one by one where their states are kept; `now` gives the state.
template <class F, class Now>
Tensor step_remembered(Snapshots& kept, int64_t n, F&& f, Now&& now) {
  const int64_t head = n - (std::min)(n, kept.keep);
  Tensors out;
  if (head > 0 || n == 0) out.push_back(f(int64_t{0}, head));
  for (int64_t t = head; t < n; ++t) {
    kept.push(now());
    out.push_back(f(t, int64_t{1}));
  }
  return out.size() == 1 ? out[0] : concat(out, 1);
}

/// The last tokens that a short convolution sees, [B, keep + window, C], and those that may be
/// needed when `keep` tokens are taken back.
struct RecentTokens {
  Tensor data;
  int64_t window = 0, keep = 0, kept = 0;
  RecentTokens() = default;
  RecentTokens(int64_t batch, int64_t window, int64_t channels, const StateOptions& options,
               const TensorOptions& like);
  /// The window and then x [B, n, C], whose real tokens come first.
  Tensor before(const Tensor& x) const;
  void push(const Tensor& x, const StepTokens& tokens);
  void take_back(int64_t n, const std::vector<int64_t>& real);
};
}  // namespace detail

/// A mixer with q_proj, k_proj, v_proj, out_proj [D, D]; PyTorch's packed names are accepted.
class ProjectedMixer : public SequenceMixer {
 protected:
  /// Creates them; initial values as init_attention()'s.
  void add_projections(int64_t embed_dim, bool bias, bool out_bias);
  /// Other weights, by a function of their sizes; biases are 0.
  void init_projections(Tensor (*init)(const Shape& sizes));
  void translate_state(StateDict& state, const std::string& prefix,
                       std::vector<std::string>& renamed) const override;
  Child<Linear> q_proj_, k_proj_, v_proj_, out_proj_;
};

/// Keys (rotated) and values of the real tokens seen so far, [B, Hk, capacity, Dh]: token t of
/// entry b lies in column t - rows[b].start.
struct KeyValueState : SequenceState {
  Tensor keys, values;
  Tensor positions;  ///< [B, capacity] int64; undefined while no step named any
  std::vector<detail::StateRow> rows;
  int64_t max_len = 0;

  KeyValueState(int64_t batch, int64_t max_len, int64_t heads, int64_t capacity, int64_t width,
                const TensorOptions& like);
  /// StateError unless it was made for so many heads of such a width.
  void check_heads(std::string_view who, int64_t heads, int64_t width) const;
  /// All that a step() of `heads` heads of `width` checks, before it changes anything.
  detail::StepTokens check_step(std::string_view who, const Tensor& x_t, const StepArgs& args,
                                const detail::StepLimits& limits, int64_t heads,
                                int64_t width) const;
  /// Real tokens that a run's rows have seen.
  int64_t length_of(const detail::RowRun& run) const {
    return rows[static_cast<std::size_t>(run.begin)].length;
  }
  /// Appends k and v [R, Hk, n, Dh], the next of a run's tokens; returns all held for it.
  std::pair<Tensor, Tensor> append(const detail::RowRun& run, const Tensor& k, const Tensor& v);
  /// Notes the positions of a run's tokens before append(), when some are named; returns whether
  /// distances must be counted by them.
  bool append_positions(const detail::RowRun& run, const detail::StepTokens& tokens);
  /// ALiBi's penalties [R, H, n, held] of the run's last n tokens, by positions.
  Tensor alibi(const detail::RowRun& run, int64_t heads, const TensorOptions& like) const;
  /// Sets ALiBi for a run's step, before append(): the kernel's own, or a mask by named positions.
  void set_alibi(AttentionParams& p, const detail::RowRun& run, const detail::StepTokens& tokens,
                 int64_t heads, const TensorOptions& like);
  /// Forgets the run's tokens before `first`; the rest moves to the front.
  void forget(const detail::RowRun& run, int64_t first);
  /// The oldest token that token t needs.
  virtual int64_t first_needed(int64_t) const { return 0; }
  void parts(auto&& f) { f(keys), f(values), f(positions), f(rows); }

 protected:
  Box<SequenceState> pick(const std::vector<int64_t>& r) const override {
    return detail::picked(*this, r);
  }
  void take_back(int64_t n, const std::vector<int64_t>& real) override;
};

namespace detail {
/// x turned to the positions of a run's tokens, of which the first is number `start`.
Tensor rope_of(const RowRun& run, const StepTokens& tokens, const Tensor& x,
               const std::string& style, double base, int64_t start);
}  // namespace detail

}  // namespace dropin
