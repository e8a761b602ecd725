// BitLinear: the packed integer product against the definition, bad input.
#include "dropin/projection/bitlinear.h"
#include "dropin/core/parallel.h"
#include "dropin/dispatch/dispatch.h"
#include "dropin/projection/linear.h"
#include "kernels/bitlinear/kernel.h"
#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

// The worst sums there are, on every width: exact integers, no overflow.
TEST(BitProduct, SumsAreExact) {
  for (const bool ternary : {false, true})
    for (const int64_t m : {1, 2, 3, 4, 5, 6, 17})
      for (const int64_t k : {1, 31, 67, 130, 1000, 8192 + 77})
        for (const int64_t groups : {1, 2, 5})
          for (const bool shift : {false, true})
            for (const int fill : {0, 1, 2}) {
              if (k % groups || (k > 4000 && m > 6)) continue;
              const int64_t n = 37;
              Generator g(static_cast<std::uint64_t>(k + m));
              Tensor w = randint(ternary ? -1 : 0, 2, {n, k}, kInt64, &g).to(kFloat32),
                     q = randint(-128, 128, {m, k}, kInt64, &g).to(kInt8);
              if (!ternary) w = w * 2.0 - 1.0;
              if (fill == 1) w = ones({n, k}), q = full({m, k}, -128, kInt8);
              if (fill == 2) w = full({n, k}, -1), q = full({m, k}, 127, kInt8);
              if (shift) q = clamp(q.to(kFloat32), 0, 127).to(kInt8);
              // codes written by hand: packing measures a scale, here it is 1
              const int64_t per = ternary ? 4 : 8, bytes = (k + per - 1) / per;
              Tensor packed = full({n, bytes}, ternary ? 0x55 : 0, kUInt8);
              for (int64_t r = 0; r < n; ++r)
                for (int64_t i = 0; i < k; ++i) {
                  const int v = static_cast<int>(w.data<float>()[r * k + i]);
                  std::uint8_t& b = packed.data<std::uint8_t>()[r * bytes + i / per];
                  if (ternary)
                    b = static_cast<std::uint8_t>((b & ~(3 << 2 * (i % 4))) | (v + 1)
                                                                                  << 2 * (i % 4));
                  else
                    b = static_cast<std::uint8_t>(b | (v > 0) << (i % 8));
                }
              const Tensor scale = ones({1}), t = full({m, groups}, 127),
                           e = shift ? full({m, groups}, 0.5) : Tensor();
              Tensor y = empty({m, n});
              const kernels::BitActivations a{shift, false, 127, groups};
              run<kernels::bit_linear>(
                  kCPU, ternary, a,
                  kernels::BitCodes{q.in(), t.in(), shift ? e.in() : abi::TensorIn{}},
                  kernels::BitWeight{packed.in(), scale.in()}, abi::TensorIn{}, y.out());
              const Tensor want = matmul(q.to(kFloat64) + (shift ? 0.5 : 0), w.to(kFloat64).mT());
              ASSERT_LE(max_difference(y.to(kFloat64), want), k > 4000 ? 0.5 : 0.02)
                  << "ternary " << ternary << " m " << m << " k " << k << " groups " << groups
                  << " shift " << shift << " fill " << fill;
              if (!shift && groups == 1) {
                ASSERT_EQ(max_difference(y.to(kFloat64), want), 0);
              }
            }
}

TEST(BitLinear, IntegerRouteEqualsTheDefinition) {
  for (const char* variant : {"b1", "b1.58"})
    for (const char* per : {"token", "tensor"})
      for (const char* mode : {"absmax", "shift"})
        for (const char* norm : {"auto", "none", "rms", "layer"})
          for (const int64_t groups : {1, 3})
            for (const int64_t k : {3, 66, 129})
              for (const int64_t m : {1, 7}) {
                BitLinearOptions o{.in_features = k,
                                   .out_features = 12,
                                   .variant = variant,
                                   .norm = norm,
                                   .norm_affine = std::string(norm) != "none",
                                   .act_per = per,
                                   .act_mode = mode,
                                   .act_qmax = m == 1 ? 128 : 127,
                                   .weight_groups = groups,
                                   .act_groups = groups};
                manual_seed(4);
                BitLinear fast(o);
                manual_seed(4);
                BitLinear exact(o);
                exact.to(kFloat64);
                Tensor x = random({m, 2, k}, kFloat32, 8).requires_grad_(),
                       z = x.detach().to(kFloat64).requires_grad_();
                const Tensor y = fast(x), v = exact(z);
                // rounding of the norm may tip an activation over: one step of one of them
                const double step = 2 * max_difference(v.detach(), zeros_like(v)) / 100;
                ASSERT_LT(max_difference(y.detach().to(kFloat64), v.detach()), step)
                    << variant << " " << per << " " << mode << " " << norm << " " << groups << " "
                    << k;
                EXPECT_LT(mean(abs(y.detach().to(kFloat64) - v.detach())).item(), step / 50);
                const Tensor g = random(y.sizes(), kFloat32, 2);
                y.backward(g);
                v.backward(g.to(kFloat64));
                EXPECT_LT(max_difference(x.grad().to(kFloat64), z.grad()), 3e-3);
                EXPECT_LT(max_difference(fast.weight().grad().to(kFloat64), exact.weight().grad()),
                          0.05);
                EXPECT_LT(max_difference(fast.bias().grad().to(kFloat64), exact.bias().grad()),
                          1e-5);
                // packed: the same numbers, from the same kernel
                fast.eval();
                const Tensor before = fast(x.detach());
                fast.pack();
                EXPECT_EQ(max_difference(fast(x.detach()), before), 0);
                fast.pack(true);
                EXPECT_EQ(max_difference(fast(x.detach()), before), 0);
              }
}

TEST(BitLinear, TokensWithNaNZeroTokensAndEmptyBatches) {
  for (const char* mode : {"absmax", "shift"})
    for (const DType dtype : {kFloat32, kFloat64}) {
      BitLinear l({.in_features = 20, .out_features = 6, .norm = "none", .act_mode = mode});
      l.to(dtype);
      l.eval();
      Tensor x = random({5, 20}, dtype).clone();
      const Tensor clean = l(x);
      x[1].select(0, 3).fill_(NAN);
      x[2].select(0, 0).fill_(-INFINITY);
      x[3].zero_();
      const Tensor y = l(x).detach();
      for (int t : {1, 2})
        for (double v : y[t].to_vector()) EXPECT_TRUE(std::isnan(v)) << mode;
      EXPECT_LT(max_difference(y[3], l.bias().detach()), 1e-12)
          << "a token of zeros gives the bias";
      EXPECT_EQ(max_difference(y[0], clean[0]), 0);
      EXPECT_EQ(max_difference(y[4], clean[4]), 0);
      EXPECT_EQ(l(zeros({0, 20}, dtype)).sizes(), (Shape{0, 6}));
      EXPECT_EQ(l(zeros({2, 0, 20}, dtype)).sizes(), (Shape{2, 0, 6}));
    }
  BitLinear all({.in_features = 20, .out_features = 6, .norm = "none", .act_per = "tensor"});
  Tensor x = random({3, 20}, kFloat32).clone();
  x[1].select(0, 3).fill_(NAN);
  for (double v : all(x).detach().to_vector())
    EXPECT_TRUE(std::isnan(v)) << "per tensor: the whole call";
}

TEST(BitLinear, KeepsOneBytePerActivation) {
  BitLinear l({.in_features = 256, .out_features = 256, .bias = false, .norm = "none"});
  const Tensor leaf = random({1024, 256}, kFloat32).requires_grad_();
  l(leaf * 1.0);  // the cache of the weight
  const int64_t before = memory_stats().allocated;
  const Tensor y = l(leaf * 1.0);
  const int64_t kept = memory_stats().allocated - before - y.numel() * 4;
  EXPECT_GE(kept, 1024 * 256);
  EXPECT_LE(kept, 1024 * 256 + 1024 * 8 + 16384)
      << "int8 activations, a scale per token; the packed weight is shared";
}

TEST(BitLinear, NewWeightsAreSeen) {
  BitLinear l({.in_features = 16, .out_features = 8});
  const Tensor x = random({3, 16}, kFloat32), before = l(x).detach();
  {
    no_grad guard;
    l.weight().mul_(-1.0);
  }
  EXPECT_GT(max_difference(l(x).detach(), before), 0.01);
  l.weight().set_data(l.weight().detach() * -1.0);
  EXPECT_LT(max_difference(l(x).detach(), before), 1e-6);
  l.eval();
  l.pack();
  {
    no_grad guard;
    l.weight().mul_(-1.0);
  }
  EXPECT_LT(max_difference(l(x).detach(), before), 1e-6)
      << "packed weights stay until they are packed again";
  l.pack();
  EXPECT_GT(max_difference(l(x).detach(), before), 0.01);
}

TEST(BitLinear, ThreadsDoNotMatter) {
  const int threads = get_num_threads();
  for (const int64_t m : {1, 100}) {
    std::vector<Tensor> r;
    for (int t : {1, 2, 3}) {
      set_num_threads(t);
      manual_seed(1);
      BitLinear l({.in_features = 1000, .out_features = 300, .variant = "b1.58"});
      r.push_back(l(random({m, 1000}, kFloat32)).detach());
    }
    set_num_threads(threads);
    EXPECT_EQ(max_difference(r[0], r[1]), 0);
    EXPECT_EQ(max_difference(r[0], r[2]), 0);
  }
}

TEST(BitLinear, RefusesBadOptions) {
  EXPECT_ERROR(BitLinear({.in_features = 0, .out_features = 2}), OptionError, "in_features is 0");
  EXPECT_ERROR(BitLinear({.in_features = 2, .out_features = -1}), OptionError,
               "out_features is -1");
  EXPECT_ERROR(BitLinear({.in_features = 4, .out_features = 4, .variant = "b2"}), OptionError,
               "variant is \"b2\"");
  EXPECT_ERROR(BitLinear({.in_features = 4, .out_features = 4, .norm = "group"}), OptionError,
               "norm is \"group\"");
  EXPECT_ERROR(BitLinear({.in_features = 4, .out_features = 4, .act_per = "row"}), OptionError,
               "act_per is \"row\"");
  EXPECT_ERROR(BitLinear({.in_features = 4, .out_features = 4, .act_mode = "x"}), OptionError,
               "act_mode is \"x\"");
  EXPECT_ERROR(BitLinear({.in_features = 4, .out_features = 4, .act_qmax = 255}), OptionError,
               "act_qmax is 255");
  EXPECT_ERROR(BitLinear({.in_features = 4, .out_features = 4, .weight_groups = 3}), OptionError,
               "weight_groups 3 does not divide");
  EXPECT_ERROR(BitLinear({.in_features = 4, .out_features = 4, .act_groups = 3}), OptionError,
               "act_groups 3 does not divide");
  BitLinear l({.in_features = 4, .out_features = 4});
  EXPECT_ERROR(l(zeros({2, 5})), ShapeError, "x is [2, 5], expected [*, 4]");
  EXPECT_ERROR(l(zeros({2, 4}, kInt32)), DTypeError, "x is int32");
  l.eval();
  l.pack(true);
  EXPECT_ERROR(l.pack(), StateError, "released already");
}

TEST(BitLinear, AnAffineWithoutANormScales) {
  BitLinear m({.in_features = 8, .out_features = 4, .norm = "none", .norm_affine = true}),
      plain({.in_features = 8, .out_features = 4, .norm = "none"});
  StateDict state = m.state_dict();
  EXPECT_FALSE(state.contains("norm.bias"));
  state.set("norm.weight", random({8}, kFloat32));
  m.load_state_dict(state);
  plain.load_state_dict(state, false);
  const Tensor x = random({3, 8}, kFloat32, 8);
  EXPECT_LT(max_difference(m(x), plain(x * state.find("norm.weight"))), 1e-6);
}

}  // namespace
}  // namespace dropin
