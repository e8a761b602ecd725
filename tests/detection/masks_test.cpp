#include "dropin/detection/masks.h"

#include <array>

#include "dropin/autograd/gradcheck.h"
#include "dropin/detection/boxes.h"
#include "support.h"

namespace dropin {
namespace {

using testing::expect_values;
using testing::max_difference;
using testing::random;

TEST(Boxes, EncodeIsTheInverseOfDecode) {
  const Tensor priors = yolact_priors({.conv_h = 4,
                                       .conv_w = 3,
                                       .scales = {24, 48},
                                       .aspect_ratios = {1, 0.5, 2},
                                       .max_size = 138})
                            .to(kFloat64),
               loc = random({72, 4}, kFloat64, 3);
  EXPECT_LT(max_difference(encode_boxes(decode_boxes(loc, priors), priors), loc), 1e-12);
  gradcheck(
      [&](const Tensors& v) -> Tensors { return {decode_boxes(v[0], priors.narrow(0, 0, 3))}; },
      {loc.narrow(0, 0, 3).contiguous().requires_grad_()});
  EXPECT_EQ(decode_boxes(zeros({0, 4}), zeros({0, 4})).sizes(), (Shape{0, 4}));
  EXPECT_TRUE(std::isinf(decode_boxes(tensor({0, 0, 1e6, 0}, {1, 4}), ones({1, 4})).to_vector()[2]))
      << "an exponent that overflows passes through";
  EXPECT_ERROR(decode_boxes(zeros({3, 4}), zeros({2, 4})), ShapeError,
               "priors is [2, 4], expected [3, 4]");
  EXPECT_ERROR(encode_boxes(zeros({3, 5}), zeros({3, 5})), ShapeError,
               "boxes is [3, 5], expected [P, 4]");
}

TEST(Boxes, NinePriorsACell) {
  std::vector<double> scales;
  for (int j = 0; j < 3; ++j) scales.push_back(24 * std::pow(2, j / 3.0));
  const Tensor p = yolact_priors(
      {.conv_h = 2, .conv_w = 5, .scales = scales, .aspect_ratios = {1, 0.5, 2}, .max_size = 550});
  EXPECT_EQ(p.sizes(), (Shape{90, 4}));
  expect_values(p[9 * 6 + 4], {1.5 / 5, 1.5 / 2, scales[1] * std::sqrt(0.5) / 550,
                               scales[1] / std::sqrt(0.5) / 550});
  expect_values(yolact_priors({.conv_h = 1,
                               .conv_w = 1,
                               .scales = {10},
                               .aspect_ratios = {4},
                               .max_size = 100,
                               .square = true})[0],
                {0.5, 0.5, 0.2, 0.2});
  EXPECT_ERROR(
      yolact_priors({.conv_h = 1, .conv_w = 1, .scales = {}, .aspect_ratios = {1}, .max_size = 1}),
      OptionError, "must not be empty");
  EXPECT_ERROR(
      yolact_priors({.conv_h = 0, .conv_w = 1, .scales = {1}, .aspect_ratios = {1}, .max_size = 1}),
      OptionError, "conv_h 0");
}

TEST(Boxes, PixelsAreSortedClampedAndTruncated) {
  const Tensor b = tensor({0.9, 0.5, 0.1, 0.25, -1, -1, 2, 2, NAN, 0, 0.5, INFINITY}, {3, 4});
  expect_values(boxes_to_pixels(b, 100, 55), {5, 25, 49, 50, 0, 0, 55, 100, 0, 0, 0, 100});
}

TEST(Masks, CropFollowsTheRealNumberRule) {
  // w 10, padding 1: columns c with c >= 10 x1 - 1 and c < 10 x2 + 1.
  const Tensor b =
      tensor({0.3, 0.0, 0.5, 1.0, 0.52, 0.0, 0.31, 1.0, -3, -3, -2,        -2, 1.05,     0,
              1.5, 1,   2,   2,   3,    3,   NAN,  0,   1,  1,  -INFINITY, 0,  INFINITY, 1},
             {7, 4}, kFloat64);
  const Tensor window = crop_window(b, 4, 10, 1);
  const auto columns = [&](int64_t n) { return window[n][1].to(kInt64).to_vector(); };
  EXPECT_EQ(columns(0), (std::vector<double>{0, 0, 1, 1, 1, 1, 0, 0, 0, 0}));  // 2 <= c < 6
  EXPECT_EQ(columns(1), (std::vector<double>{0, 0, 0, 1, 1, 1, 1, 0, 0, 0}));  // 2.1 <= c < 6.2
  EXPECT_EQ(columns(2), (std::vector<double>(10, 0.0)));  // left of the picture
  EXPECT_EQ(columns(3), (std::vector<double>{0, 0, 0, 0, 0, 0, 0, 0, 0, 0}));  // 9.5 <= c
  EXPECT_EQ(columns(4), (std::vector<double>(10, 0.0)));
  EXPECT_EQ(columns(5), (std::vector<double>(10, 0.0))) << "NaN";
  EXPECT_EQ(columns(6), (std::vector<double>(10, 1.0))) << "the whole line";
  const Tensor p = random({3, 4, 10}), c = random({7, 3});
  const Tensor cropped = yolact_masks(p, c, b), whole = yolact_masks(p, c, b, {.crop = false});
  EXPECT_EQ(max_difference(cropped, where(window, whole, 0.0)), 0);
}

TEST(Masks, FusedInsideTheBoxesIsTheComposition) {
  for (const auto& [k, h, w] : {std::array<int64_t, 3>{32, 19, 70}, {1, 5, 3}, {5, 40, 33}}) {
    const int64_t n = 9;
    Tensor boxes = random({n, 4}, kFloat32, 3) * 0.7 + 0.5;
    boxes[1].fill_(NAN);
    boxes[2].fill_(-5);
    boxes[3].copy_(tensor({-9, -9, 9, 9}));
    const Tensor p = random({k, h, w}, kFloat32, 1).requires_grad_(),
                 c = random({n, k}, kFloat32, 2).requires_grad_(),
                 g = random({n, h, w}, kFloat32, 4);
    const Tensor p64 = p.detach().to(kFloat64).requires_grad_(),
                 c64 = c.detach().to(kFloat64).requires_grad_();
    const Tensor y = yolact_masks(p, c, boxes, {.crop_padding = 2}),
                 y64 = yolact_masks(p64, c64, boxes, {.crop_padding = 2});
    EXPECT_LT(max_difference(y.detach().to(kFloat64), y64.detach()), 1e-6);
    EXPECT_EQ(max_difference(where(crop_window(boxes, h, w, 2), zeros({n, h, w}), y.detach()),
                             zeros({n, h, w})),
              0)
        << "outside";
    y.backward(g);
    y64.backward(g.to(kFloat64));
    EXPECT_LT(max_difference(p.grad().to(kFloat64), p64.grad()), 1e-5);
    EXPECT_LT(max_difference(c.grad().to(kFloat64), c64.grad()), 1e-4);
  }
}

TEST(Masks, GradientsAndEmptyBatches) {
  const Tensor boxes = tensor({0.1, 0.2, 0.8, 0.9, 0.7, 0.9, 0.2, -0.1}, {2, 4}, kFloat64);
  gradcheck(
      [&](const Tensors& v) -> Tensors {
        return {yolact_masks(v[0], v[1], boxes, {.out_height = 7, .out_width = 9})};
      },
      {random({3, 5, 6}, kFloat64, 1).requires_grad_(),
       random({2, 3}, kFloat64, 2).requires_grad_()});
  EXPECT_EQ(yolact_masks(ones({3, 5, 6}), zeros({0, 3}), zeros({0, 4})).sizes(), (Shape{0, 5, 6}));
  EXPECT_EQ(yolact_masks(ones({3, 5, 6}), zeros({0, 3}), zeros({0, 4}),
                         {.out_height = 9, .binarize = true})
                .sizes(),
            (Shape{0, 9, 6}));
  const Tensor u8 = yolact_masks(full({1, 2, 2}, 1), tensor({5, -5}, {2, 1}), {},
                                 {.crop = false, .binarize = true});
  EXPECT_EQ(u8.dtype(), kUInt8);
  expect_values(u8, {1, 1, 1, 1, 0, 0, 0, 0});
}

TEST(Masks, ResizesAsInterpolateDoes) {
  const Tensor x = tensor({0, 4, 8, 12}, {1, 2, 2}, kFloat64);
  expect_values(resize_bilinear(x, 4, 4).flatten(),
                {0, 1, 3, 4, 2, 3, 5, 6, 6, 7, 9, 10, 8, 9, 11, 12});
  expect_values(resize_bilinear(x, 1, 1).flatten(), {6});
  expect_values(resize_bilinear(x, 1, 3).flatten(), {4, 6, 8});
}

TEST(Masks, RescoringMultipliesByTheOwnClass) {
  const Tensor s = tensor({0.5, 0.25}), iou = tensor({0.1, 0.2, 0.4, 0.8}, {2, 2});
  expect_values(rescore_masks(s, iou, tensor({1, 0}, kInt64)), {0.1, 0.1});
  EXPECT_EQ(rescore_masks(zeros({0}), zeros({0, 5}), zeros({0}, kInt64)).sizes(), Shape{0});
  EXPECT_ERROR(rescore_masks(s, iou, tensor({1, 2}, kInt64)), IndexError,
               "class 2 is outside [0, 2)");
  EXPECT_ERROR(rescore_masks(s, iou, tensor({-1, 0}, kInt64)), IndexError, "outside [0, 2)");
  EXPECT_ERROR(rescore_masks(s, iou, tensor({1, 0})), DTypeError, "expected int64");
  EXPECT_ERROR(rescore_masks(zeros({3}), iou, tensor({1, 0}, kInt64)), ShapeError,
               "scores is [3], expected [2]");
}

TEST(Masks, RefusesWhatDoesNotFit) {
  EXPECT_ERROR(yolact_masks(zeros({3, 4}), zeros({1, 3}), zeros({1, 4})), ShapeError,
               "prototypes is [3, 4], expected [K, h, w]");
  EXPECT_ERROR(yolact_masks(zeros({3, 4, 4}), zeros({1, 2}), zeros({1, 4})), ShapeError,
               "coefficients is [1, 2], expected [N, 3]");
  EXPECT_ERROR(yolact_masks(zeros({3, 4, 4}), zeros({1, 3}), zeros({2, 4})), ShapeError,
               "boxes is [2, 4], expected [1, 4]");
  EXPECT_ERROR(yolact_masks(zeros({3, 4, 4}), zeros({1, 3}), {}), ShapeError, "boxes");
  EXPECT_ERROR(yolact_masks(zeros({3, 4, 4}), zeros({1, 3}), zeros({1, 4}), {.crop_padding = -1}),
               OptionError, "crop_padding is -1");
}

}  // namespace
}  // namespace dropin
