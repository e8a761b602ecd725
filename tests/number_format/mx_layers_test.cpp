// Layers and products in MX formats against their definition.
#include "dropin/convolution/mx_conv.h"
#include "dropin/projection/linear.h"
#include "dropin/projection/mx_linear.h"
#include "kernels/mx/scalar.h"
#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

// Layers against their definition composed from fake_quantize_mx.
TEST(MXLinear, QuantizesEachOperandAlongWhatIsSummed) {
  for (const bool three : {false, true})
    for (const bool backward : {false, true}) {
      MXLinear l({.in_features = 40,
                  .out_features = 35,
                  .weight_format = "MXFP4_E2M1",
                  .act_format = "MXINT8",
                  .grad_format = "MXFP6_E3M2",
                  .weight_format_bp = "MXFP8_E4M3",
                  .act_format_bp = "NVFP4",
                  .block_size = 16,
                  .quantize_backward = backward});
      const Tensor x = random(three ? Shape{3, 17, 40} : Shape{17, 40}, kFloat32, 2)
                           .requires_grad_(),
                   w = l.parameters()[0], b = l.parameters()[1];
      const Tensor y = l(x), g = random(y.sizes(), kFloat32, 3);
      y.backward(g);
      no_grad guard;
      auto q = [&](const Tensor& t, const char* f, int64_t axis) {
        return fake_quantize_mx(t, {.format = f, .axis = axis, .block_size = 16});
      };
      EXPECT_LT(max_difference(y.detach(), linear(q(x, "MXINT8", -1), q(w, "MXFP4_E2M1", -1), b)),
                1e-5);
      const Tensor gx =
          backward ? matmul(q(g, "MXFP6_E3M2", -1), q(w, "MXFP8_E4M3", 0)) : matmul(g, w);
      const Tensor gq = backward ? q(g, "MXFP6_E3M2", -2) : g,
                   xq = backward ? q(x, "NVFP4", -2) : x;
      EXPECT_LT(max_difference(x.grad(), gx), 1e-5);
      EXPECT_LT(max_difference(w.grad(), matmul(gq.reshape({-1, 35}).mT(), xq.reshape({-1, 40}))),
                1e-4);
      EXPECT_LT(max_difference(b.grad(), sum(g.reshape({-1, 35}), {0})), 1e-4);
    }
  MXLinear plain({.in_features = 8,
                  .out_features = 5,
                  .weight_format = "none",
                  .act_format = "none",
                  .grad_format = "none"});
  const Tensor x = random({3, 8}, kFloat32);
  EXPECT_EQ(max_difference(plain(x).detach(),
                           linear(x, plain.parameters()[0], plain.parameters()[1]).detach()),
            0);
  EXPECT_EQ(plain(x[0]).sizes(), (Shape{5}));
  EXPECT_ERROR(plain.freeze(), OptionError, "weight_format is none");
}

TEST(MXLayers, FrozenWeightsAreCodesAndScales) {
  for (const char* format : {"MXFP8_E4M3", "MXFP6_E2M3", "MXFP4_E2M1", "MXINT8", "NVFP4"}) {
    const MXLinearOptions o{.in_features = 70, .out_features = 10, .weight_format = format};
    MXLinear a(o), b(o);
    a.eval();
    b.eval();
    const Tensor x = random({4, 70}, kFloat32), before = a(x).detach();
    a.freeze();
    EXPECT_LT(max_difference(a(x), before), 1e-6) << format;
    const StateDict s = a.state_dict();
    EXPECT_FALSE(s.contains("weight"));
    EXPECT_EQ(s.find("weight_codes").numel(), 10 * ((70 * mx_bits(format) + 7) / 8)) << "true size";
    EXPECT_EQ(s.find("weight_scales").numel(), 10 * (std::string(format) == "NVFP4" ? 5 : 3));
    b.load_state_dict(s);
    EXPECT_TRUE(b.frozen());
    EXPECT_EQ(max_difference(a(x), b(x)), 0);
    MXLinear c(o);
    b.load_state_dict(c.state_dict());
    EXPECT_FALSE(b.frozen());
    a.train();
    EXPECT_ERROR(a(x), StateError, "the weight is frozen");
    EXPECT_ERROR(a.freeze(), StateError, "frozen already");
    MXConv2dOptions co;
    co.in_channels = 6, co.out_channels = 4, co.kernel_size = 3, co.groups = 2,
    co.weight_format = format;
    MXConv2d d(co), e(co);
    d.eval();
    e.eval();
    const Tensor v = random({2, 6, 7, 7}, kFloat32), was = d(v).detach();
    d.freeze();
    EXPECT_LT(max_difference(d(v), was), 1e-6) << format;
    e.load_state_dict(d.state_dict());
    EXPECT_EQ(max_difference(d(v), e(v)), 0);
  }
  MXLinear four({.in_features = 70, .out_features = 10, .weight_format = "MXFP4_E2M1"}),
      six({.in_features = 70, .out_features = 10, .weight_format = "MXFP6_E2M3"});
  four.freeze();
  EXPECT_ERROR(six.load_state_dict(four.state_dict()), StateError,
               "expected uint8 [10, 53] for weight_format MXFP6_E2M3");
}

TEST(MXMatmul, SharedSecondOperand) {
  MXMatmul m({.a_format = "MXFP6_E2M3", .b_format = "MXINT8", .grad_format = "MXFP8_E5M2"});
  const Tensor a = random({2, 3, 9, 40}, kFloat32, 1).requires_grad_(),
               b = random({40, 7}, kFloat32, 2).requires_grad_();
  const Tensor y = m(a, b), g = random(y.sizes(), kFloat32, 3);
  y.backward(g);
  no_grad guard;
  auto q = [&](const Tensor& t, const char* f, int64_t axis) {
    return fake_quantize_mx(t, {.format = f, .axis = axis});
  };
  EXPECT_LT(max_difference(y.detach(), matmul(q(a, "MXFP6_E2M3", -1), q(b, "MXINT8", -2))), 1e-5);
  EXPECT_LT(max_difference(a.grad(), matmul(q(g, "MXFP8_E5M2", -1), q(b, "MXINT8", -1).mT())),
            1e-5);
  EXPECT_LT(max_difference(
                b.grad(), sum(matmul(q(a, "MXFP6_E2M3", -2).mT(), q(g, "MXFP8_E5M2", -2)), {0, 1})),
            1e-4);
}

}  // namespace
}  // namespace dropin
