// HyenaFilter and HyenaOperator: convolutions as long as the sequence, with filters that a small
// network makes from positions.
#pragma once
#include <cmath>

#include "dropin/convolution/contract.h"
#include "dropin/projection/linear.h"
#include "dropin/sequence/common.h"

namespace dropin {

struct HyenaFilterOptions {
  int64_t d_model = 0;  ///< required
  int64_t l_max = 0;    ///< required
  int64_t filter_order = 64, emb_dim = 3, num_inner_mlps = 2;
  double w = 1;
  bool modulate = true;
  double shift = 0, fast_decay_pct = 0.3, slow_decay_pct = 1.5, target = 0.01;
  bool normalized = false, bias = true;
  double lr = 1e-3, wd = 0, lr_pos_emb = 1e-5;
  static void fields(auto&& f) {
    using O = HyenaFilterOptions;
    f("d_model", &O::d_model, "C, channels of the filter; required");
    f("l_max", &O::l_max, "P, longest sequence; required");
    f("filter_order", &O::filter_order, "F, width of the filter network");
    f("emb_dim", &O::emb_dim, "E, features per position: odd, at least 3");
    f("num_inner_mlps", &O::num_inner_mlps,
      "n, layers between the first and the last of the filter network");
    f("w", &O::w, "initial frequency of the sines");
    f("modulate", &O::modulate, "exponential window over the filters");
    f("shift", &O::shift, "added to the window");
    f("fast_decay_pct", &O::fast_decay_pct,
      "share of l_max after which the fastest window has fallen to `target`");
    f("slow_decay_pct", &O::slow_decay_pct, "the same for the slowest window");
    f("target", &O::target, "what the windows fall to at their decay share");
    f("normalized", &O::normalized,
      "divides the filters at each position by their absolute sum over channels");
    f("bias", &O::bias, "adds D u; without it the parameter stays, unused");
    f("lr", &O::lr, "learning rate for the filter network, in param_groups()");
    f("wd", &O::wd, "weight decay for the filter network, in param_groups()");
    f("lr_pos_emb", &O::lr_pos_emb,
      "learning rate for the table of positions, in param_groups(); 0: the table is a buffer");
  }
};

namespace detail {

/// The table of positions: z [1, P, E] and t [1, P, 1].
class HyenaPositions : public Module {
 public:
  HyenaPositions(int64_t l_max, int64_t emb_dim, bool learned);
  Tensor *z, *t;
};
/// sin(freq x) with freq [1, F].
class HyenaSine : public Module {
 public:
  HyenaSine(int64_t width, double w) { freq = &parameter("freq", full({1, width}, w)); }
  Tensor* freq;
};
/// Linear layers 0, 2, ..., 2n + 2 with one sine between them, 1. Checkpoints that repeat its
/// frequency as 3.freq, 5.freq, ... are accepted when the copies are equal, and StateError
/// otherwise.
class HyenaNetwork : public Module {
 public:
  explicit HyenaNetwork(const HyenaFilterOptions& o);
  Tensor forward(const Tensor& z) const;

 protected:
  void translate_state(StateDict& state, const std::string& prefix,
                       std::vector<std::string>& renamed) const override;

 private:
  std::vector<Child<Linear>> linear_;
  HyenaSine* sine_;
};
class HyenaWindow : public Module {
 public:
  explicit HyenaWindow(const HyenaFilterOptions& o);
  Tensor* deltas;  ///< [1, 1, C]
};

/// One step's filter: k [C, L], its skip coefficients D [C] or undefined, and its transform where
/// one is kept.
struct HyenaTaps {
  Tensor k, D, spectrum;
};

}  // namespace detail

/// Long convolution with a generated filter (Poli et al. 2023, section 3.3): y = fft_conv(x,
/// filter(L)^T, bias), x [B, C, L] -> [B, C, L], 1 <= L <= l_max. filter = window *
/// network(positions), where positions are rows of a table (not rescaled to L), the network an MLP
/// with sines of one shared frequency vector, and the window exp(-t |delta_c|) + shift. Replaces a
/// very long Conv1d(groups = C). Parameters bias [C], pos_emb.z [1, P, E], implicit_filter.{0, 2,
/// ..., 2n}.weight / bias, implicit_filter.1.freq [1, F], implicit_filter.{2n+2}.weight [C, F];
/// buffers pos_emb.t [1, P, 1], modulation.deltas [1, 1, C]. Outside of recording the filter and
/// its transform are kept until a parameter changes.
class HyenaFilter : public Component<HyenaFilter, HyenaFilterOptions, ImageMixer> {
 public:
  static constexpr const char* kCall = "x [B, C, L] -> y [B, C, L]";
  static constexpr const char* kSummary = "long convolution with a generated filter";
  static constexpr const char* kSample = R"({"d_model": 4, "l_max": 16, "filter_order": 6})";
  static Sample sample(const Options& o, const SampleSpec& s) {
    return sample_signals(s, o.d_model, o.l_max);
  }
  static constexpr const char* kReplaces = "Conv1d";
  static constexpr const char* kPaper = "Poli et al. 2023, arXiv 2302.10866";
  static std::vector<std::string> examples();
  explicit HyenaFilter(const HyenaFilterOptions& o);
  HyenaFilter(HyenaFilter&&) noexcept;
  ~HyenaFilter() override;
  /// The filters, [L, C].
  Tensor filter(int64_t length) const;
  Tensor forward(const Tensor& x) override;
  /// The filters of `steps` convolutions of C / steps channels: filter c of step o is number c
  /// steps + o (channel_major) or o C / steps + c of filter().
  std::vector<detail::HyenaTaps> taps(int64_t length, int64_t steps = 1,
                                      bool channel_major = true) const;
  /// The filter network with lr and wd, the table of positions with lr_pos_emb, the rest with the
  /// optimizer's own options.
  std::vector<ParameterHint> param_groups() const;

 protected:
  void state_changed() override;

 private:
  struct Kept;
  std::vector<detail::HyenaTaps> make_taps(int64_t length, int64_t steps, bool channel_major) const;
  Tensor* bias_;
  detail::HyenaPositions* positions_;
  detail::HyenaNetwork* network_;
  detail::HyenaWindow* window_;
  Box<Kept> kept_;
};

struct HyenaOperatorOptions {
  int64_t d_model = 0;  ///< required
  int64_t l_max = 0;    ///< required
  int64_t order = 2, filter_order = 64, emb_dim = 3, num_inner_mlps = 2;
  double w = 1;
  int64_t short_filter_order = 3;
  bool modulate = true;
  double shift = 0, fast_decay_pct = 0.3, slow_decay_pct = 1.5, target = 0.01;
  bool normalized = false, bias = true;
  std::string activation = "id";
  double dropout = 0;
  std::string filter_layout = "channel_major";
  double lr = 1e-3, wd = 0, lr_pos_emb = 1e-5;
  int64_t num_heads = 1, num_blocks = 1;
  static void fields(auto&& f) {
    using O = HyenaOperatorOptions;
    f("d_model", &O::d_model, "D; required");
    f("l_max", &O::l_max, "P, longest sequence; required");
    f("order", &O::order, "N: N - 1 long convolutions and N gates; at least 2");
    f("filter_order", &O::filter_order, "F, width of the filter network");
    f("emb_dim", &O::emb_dim, "E, features per position: odd, at least 3");
    f("num_inner_mlps", &O::num_inner_mlps,
      "n, layers between the first and the last of the filter network");
    f("w", &O::w, "initial frequency of the sines");
    f("short_filter_order", &O::short_filter_order,
      "K, taps of the short convolution after the input projection");
    f("modulate", &O::modulate, "exponential window over the filters");
    f("shift", &O::shift, "added to the window");
    f("fast_decay_pct", &O::fast_decay_pct,
      "share of l_max after which the fastest window has fallen to `target`");
    f("slow_decay_pct", &O::slow_decay_pct, "the same for the slowest window");
    f("target", &O::target, "what the windows fall to at their decay share");
    f("normalized", &O::normalized,
      "divides the filters at each position by their absolute sum over channels");
    f("bias", &O::bias,
      "adds D v to each long convolution; without it the parameter stays, unused");
    f("activation", &O::activation, "before the output projection: \"id\" or \"gelu\"");
    f("dropout", &O::dropout, "on the input of each long convolution, when training");
    f("filter_layout", &O::filter_layout,
      "which filter serves step o, channel c: \"channel_major\" (c (N - 1) + o) or \"order_major\" "
      "(o D + c)");
    f("lr", &O::lr, "learning rate for the filter network, in param_groups()");
    f("wd", &O::wd, "weight decay for the filter network, in param_groups()");
    f("lr_pos_emb", &O::lr_pos_emb,
      "learning rate for the table of positions, in param_groups(); 0: the table is a buffer");
    f("num_heads", &O::num_heads, "only 1");
    f("num_blocks", &O::num_blocks, "only 1");
  }
};

/// Hyena (Poli et al. 2023, section 3): gates and long convolutions in place of attention, x [B, L,
/// D] -> [B, L, D], strictly causal, O(L log L). u = short_filter(in_proj(x)) splits into x_0 ...
/// x_{N-1}, v; v <- h^o * (v x_{N-1-o}) + D^o v x_{N-1-o} for o = 0 ... N - 2; out_proj(act(v
/// x_0)). Padded positions (key_padding_mask) count as zeros before the short convolution and in
/// every long one. ShapeError for L = 0 and L > l_max. Parameters in_proj, out_proj (.weight,
/// .bias), short_filter.weight [(N+1)D, 1, K], short_filter.bias, and those of HyenaFilter under
/// filter_fn. Rounding in float32: a changed x[t0] moves earlier outputs by at most 3e-7 of the
/// largest value of each convolution (see fft_conv).
class HyenaOperator : public Component<HyenaOperator, HyenaOperatorOptions, SequenceMixer> {
 public:
  static constexpr const char* kSummary = "gated convolutions as long as the sequence";
  static constexpr const char* kReplaces = "MultiheadAttention";
  static constexpr const char* kPaper = "Poli et al. 2023, arXiv 2302.10866";
  /// Transforms of u, of the filter and back, for each of the order - 1 long convolutions.
  static double core_flops(const Options& o, const Shape& x) {
    const double l = static_cast<double>(x[1]), d = static_cast<double>(o.d_model);
    return static_cast<double>(o.order - 1) * d * l *
           ((2 * static_cast<double>(x[0]) + 1) * 5 * std::log2(l + 1) +
            6 * static_cast<double>(x[0]));
  }
  static std::vector<std::string> examples();
  static constexpr const char* kSample =
      R"({"d_model": 8, "l_max": 16, "filter_order": 6, "num_heads": 1})";
  /// In place of an attention: its width, and the longest sequence of the model around it. (An
  /// attention's bias is another thing.)
  static Json options_from(std::string_view component, const Json& options, const Json& around);
  explicit HyenaOperator(const HyenaOperatorOptions& o);
  Tensor forward(const Tensor& x, const SequenceArgs& args = {}) override;
  bool causal() const override { return true; }
  /// Exact generation by blocked online convolution (relaxed multiplication, van der Hoeven 1997;
  /// "Flash Inference", Oncescu et al. 2024): inputs of each finished block of 2^p tokens are
  /// carried to the next 2^p outputs by one transform, O(log^2 L) per token on average and O(L)
  /// memory; the first call may bring any number of tokens at the cost of one transform of max_len.
  /// OptionError when max_len > l_max. options.keep = n keeps n more inputs of the short
  /// convolution
  /// ((N + 1) D numbers each); rollback() itself costs a transform of max_len per long convolution
  /// and entry.
  Box<SequenceState> init_state(int64_t batch, int64_t max_len,
                                const StateOptions& options = {}) override;
  Tensor step(const Tensor& x_t, SequenceState& state, const StepArgs& args = {}) override;
  /// filter_fn's groups (HyenaFilter::param_groups), and the projections with the optimizer's own
  /// options.
  std::vector<ParameterHint> param_groups() const;

 private:
  Tensor activate(const Tensor& y) const;
  HyenaFilter& filter() const;
  Child<Linear> in_proj_, out_proj_;
  Tensor *short_weight_, *short_bias_;
  Child<HyenaFilter> filter_;
};

}  // namespace dropin
