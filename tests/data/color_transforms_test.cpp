// Changes of colors against torchvision 0.29.2's numbers.
#include <algorithm>
#include <cmath>

#include "dropin/data/transforms.h"
#include "support.h"

namespace dropin {
namespace {

using namespace transforms;
using testing::expect_values;
using testing::max_difference;
using Values = std::vector<double>;

Tensor bytes() { return remainder(arange(2 * 5 * 7) * 37, 256).to(kUInt8).reshape({2, 5, 7}); }

struct ColorCase {
  Tensor (*change)(const Tensor&, double);
  double factor;
  Values bytes, floats;
};
TEST(Transforms, ColorsAsTorchvision) {
  const Tensor rgb = remainder(arange(18) * 53 + 7, 256).to(kUInt8).reshape({3, 2, 3});
  const std::vector<ColorCase> cases = {
      {adjust_brightness,
       0.6,
       {4, 36, 67, 99, 131, 9, 41, 73, 105, 136, 15, 46, 78, 110, 142, 20, 52, 84},
       {0.01647, 0.14118, 0.26588, 0.39059, 0.51529, 0.03765, 0.16235, 0.28706, 0.41176, 0.53647,
        0.05882, 0.18353, 0.30824, 0.43294, 0.55765, 0.08, 0.20471, 0.32941}},
      {adjust_brightness,
       1.7,
       {11, 102, 192, 255, 255, 27, 117, 207, 255, 255, 42, 132, 222, 255, 255, 57, 147, 238},
       {0.04667, 0.4, 0.75333, 1.0, 1.0, 0.10667, 0.46, 0.81333, 1.0, 1.0, 0.16667, 0.52, 0.87333,
        1.0, 1.0, 0.22667, 0.58, 0.93333}},
      {adjust_contrast,
       0.5,
       {59, 86, 112, 139, 165, 64, 90, 117, 143, 170, 68, 95, 121, 148, 174, 73, 99, 126},
       {0.23447, 0.33839, 0.44231, 0.54624, 0.65016, 0.25212, 0.35604, 0.45996, 0.56388, 0.6678,
        0.26977, 0.37369, 0.47761, 0.58153, 0.68545, 0.28741, 0.39133, 0.49526}},
      {adjust_contrast,
       1.8,
       {0, 18, 113, 209, 255, 0, 34, 129, 225, 255, 0, 50, 146, 241, 255, 0, 66, 162},
       {0.0, 0.07034, 0.44445, 0.81857, 1.0, 0.0, 0.13387, 0.50798, 0.8821, 1.0, 0.0, 0.1974,
        0.57151, 0.94563, 1.0, 0.0, 0.26092, 0.63504}},
      {adjust_saturation,
       0.3,
       {42, 95, 148, 180, 128, 51, 60, 113, 166, 199, 70, 69, 79, 132, 185, 141, 89, 88},
       {0.16616, 0.37399, 0.58182, 0.70953, 0.50485, 0.20145, 0.2391, 0.44693, 0.65476, 0.78247,
        0.27661, 0.27439, 0.31204, 0.51987, 0.7277, 0.55424, 0.34955, 0.34733}},
      {adjust_saturation,
       2.2,
       {0, 0, 53, 140, 255, 0, 83, 136, 189, 255, 0, 92, 219, 255, 255, 0, 83, 228},
       {0.0, 0.0, 0.2054, 0.55061, 1.0, 0.0, 0.32457, 0.53244, 0.7403, 1.0, 0.0, 0.35987, 0.85947,
        1.0, 1.0, 0.0, 0.32681, 0.89477}},
      {adjust_hue,
       0.25,
       {131, 184, 237, 34, 184, 140, 7, 60, 113, 228, 219, 16, 131, 184, 237, 193, 25, 140},
       {0.51373, 0.72157, 0.92941, 0.13333, 0.72157, 0.54902, 0.02745, 0.23529, 0.44314, 0.89412,
        0.85882, 0.06275, 0.51373, 0.72157, 0.92941, 0.75686, 0.09804, 0.54902}},
      {adjust_hue,
       -0.4,
       {119, 172, 225, 213, 25, 128, 131, 184, 237, 34, 165, 140, 7, 60, 113, 228, 219, 16},
       {0.4651, 0.67294, 0.88078, 0.83294, 0.09804, 0.50039, 0.51373, 0.72157, 0.92941, 0.13333,
        0.64549, 0.54902, 0.02745, 0.23529, 0.44314, 0.89412, 0.85882, 0.06275}}};
  for (const ColorCase& c : cases) {
    const Tensor y = c.change(rgb, c.factor);
    EXPECT_EQ(y.dtype(), kUInt8);
    expect_values(y, c.bytes);
    expect_values(c.change(rgb.to(kFloat32) / 255, c.factor), c.floats, 2e-5);
    const Tensor two = c.change(stack({rgb, 255 - rgb}), c.factor);
    expect_values(two[0], c.bytes);
    EXPECT_EQ(max_difference(two[1], c.change(255 - rgb, c.factor)), 0) << "each of a batch alone";
  }
  const Tensor gray = rgb.narrow(0, 0, 1);
  expect_values(adjust_contrast(gray, 0.5), {51, 78, 104, 131, 157, 56});
  EXPECT_EQ(max_difference(adjust_saturation(gray, 0.5), gray), 0);
  EXPECT_EQ(max_difference(adjust_hue(gray, 0.5), gray), 0);
  expect_values(adjust_hue(full({3, 1, 1}, 0.5), 0.3), {0.5, 0.5, 0.5});
  EXPECT_EQ(adjust_brightness(ones({3, 1, 1}, kBFloat16), 0.5).dtype(), kBFloat16);
}

TEST(Transforms, ColorJitterDrawsOrderAndFactors) {
  const Tensor rgb = remainder(arange(18) * 53 + 7, 256).to(kUInt8).reshape({3, 2, 3});
  const ColorJitter all({.brightness = 0.4, .contrast = {0.5, 1.5}, .saturation = 0.4, .hue = 0.1});
  manual_seed(4);
  const Tensor first = all(rgb), second = all(rgb);
  EXPECT_GT(max_difference(first, second), 0);
  manual_seed(4);
  EXPECT_EQ(max_difference(all(rgb), first), 0);
  EXPECT_EQ(max_difference(ColorJitter({})(rgb), rgb), 0);
  EXPECT_EQ(max_difference(ColorJitter({.brightness = 0, .hue = 0})(rgb), rgb), 0);
  const Tensor fixed = ColorJitter({.saturation = {0.3, 0.3}})(rgb);
  EXPECT_EQ(max_difference(fixed, adjust_saturation(rgb, 0.3)), 0);
  double least = 9, greatest = 0;
  for (int i = 0; i < 200; ++i) {
    const double v = ColorJitter({.brightness = 0.4})(full({1, 1, 1}, 0.5)).item();
    least = std::min(least, v);
    greatest = std::max(greatest, v);
  }
  EXPECT_TRUE(least >= 0.3 && least < 0.31 && greatest <= 0.7 && greatest > 0.69);
  // the order matters: darker, then clamped, is not clamped, then darker
  bool orders[2] = {};
  const Tensor bright = full({1, 1, 2}, 0.9);
  bright[0][0][1].fill_(0.1);
  for (int i = 0; i < 40; ++i) {
    const Tensor y = ColorJitter({.brightness = {2, 2}, .contrast = {0.5, 0.5}})(bright);
    orders[0] |= std::abs(y[0][0][0].item() - 0.8) < 1e-6;
    orders[1] |= std::abs(y[0][0][0].item() - 1) < 1e-6;
  }
  EXPECT_TRUE(orders[0] && orders[1]);
}

TEST(Transforms, ColorsRefuseWhatDoesNotFit) {
  EXPECT_ERROR(ColorJitter({.brightness = -1}), OptionError, "brightness is -1");
  EXPECT_ERROR(ColorJitter({.contrast = {1.5, 0.5}}), OptionError, "contrast is {1.5, 0.5}");
  EXPECT_ERROR(ColorJitter({.saturation = {-1, 0.5}}), OptionError, "saturation is {-1, 0.5}");
  EXPECT_ERROR(ColorJitter({.hue = 0.6}), OptionError, "within -0.5 and 0.5");
  EXPECT_ERROR(ColorJitter({.hue = NAN}), OptionError, "hue is nan");
  EXPECT_ERROR(ColorJitter({})(bytes()), ShapeError, "1 or 3 channels");
  EXPECT_ERROR(adjust_contrast(zeros({3, 1, 1}, kInt64), 1), DTypeError, "uint8 or floats");
  EXPECT_ERROR(adjust_brightness(zeros({3, 1, 1}), -1), OptionError, "the factor is -1");
  EXPECT_ERROR(adjust_hue(zeros({3, 1, 1}), 0.7), OptionError, "-0.5 to 0.5");
  EXPECT_ERROR(ConvertImageDtype{kInt64}, OptionError, "ToDtype: scale to");
  EXPECT_EQ(max_difference(ConvertImageDtype()(bytes()), bytes().to(kFloat32) / 255), 0);
}

}  // namespace
}  // namespace dropin
