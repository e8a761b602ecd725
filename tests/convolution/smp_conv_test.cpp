#include "dropin/convolution/smp_conv.h"

#include <cmath>

#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

TEST(SMPConv1d, ItsKernelIsThePaperSum) {
  no_grad guard;
  SMPConv1d m({.in_channels = 2, .out_channels = 3, .max_length = 9, .n_points = 4, .radius = 0.4});
  const StateDict s = m.state_dict();
  const Tensor k = m.kernel(9), p = s.find("weight_coord"), r = s.find("radius"),
               w = s.find("weights");
  for (int64_t o = 0; o < 3; ++o)
    for (int64_t c = 0; c < 2; ++c)
      for (int64_t j = 0; j < 9; ++j) {
        double sum = 0, count = 0;
        for (int64_t i = 0; i < 4; ++i) {
          const double x = -1 + 2.0 * static_cast<double>(j) / 8,
                       g = std::max(0.0, 1 - std::abs(x - p[o][i][0].item()) / r[o][i][0].item());
          sum += w[o][c][i].item() * g;
          count += g != 0;
        }
        EXPECT_NEAR(k[o][c][j].item(), sum / (count + 1e-6), 1e-6);
      }
}

TEST(SMPConv1d, TransformsAndDirectSumsAgreeForEveryLength) {
  no_grad guard;
  for (const int64_t length :
       {1, 2, 31, 62, 100}) {  // the official code is wrong for odd L + k - 1
    manual_seed(5);
    SMPConv1dOptions o{.in_channels = 3,
                       .out_channels = 2,
                       .max_length = length,
                       .n_points = 9,
                       .radius = 0.3,
                       .use_fft = false};
    SMPConv1d direct(o);
    o.use_fft = true;
    SMPConv1d transformed(o);
    transformed.load_state_dict(direct.state_dict());
    for (Module* m : {static_cast<Module*>(&direct), static_cast<Module*>(&transformed)})
      m->to(kFloat64);
    for (const int64_t l : {length, length + 3}) {  // another length keeps the kernel
      const Tensor x = random({2, 3, l});
      EXPECT_LT(max_difference(direct(x), transformed(x)), 1e-12) << length << " " << l;
      const Box<Conv1d> fused = direct.fuse(l);
      EXPECT_LT(max_difference((*fused)(x).narrow(2, 0, l), direct(x)), 1e-12);
    }
  }
}

TEST(SMPConv1d, TheFirstInputFixesTheLength) {
  no_grad guard;
  SMPConv1d m({.in_channels = 1, .out_channels = 1, .horizon = "full", .n_points = 3});
  EXPECT_EQ(m.state_dict().find("train_length").item(), 0);
  m(zeros({1, 1, 7}));
  EXPECT_EQ(m.state_dict().find("train_length").item(), 7);
  EXPECT_EQ(m.taps(20), 13);
  m(zeros({1, 1, 4}));
  EXPECT_EQ(m.taps(4), 13);
  EXPECT_FALSE(SMPConv1d({.in_channels = 1, .out_channels = 1, .horizon = 5})
                   .state_dict()
                   .contains("train_length"));
}

TEST(SMPConv1d, APointBetweenTapsIsDead) {
  SMPConv1d m({.in_channels = 1, .out_channels = 1, .max_length = 3, .n_points = 2, .radius = 0.1});
  for (auto& [name, p] : m.named_parameters())
    if (name == "weight_coord") {
      no_grad guard;
      p.copy_(tensor({0.5, 0.95}, {1, 2, 1}));
    }
  EXPECT_EQ(m.dead_points(3), 1);
  sum(m(ones({1, 1, 3}))).backward();
  for (auto& [name, p] : m.named_parameters())
    if (name == "weights") {
      EXPECT_EQ(p.grad()[0][0][0].item(), 0);
      EXPECT_NE(p.grad()[0][0][1].item(), 0);
    }
}

TEST(SMPConv1d, RadiiStayInTheirRange) {
  SMPConv1d m({.in_channels = 1, .out_channels = 1, .max_length = 3, .n_points = 3, .radius = 0.5});
  Tensor radius;
  for (auto& [name, p] : m.named_parameters())
    if (name == "radius") radius = p;
  {
    no_grad guard;
    radius.copy_(tensor({-0.2, 0.5, 3}, {1, 3, 1}));
  }
  EXPECT_TRUE(all(isfinite(m(ones({1, 1, 3})))).item<bool>()) << "a radius below 0 counts as least";
  m.clip_radius();
  testing::expect_values(radius.reshape({3}), {1e-4, 0.5, 1}, 1e-9);
}

TEST(SMPConv2d, PlacesItsPointsRightAndUp) {
  no_grad guard;
  SMPConv2d m(
      {.in_channels = 1, .out_channels = 1, .kernel_size = 3, .n_points = 1, .radius = 0.5});
  for (auto& [name, p] : m.named_parameters()) {
    if (name == "weight_coord") p.copy_(tensor({1, 1}, {1, 1, 2}));
    if (name == "weights") p.fill_(2);
  }
  const Tensor k = m.kernel();
  EXPECT_EQ(k[0][0][0][2].item(), 2) << "right, up";
  EXPECT_EQ(sum(k).item(), 2);
  EXPECT_EQ(m.dead_points(), 0);
}

TEST(SMPConv2d, TapsBeyondThePictureDoNotMatter) {
  no_grad guard;
  for (const bool depthwise : {true, false}) {
    SMPConv2d m({.in_channels = 3, .out_channels = 3, .kernel_size = 11, .depthwise = depthwise});
    m.to(kFloat64);
    for (const Shape& s : {Shape{2, 3, 4, 2}, Shape{1, 3, 1, 20}, Shape{0, 3, 5, 5}}) {
      const Tensor x = random(s);
      EXPECT_LT(max_difference(m(x), (*m.fuse())(x)), 1e-12) << depthwise;
    }
  }
}

TEST(SMPConv, RefuseWhatDoesNotFitInWords) {
  EXPECT_ERROR(SMPConv1d({.in_channels = 1, .out_channels = 1, .horizon = 4}), OptionError,
               "horizon is 4, expected same, full or an odd number");
  EXPECT_ERROR(SMPConv1d({.in_channels = 1, .out_channels = 1, .horizon = "all"}), OptionError,
               "horizon is \"all\"");
  EXPECT_ERROR(SMPConv1d({.in_channels = 1, .out_channels = 1, .n_points = 0}), OptionError,
               "n_points is 0");
  EXPECT_ERROR(SMPConv1d({.in_channels = 1, .out_channels = 1, .radius = 0}), OptionError,
               "radius 0");
  SMPConv1d one({.in_channels = 1, .out_channels = 1, .max_length = 3});
  EXPECT_ERROR(one(zeros({1, 1, 0})), ShapeError, "expected L of at least 1");
  EXPECT_ERROR(SMPConv2d({.in_channels = 1, .out_channels = 1, .kernel_size = 4}), OptionError,
               "kernel_size is 4, expected an odd number");
  EXPECT_ERROR(SMPConv2d({.in_channels = 1, .out_channels = 2, .kernel_size = 3}), OptionError,
               "because depthwise = true");
}

}  // namespace
}  // namespace dropin
