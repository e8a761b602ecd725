// Upsample: pictures and signals of another size.
#pragma once
#include "dropin/module/unary.h"
#include "dropin/ops/resize.h"

namespace dropin {

struct UpsampleOptions {
  std::vector<int64_t> size = {};
  std::vector<double> scale_factor = {};
  std::string mode = "nearest";
  bool align_corners = false;
  static void fields(auto&& f) {
    using O = UpsampleOptions;
    f("size", &O::size, "sizes of the result; empty: by scale_factor");
    f("scale_factor", &O::scale_factor, "result over input, one number or one per dimension");
    f("mode", &O::mode, "nearest, nearest-exact, linear, bilinear, bicubic or area");
    f("align_corners", &O::align_corners, "(linear, bilinear, bicubic) the corners' centres stay");
  }
};
/// x [B, C, L] or [B, C, H, W] resized by interpolate(). torch.nn.Upsample.
class Upsample : public Component<Upsample, UpsampleOptions, Layer> {
 public:
  static constexpr const char* kSummary = "pictures or signals of another size";
  static std::vector<std::string> examples() {
    return {R"({"mode": "bilinear"})", R"({"mode": "bilinear", "align_corners": true})",
            R"({"scale_factor": [1.5, 0.6], "mode": "bicubic"})",
            R"({"scale_factor": [], "size": [7, 4], "mode": "nearest-exact"})"};
  }
  explicit Upsample(const UpsampleOptions& o) : Component(o) {
    DROPIN_CHECK(o.size.empty() != o.scale_factor.empty(), OptionError, who(),
                 ": expected one of size and scale_factor");
  }
  Tensor forward(const Tensor& x) override {
    return interpolate(x, {.size = options_.size,
                           .scale_factor = options_.scale_factor,
                           .mode = options_.mode,
                           .align_corners = options_.align_corners});
  }
};

}  // namespace dropin
