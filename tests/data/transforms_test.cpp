// Transforms against torchvision 0.29.2's numbers.
#include "dropin/data/transforms.h"

#include "support.h"

namespace dropin {
namespace {

using namespace transforms;
using testing::expect_values;
using testing::max_difference;
using Values = std::vector<double>;

Tensor bytes() { return remainder(arange(2 * 5 * 7) * 37, 256).to(kUInt8).reshape({2, 5, 7}); }
Tensor floats() { return bytes().to(kFloat32).narrow(0, 0, 1) / 255; }

TEST(Transforms, ResizeAsTorchvision) {
  auto resized = [](std::vector<int64_t> size, const char* mode, bool antialias) {
    return Resize(std::move(size), {.interpolation = mode, .antialias = antialias})(floats());
  };
  constexpr double kClose = 2e-5;
  expect_values(resized({2, 3}, "bilinear", true), {.13613, .44706, .75798, .15966, .47059, .78151},
                kClose);
  expect_values(resized({2, 3}, "bilinear", false),
                {.10556, .44412, .78268, .13497, .47353, .81209}, kClose);
  expect_values(resized({3, 4}, "bicubic", true),
                {.06218, .30618, .57273, .81673, .08155, .32555, .5921, .8361, .10092, .34492,
                 .61146, .85546},
                kClose);
  expect_values(resized({3, 4}, "bicubic", false),
                {.04577, .31733, .55935, .83092, .06625, .33781, .57983, .8514, .08673, .35829,
                 .60031, .87187},
                kClose);
  expect_values(
      resized({3, 4}, "nearest", true),
      {0, .1451, .43529, .72549, .01176, .15686, .44706, .73725, .03529, .18039, .47059, .76078},
      kClose);
  const Tensor larger = resized({7, 9}, "bilinear", true);
  expect_values(larger.narrow(1, 1, 1),
                {.00672, .10345, .21631, .32916, .44202, .55487, .66772, .78058, .87731}, kClose);
  EXPECT_EQ(max_difference(resized({5, 7}, "bilinear", true), floats()), 0);
}

TEST(Transforms, ResizeOfBytesAndByTheShorterSide) {
  // torchvision's bytes are rounded between the two passes as well
  expect_values(Resize({2, 3})(bytes()), {35, 114, 193, 41, 120, 199, 50, 129, 208, 56, 135, 214},
                1);
  const Tensor y = Resize({3})(bytes());
  EXPECT_EQ(y.dtype(), kUInt8);
  expect_values(y[0], {20, 78, 146, 204, 25, 83, 151, 209, 30, 88, 156, 214}, 1);
  EXPECT_EQ(Resize({4}, {.max_size = 5})(bytes()).sizes(), (Shape{2, 4, 5}));
  EXPECT_EQ(Resize({3})(bytes().transpose(1, 2)).sizes(), (Shape{2, 4, 3}));
  EXPECT_EQ(Resize({3, 3})(rand({2, 4, 3, 9, 9})).sizes(), (Shape{2, 4, 3, 3, 3})) << "batches";
}

TEST(Transforms, CropsAndPads) {
  expect_values(CenterCrop({2, 3})(bytes()),
                {80, 117, 154, 83, 120, 157, 95, 132, 169, 98, 135, 172});
  const Tensor wide = CenterCrop({6, 10})(bytes().narrow(0, 0, 1));
  expect_values(wide[0][0], {0, 0, 37, 74, 111, 148, 185, 222, 0, 0});
  expect_values(wide[0][5], Values(10, 0));
  expect_values(wide[0][1], {0, 3, 40, 77, 114, 151, 188, 225, 0, 0});
  const Tensor padded = Pad({1, 2, 0, 1}, 9)(bytes().narrow(0, 0, 1));
  EXPECT_EQ(padded.sizes(), (Shape{1, 8, 8}));
  expect_values(padded[0][1], Values(8, 9));
  expect_values(padded[0][2], {9, 0, 37, 74, 111, 148, 185, 222});
  expect_values(padded[0][7], Values(8, 9));
  manual_seed(1);
  int seen[3] = {};
  for (int i = 0; i < 60; ++i) {
    const Tensor c = RandomCrop({5, 5})(bytes());
    for (int64_t at = 0; at < 3; ++at)
      if (max_difference(c, bytes().narrow(2, at, 5)) == 0) ++seen[at];
  }
  for (const int n : seen) EXPECT_GT(n, 8);
  EXPECT_EQ(RandomCrop({9}, {.pad_if_needed = true})(bytes()).sizes(), (Shape{2, 9, 9}));
  EXPECT_EQ(RandomCrop({8}, {.padding = {2}})(bytes()).sizes(), (Shape{2, 8, 8}));
}

TEST(Transforms, RandomOnesFollowTheGenerator) {
  const Compose all(
      {RandomResizedCrop({4, 6}), RandomHorizontalFlip(0.5), RandomVerticalFlip(0.5)});
  auto many = [&](std::uint64_t seed) {
    manual_seed(seed);
    Tensors r;
    for (int i = 0; i < 20; ++i) r.push_back(all(floats()));
    return stack(r);
  };
  EXPECT_EQ(max_difference(many(1), many(1)), 0);
  EXPECT_GT(max_difference(many(1), many(2)), 0.1);
  EXPECT_EQ(max_difference(RandomHorizontalFlip(1)(bytes()), flip(bytes(), {2})), 0);
  EXPECT_EQ(max_difference(RandomVerticalFlip(1)(bytes()), flip(bytes(), {1})), 0);
  EXPECT_EQ(max_difference(RandomVerticalFlip(0)(bytes()), bytes()), 0);
  // a picture of 1 x 40 has no part of a ratio from 3/4 to 4/3 but its middle
  const Tensor line = RandomResizedCrop({1, 1}, {.scale = {1, 1}})(rand({1, 1, 40}));
  EXPECT_EQ(line.sizes(), (Shape{1, 1, 1}));
}

TEST(Transforms, NumbersAndColors) {
  EXPECT_EQ(max_difference(ToDtype(kUInt8, true)(floats()), bytes().narrow(0, 0, 1)), 0);
  EXPECT_EQ(max_difference(ToDtype(kFloat32, true)(bytes()), bytes().to(kFloat32) / 255), 0);
  EXPECT_EQ(max_difference(ToDtype(kFloat32)(bytes()), bytes().to(kFloat32)), 0);
  const Tensor y = Normalize({.5, .25}, {.5, 2})(ones({2, 1, 1}));
  expect_values(y, {1, .375});
  const Tensor rgb = remainder(arange(18) * 53, 256).to(kUInt8).reshape({3, 2, 3});
  expect_values(Grayscale()(rgb), {50, 103, 156, 180, 83, 59});
  expect_values(Grayscale()(rgb.to(kFloat32) / 255), {.19816, .40598, .6138, .70718, .3257, .23345},
                2e-5);
  EXPECT_EQ(Grayscale(3)(rgb).sizes(), (Shape{3, 2, 3}));
}

TEST(Transforms, RefuseWhatDoesNotFit) {
  EXPECT_ERROR(Resize({}), OptionError, "size has 0 numbers");
  EXPECT_ERROR(Resize({0}), OptionError, "size is 0");
  EXPECT_ERROR(Resize({2}, {.interpolation = "cubic"}), OptionError, "interpolation is \"cubic\"");
  EXPECT_ERROR(Resize({2, 2}, {.max_size = 5}), OptionError, "max_size is 5");
  EXPECT_ERROR(Resize({2})(zeros({3, 3})), ShapeError, "expected [..., C, H, W]");
  EXPECT_ERROR(Resize({2})(zeros({1, 3, 3}, kInt64)), DTypeError, "expected uint8 or floats");
  EXPECT_ERROR(Pad({1, 2, 3}), OptionError, "padding has 3 numbers");
  EXPECT_ERROR(Pad({-1}), OptionError, "padding is -1");
  EXPECT_ERROR(RandomCrop({9})(bytes()), OptionError, "the image is 5 x 7");
  EXPECT_ERROR(RandomHorizontalFlip(2), OptionError, "p is 2");
  EXPECT_ERROR(RandomResizedCrop({2}, {.scale = {0.5, 0.1}}), OptionError, "scale expected");
  EXPECT_ERROR(Normalize({1}, {0}), OptionError, "std holds 0");
  EXPECT_ERROR(Normalize({1}, {1})(bytes()), DTypeError, "ToDtype(kFloat32, true) before");
  EXPECT_ERROR(Normalize({1, 2, 3}, {1, 1, 1})(floats()), ShapeError, "expected 3 channels");
  EXPECT_ERROR(Grayscale(2), OptionError, "num_output_channels is 2");
  EXPECT_ERROR(Grayscale()(bytes()), ShapeError, "1 or 3 channels");
  EXPECT_ERROR(Compose({nullptr}), OptionError, "a transform is empty");
}

}  // namespace
}  // namespace dropin
