// BinarySphericalQuantizer: codes without a codebook, a bit per channel.
#pragma once
#include "dropin/projection/linear.h"
#include "dropin/quantizer/contract.h"

namespace dropin {

struct BinarySphericalQuantizerOptions {
  int64_t embed_dim = 18, group_size = 9;
  double beta = 0, gamma_0 = 1, gamma_1 = 1;
  std::string input_format = "bchw", persample_entropy_compute = "group";
  bool l2_norm = true;
  double inv_temperature = 100, eps = 1e-8;
  bool normalize_input = false;
  static void fields(auto&& f) {
    using O = BinarySphericalQuantizerOptions;
    f("embed_dim", &O::embed_dim, "D, bits per position");
    f("group_size", &O::group_size, "g, bits whose codes are counted together: divides D, to 16");
    f("beta", &O::beta, "of the distance of x from its code");
    f("gamma_0", &O::gamma_0, "of the entropy of each position's soft code");
    f("gamma_1", &O::gamma_1, "of the entropy of their mean, which is wanted");
    f("input_format", &O::input_format, "bchw: x [B, D, H, W]; blc: x [..., D]");
    f("persample_entropy_compute", &O::persample_entropy_compute,
      "group: entropies of groups of bits; analytical: of single bits");
    f("l2_norm", &O::l2_norm, "codes of length 1");
    f("inv_temperature", &O::inv_temperature, "tau, sharpness of the soft codes");
    f("eps", &O::eps, "added to probabilities in entropies");
    f("normalize_input", &O::normalize_input, "x is brought to length 1 first");
  }
};

struct BinaryCodes {
  Tensor y;                 ///< like x: +-1 / sqrt(D) (or +-1), with x's gradient times that
  Tensor loss;              ///< [], to be added to the task's
  Tensor codebook_entropy;  ///< []
  Tensor indices;           ///< int64, channel 0 the most significant bit; undefined for D > 63
  Tensor group_indices;     ///< int64 [..., D / g]
};

/// The signs of x as a code (Zhao et al. 2024, section 3): no table, no search. loss = beta mean
/// |sg(y) - x|^2 + (gamma_0 mean H(soft code) - gamma_1 H(mean soft code)) / tau, soft codes as
/// products of sigmoids of 4 tau x_i / sqrt(D). At the default tau and x of length 1 these are all
/// but hard, and the entropies have next to no gradient, as in the authors' code. Sums in float32
/// at least. No parameters.
class BinarySphericalQuantizer
    : public Component<BinarySphericalQuantizer, BinarySphericalQuantizerOptions, Quantizer> {
 public:
  static constexpr const char* kSummary = "a bit per channel on the sphere, no codebook";
  static constexpr const char* kReplaces = "VectorQuantizer";
  static constexpr const char* kPaper = "Zhao et al. 2024 (BSQ), arXiv 2406.07548";
  static constexpr const char* kCall =
      "x [B, D, H, W] or [..., D] -> y, loss [], codebook_entropy [], indices, group_indices";
  static constexpr const char* kSample =
      R"({"embed_dim": 6, "group_size": 3, "inv_temperature": 2, "input_format": "blc"})";
  static std::vector<std::string> examples();
  static void traits(const Options&, Traits& t) { t.surrogate_gradient = true; }
  static Sample sample(const Options& o, const SampleSpec& s);
  explicit BinarySphericalQuantizer(const BinarySphericalQuantizerOptions& o);
  BinaryCodes codes(const Tensor& x) const;
  /// codes(), with exp(codebook_entropy) as the perplexity; lengths are refused.
  Quantized forward(const Tensor& x, const Tensor& lengths = {}) override;
  NamedTensors call(const NamedTensors& in) override;
  /// Indices of codes, given by the signs of y in the input's format.
  Tensor codes_to_indices(const Tensor& y) const;
  /// y in the input's format from indices, or from group indices [..., D / g].
  Tensor indices_to_codes(const Tensor& indices) const;
  Tensor group_indices_to_codes(const Tensor& group_indices) const;
  /// D bits per index, the most significant first, one after another: uint8 [ceil(n D / 8)].
  Tensor pack_bits(const Tensor& indices) const;
  /// The first n indices of pack_bits().
  Tensor unpack_bits(const Tensor& bytes, int64_t n) const;
  /// How many different indices there are.
  static int64_t usage(const Tensor& indices);

 private:
  bool channels_first() const { return options_.input_format == "bchw"; }
  double scale() const;
  Tensor channels_last(const Tensor& x) const;
  Tensor to_format(const Tensor& x) const;
  Tensor codes_of(const Tensor& bits) const;
  Tensor group_numbers(const Tensor& bits) const;
  Tensor numbers(const Tensor& bits) const;
  Tensor bits_of(const Tensor& numbers, int64_t count) const;
  /// The entropies of positions' soft codes, averaged, and of their mean.
  std::pair<Tensor, Tensor> entropies(const Tensor& z) const;
};

struct BSQBottleneckOptions {
  int64_t in_dim = 0, out_dim = 0;  ///< required
  int64_t hidden = 0, post_hidden = 0;
  int64_t embed_dim = 18, group_size = 9;
  double beta = 0, gamma_0 = 1, gamma_1 = 1;
  std::string input_format = "blc", persample_entropy_compute = "group";
  bool l2_norm = true;
  double inv_temperature = 100, eps = 1e-8;
  bool normalize_input = false;
  static void fields(auto&& f) {
    using O = BSQBottleneckOptions;
    f("in_dim", &O::in_dim, "width of x; required");
    f("out_dim", &O::out_dim, "width of y; required");
    f("hidden", &O::hidden, "width before the code; 0: in_dim");
    f("post_hidden", &O::post_hidden, "width after the code; 0: out_dim");
    f("embed_dim", &O::embed_dim, "D, bits per position");
    f("group_size", &O::group_size, "g, bits whose codes are counted together: divides D, to 16");
    f("beta", &O::beta, "of the distance of the projection from its code");
    f("gamma_0", &O::gamma_0, "of the entropy of each position's soft code");
    f("gamma_1", &O::gamma_1, "of the entropy of their mean, which is wanted");
    f("input_format", &O::input_format, "blc: x [..., in_dim]");
    f("persample_entropy_compute", &O::persample_entropy_compute,
      "group: entropies of groups of bits; analytical: of single bits");
    f("l2_norm", &O::l2_norm, "codes of length 1");
    f("inv_temperature", &O::inv_temperature, "tau, sharpness of the soft codes");
    f("eps", &O::eps, "added to probabilities in entropies");
    f("normalize_input", &O::normalize_input, "the projection is brought to length 1 once more");
  }
};

/// An MLP to the sphere, BinarySphericalQuantizer, and an MLP back (Zhao et al. 2025, section 3):
/// x [..., in_dim] -> y [..., out_dim], loss, indices. Parameters quant_embed.c_fc,
/// quant_embed.c_proj, quant_embed_post.c_fc, quant_embed_post.c_proj (.weight, .bias).
class BSQBottleneck : public Component<BSQBottleneck, BSQBottleneckOptions, Quantizer> {
 public:
  static constexpr const char* kSummary = "two MLPs with a binary code between them";
  static constexpr const char* kReplaces = "VectorQuantizer";
  static constexpr const char* kPaper = "Zhao et al. 2025 (QLIP), arXiv 2502.05178";
  static constexpr const char* kCall = "x [..., in_dim] -> y [..., out_dim], loss [], indices";
  static constexpr const char* kSample =
      R"({"in_dim": 6, "out_dim": 5, "embed_dim": 4, "group_size": 2, "inv_temperature": 2})";
  static void traits(const Options&, Traits& t) { t.surrogate_gradient = true; }
  static Sample sample(const Options& o, const SampleSpec& s) { return sample_rows(s, o.in_dim); }
  explicit BSQBottleneck(const BSQBottleneckOptions& o);
  Quantized forward(const Tensor& x, const Tensor& lengths = {}) override;
  NamedTensors call(const NamedTensors& in) override;
  /// Indices of x, and y of indices.
  Tensor encode(const Tensor& x);
  Tensor decode(const Tensor& indices);
  const BinarySphericalQuantizer& quantizer() const { return quantizer_; }

 private:
  Tensor projected(const Tensor& x);
  Tensor lifted(const Tensor& code);
  BinarySphericalQuantizer quantizer_;
  Child<Linear> embed_fc_, embed_proj_, post_fc_, post_proj_;
};

}  // namespace dropin
