// MatrixMixer: one block, many classes of mixing matrices, to compare them under equal conditions.
#pragma once
#include "dropin/module/parameters.h"
#include "dropin/norm/norm.h"
#include "dropin/sequence/common.h"

namespace dropin {

struct MatrixMixerOptions {
  std::string matrix_mixer_type = "quasiseparable";
  bool is_data_dependent = true;
  int64_t d_model = 0, qk_dim = 0, max_seq_len = 0;  ///< required
  int64_t d_conv = 7, expand = 2, headdim = 128;
  bool bias = false;
  std::string toeplitz_alignment = "exact";
  static void fields(auto&& f) {
    using O = MatrixMixerOptions;
    f("matrix_mixer_type", &O::matrix_mixer_type,
      "dense, low_rank, attention, cauchy, vandermonde, dft, toeplitz or quasiseparable");
    f("is_data_dependent", &O::is_data_dependent, "the matrix is made from the tokens");
    f("d_model", &O::d_model, "width of x; required");
    f("qk_dim", &O::qk_dim, "width of the factors per head; required");
    f("max_seq_len", &O::max_seq_len, "Lm: sizes the tables and scales the matrix; required");
    f("d_conv", &O::d_conv, "taps of the convolution: odd");
    f("expand", &O::expand, "inner width E over d_model");
    f("headdim", &O::headdim, "P, channels that share a matrix; divides E");
    f("bias", &O::bias, "biases of in_proj and out_proj");
    f("toeplitz_alignment", &O::toeplitz_alignment,
      "exact, or official: shifted by one, as the authors' code is");
  }
};

/// y = scale M v + v per head in HydraMixer's block, for the matrix classes of Hwang et al. 2024,
/// section 2. Replaces MultiheadAttention, for study: all but quasiseparable form M [L, L]. x
/// [B, L, d_model]; no mask. Parameters in_proj, conv1d, norm, out_proj as HydraMixer;
/// matrix_mixer.bias [1] (cauchy), matrix_mixer.M [H, Lm, Lm] (dense), matrix_mixer.q_matrix and
/// k_matrix [Lm, H, qk] (low_rank and cauchy, not data-dependent), matrix_mixer.dt_bias, A_log, D
/// [H] and fc_D.weight [H, E] (quasiseparable).
class MatrixMixer : public Component<MatrixMixer, MatrixMixerOptions, SequenceMixer> {
 public:
  static constexpr const char* kSummary = "one block with any of eight classes of matrices";
  static constexpr const char* kReplaces = "MultiheadAttention";
  static constexpr const char* kPaper = "Hwang et al. 2024 (Hydra), arXiv 2407.09941";
  static constexpr const char* kCall = "x [B, L, D] -> y [B, L, D]";
  static constexpr const char* kSample =
      R"({"headdim": 4, "qk_dim": 3, "max_seq_len": 16, "d_conv": 5})";
  static std::vector<std::string> examples();
  static void traits(const Options& o, Traits& t) {
    t.takes_no_mask = true;
    t.fixed_length = o.matrix_mixer_type == "toeplitz";
  }
  static Json options_from(std::string_view component, const Json& options, const Json& around);
  explicit MatrixMixer(const MatrixMixerOptions& o);
  Tensor forward(const Tensor& x, const SequenceArgs& args = {}) override;

 private:
  int64_t inner() const { return options_.expand * options_.d_model; }
  int64_t heads() const { return inner() / options_.headdim; }
  bool is(const char* type) const { return options_.matrix_mixer_type == type; }
  void check_options() const;
  /// Columns of in_proj between v and the end that the convolution covers.
  int64_t extras() const;
  void add_matrix_parameters();
  /// scale M [B or 1, H, L, L] from the extras [B, L, *].
  Tensor matrix(const Tensor& extras, int64_t length) const;
  Tensor cauchy(const Tensor& q, const Tensor& k) const;
  Tensor vandermonde(const Tensor& q, const Tensor& k) const;
  Tensor toeplitz(const Tensor& extras) const;
  Tensor quasiseparable(const Tensor& v, const Tensor& extras, const Tensor& steps) const;
  Child<Linear> in_proj_, out_proj_, fc_D_;
  Child<RMSNorm> norm_;
  Tensor *conv_weight_, *conv_bias_, *table_ = nullptr, *q_ = nullptr, *k_ = nullptr,
                                     *shift_ = nullptr, *dt_bias_ = nullptr, *A_log_ = nullptr,
                                     *D_ = nullptr;
};

}  // namespace dropin
