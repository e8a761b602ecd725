// Deformable convolution.
#include "dropin/convolution/deform_conv.h"
#include "convolution/leaves.h"
#include "dropin/autograd/gradcheck.h"
#include "dropin/core/parallel.h"
#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

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

}  // namespace
}  // namespace dropin
