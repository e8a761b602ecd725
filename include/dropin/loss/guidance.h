// Losses that guide an image by a text: on directions (StyleGAN-NADA), and on the geodesic between
// subspaces of directions.
#pragma once
#include "dropin/loss/contract.h"

namespace dropin {

struct DirectionalCLIPLossOptions {
  std::string text_reduce = "none", reduction = "mean";
  static void fields(auto&& f) {
    using O = DirectionalCLIPLossOptions;
    f("text_reduce", &O::text_reduce, "\"none\", or \"mean\": one direction of all text rows");
    f("reduction", &O::reduction, "\"mean\", \"sum\" or \"none\"");
  }
};

/// loss = mean over rows of 1 - x y: x the direction from image_source to image, y from text_source
/// to text (Gal et al. 2021, arXiv 2108.00946). A row that has not moved from its source counts by
/// its tiny difference itself.
class DirectionalCLIPLoss
    : public Component<DirectionalCLIPLoss, DirectionalCLIPLossOptions, GuidanceLoss> {
 public:
  static constexpr const char* kSummary = "angle between the directions of image and text";
  static constexpr const char* kPaper = "Gal et al. 2021, arXiv 2108.00946";
  static std::vector<std::string> examples();
  explicit DirectionalCLIPLoss(const DirectionalCLIPLossOptions& o = {});
  Guidance forward(const Tensor& image, const Tensor& text, const GuidanceArgs& args = {}) override;
};

struct GeodesicDistillationLossOptions {
  std::string text_reduce = "none", reduction = "mean";
  double inter_weight = 1, intra_weight = 1;
  int64_t source_dim = 128, target_dim = 128;
  std::string center = "feature";
  double rank_tol = 1e-5;
  bool detach_kernel = true;
  static void fields(auto&& f) {
    using O = GeodesicDistillationLossOptions;
    f("text_reduce", &O::text_reduce, "\"none\", or \"mean\": one direction of all text rows");
    f("reduction", &O::reduction, "\"mean\", \"sum\" or \"none\"");
    f("inter_weight", &O::inter_weight, "of the similarity of image and text directions");
    f("intra_weight", &O::intra_weight, "of the similarity of image and image_reference");
    f("source_dim", &O::source_dim, "most dimensions of the images' subspace");
    f("target_dim", &O::target_dim, "most dimensions of the texts' subspace");
    f("center", &O::center,
      "\"feature\": minus each row's mean; \"sample\": minus the mean row; \"none\"");
    f("rank_tol", &O::rank_tol, "singular values below this share of the largest do not count");
    f("detach_kernel", &O::detach_kernel, "no gradient through the subspaces");
  }
};

/// Similarity of directions on the geodesic between their subspaces (Oh et al. 2024, arXiv
/// 2401.10526): 1 - cosine under the geodesic flow kernel of the rows' subspaces, and with
/// image_reference the same of image and reference. Computed in float64. Error for NaN or infinity,
/// for a text that is its source, and for a subspace without dimensions.
class GeodesicDistillationLoss
    : public Component<GeodesicDistillationLoss, GeodesicDistillationLossOptions, GuidanceLoss> {
 public:
  static constexpr const char* kSummary =
      "angle between the directions of image and text on the geodesic of their subspaces";
  static constexpr const char* kReplaces = "DirectionalCLIPLoss";
  static constexpr const char* kPaper = "Oh et al. 2024, arXiv 2401.10526";
  static std::vector<std::string> examples();
  static void traits(const GeodesicDistillationLossOptions& o, Traits& t) {
    t.surrogate_gradient = o.detach_kernel;
  }
  explicit GeodesicDistillationLoss(const GeodesicDistillationLossOptions& o = {});
  Guidance forward(const Tensor& image, const Tensor& text, const GuidanceArgs& args = {}) override;
};

}  // namespace dropin
