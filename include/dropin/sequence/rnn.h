// LSTM and GRU, PyTorch's parameters (weight_ih_l0, ...), batch first.
#pragma once
#include "dropin/module/init.h"
#include "dropin/sequence/common.h"

namespace dropin {

struct RNNOptions {
  int64_t input_size = 0, hidden_size = 0;  ///< required, unless embed_dim gives both
  int64_t num_layers = 1;
  bool bias = true;
  double dropout = 0;
  bool bidirectional = false;
  int64_t embed_dim = 0;
  static void fields(auto&& f) {
    using O = RNNOptions;
    f("input_size", &O::input_size, "width of x; required, unless embed_dim is given");
    f("hidden_size", &O::hidden_size,
      "width of the state and of y; required, unless embed_dim is given");
    f("num_layers", &O::num_layers, "layers stacked");
    f("bias", &O::bias, "biases b_ih and b_hh");
    f("dropout", &O::dropout, "on what every layer but the last gives, when training");
    f("bidirectional", &O::bidirectional,
      "a second set of layers reads from the end; y holds both, 2 hidden_size wide");
    f("embed_dim", &O::embed_dim,
      "sets input_size and hidden_size, as other sequence mixers are told");
  }
};

/// What unroll() may be told besides its input.
struct RecurrentArgs {
  Tensor h_0;      ///< [layers * directions, B, hidden_size]; undefined: 0
  Tensor c_0;      ///< the same, of LSTM
  Tensor lengths;  ///< [B] int64: steps of each entry that count, as pack_padded_sequence's
  Tensor key_padding_mask;  ///< [B, L] bool, true = padding; not with lengths
};
/// Outputs and last states, as torch.nn.LSTM returns them.
struct RecurrentResult {
  Tensor y;         ///< [B, L, directions * hidden_size], 0 at padded steps
  Tensor h_n, c_n;  ///< [layers * directions, B, hidden_size]; c_n undefined without cells
};
/// [B] int64 lengths -> key_padding_mask [B, max_len] bool, true from each length on. OptionError
/// for lengths that are negative or above max_len.
Tensor padding_of_lengths(const Tensor& lengths, int64_t max_len);

/// Hidden (and cell) states, [layers, B, hidden].
struct RecurrentState : SequenceState {
  using SequenceState::SequenceState;
  Tensor h, c;
  detail::Snapshots kept;
  void parts(auto&& f) { f(h, 1), f(c, 1), f(kept.before, 1); }

 protected:
  Box<SequenceState> pick(const std::vector<int64_t>& rows) const override {
    return detail::picked(*this, rows);
  }
  void take_back(int64_t n, const std::vector<int64_t>&) override {
    const Tensors then = kept.take_back(n);
    h = then[0], c = then[1];
  }
};

namespace detail {
/// Options that the property tests run besides the defaults.
std::vector<std::string> recurrent_examples();
/// What LSTM and GRU share: parameters, the loop over layers and time.
class RecurrentLayer : public SequenceMixer {
 public:
  Tensor forward(const Tensor& x, const SequenceArgs& args = {}) override;
  /// With first and last states: what torch's layers take and return. x [B, L, input_size].
  RecurrentResult unroll(const Tensor& x, const RecurrentArgs& args = {});
  bool causal() const override { return directions_ == 1; }
  /// One direction only. The state is h (and c), max_len is not a limit. options.keep = n keeps n
  /// more of them, and the last n tokens of each step are taken one by one.
  Box<SequenceState> init_state(int64_t batch, int64_t max_len,
                                const StateOptions& options = {}) override;
  Tensor step(const Tensor& x_t, SequenceState& state, const StepArgs& args = {}) override;

 protected:
  void build(const RNNOptions& o, int64_t gates);
  /// One time step from the input's gates gi [B, gates * hidden]; h and c are replaced.
  virtual void cell(const Tensor& gi, const Tensor& w_hh, const Tensor& b_hh, Tensor& h,
                    Tensor& c) const = 0;
  virtual bool has_cell() const = 0;

 private:
  struct Weights {
    Tensor *w_ih, *w_hh, *b_ih, *b_hh;
  };
  void check_input(const Tensor& x) const;
  /// All layers from the states in s, which are replaced. Steps that padding [B, L] (or undefined)
  /// names leave the state as it is, and their output is 0.
  Tensor run(const Tensor& x, const Tensor& padding, RecurrentState& s) const;
  /// One layer in one direction.
  Tensor run_layer(const Weights& w, const Tensor& x, const Tensor& padding, bool reverse,
                   Tensor& h, Tensor& c) const;
  /// States of 0.
  Box<RecurrentState> first_state(int64_t batch) const;
  std::vector<Weights> layers_;  ///< layer after layer, of each its directions
  int64_t input_ = 0, hidden_ = 0, directions_ = 1;
  double dropout_ = 0;
};
}  // namespace detail

/// Long short-term memory (Hochreiter & Schmidhuber 1997): x [B, L, input_size] -> [B, L,
/// hidden_size]. torch.nn.LSTM, batch_first. i, f, o = sigmoid(W x + b + U h + c) and g = tanh(...)
/// of their own rows; c' = f c + i g, h' = o tanh(c'). Padded steps leave the state as it is and
/// give 0. Parameters per layer k: weight_ih_l<k>, weight_hh_l<k>, bias_ih_l<k>, bias_hh_l<k>, rows
/// in the order i, f, g, o; with bidirectional the same again, named ..._reverse.
class LSTM : public Component<LSTM, RNNOptions, detail::RecurrentLayer> {
 public:
  static constexpr const char* kSummary = "recurrent layer with a gated memory cell";
  static std::vector<std::string> examples() { return detail::recurrent_examples(); }
  explicit LSTM(const RNNOptions& o) : Component(o) { build(o, 4); }

 protected:
  void cell(const Tensor& gi, const Tensor& w_hh, const Tensor& b_hh, Tensor& h,
            Tensor& c) const override;
  bool has_cell() const override { return true; }
};

/// Gated recurrent unit (Cho et al. 2014): x [B, L, input_size] -> [B, L, hidden_size].
/// torch.nn.GRU, batch_first. r, z = sigmoid(W x + b + U h + c) of their own rows; n = tanh(W_n x +
/// b_n + r (U_n h + c_n)); h' = (1 - z) n + z h. Padded steps leave the state as it is and give 0.
/// Parameters as LSTM, rows in the order r, z, n.
class GRU : public Component<GRU, RNNOptions, detail::RecurrentLayer> {
 public:
  static constexpr const char* kSummary = "recurrent layer with update and reset gates";
  static std::vector<std::string> examples() { return detail::recurrent_examples(); }
  explicit GRU(const RNNOptions& o) : Component(o) { build(o, 3); }

 protected:
  void cell(const Tensor& gi, const Tensor& w_hh, const Tensor& b_hh, Tensor& h,
            Tensor& c) const override;
  bool has_cell() const override { return false; }
};

}  // namespace dropin
