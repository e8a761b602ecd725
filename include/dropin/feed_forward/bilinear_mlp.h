// BilinearMLP: a gated layer without a nonlinearity, and its analysis from weights alone.
#pragma once
#include "dropin/feed_forward/feed_forward.h"

namespace dropin {

struct BilinearMLPOptions {
  int64_t d_model = 0;   ///< required
  int64_t d_hidden = 0;  ///< required
  int64_t d_out = 0;     ///< 0: d_model
  std::string gate = "none";
  bool bias = false;
  double noise = 0;
  static void fields(auto&& f) {
    using O = BilinearMLPOptions;
    f("d_model", &O::d_model, "d; required");
    f("d_hidden", &O::d_hidden, "h, width between; required");
    f("d_out", &O::d_out, "o, width of the output; 0: d_model");
    f("gate", &O::gate, "on the left factor: \"none\" (bilinear) or \"relu\"");
    f("bias", &O::bias, "biases of both linear maps");
    f("noise", &O::noise, "normal noise on x, in units of its standard deviation, when training");
  }
};

/// Which eigenvectors BilinearMLP::truncated() keeps.
enum class KeptPairs { Largest, EachSign };

/// y = o (left * right), left and right the halves of w x (Pearce et al. 2025): each output
/// direction is a quadratic form of x. Replaces GatedMLP and MLP. x [*, d_model] -> [*, d_out].
/// Parameters w.weight [2h, d] (left half first), o.weight [o, h], w.bias [2h], o.bias [o]; initial
/// values as Linear's. The analysis is of gate "none" only, else OptionError; with biases it is of
/// (x, 1), D = d + 1.
class BilinearMLP : public Component<BilinearMLP, BilinearMLPOptions, FeedForward> {
 public:
  static constexpr const char* kSummary = "a gated layer without activation, readable from weights";
  static constexpr const char* kReplaces = "GatedMLP";
  static constexpr const char* kPaper = "Pearce et al. 2025, arXiv 2410.08417";
  static std::vector<std::string> examples();
  static void traits(const Options& o, Traits& t) {
    t.random_in_training = t.mixes_batch = o.noise > 0;
  }
  static Json options_from(std::string_view component, const Json& options, const Json& around);
  explicit BilinearMLP(const BilinearMLPOptions& o);
  /// A bilinear layer with the weights of a gated one (gate, up, down), for fine-tuning.
  static Box<BilinearMLP> from_swiglu(const GatedMLP& gated);
  Tensor forward(const Tensor& x) override;

  /// The quadratic forms Q [K, D, D] of directions u [K, d_out]: u y = x^T Q x (+ u o.bias).
  Tensor interaction(const Tensor& u) const;
  struct Eigen {
    Tensor values;   ///< [K, D], ascending
    Tensor vectors;  ///< [K, D, D] as rows, the entry of largest magnitude positive
  };
  Eigen eigen(const Tensor& u) const;
  /// u y [N, K] from k eigenpairs: those of largest magnitude, or k / 2 of each sign. x [N, d].
  Tensor truncated(const Tensor& u, int64_t k, const Tensor& x,
                   KeptPairs keep = KeptPairs::Largest) const;
  struct Directions {
    Tensor values;        ///< [k] singular values, descending
    Tensor outputs;       ///< [k, d_out] most important output directions
    Tensor interactions;  ///< [k, D, D] their interaction matrices, of norm 1
  };
  /// Singular value decomposition of the interaction tensor [d_out, D D].
  Directions hosvd(int64_t k) const;

 private:
  void check_bilinear(const char* what) const;
  Child<Linear> w_, o_;
};

struct BilinearEigen {
  Tensor interaction;    ///< [K, D, D]
  Tensor eigenvalues;    ///< [K, D], ascending
  Tensor eigenvectors;   ///< [K, D, D] as rows
  Tensor contributions;  ///< [N, K, D]: lambda_i (v_i x)^2; undefined without x
};
/// The analysis of a bilinear layer's weights: w_weight [2h, d], o_weight [o, h], directions [K,
/// o], x [N, d] and w_bias [2h] or undefined. Not differentiable: AutogradError in backward. Error
/// when weights or directions are not finite.
BilinearEigen bilinear_eigen(const Tensor& w_weight, const Tensor& o_weight,
                             const Tensor& directions, const Tensor& x = {},
                             const Tensor& w_bias = {});

}  // namespace dropin
