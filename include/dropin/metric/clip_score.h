// CLIPScore: how well a caption fits an image, by the angle of their embeddings.
#pragma once
#include "dropin/core/options.h"
#include "dropin/ops/ops.h"

namespace dropin {

struct ClipScoreOptions {
  double weight = 2.5;
  bool clamp = true;
  static void fields(auto&& f) {
    f("weight", &ClipScoreOptions::weight, "factor of the cosine");
    f("clamp", &ClipScoreOptions::clamp, "negative cosines count as 0");
  }
};
/// y[n] = weight max(cos(image_features[n], text_features[n]), 0) (Hessel et al. 2021). Both
/// [N, E]; a zero vector scores 0. Differentiable.
Tensor clip_score(const Tensor& image_features, const Tensor& text_features,
                  const ClipScoreOptions& o = {});

}  // namespace dropin
