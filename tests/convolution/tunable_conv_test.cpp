#include "dropin/convolution/tunable_conv.h"

#include <cmath>

#include "dropin/registry/registry.h"
#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

TEST(TunableConv2d, AUnitVectorChoosesItsKernel) {
  no_grad guard;
  TunableConv2d m({.in_channels = 4,
                   .out_channels = 6,
                   .kernel_size = 3,
                   .stride = 2,
                   .padding = 1,
                   .groups = 2,
                   .bias = true,
                   .num_params = 3,
                   .mode = "linear"});
  EXPECT_FALSE(m.state_dict().contains("mlp.weight"));
  const Tensor x = random({3, 4, 7, 5}, kFloat32), y = m(x, eye(3));
  const StateDict s = m.state_dict();
  ConvParams p;
  p.stride = {2, 2};
  p.pad_begin = p.pad_end = {1, 1};
  p.groups = 2;
  for (int64_t i = 0; i < 3; ++i) {
    const Tensor want = conv2d(x.narrow(0, i, 1), s.find("weight")[0][i], s.find("bias")[0][i], p);
    EXPECT_LT(max_difference(y.narrow(0, i, 1), want), 1e-5);
    EXPECT_LT(max_difference((*m.fuse(eye(3)[i]))(x.narrow(0, i, 1)), want), 1e-5);
  }
}

TEST(TunableConv2d, EqualParametersGiveThePlainConvolutionAndItsGradients) {
  TunableConv2d m({.in_channels = 3,
                   .out_channels = 4,
                   .kernel_size = 3,
                   .bias = true,
                   .num_params = 2,
                   .expand_params = 2});
  m.to(kFloat64);
  const Tensor x = random({4, 3, 6, 6});
  const Tensor one = tensor({0.3, -1.2}, {1, 2}, kFloat64).expand({4, 2}).contiguous();
  auto gradients = [&](const Tensor& omega) {
    m.zero_grad();
    const Tensor y = m(x, omega);
    sum(square(y)).backward();
    Tensors r{y.detach()};
    for (const Tensor& p : m.parameters()) r.push_back(p.grad().clone());
    return r;
  };
  const Tensors together = gradients(one), apart = gradients(one.clone().requires_grad_());
  for (std::size_t i = 0; i < together.size(); ++i)
    EXPECT_LT(max_difference(together[i], apart[i]), 1e-11) << i;
}

TEST(TunableConv2d, ParametersMayBeSetOnce) {
  no_grad guard;
  TunableConv2d m({.in_channels = 2, .out_channels = 2, .kernel_size = 1, .num_params = 2});
  const Tensor x = random({3, 2, 2, 2}, kFloat32), omega = tensor({0.2, 0.8});
  EXPECT_ERROR(m(x), StateError, "no params given, expected [3, 2] or set_params()");
  m.set_params(omega);
  const Tensor rows = omega.unsqueeze(0).expand({3, 2}).contiguous();
  EXPECT_LT(max_difference(m(x), m(x, rows)), 1e-6);
  m.set_params(rows.narrow(0, 0, 2));
  EXPECT_ERROR(m(x), ShapeError, "params set are [2, 2], expected [3, 2]");
  EXPECT_ERROR(m.set_params(zeros({3})), ShapeError, "expected [2] or [B, 2]");
  EXPECT_ERROR(m(x, zeros({2, 2})), ShapeError, "params is [2, 2], expected [3, 2]");
  EXPECT_ERROR(m.fuse(zeros({1, 2})), ShapeError, "expected [2]");
}

TEST(TunableConv2d, StartsWithinTheAuthorsBounds) {
  const TunableConv2dOptions o{
      .in_channels = 4, .out_channels = 8, .kernel_size = 3, .groups = 2, .num_params = 3};
  auto largest = [](TunableConv2dOptions options, const char* init) {
    options.init = init;
    return amax(abs(TunableConv2d(options).state_dict().find("weight"))).item();
  };
  const double official = 1 / std::sqrt(3.0 * 8 * 2 * 9), plain = 1 / std::sqrt(2.0 * 9);
  EXPECT_NEAR(largest(o, "official"), official, 0.03 * official);
  EXPECT_NEAR(largest(o, "conv"), plain, 0.03 * plain);
}

TEST(TunableConv2d, TakesAConvolutionsPlace) {
  struct Net : Module {
    Child<Conv2d> conv;
    Net() { conv = child<Conv2d>("conv", {.in_channels = 3, .out_channels = 5, .kernel_size = 3}); }
  };
  Net net;
  swap(net, "Conv2d", "TunableConv2d");
  EXPECT_EQ(net.conv(zeros({2, 3, 6, 6})).sizes(), (Shape{2, 5, 4, 4}));
}

TEST(TunableConv2d, RefusesWhatDoesNotFitInWords) {
  const TunableConv2dOptions o{.in_channels = 2, .out_channels = 2, .kernel_size = 1};
  auto with = [&](auto set) {
    TunableConv2dOptions other = o;
    set(other);
    TunableConv2d made(other);
  };
  EXPECT_ERROR(with([](auto& x) { x.num_params = 0; }), OptionError, "num_params 0");
  EXPECT_ERROR(with([](auto& x) { x.mode = "softmax"; }), OptionError, "mode is \"softmax\"");
  EXPECT_ERROR(with([](auto& x) { x.init = "zero"; }), OptionError, "init is \"zero\"");
  EXPECT_ERROR(with([](auto& x) { x.groups = 3; }), OptionError, "groups");
}

TEST(TunableLinear, MixesMatricesPerSample) {
  no_grad guard;
  TunableLinear m({.in_features = 4, .out_features = 3, .num_params = 2, .mode = "linear"});
  const StateDict s = m.state_dict();
  const Tensor x = random({2, 5, 4}, kFloat32), omega = random({2, 2}, kFloat32, 3);
  const Tensor y = m(x, omega);
  for (int64_t b = 0; b < 2; ++b) {
    const Tensor w = s.find("weight")[0], v = s.find("bias")[0];
    const Tensor a = omega[b][0], c = omega[b][1];
    EXPECT_LT(max_difference(y[b], linear(x[b], w[0] * a + w[1] * c, v[0] * a + v[1] * c)), 1e-5);
  }
  EXPECT_LT(max_difference(m(x.select(1, 2), omega), y.select(1, 2)), 1e-6);
}

}  // namespace
}  // namespace dropin
