// Attentive local features: a pooling head that learns where to look, and the way from its scores
// to keypoints, matches and a map between two pictures.
#pragma once
#include "dropin/convolution/conv.h"
#include "dropin/detection/pooling.h"

namespace dropin {

struct AttentiveLocalFeaturesOptions {
  int64_t in_channels = 0;  ///< required
  int64_t hidden = 512;
  std::string pooling = "mean";
  bool normalize_features = true;
  double bn_eps = 1e-3;
  bool detach_features = false;
  int64_t reduced_dim = 0;
  static void fields(auto&& f) {
    using O = AttentiveLocalFeaturesOptions;
    f("in_channels", &O::in_channels, "C, channels of the map; required");
    f("hidden", &O::hidden, "width of the attention head");
    f("pooling", &O::pooling, "mean or sum of the weighed places");
    f("normalize_features", &O::normalize_features, "places at length 1 before pooling");
    f("bn_eps", &O::bn_eps, "added to the head's variance");
    f("detach_features", &O::detach_features, "no gradient into x");
    f("reduced_dim", &O::reduced_dim, "width of an autoencoder's code, the descriptor; 0: none");
  }
};

/// y = mean of a F / |F| over the places of a map F, with scores a = softplus(conv2(relu(BN(conv1
/// F)))) (Noh et al. 2017, section 4). x [B, C, H, W] -> y [B, C], scores [B, H, W]. Replaces
/// average pooling in training; its scores choose keypoints afterwards (select_local_features).
/// With reduced_dim, the head reads the expansion of a code that is given too, with its
/// reconstruction loss. Parameters attention.conv1, attention.bn1, attention.conv2 (.weight,
/// .bias), autoencoder.conv1, autoencoder.conv2; buffers attention.bn1.running_mean, running_var.
class AttentiveLocalFeatures
    : public Component<AttentiveLocalFeatures, AttentiveLocalFeaturesOptions, Pooling> {
 public:
  static constexpr const char* kSummary = "a mean weighed by learned attention to places";
  static constexpr const char* kReplaces = "GlobalAvgPool2d";
  static constexpr const char* kPaper = "Noh et al. 2017 (DELF), arXiv 1612.06321";
  static constexpr const char* kCall = "x [B, C, H, W] -> y [B, C], scores [B, H, W]";
  static constexpr const char* kSample = R"({"hidden": 6})";
  static std::vector<std::string> examples();
  static void traits(const Options& o, Traits& t) {
    t.mixes_batch = true;
    t.surrogate_gradient = o.detach_features;
  }
  struct Result {
    Tensor y;                            ///< [B, C]
    Tensor scores;                       ///< [B, H, W]
    Tensor descriptors, reconstruction;  ///< [B, reduced_dim, H, W], []; with reduced_dim only
  };
  explicit AttentiveLocalFeatures(const AttentiveLocalFeaturesOptions& o);
  Tensor forward(const Tensor& x) override { return attend(x).y; }
  Result attend(const Tensor& x);
  NamedTensors call(const NamedTensors& in) override;

 private:
  Child<Conv2d> conv1_, conv2_, reduce_, expand_;
  Tensor *bn_weight_, *bn_bias_, *bn_mean_, *bn_var_;
};

struct SelectLocalFeaturesOptions {
  std::vector<double> scales = {1};
  double receptive_field = 291, stride = 32, padding = 145, score_threshold = 1.5, nms_iou = 1;
  int64_t max_features = 1000, pca_dim = 40;
  bool whitening = false;
  static void fields(auto&& f) {
    using O = SelectLocalFeaturesOptions;
    f("scales", &O::scales, "of the levels of the pyramid");
    f("receptive_field", &O::receptive_field, "side of what a place sees");
    f("stride", &O::stride, "between neighbouring places");
    f("padding", &O::padding, "of the first place's field");
    f("score_threshold", &O::score_threshold, "least score of a keypoint");
    f("nms_iou", &O::nms_iou, "fields that overlap a better one more than that are dropped");
    f("max_features", &O::max_features, "keypoints at most");
    f("pca_dim", &O::pca_dim, "width of the descriptors");
    f("whitening", &O::whitening, "divides by the root of each direction's variance");
  }
};
struct LocalFeatures {
  Tensor locations;       ///< [M, 2]: x, y in the picture
  Tensor descriptors;     ///< [M, pca_dim]
  Tensor scores;          ///< [M], descending
  Tensor feature_scales;  ///< [M]: 1 / scale
};
/// The best places of a pyramid as keypoints. features: [C, H, W] per level, scores: [H, W] per
/// level, pca_mean [C], pca_matrix [C, C] of which the first rows count, pca_variance [C] with
/// whitening. Equal scores keep the order of level, row and column; NaN is no score. No gradient.
LocalFeatures select_local_features(const Tensors& features, const Tensors& scores,
                                    const Tensor& pca_mean, const Tensor& pca_matrix,
                                    const Tensor& pca_variance,
                                    const SelectLocalFeaturesOptions& o);

struct Pca {
  Tensor mean;      ///< [C]
  Tensor matrix;    ///< [C, C]: rows by descending variance, the largest entry positive
  Tensor variance;  ///< [C]
};
/// Principal directions of descriptors [N, C], N >= 1.
Pca fit_pca(const Tensor& descriptors);

struct MatchLocalFeaturesOptions {
  double distance_threshold = 0.8;
  bool mutual = false;
  double ratio = 0;
  static void fields(auto&& f) {
    using O = MatchLocalFeaturesOptions;
    f("distance_threshold", &O::distance_threshold, "matches are closer");
    f("mutual", &O::mutual, "each is the other's nearest");
    f("ratio", &O::ratio, "matches are closer than that times the second nearest; 0: any");
  }
};
/// For each of descriptors_2 [N2, D] the nearest of descriptors_1 [N1, D], the first on ties, or
/// -1: int64 [N2]. No gradient.
Tensor match_local_features(const Tensor& descriptors_1, const Tensor& descriptors_2,
                            const MatchLocalFeaturesOptions& o = {});

struct RansacAffineOptions {
  double residual_threshold = 20;
  int64_t min_samples = 3, max_trials = 1000, seed = 0;
  bool adaptive = false;
  static void fields(auto&& f) {
    using O = RansacAffineOptions;
    f("residual_threshold", &O::residual_threshold,
      "inliers are closer to where the map puts them");
    f("min_samples", &O::min_samples, "pairs that a map is made from, at least 3");
    f("max_trials", &O::max_trials, "maps tried");
    f("seed", &O::seed, "of the choice of pairs");
    f("adaptive", &O::adaptive, "stops when a better map has become unlikely (1 %)");
  }
};
struct AffineMap {
  Tensor inliers;      ///< [M] bool
  Tensor affine;       ///< [2, 3]: x' = A x + t
  Tensor num_inliers;  ///< [] int64
};
/// The affine map that most pairs locations_1 -> locations_2 [M, 2] follow, by least squares over
/// them. Fewer than min_samples pairs, or collinear ones only, give no inliers and the identity.
AffineMap ransac_affine(const Tensor& locations_1, const Tensor& locations_2,
                        const RansacAffineOptions& o = {});

}  // namespace dropin
