#include "dropin/metric/clip_score.h"

#include "dropin/ops/normalize.h"

namespace dropin {

Tensor clip_score(const Tensor& image_features, const Tensor& text_features,
                  const ClipScoreOptions& o) {
  const char* who = "clip_score";
  DROPIN_CHECK(image_features.dim() == 2 && image_features.sizes() == text_features.sizes(),
               ShapeError, who, ": image_features is ", image_features.sizes(), ", text_features ",
               text_features.sizes(), ", expected the same [N, E]");
  for (const Tensor& t : {image_features, text_features})
    DROPIN_CHECK(is_floating(t.dtype()), DTypeError, who, ": features are ", t.dtype(),
                 ", expected a floating-point tensor");
  const Tensor cosine = cosine_similarity(image_features, text_features);
  return (o.clamp ? relu(cosine) : cosine) * o.weight;
}

}  // namespace dropin
