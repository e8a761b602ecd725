// Codebooks: trained by gradient, or by moving averages of what falls to each code.
#pragma once
#include "dropin/quantizer/contract.h"

namespace dropin {

/// The codes of a quantizer [K, D], under the name that PyTorch's tables have: weight.
class Codebook : public Module {
 public:
  /// learned: a parameter, else a buffer.
  Codebook(const Tensor& codes, bool learned)
      : weight_(learned ? &parameter("weight", codes) : &buffer("weight", codes)) {}
  std::string_view type() const override { return "Codebook"; }
  Tensor& weight() const { return *weight_; }

 private:
  Tensor* weight_;
};

struct VectorQuantizerOptions {
  int64_t num_embeddings = 1024, embedding_dim = 256;
  double commitment_cost = 0.25;
  int64_t channel_dim = -1;
  static void fields(auto&& f) {
    using O = VectorQuantizerOptions;
    f("num_embeddings", &O::num_embeddings, "codes K");
    f("embedding_dim", &O::embedding_dim, "width D of a code");
    f("commitment_cost", &O::commitment_cost, "of the distance of x from its code");
    f("channel_dim", &O::channel_dim, "where x has D: -1 (last) or 1");
  }
};

/// y = the nearest code, with x's gradient straight through; loss = mean (code - sg(x))^2 +
/// commitment_cost mean (sg(code) - x)^2 (van den Oord et al. 2017). Parameter embedding.weight
/// [K, D].
class VectorQuantizer : public Component<VectorQuantizer, VectorQuantizerOptions, Quantizer> {
 public:
  static constexpr const char* kSummary = "the nearest of K codes, trained by gradient";
  static constexpr const char* kPaper = "van den Oord et al. 2017, arXiv 1711.00937";
  static constexpr const char* kSample = R"({"num_embeddings": 7, "embedding_dim": 6})";
  static void traits(const VectorQuantizerOptions&, Traits& t) { t.surrogate_gradient = true; }
  explicit VectorQuantizer(const VectorQuantizerOptions& o);
  Quantized forward(const Tensor& x, const Tensor& lengths = {}) override;

 private:
  Child<Codebook> codes_;
};

struct SegmentalUnitQuantizerOptions {
  int64_t num_embeddings = 1024, embedding_dim = 256;
  double commitment_cost = 1, decay = 0.99, eps = 1e-8, init_std = 1, init_ema_mass = 1;
  bool nonneg_init = false;
  double jitter = 0;
  bool official_jitter = false, normalize = false;
  int64_t channel_dim = -1;
  static void fields(auto&& f) {
    using O = SegmentalUnitQuantizerOptions;
    f("num_embeddings", &O::num_embeddings, "codes K");
    f("embedding_dim", &O::embedding_dim, "width D of a code");
    f("commitment_cost", &O::commitment_cost, "of the distance of x from its code");
    f("decay", &O::decay, "of the moving averages");
    f("eps", &O::eps, "smooths the sizes of the codes");
    f("init_std", &O::init_std, "of the codes to start with");
    f("init_ema_mass", &O::init_ema_mass, "of each code to start with");
    f("nonneg_init", &O::nonneg_init, "no negative codes to start with");
    f("jitter", &O::jitter, "in training, the chance to take each neighbouring frame's code");
    f("official_jitter", &O::official_jitter, "by 0, 1 and 2 frames, as the authors' code does");
    f("normalize", &O::normalize, "frames and codes at length 1");
    f("channel_dim", &O::channel_dim, "where x has D: -1 (last) or 1");
  }
};

/// Codes that follow the frames that fall to them (Hsu et al. 2021, arXiv 2012.15454). Training: y
/// is the code with x's gradient straight through; evaluation: the code, without gradient. loss =
/// commitment_cost mean (sg(code) - x)^2 over the frames within lengths. Buffers embedding.weight
/// [K, D], ema_cluster_size [K], ema_w [K, D]; no parameters. Call ema_update() after each forward
/// in training.
class SegmentalUnitQuantizer
    : public Component<SegmentalUnitQuantizer, SegmentalUnitQuantizerOptions, Quantizer> {
 public:
  static constexpr const char* kSummary =
      "the nearest of K codes, which follow moving averages of their frames";
  static constexpr const char* kReplaces = "VectorQuantizer";
  static constexpr const char* kPaper = "Hsu et al. 2021, arXiv 2012.15454";
  static constexpr const char* kSample = R"({"num_embeddings": 7, "embedding_dim": 6})";
  static std::vector<std::string> examples();
  static void traits(const SegmentalUnitQuantizerOptions& o, Traits& t) {
    t.surrogate_gradient = true;
    t.random_in_training = o.jitter > 0;
  }
  explicit SegmentalUnitQuantizer(const SegmentalUnitQuantizerOptions& o);
  Quantized forward(const Tensor& x, const Tensor& lengths = {}) override;
  /// Moves the codes by the last forward's frames. StateError in evaluation, or before a forward;
  /// Error for frames with NaN or infinity.
  void ema_update();
  /// Puts a random frame of the last forward in place of each code of a smaller size; how many.
  int64_t reset_dead_codes(double threshold, Generator* g = nullptr);
  /// Indices without repeats, see run_length_collapse().
  struct Units units(const Tensor& x, const Tensor& lengths = {});

 protected:
  void translate_state(StateDict& state, const std::string& prefix,
                       std::vector<std::string>& renamed) const override;

 private:
  Tensor jittered(const Tensor& y) const;
  Child<Codebook> codes_;
  Tensor *size_, *sum_;
  Tensor frames_, frame_codes_;  ///< of the last forward in training, those that count
};

namespace detail {
/// OptionError unless 0 <= decay < 1 and eps > 0.
void check_moving_average(std::string_view who, double decay, double eps);
}  // namespace detail

struct VqEmaUpdateOptions {
  double decay = 0.99, eps = 1e-8;
  static void fields(auto&& f) {
    f("decay", &VqEmaUpdateOptions::decay, "of the moving averages");
    f("eps", &VqEmaUpdateOptions::eps, "smooths the sizes of the codes");
  }
};
struct VqEma {
  Tensor embedding, ema_cluster_size, ema_w;  ///< [K, D], [K], [K, D]
};
/// The codebook moved by frames x [N, D] that fell to codes `indices` int64 [N]; without frames
/// only the decay acts.
VqEma vq_ema_update(const Tensor& x, const Tensor& indices, const VqEma& before,
                    const VqEmaUpdateOptions& o = {});

/// A sequence of units and how long each lasts.
struct Units {
  Tensor units;         ///< int64 [B, T], -1 behind the last
  Tensor durations;     ///< int64 [B, T], 0 behind the last
  Tensor unit_lengths;  ///< int64 [B]
};
/// Drops repeats of indices int64 [B, T] within lengths int64 [B] (undefined: T).
Units run_length_collapse(const Tensor& indices, const Tensor& lengths = {});
/// Ids of a vocabulary whose first `specials` ids are pad (0), bos, eos, unk; -1 becomes pad.
Tensor units_to_tokens(const Tensor& units, int64_t specials = 4);
/// The reverse; special ids become -1.
Tensor tokens_to_units(const Tensor& tokens, int64_t specials = 4);

}  // namespace dropin
