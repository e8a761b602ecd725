// BitLinear: the packed integer product against the definition, storage, states, bad input.
#include <filesystem>

#include "dropin/core/parallel.h"
#include "dropin/dispatch/dispatch.h"
#include "dropin/module/sequential.h"
#include "dropin/projection/bitlinear.h"
#include "dropin/projection/linear.h"
#include "dropin/registry/registry.h"
#include "dropin/serialize/safetensors.h"
#include "kernels/bitlinear/kernel.h"
#include "support.h"

namespace dropin {
namespace {

using testing::max_difference;
using testing::random;

TEST(BitPack, StorageIsAsSpecified) {
  for (const bool ternary : {false, true})
    for (const int64_t k : {1, 3, 4, 5, 8, 9, 43, 256})
      for (const int64_t groups : {1, 3}) {
        const Tensor w = random({6, k}, kFloat32, static_cast<std::uint64_t>(k));
        const BitPackedWeight p = bitlinear_pack_weight(w, ternary ? "b1.58" : "b1", groups);
        const int64_t per = ternary ? 4 : 8, bytes = (k + per - 1) / per, rows = 6 / groups;
        ASSERT_EQ(p.packed.sizes(), (Shape{6, bytes}));
        const auto v = w.to_vector(), scale = p.scale.to_vector();
        const auto b = p.packed.to_vector<int>();
        const Tensor back = bitlinear_unpack_weight(p.packed, p.scale, ternary ? "b1.58" : "b1", k);
        for (int64_t g = 0; g < groups; ++g) {
          double sum = 0, size = 0;
          for (int64_t i = g * rows * k; i < (g + 1) * rows * k; ++i)
            sum += v[static_cast<std::size_t>(i)], size += std::abs(v[static_cast<std::size_t>(i)]);
          const double mean = sum / static_cast<double>(rows * k),
                       s = size / static_cast<double>(rows * k);
          EXPECT_NEAR(scale[static_cast<std::size_t>(g)], s, 1e-6);
          for (int64_t r = g * rows; r < (g + 1) * rows; ++r)
            for (int64_t i = 0; i < bytes * per; ++i) {
              const int bits = b[static_cast<std::size_t>(r * bytes + i / per)];
              const int code = ternary ? bits >> 2 * (i % 4) & 3 : bits >> (i % 8) & 1;
              if (i >= k) {
                EXPECT_EQ(code, ternary ? 1 : 0) << "spare";
                continue;
              }
              const double x = v[static_cast<std::size_t>(r * k + i)];
              const int value = ternary
                                    ? static_cast<int>(std::clamp(std::nearbyint(x / s), -1.0, 1.0))
                                : x - mean > 0 ? 1
                                               : -1;
              EXPECT_EQ(code, ternary ? value + 1 : value > 0);
              EXPECT_NEAR(back.to_vector()[static_cast<std::size_t>(r * k + i)], value * s, 1e-6);
            }
        }
      }
  EXPECT_ERROR(bitlinear_pack_weight(random({4, 4}), "b2"), OptionError, "variant is \"b2\"");
  EXPECT_ERROR(bitlinear_pack_weight(random({4, 4}), "b1", 3), OptionError,
               "weight_groups 3 does not divide the 4 rows");
  EXPECT_ERROR(bitlinear_pack_weight(random({4})), ShapeError, "weight is [4]");
  EXPECT_ERROR(bitlinear_pack_weight(zeros({4, 4}, kInt32)), DTypeError, "int32");
  EXPECT_ERROR(bitlinear_unpack_weight(zeros({4, 2}, kUInt8), ones({1}), "b1", 17), ShapeError,
               "expected [out, 3]");
  EXPECT_ERROR(bitlinear_unpack_weight(zeros({4, 2}, kUInt8), ones({3}), "b1", 16), ShapeError,
               "scale is [3]");
  EXPECT_ERROR(bitlinear_unpack_weight(zeros({4, 2}), ones({1})), DTypeError, "packed is float32");
}

TEST(BitPack, AllZeroWeights) {
  const BitPackedWeight a = bitlinear_pack_weight(zeros({3, 5}), "b1"),
                        b = bitlinear_pack_weight(zeros({3, 5}), "b1.58");
  EXPECT_EQ(a.scale.item(), 0);
  EXPECT_EQ(b.scale.item(), static_cast<double>(1e-5f));
  EXPECT_EQ(max_difference(bitlinear_unpack_weight(b.packed, b.scale, "b1.58", 5), zeros({3, 5})),
            0);
  BitLinear l({.in_features = 5, .out_features = 3});
  {
    no_grad guard;
    l.weight().zero_();
  }
  EXPECT_EQ(
      max_difference(l(random({4, 5}, kFloat32)), detail::broadcast_to(l.bias().detach(), {4, 3})),
      0)
      << "y = bias";
}

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

TEST(BitLinear, PackedFormsRoundTripThroughFiles) {
  for (const char* variant : {"b1", "b1.58"})
    for (const bool release : {false, true}) {
      const BitLinearOptions o{.in_features = 67,
                               .out_features = 12,
                               .variant = variant,
                               .norm_affine = true,
                               .weight_groups = 2};
      BitLinear a(o), b(o);
      a.eval();
      b.eval();
      a.pack(release);
      EXPECT_TRUE(a.packed());
      EXPECT_EQ(a.state_dict().contains("weight"), !release);
      const std::string path = ::testing::TempDir() + "bitlinear_packed.safetensors";
      std::vector<std::pair<std::string, Tensor>> state;
      for (const auto& [n, t] : a.state_dict()) state.emplace_back(n, t);
      save_safetensors(path, state);
      StateDict loaded;
      for (auto& [n, t] : load_safetensors(path).tensors) loaded.set(n, t);
      std::filesystem::remove(path);
      b.load_state_dict(loaded);
      EXPECT_TRUE(b.packed());
      const Tensor x = random({5, 67}, kFloat32);
      EXPECT_EQ(max_difference(a(x), b(x)), 0);
      if (release) {  // and back to the float form
        b.train();
        EXPECT_TRUE(b.packed()) << "there is nothing else";
        EXPECT_ERROR(b(x), StateError, "released");
        BitLinear c(o);
        b.load_state_dict(c.state_dict());
        EXPECT_FALSE(b.packed());
        EXPECT_EQ(max_difference(b(x).detach(), c(x).detach()), 0);
      } else {
        b.train();
        EXPECT_FALSE(b.packed()) << "train(true) drops what was packed";
      }
      Box<Module> copy = a.clone();
      EXPECT_EQ(max_difference(dynamic_cast<BitLinear&>(*copy)(x), a(x)), 0);
    }
}

TEST(BitLinear, AStateThatDoesNotFitChangesNothing) {
  const BitLinearOptions o{.in_features = 16, .out_features = 8, .variant = "b1.58"};
  BitLinear packed(o);
  packed.eval();
  packed.pack(true);
  StateDict state;
  for (const auto& [n, t] : packed.state_dict()) state.set(n, t.clone());
  for (const bool into_float : {true, false}) {
    Sequential m;
    m.add<BitLinear>(o);
    m.add<Linear>({.in_features = 8, .out_features = 4});
    m.eval();
    auto& layer = dynamic_cast<BitLinear&>(*m.children()[0].second);
    if (!into_float) layer.pack(true);
    const Tensor x = random({3, 16}, kFloat32), before = m(x);
    StateDict bad;  // the other form of the first layer, and nothing of the second
    if (into_float)
      for (const auto& [n, t] : state) bad.set("0." + n, t);
    else
      for (const auto& [n, t] : BitLinear(o).state_dict()) bad.set("0." + n, t.clone());
    EXPECT_ERROR(m.load_state_dict(bad), StateError, "nothing was loaded");
    EXPECT_EQ(layer.packed(), !into_float);
    EXPECT_EQ(m.state_dict().contains("0.weight"), into_float);
    EXPECT_EQ(max_difference(m(x), before), 0);
    if (into_float) {
      EXPECT_TRUE(layer.weight().requires_grad());
    }
  }
}

TEST(BitLinear, RefusesPackedStatesOfAnotherKind) {
  auto packed_state = [](const BitLinearOptions& o) {
    BitLinear l(o);
    l.eval();
    l.pack(true);
    return l.state_dict();
  };
  const BitLinearOptions b1{.in_features = 30, .out_features = 4},
      ternary{.in_features = 30, .out_features = 4, .variant = "b1.58"};
  EXPECT_ERROR(BitLinear(ternary).load_state_dict(packed_state(b1)), StateError,
               "weight_packed is [4, 4], expected [4, 8] for variant b1.58");
  EXPECT_ERROR(BitLinear(b1).load_state_dict(packed_state(ternary)), StateError,
               "expected [4, 4] for variant b1");
  EXPECT_ERROR(BitLinear({.in_features = 30, .out_features = 4, .weight_groups = 2})
                   .load_state_dict(packed_state(b1)),
               StateError, "weight_scale is [1], expected [2]");
  StateDict broken = packed_state(ternary);
  broken.find("weight_packed").data<std::uint8_t>()[3] = 0xff;  // code 3 is none
  EXPECT_ERROR(BitLinear(ternary).load_state_dict(broken), StateError,
               "not packed as variant b1.58");
  StateDict spare = packed_state(b1);
  spare.find("weight_packed").data<std::uint8_t>()[3] |= 0x80;  // element 31 of 30
  EXPECT_ERROR(BitLinear(b1).load_state_dict(spare), StateError, "not packed as variant b1");
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

TEST(BitLinear, UnpackingRefusesACodeThatStandsForNone) {
  const Tensor packed = tensor(std::vector<double>{0x03}, kUInt8).reshape({1, 1});
  EXPECT_ERROR(bitlinear_unpack_weight(packed, ones({1}), "b1.58", 4), Error, "code 3");
}

}  // namespace
}  // namespace dropin
