// Mixed depthwise convolution.
#include "convolution/leaves.h"
#include "dropin/model/convnet.h"
#include "dropin/model/mixnet.h"
#include "dropin/registry/registry.h"
#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

Tensor channels_last(const Tensor& x) {
  return x.permute({0, 2, 3, 1}).contiguous().permute({0, 3, 1, 2});
}

TEST(MixConv2d, SplitsChannelsAsThePaperAndTheCode) {
  const auto split = [](int64_t c, int64_t g, const char* how) {
    return MixConv2d::split("test", c, g, how);
  };
  EXPECT_EQ(split(11, 3, "equal"), (std::vector<int64_t>{5, 3, 3}));
  EXPECT_EQ(split(10, 3, "equal"), (std::vector<int64_t>{4, 3, 3}));
  EXPECT_EQ(split(32, 4, "exponential"), (std::vector<int64_t>{16, 8, 4, 4}));
  EXPECT_EQ(split(12, 4, "exponential"), (std::vector<int64_t>{7, 3, 1, 1}));
  EXPECT_EQ(split(8, 4, "exponential"), (std::vector<int64_t>{4, 2, 1, 1}));
  EXPECT_ERROR(split(7, 4, "exponential"), OptionError, "too many for 7 channels");
  EXPECT_ERROR(split(2, 3, "equal"), OptionError, "a group would be empty");
}

TEST(MixConv2d, EqualsItsPartsInBothLayoutsAndInEveryGradient) {
  for (const int64_t stride : {1, 2, 3})
    for (const bool last : {false, true}) {
      const Tensors data{random({2, 13, 12, 17}, kFloat64, 1),
                         random({5, 1, 3, 3}, kFloat64, 2),
                         random({5}, kFloat64, 3),
                         random({4, 1, 5, 5}, kFloat64, 4),
                         random({4}, kFloat64, 5),
                         random({4, 1, 4, 9}, kFloat64, 6)};
      auto f = [&](const Tensors& v) {
        std::vector<DepthwiseGroup> groups{{v[1], v[2]}, {v[3], v[4]}, {v[5], {}}};
        for (DepthwiseGroup& g : groups) {
          const Pair a = tf_same_padding(12, g.weight.size(2), stride, 1),
                     b = tf_same_padding(17, g.weight.size(3), stride, 1);
          g.pad_begin = {a[0], b[0]}, g.pad_end = {a[1], b[1]};
        }
        const Tensor x = last && v[0].dtype() == kFloat32 ? channels_last(v[0]) : v[0];
        const Tensor y = mixed_depthwise_conv2d(x, groups, {stride, stride});
        if (v[0].dtype() == kFloat32) {
          EXPECT_EQ(y.is_contiguous(), !last);
        }
        return y;
      };
      const Tensors wide = leaves_of(data, kFloat64), narrow = leaves_of(data, kFloat32);
      EXPECT_LT(max_difference(f(wide), f(narrow).to(kFloat64)), 1e-4);
      const Tensors want = gradients(f, wide), got = gradients(f, narrow);
      for (std::size_t i = 0; i < want.size(); ++i)
        EXPECT_LT(max_difference(want[i], got[i].to(kFloat64)), 3e-4)
            << "leaf " << i << " stride " << stride;
    }
}

TEST(MixConv2d, HasSecondDerivatives) {
  const Tensors in =
      leaves_of({random({1, 3, 5, 4}, kFloat64, 1), random({2, 1, 3, 3}, kFloat64, 2),
                 random({1, 1, 2, 2}, kFloat64, 3)},
                kFloat32);
  auto f = [](const Tensors& v) {
    return mixed_depthwise_conv2d(v[0], {{v[1], {}, {1, 1}, {1, 1}}, {v[2], {}, {0, 1}, {1, 0}}});
  };
  auto penalty = [&](const Tensors& v) {
    const Tensors g = grad({sum(square(f(v)))}, {v[0]}, {}, true, true);
    return sum(square(g[0]));
  };
  const Tensors narrow = grad({penalty(in)}, in), wide_in = leaves_of(in, kFloat64),
                wide = grad({penalty(wide_in)}, wide_in);
  for (std::size_t i = 0; i < in.size(); ++i)
    EXPECT_LT(max_difference(narrow[i].to(kFloat64), wide[i]),
              2e-4 * (1 + abs(wide[i]).to_vector()[0] * 100))
        << i;
}

TEST(MixConv2d, OneKernelIsADepthwiseConvolution) {
  manual_seed(1);
  DepthwiseConv2d plain({.channels = 6, .kernel_size = 5, .padding = 2, .bias = false});
  MixConv2d mixed({.in_channels = 6, .kernel_size = 5, .padding = "symmetric"});
  mixed.load_state_dict(plain.state_dict());
  const Tensor x = random({2, 6, 9, 8}, kFloat32);
  EXPECT_EQ(max_difference(mixed.forward(x), plain.forward(x)), 0);
  StateDict indexed;
  indexed.set("0.weight", plain.state_dict().find("weight"));
  EXPECT_EQ(
      MixConv2d({.in_channels = 6, .kernel_size = {5}}).load_state_dict(indexed).renamed.size(),
      1u);
}

TEST(MixConv2d, PaddingModesAgreeAtStrideOneAndDifferAtTwo) {
  manual_seed(2);
  MixConv2d same({.in_channels = 4, .kernel_size = {3, 5}}),
      symmetric({.in_channels = 4, .kernel_size = {3, 5}, .padding = "symmetric"});
  symmetric.load_state_dict(same.state_dict());
  const Tensor x = random({1, 4, 8, 8}, kFloat64);
  same.to(kFloat64), symmetric.to(kFloat64);
  EXPECT_LT(max_difference(same.forward(x), symmetric.forward(x)), 1e-15);
  MixConv2d same2({.in_channels = 4, .kernel_size = {3, 5}, .stride = 2}),
      symmetric2({.in_channels = 4, .kernel_size = {3, 5}, .stride = 2, .padding = "symmetric"});
  same2.load_state_dict(same.state_dict()), symmetric2.load_state_dict(same.state_dict());
  same2.to(kFloat64), symmetric2.to(kFloat64);
  const Tensor a = same2.forward(x), b = symmetric2.forward(x);
  EXPECT_EQ(a.sizes(), b.sizes());
  EXPECT_GT(max_difference(a, b), 1e-3) << "an even size is padded behind only";
  EXPECT_LT(max_difference(same2.forward(x.narrow(2, 0, 7).narrow(3, 0, 7)),
                           symmetric2.forward(x.narrow(2, 0, 7).narrow(3, 0, 7))),
            1e-15)
      << "an odd one on both sides";
  EXPECT_EQ(MixConv2d({.in_channels = 4, .kernel_size = {7, 11}})
                .forward(random({1, 4, 2, 3}, kFloat32))
                .sizes(),
            (Shape{1, 4, 2, 3}))
      << "smaller than the kernels";
}

TEST(MixConv2d, DilationStandsForSize) {
  MixConv2d dilated({.in_channels = 4, .kernel_size = {3, 9}, .dilated = true});
  EXPECT_EQ(dilated.state_dict().find("1.weight").sizes(), (Shape{2, 1, 3, 3}));
  MixConv2d strided({.in_channels = 4, .kernel_size = {3, 9}, .stride = 2, .dilated = true});
  EXPECT_EQ(strided.state_dict().find("1.weight").sizes(), (Shape{2, 1, 9, 9}))
      << "no effect with a stride";
  // a 9x9 kernel with zeros between its 3x3 taps, 4 apart
  MixConv2d full({.in_channels = 4, .kernel_size = {3, 9}});
  no_grad guard;
  full.state_dict().find("0.weight").copy_(dilated.state_dict().find("0.weight"));
  Tensor w = full.state_dict().find("1.weight");
  w.zero_();
  w.slice(2, 0, 9, 4).slice(3, 0, 9, 4).copy_(dilated.state_dict().find("1.weight"));
  const Tensor x = random({1, 4, 12, 11}, kFloat32);
  EXPECT_LT(max_difference(full.forward(x), dilated.forward(x)), 1e-5);
}

TEST(MixConv2d, NotANumberStaysInItsChannel) {
  MixConv2d m({.in_channels = 5, .kernel_size = {3, 5}});
  Tensor x = random({1, 5, 6, 6}, kFloat32).clone();
  x[0][2].fill_(std::nanf(""));
  no_grad guard;
  const Tensor y = m.forward(x);
  for (int64_t c = 0; c < 5; ++c) EXPECT_EQ(any(isnan(y[0][c])).item() != 0, c == 2);
}

TEST(MixConv2d, RefusesBadOptionsByName) {
  EXPECT_ERROR(MixConv2d({.in_channels = 4, .kernel_size = std::vector<int64_t>{}}), OptionError,
               "kernel_size is empty");
  EXPECT_ERROR(MixConv2d({.in_channels = 4, .kernel_size = {3, 0}}), OptionError,
               "kernel_size holds 0");
  EXPECT_ERROR(MixConv2d({.in_channels = 4, .kernel_size = {3, 4}, .padding = "symmetric"}),
               OptionError, "kernel_size holds 4, expected odd sizes");
  EXPECT_ERROR(MixConv2d({.in_channels = 4, .stride = 0}), OptionError, "stride is 0");
  EXPECT_ERROR(MixConv2d({.in_channels = 2, .kernel_size = {3, 5, 7}}), OptionError,
               "too many for 2 channels");
  EXPECT_ERROR(MixConv2d({.in_channels = 4, .out_channels = 6}), OptionError,
               "out_channels is 6, expected in_channels = 4");
  EXPECT_ERROR(MixConv2d({.in_channels = 4, .padding = "valid"}), OptionError,
               "padding is \"valid\"");
  EXPECT_ERROR(MixConv2d({.in_channels = 4, .partition = "halves"}), OptionError,
               "partition is \"halves\"");
  MixConv2d m({.in_channels = 4, .kernel_size = {3, 5}});
  EXPECT_ERROR(m.forward(zeros({1, 3, 5, 5})), ShapeError,
               "x is [1, 3, 5, 5], expected [B, 4, H, W]");
  EXPECT_ERROR(m.forward(zeros({1, 4, 0, 5})), ShapeError, "at least one pixel");
  EXPECT_EQ(m.forward(zeros({0, 4, 5, 5})).sizes(), (Shape{0, 4, 5, 5}));
}

TEST(MixConv2d, TakesThePlaceOfADepthwiseConvolution) {
  ConvNet net({.width = 8, .num_blocks = 2});
  const SwapReport report = swap(net, "DepthwiseConv2d", "MixConv2d");
  EXPECT_EQ(report.instances.size(), 2u);
  const Tensor y = net.forward(zeros({2, 1, 12, 12}));
  EXPECT_EQ(y.sizes(), (Shape{2, 10}));
  std::vector<std::string> made;
  net.apply([&](const std::string&, Module& m) {
    if (m.type() == "MixConv2d") made.push_back(m.options_json().find("kernel_size")->dump());
  });
  EXPECT_EQ(made, (std::vector<std::string>{"[3,5,7]", "[3,5,7]"}));
  ConvNet other({.width = 8, .num_blocks = 2});
  swap(other, "DepthwiseConv2d", "MixConv2d",
       Json::parse(R"({"kernel_size": [3, 9], "padding": "same"})"));
  EXPECT_EQ(other.forward(zeros({2, 1, 12, 12})).sizes(), (Shape{2, 10}));
  EXPECT_ERROR(MixConv2d::options_from(
                   "DepthwiseConv2d",
                   DepthwiseConv2d({.channels = 4, .kernel_size = 3, .multiplier = 2, .padding = 1})
                       .options_json(),
                   Json::object()),
               OptionError, "multiplier is 2");
  EXPECT_ERROR(
      MixConv2d::options_from("DepthwiseConv2d",
                              DepthwiseConv2d({.channels = 4, .kernel_size = 3}).options_json(),
                              Json::object()),
      OptionError, "padding is 0");
}

TEST(DepthwiseConv2d, KeepsChannelsLast) {
  DepthwiseConv2d d({.channels = 7, .kernel_size = 3, .padding = "tf_same", .dilation = 2});
  const Tensor x = random({2, 7, 9, 10}, kFloat32), y = d.forward(x),
               z = d.forward(channels_last(x));
  EXPECT_FALSE(z.is_contiguous());
  EXPECT_EQ(max_difference(y, z), 0);
}

}  // namespace
}  // namespace dropin
