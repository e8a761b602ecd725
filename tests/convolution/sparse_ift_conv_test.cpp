#include "dropin/convolution/sparse_ift_conv.h"

#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

TEST(SparseIFTConv2d, EachFormIsConvolutionsByMaskedWeights) {
  for (const char* transform : {"wide", "parallel", "factorized", "doped"}) {
    SparseIFTConv2dOptions o;
    o.in_channels = 3;
    o.out_channels = 4;
    o.kernel_size = 3;
    o.stride = 2;
    o.padding = 1;
    o.transform = transform;
    SparseIFTConv2d m(o);
    m.to(kFloat64);
    const StateDict s = m.state_dict();
    auto part = [&](const std::string& name, const Tensor& x, bool first) {
      const Tensor w = s.find(name + "weight"), mask = s.find(name + "weight_mask");
      ConvParams p;
      if (first)
        p = detail::conv_params(
            {.in_channels = 3, .out_channels = 4, .kernel_size = 3, .stride = 2, .padding = 1},
            x.size(2), x.size(3));
      return conv2d(x, mask.defined() ? where(mask, w, 0.0) : w, {}, p);
    };
    const Tensor x = random({2, std::string(transform) == "wide" ? 4 : 3, 7, 6});
    Tensor want;
    const std::string form = transform;
    if (form == "wide") want = part("", x, true);
    if (form == "parallel") want = part("branches.0.", x, true) + part("branches.1.", x, true);
    if (form == "factorized") want = part("V.", relu(part("U.", x, true)), false);
    if (form == "doped") want = part("sparse.", x, true) + part("V.", part("U.", x, true), false);
    want = want + s.find("bias").reshape({1, -1, 1, 1});
    EXPECT_LT(max_difference(m(x), want), 1e-12) << form;
  }
}

TEST(SparseIFTConv2d, NamesWhatDoesNotFit) {
  SparseIFTConv2dOptions o;
  o.in_channels = o.out_channels = 3;
  o.kernel_size = 3;
  o.stride = -1;
  EXPECT_ERROR(SparseIFTConv2d{o}, OptionError, "stride");
  o.stride = 1;
  o.sparsity = 1.5;
  EXPECT_ERROR(SparseIFTConv2d{o}, OptionError, "sparsity is 1.5");
  o.sparsity = 0.75;
  EXPECT_ERROR(SparseIFTConv2d{o}(zeros({1, 3, 8, 8})), ShapeError, "expected [B, 6, H, W]");
}

}  // namespace
}  // namespace dropin
