// MixNet, FastMaskIoUNet and their pooling.
#include "convolution/leaves.h"
#include "dropin/model/mask_iou_net.h"
#include "dropin/model/mixnet.h"
#include "support.h"

namespace dropin {
namespace {

using testing::expect_values;
using testing::max_difference;
using testing::random;

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
