// FastMaskIoUNet: how good is a mask?
#pragma once
#include "dropin/activation/activation.h"
#include "dropin/convolution/conv.h"
#include "dropin/model/contract.h"
#include "dropin/module/sequential.h"

namespace dropin {

struct FastMaskIoUNetOptions {
  int64_t num_classes = 80;
  std::vector<int64_t> channels{8, 16, 32, 64, 128};
  static void fields(auto&& f) {
    using O = FastMaskIoUNetOptions;
    f("num_classes", &O::num_classes, "classes without background");
    f("channels", &O::channels, "widths of the 3x3 convolutions, each of which halves the mask");
  }
};
/// Predicts the IoU of a mask with the truth for every class (YOLACT++, Bolya et al. 2022, section
/// 5): unpadded 3x3 convolutions of stride 2, a 1x1, ReLU after each, the greatest value over the
/// mask. x [N, 1, h, w]: soft masks, cropped, not thresholded -> [N, num_classes], at least 0.
/// Parameters maskiou_net.<2 i>.weight and .bias. Errors: ShapeError when a side is too small for
/// the layers (63 for five).
class FastMaskIoUNet : public Component<FastMaskIoUNet, FastMaskIoUNetOptions, Model> {
 public:
  static constexpr const char* kSummary = "predicts the IoU of masks";
  static constexpr const char* kSample = R"({"num_classes": 3, "channels": [3, 4]})";
  static Sample sample(const Options&, const SampleSpec& s) { return sample_maps(s, 1, 8, 8); }
  static constexpr const char* kPaper = "Bolya et al. 2022, arXiv 1912.06218";
  explicit FastMaskIoUNet(const FastMaskIoUNetOptions& o);
  Tensor forward(const Tensor& x) override;
  /// The prediction for one class per mask, [N], computing nothing for the others; classes int64
  /// [N]. IndexError for a class outside [0, num_classes).
  Tensor forward(const Tensor& x, const Tensor& classes);

 private:
  void check(const Tensor& x) const;
  Child<Sequential> net_;
};

}  // namespace dropin
