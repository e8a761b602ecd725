// TransformCoder: the contract of coders of blocks. DCT2d, AdaptiveTransformCoder.
#pragma once
#include "dropin/module/unary.h"
#include "dropin/projection/linear.h"

namespace dropin {

struct CoderArgs {
  Tensor rate;     ///< [B]: place on the rate-distortion curve, whole or between; zeros
  Tensor context;  ///< [B, context_dim]: what both sides know
  Tensor noise;    ///< [B, n n]: in training, in place of drawn noise
};
struct Coded {
  Tensor y;        ///< [B, n, n]
  Tensor bits;     ///< [B]
  Tensor loss;     ///< []
  Tensor symbols;  ///< [B, n n] int64, in evaluation
};

/// x [B, n, n], rate [B] -> y [B, n, n], bits [B], loss []. Standard member: DCTCoder.
class TransformCoder : public Module {
 public:
  using Family = TransformCoder;
  static constexpr const char* kFamily = "TransformCoder";
  static FamilyInfo family();
  virtual Coded forward(const Tensor& x, const CoderArgs& args = {}) = 0;
  Coded operator()(const Tensor& x, const CoderArgs& args = {}) { return forward(x, args); }
  NamedTensors call(const NamedTensors& in) override;
};

struct DCT2dOptions {
  int64_t block_size = 0;  ///< required
  bool inverse = false;
  static void fields(auto&& f) {
    f("block_size", &DCT2dOptions::block_size, "n, side of a block; required");
    f("inverse", &DCT2dOptions::inverse, "from coefficients back");
  }
};
/// The orthonormal cosine transform of blocks: y = C x C^T, C_ki = sqrt(2 / n) cos(pi (2 i + 1) k /
/// (2 n)), row 0 over sqrt(2) (Ahmed et al. 1974); inverse C^T x C. x [*, n, n].
class DCT2d : public Component<DCT2d, DCT2dOptions, Layer> {
 public:
  static constexpr const char* kSummary = "the cosine transform of blocks";
  static constexpr const char* kCall = "x [*, n, n] -> y [*, n, n]";
  static constexpr const char* kSample = R"({"block_size": 5})";
  static std::vector<std::string> examples() { return {R"({"inverse": true})"}; }
  static Sample sample(const Options& o, const SampleSpec& s);
  explicit DCT2d(const DCT2dOptions& o);
  Tensor forward(const Tensor& x) override;
  /// C [n, n], float64.
  static Tensor matrix(int64_t n);
};

struct AdaptiveTransformCoderOptions {
  int64_t block_size = 0;            ///< required
  std::vector<double> lambdas = {};  ///< required
  std::string transform = "dct", distribution = "laplace";
  int64_t context_dim = 0, hidden = 0;
  bool flat_steps = false;
  static void fields(auto&& f) {
    using O = AdaptiveTransformCoderOptions;
    f("block_size", &O::block_size, "n, side of a block; required");
    f("lambdas", &O::lambdas, "price of distortion at each rate, growing; required");
    f("transform", &O::transform, "dct, linear or mlp");
    f("distribution", &O::distribution, "of the symbols: laplace, logistic or gaussian");
    f("context_dim", &O::context_dim, "width of the context");
    f("hidden", &O::hidden, "of mlp; 0: n n");
    f("flat_steps", &O::flat_steps, "one step for all coefficients");
  }
};

/// A transform that serves all rates, and per rate a quantization matrix and an entropy model that
/// follows a context (after Duong et al. 2023, whose text was not at hand: the forms are ours).
/// Training adds uniform noise in place of rounding; evaluation rounds, with a gradient straight
/// through. loss = mean of bits / n^2 + lambda times the mean squared error. Parameters log_step
/// and raw_scale [R, n n] (log_step [R, 1] with flat_steps), context_proj.weight [n n,
/// context_dim], analysis.weight, synthesis.weight [n n, n n] (linear, mlp), analysis_mlp.fc1,
/// analysis_mlp.fc2, synthesis_mlp.fc1, synthesis_mlp.fc2 (mlp).
class AdaptiveTransformCoder
    : public Component<AdaptiveTransformCoder, AdaptiveTransformCoderOptions, TransformCoder> {
 public:
  static constexpr const char* kSummary = "learned quantization and entropy model for all rates";
  static constexpr const char* kReplaces = "DCTCoder";
  static constexpr const char* kPaper = "Duong et al. 2023, arXiv 2210.14308";
  static constexpr const char* kCall =
      "x [B, n, n], rate [B], context [B, C], noise [B, n n] -> y [B, n, n], bits [B], loss [], "
      "symbols [B, n n] int64";
  static constexpr const char* kSample = R"({"block_size": 3, "lambdas": [0.5, 2]})";
  static std::vector<std::string> examples();
  static void traits(const Options&, Traits& t) {
    t.surrogate_gradient = t.random_in_training = true;
  }
  static Sample sample(const Options& o, const SampleSpec& s);
  explicit AdaptiveTransformCoder(const AdaptiveTransformCoderOptions& o);
  Coded forward(const Tensor& x, const CoderArgs& args = {}) override;
  /// Symbols [B, n n] int64 of blocks. OptionError for numbers beyond 2^53 steps.
  Tensor encode(const Tensor& x, const CoderArgs& args = {});
  /// Blocks [B, n, n] of symbols.
  Tensor decode(const Tensor& symbols, const CoderArgs& args = {});
  /// A coder of one rate, whose tables are this one's at `rate`.
  Box<AdaptiveTransformCoder> at(double rate) const;

 private:
  /// Two rows of the tables and how far between them each block stands.
  struct Places {
    Tensor low, high, share;  ///< [B] int64 twice, [B, 1]
  };
  int64_t size() const { return options_.block_size * options_.block_size; }
  int64_t rates() const { return static_cast<int64_t>(options_.lambdas.size()); }
  void check_inputs(const Tensor& x, const CoderArgs& args) const;
  Places places(const Tensor& rate, int64_t batch, const TensorOptions& like) const;
  Tensor row(const Tensor& table, const Places& p) const;
  Tensor lambdas(const Places& p, const TensorOptions& like) const;
  Tensor analysed(const Tensor& v) const;
  Tensor synthesised(const Tensor& w) const;
  Tensor bits_of(const Tensor& q, const Places& p, const Tensor& context) const;
  Tensor *log_step_, *raw_scale_;
  Child<Linear> context_proj_, analysis_, synthesis_, analysis_fc1_, analysis_fc2_, synthesis_fc1_,
      synthesis_fc2_;
};

}  // namespace dropin
