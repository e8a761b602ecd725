// GuidanceLoss: the contract of losses that guide an image by a text, on their embeddings.
#pragma once
#include "dropin/module/family.h"

namespace dropin {

/// Embeddings beside the image's and the text's; all may stay undefined.
struct GuidanceArgs {
  Tensor image_source;     ///< [B, d]: directions start here
  Tensor text_source;      ///< like text
  Tensor image_reference;  ///< [B, d]: what the image should stay near
};
struct Guidance {
  Tensor loss;        ///< [], or [B] without a reduction
  Tensor similarity;  ///< [B], no gradient
};

/// image [B, d], text [1 or B, d] -> loss [], similarity [B]. Standard member: DirectionalCLIPLoss.
class GuidanceLoss : public Module {
 public:
  using Family = GuidanceLoss;
  using Args = GuidanceArgs;
  static constexpr const char* kFamily = "GuidanceLoss";
  static FamilyInfo family();
  virtual Guidance forward(const Tensor& image, const Tensor& text,
                           const GuidanceArgs& args = {}) = 0;
  Guidance operator()(const Tensor& image, const Tensor& text, const GuidanceArgs& args = {}) {
    return forward(image, text, args);
  }
  NamedTensors call(const NamedTensors& in) override;
};

}  // namespace dropin
