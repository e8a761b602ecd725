// Mixed depthwise and deformable convolution, MixNet and FastMaskIoUNet.
#include <functional>

#include "dropin/autograd/gradcheck.h"
#include "dropin/convolution/deform_conv.h"
#include "dropin/core/parallel.h"
#include "dropin/model/convnet.h"
#include "dropin/model/mask_iou_net.h"
#include "dropin/model/mixnet.h"
#include "dropin/registry/registry.h"
#include "support.h"

namespace dropin {
namespace {

using testing::expect_values;
using testing::max_difference;
using testing::random;

// The gradients of sum(f(leaves) * w), one per leaf.
Tensors gradients(const std::function<Tensor(const Tensors&)>& f, const Tensors& leaves) {
  const Tensor y = f(leaves);
  return grad({y}, leaves, {random(y.sizes(), kFloat64, 99).to(y.dtype())});
}
Tensors leaves_of(const Tensors& v, DType t) {
  Tensors r;
  for (const Tensor& x : v) r.push_back(x.detach().to(t).clone().requires_grad_());
  return r;
}
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

// Products of convolutions and linear layers, and the squeeze's, for one picture.
double multiply_adds(MixNet& net, int64_t side) {
  double total = 0, area = static_cast<double>(side * side);
  double out = area / 4;  // after the stem
  int64_t block = 0;
  net.apply([&](const std::string& path, Module& m) {
    if (m.type() == "MixNetBlock") ++block;
    if (path.find("classifier") != std::string::npos || m.type() == "SqueezeExcite") return;
    if (m.type() == "Linear") return;
    if (m.type() == "Conv2d") {  // squeeze and excitation: one pixel
      total += static_cast<double>(m.parameters()[0].numel());
      return;
    }
    if (m.type() != "MixConv2d") return;
    const int64_t stride = m.options_json().find("stride")->as_int();
    if (path != "conv_stem") out /= static_cast<double>(stride * stride);
    for (const Tensor& p : m.parameters()) total += static_cast<double>(p.numel()) * out;
  });
  return total + static_cast<double>(net.state_dict().find("classifier.weight").numel());
}

TEST(MixNet, HasThePublishedNumberOfParametersAndProducts) {
  MixNet s({});
  EXPECT_EQ(s.num_parameters(), 4134606);
  EXPECT_NEAR(multiply_adds(s, 224) / 1e6, 239.2, 0.1);
  MixNet m({.variant = "m"}), l({.variant = "l"});
  EXPECT_NEAR(static_cast<double>(m.num_parameters()) / 1e6, 5.0, 0.05);
  EXPECT_NEAR(static_cast<double>(l.num_parameters()) / 1e6, 7.3, 0.05);
  s.eval();
  no_grad guard;
  EXPECT_EQ(s.forward(zeros({1, 3, 64, 96})).sizes(), (Shape{1, 1000}));
  EXPECT_ERROR(MixNet({.variant = "xl"}), OptionError, "variant is \"xl\"");
}

TEST(MixNetBlock, ReadsThePortsNamesOfABlockWithoutExpansion) {
  manual_seed(3);
  MixNetBlock a({.in_channels = 4, .out_channels = 4}), b({.in_channels = 4, .out_channels = 4});
  StateDict port;
  for (const auto& [name, t] : a.state_dict()) {
    std::string n = name;
    for (const auto& [ours, theirs] :
         {std::pair{"bn2", "bn1"}, {"bn3", "bn2"}, {"conv_pwl", "conv_pw"}})
      if (name.rfind(std::string(ours) + ".", 0) == 0)
        n = theirs + name.substr(std::string(ours).size());
    port.set(n, t);
  }
  EXPECT_FALSE(b.load_state_dict(port).renamed.empty());
  const Tensor x = random({2, 4, 5, 5}, kFloat32);
  a.eval(), b.eval();
  EXPECT_EQ(max_difference(a.forward(x), b.forward(x)), 0);
}

// ---- deformable convolution

struct Deform {
  Tensors data;  // x, offset, mask, weight, bias
  ConvParams p;
};
Deform deform_case(int64_t B, int64_t C, int64_t O, int64_t groups, int64_t G, int64_t kh,
                   int64_t kw, int64_t h, int64_t w, const ConvParams& p) {
  const int64_t P = (h + 2 * p.pad_begin[0] - p.dilation[0] * (kh - 1) - 1) / p.stride[0] + 1,
                Q = (w + 2 * p.pad_begin[1] - p.dilation[1] * (kw - 1) - 1) / p.stride[1] + 1,
                K = kh * kw;
  Deform d{{random({B, C, h, w}, kFloat64, 1), random({B, 2 * G * K, P, Q}, kFloat64, 2) * 2.0,
            random({B, G * K, P, Q}, kFloat64, 3), random({O, C / groups, kh, kw}, kFloat64, 4),
            random({O}, kFloat64, 5)},
           p};
  d.p.pad_end = p.pad_begin;
  d.p.groups = groups;
  return d;
}

TEST(DeformConv2d, KernelAgreesWithTheDefinitionInEveryGradient) {
  const Deform cases[] = {
      deform_case(2, 6, 4, 2, 3, 3, 3, 11, 9,
                  {.stride = {2, 2}, .pad_begin = {2, 2}, .dilation = {2, 2}}),
      deform_case(1, 70, 5, 1, 1, 3, 3, 9, 8, {.pad_begin = {1, 1}}),
      deform_case(3, 48, 6, 3, 2, 1, 2, 7, 10, {.stride = {1, 2}, .pad_begin = {0, 1}}),
      deform_case(9, 4, 3, 1, 2, 5, 5, 8, 8, {.pad_begin = {2, 2}}),
      deform_case(1, 3, 2, 1, 1, 1, 1, 4, 4, {})};
  for (const Deform& c : cases)
    for (const bool with_mask : {true, false}) {
      auto f = [&](const Tensors& v) {
        return deform_conv2d(v[0], v[1], with_mask ? v[2] : Tensor(), with_mask ? v[3] : v[2],
                             with_mask ? v[4] : v[3], c.p);
      };
      Tensors data = c.data;
      if (!with_mask) data.erase(data.begin() + 2);
      const Tensors wide = leaves_of(data, kFloat64), narrow = leaves_of(data, kFloat32);
      EXPECT_LT(max_difference(f(wide), f(narrow).to(kFloat64)), 1e-4);
      const Tensors want = gradients(f, wide), got = gradients(f, narrow);
      for (std::size_t i = 0; i < want.size(); ++i)
        EXPECT_LT(max_difference(want[i], got[i].to(kFloat64)), 1e-3)
            << "leaf " << i << " mask " << with_mask << " channels " << c.data[0].size(1);
    }
}

TEST(DeformConv2d, ResultsDoNotDependOnThreads) {
  const Deform c = deform_case(5, 40, 8, 1, 1, 3, 3, 16, 16, {.pad_begin = {1, 1}});
  const int before = get_num_threads();
  Tensors results[2];
  for (const int k : {0, 1}) {
    set_num_threads(k ? 3 : 1);
    results[k] = gradients(
        [&](const Tensors& v) { return deform_conv2d(v[0], v[1], v[2], v[3], v[4], c.p); },
        leaves_of(c.data, kFloat32));
  }
  set_num_threads(before);
  for (std::size_t i = 0; i < results[0].size(); ++i)
    EXPECT_EQ(max_difference(results[0][i], results[1][i]), 0) << i;
}

TEST(DeformConv2d, DefinitionHasRightGradients) {
  const Deform c = deform_case(1, 2, 2, 1, 1, 2, 2, 4, 4, {.pad_begin = {1, 1}});
  Tensors in = leaves_of(c.data, kFloat64);
  gradcheck(
      [&](const Tensors& v) -> Tensors {
        return {plain::deform_conv2d(v[0], v[1], v[2], v[3], v[4], c.p)};
      },
      in);
}

TEST(DeformConv2d, ConstantOffsetsShiftTheConvolution) {
  manual_seed(4);
  DeformConv2d d({.in_channels = 3, .out_channels = 4, .kernel_size = 3, .padding = 1});
  const Tensor x = random({1, 3, 10, 12}, kFloat32);
  EXPECT_LT(max_difference(d.forward(x, zeros({1, 18, 10, 12})), d.forward(x)), 1e-5)
      << "no offsets: a convolution";
  Tensor offset = zeros({1, 9, 2, 10, 12});
  offset.select(2, 0).fill_(1);
  offset.select(2, 1).fill_(-2);
  const Tensor moved = d.forward(x, offset.reshape({1, 18, 10, 12})), still = d.forward(x);
  // inside, row p column q of the one is row p + 1 column q - 2 of the other
  EXPECT_LT(
      max_difference(moved.slice(2, 1, 8).slice(3, 3, 11), still.slice(2, 2, 9).slice(3, 1, 9)),
      1e-5);
  manual_seed(5);
  ModulatedDeformConv2d packed(
      {.in_channels = 3, .out_channels = 4, .kernel_size = 3, .padding = 1});
  const Tensor w = packed.state_dict().find("weight");
  EXPECT_LT(max_difference(packed.forward(x),
                           conv2d(x, w, {}, {.pad_begin = {1, 1}, .pad_end = {1, 1}}) * 0.5),
            1e-5)
      << "starts as half a convolution";
}

TEST(DeformConv2d, SamplesAtTheBorderAndBeyond) {
  // one tap, one pixel of 8 in a 1x1 picture; offsets move it
  const auto at = [](double dy, double dx, DType t) {
    return deform_conv2d(full({1, 1, 1, 1}, 8, t), tensor({dy, dx}, {1, 2, 1, 1}, t), {},
                         ones({1, 1, 1, 1}, t), {})
        .item();
  };
  for (const DType t : {kFloat32, kFloat64}) {
    EXPECT_EQ(at(0, 0, t), 8);
    EXPECT_EQ(at(-0.5, 0, t), 4);
    EXPECT_EQ(at(-0.5, 0.5, t), 2);
    EXPECT_EQ(at(-1, 0, t), 0);
    EXPECT_EQ(at(1, 0, t), 0);
    for (const double bad : {static_cast<double>(NAN), static_cast<double>(INFINITY),
                             -static_cast<double>(INFINITY), 1e30, -1e30}) {
      EXPECT_EQ(at(bad, 0, t), 0) << bad;
      EXPECT_EQ(at(0, bad, t), 0) << bad;
      const Tensors leaves{full({1, 1, 1, 1}, 8, t).requires_grad_(),
                           tensor({bad, 0}, {1, 2, 1, 1}, t).requires_grad_(),
                           full({1, 1, 1, 1}, 3, t).requires_grad_()};
      for (const Tensor& g : gradients(
               [](const Tensors& v) { return deform_conv2d(v[0], v[1], {}, v[2], {}); }, leaves))
        EXPECT_EQ(max_difference(g, zeros_like(g)), 0) << bad;
    }
  }
}

TEST(DeformConv2d, HasSecondDerivatives) {
  const Deform c = deform_case(1, 2, 2, 1, 1, 2, 2, 4, 4, {.pad_begin = {1, 1}});
  const Tensors narrow = leaves_of(c.data, kFloat32), wide = leaves_of(c.data, kFloat64);
  auto penalty = [&](const Tensors& v) {
    return sum(square(grad({sum(square(deform_conv2d(v[0], v[1], v[2], v[3], v[4], c.p)))}, {v[0]},
                           {}, true, true)[0]));
  };
  const Tensor a = penalty(narrow), b = penalty(wide);
  EXPECT_NEAR(a.item(), b.item(), 1e-3 * std::abs(b.item()));
  const Tensors ga = grad({a}, {narrow[1], narrow[3]}), gb = grad({b}, {wide[1], wide[3]});
  for (std::size_t i = 0; i < 2; ++i)
    EXPECT_LT(max_difference(ga[i].to(kFloat64), gb[i]), 2e-3 * amax(abs(gb[i])).item()) << i;
}

TEST(DeformConv2d, RefusesWhatDoesNotFit) {
  DeformConv2d d({.in_channels = 4, .out_channels = 4, .kernel_size = 3, .padding = 1});
  const Tensor x = zeros({1, 4, 5, 5});
  EXPECT_ERROR(d.forward(x, zeros({1, 17, 5, 5})), ShapeError,
               "offset is [1, 17, 5, 5], expected [1, 2 G 9, 5, 5]");
  EXPECT_ERROR(d.forward(x, zeros({1, 54, 5, 5})), ShapeError, "G dividing the 4 channels");
  EXPECT_ERROR(d.forward(x, zeros({1, 18, 4, 5})), ShapeError, "offset is");
  EXPECT_ERROR(d.forward(x, zeros({1, 36, 5, 5}), zeros({1, 9, 5, 5})), ShapeError,
               "mask is [1, 9, 5, 5], expected [1, 18, 5, 5]");
  EXPECT_ERROR(d.call({{"x", x}, {"mask", zeros({1, 9, 5, 5})}}), StateError,
               "mask came without an offset");
  EXPECT_ERROR(DeformConv2d({.in_channels = 4, .out_channels = 4, .kernel_size = 3, .stride = 0}),
               OptionError, "stride");
  EXPECT_ERROR(DeformConv2d({.in_channels = 4, .out_channels = 4, .kernel_size = 3, .groups = 3}),
               OptionError, "groups 3");
  EXPECT_ERROR(ModulatedDeformConv2d(
                   {.in_channels = 4, .out_channels = 4, .kernel_size = 3, .deformable_groups = 3}),
               OptionError, "deformable_groups 3");
  EXPECT_EQ(d.forward(zeros({0, 4, 5, 5}), zeros({0, 18, 5, 5})).sizes(), (Shape{0, 4, 5, 5}));
}

// ---- mask quality

TEST(FastMaskIoUNet, FiveLayersNeedSixtyThreePixels) {
  FastMaskIoUNet net({});
  EXPECT_EQ(net.forward(random({2, 1, 63, 63}, kFloat32)).sizes(), (Shape{2, 80}));
  EXPECT_ERROR(net.forward(zeros({1, 1, 62, 138})), ShapeError, "sides of at least 63");
  EXPECT_ERROR(net.forward(zeros({1, 2, 63, 63})), ShapeError, "expected [N, 1, h, w]");
  EXPECT_EQ(net.forward(zeros({0, 1, 138, 138})).sizes(), (Shape{0, 80}));
  EXPECT_ERROR(FastMaskIoUNet({.channels = {}}), OptionError, "channels is empty");
  EXPECT_ERROR(FastMaskIoUNet({.num_classes = 0}), OptionError, "num_classes is 0");
}

TEST(FastMaskIoUNet, OneClassPerMaskIsTheSameNumber) {
  manual_seed(6);
  FastMaskIoUNet net({.num_classes = 7, .channels = {4, 6}});
  const Tensor x = random({5, 1, 20, 17}, kFloat32), classes = tensor({3, 0, 6, 3, 1}, kInt64);
  const Tensor all = net.forward(x), own = net.forward(x, classes);
  EXPECT_LT(max_difference(own, gather(all, 1, classes.unsqueeze(1)).squeeze(1)), 1e-6);
  for (const double v : all.to_vector()) EXPECT_GE(v, 0);
  EXPECT_ERROR(net.forward(x, tensor({3, 0, 7, 3, 1}, kInt64)), IndexError,
               "class 7 is outside [0, 7)");
}

TEST(Pool, AWindowWiderThanThePictureCountsWithCeilMode) {
  const Tensor x = tensor(std::vector<double>{1, 2, 3, 4}, kFloat32)
                       .reshape({1, 1, 1, 4})
                       .expand({1, 1, 4, 4})
                       .contiguous();
  PoolParams p{.kernel = {5, 5}, .stride = {3, 3}, .ceil_mode = true};
  expect_values(max_pool2d(x, p), {4});
  expect_values(avg_pool2d(x, p), {2.5});
  p.ceil_mode = false;
  EXPECT_ERROR(max_pool2d(x, p), ShapeError, "smaller than the kernel");
}

}  // namespace
}  // namespace dropin
