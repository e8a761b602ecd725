// FastForgetfulMemory: a bank of decaying, oscillating traces in place of a recurrent layer.
#pragma once
#include "dropin/sequence/common.h"

namespace dropin {

struct FastForgetfulMemoryOptions {
  int64_t input_size = 0, memory_size = 0, context_size = 0, output_size = 0;  ///< required
  int64_t hidden_size = 0;
  double min_period = 1, max_period = 1024, forgotten_at = 0.01;
  int64_t max_len = 1024;
  bool learn_decay = true, learn_oscillate = true, decay = true, oscillate = true;
  bool clamp_single_step = false, batch_first = true;
  static void fields(auto&& f) {
    using O = FastForgetfulMemoryOptions;
    f("input_size", &O::input_size, "d, width of x; required");
    f("memory_size", &O::memory_size, "m, rates of decay; required");
    f("context_size", &O::context_size, "c, frequencies; required");
    f("output_size", &O::output_size, "o, width of y; required");
    f("hidden_size", &O::hidden_size, "accepted and ignored, for the authors' call sites");
    f("min_period", &O::min_period, "shortest initial period");
    f("max_period", &O::max_period,
      "longest initial period, and when the slowest trace is forgotten");
    f("forgotten_at", &O::forgotten_at, "what is left of the slowest trace at max_period");
    f("max_len", &O::max_len, "sets the greatest rate of decay; any length is allowed");
    f("learn_decay", &O::learn_decay, "rates of decay have a gradient");
    f("learn_oscillate", &O::learn_oscillate, "frequencies have a gradient");
    f("decay", &O::decay, "false: rates start at 0");
    f("oscillate", &O::oscillate, "false: frequencies start at 1e-6");
    f("clamp_single_step", &O::clamp_single_step,
      "rates are kept in their range for a single token too");
    f("batch_first", &O::batch_first, "false: x and y are [T, B, *]");
  }
};

/// What a call may be told besides its input.
struct FastForgetfulMemoryArgs {
  Tensor state;             ///< [B, m, c, 2]; zeros
  Tensor start;             ///< [B, T] bool: an episode begins here, what came before is forgotten
  Tensor key_padding_mask;  ///< [B, T] bool: leaves the state as it is, y is 0
};

/// v, thru, g_in, g_out = pre(x_t); S_t = gamma S_{t-1} + v sigmoid(g_in), gamma = exp(a + i b);
/// y_t = LN(mix(S_t)) sigmoid(g_out) + thru (1 - sigmoid(g_out)) (Morad et al. 2023, section 4).
/// Replaces GRU: one scan in place of matrix products token by token. x [B, T, d] -> y [B, T, o].
/// Rates a are projected onto [-limit, -1e-8], limit = log(1.8e308) / max_len - 0.01, when there is
/// more than one token: written back in training, with a gradient as if they had not been.
/// Parameters pre.weight [2m + 2o, d], pre.bias, ffa.a [1, 1, m], ffa.b [1, 1, c], mix.weight [o,
/// 2mc], mix.bias, as the authors'.
class FastForgetfulMemory
    : public Component<FastForgetfulMemory, FastForgetfulMemoryOptions, SequenceMixer> {
 public:
  static constexpr const char* kSummary = "decaying, oscillating traces in one scan";
  static constexpr const char* kReplaces = "GRU";
  static constexpr const char* kPaper =
      "Morad et al. 2023 (Fast and Forgetful Memory), arXiv 2310.04128";
  static constexpr const char* kCall =
      "x [B, T, d], state [B, m, c, 2], start and key_padding_mask [B, T] bool -> y [B, T, o], "
      "state";
  static std::vector<std::string> examples();
  /// Its gradient passes the projection of the rates.
  static void traits(const Options&, Traits& t) { t.surrogate_gradient = true; }
  static Json options_from(std::string_view component, const Json& options, const Json& around);
  explicit FastForgetfulMemory(const FastForgetfulMemoryOptions& o);

  struct Result {
    Tensor y;      ///< [B, T, o]
    Tensor state;  ///< [B, m, c, 2], after the last token
  };
  Result forward(const Tensor& x, const FastForgetfulMemoryArgs& args);
  Tensor forward(const Tensor& x, const SequenceArgs& args = {}) override;
  NamedTensors call(const NamedTensors& in) override;
  bool causal() const override { return true; }
  /// Zeros [B, m, c, 2].
  Tensor initial_state(int64_t batch) const;
  /// One token: x_t [B, d] -> y [B, o] and the next state; forward() of one token.
  Result step(const Tensor& x_t, const Tensor& state);
  /// The state is [B, m, c, 2], max_len is not a limit. options.keep = n keeps n more of them.
  Box<SequenceState> init_state(int64_t batch, int64_t max_len,
                                const StateOptions& options = {}) override;
  Tensor step(const Tensor& x_t, SequenceState& state, const StepArgs& args = {}) override;
  /// The greatest rate of decay.
  double limit() const;

 private:
  struct State;
  void check(const Tensor& x, const FastForgetfulMemoryArgs& args) const;
  Result run(const Tensor& x, const FastForgetfulMemoryArgs& args);
  /// [m, c, 2] for a call of so many tokens.
  Tensor multipliers(int64_t tokens);
  Child<Linear> pre_, mix_;
  Tensor *a_, *b_;
};

}  // namespace dropin
