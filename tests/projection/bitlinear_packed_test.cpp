// BitLinear: packed storage and states.
#include <filesystem>

#include "dropin/module/sequential.h"
#include "dropin/projection/bitlinear.h"
#include "dropin/projection/linear.h"
#include "dropin/serialize/safetensors.h"
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

TEST(BitLinear, UnpackingRefusesACodeThatStandsForNone) {
  const Tensor packed = tensor(std::vector<double>{0x03}, kUInt8).reshape({1, 1});
  EXPECT_ERROR(bitlinear_unpack_weight(packed, ones({1}), "b1.58", 4), Error, "code 3");
}

}  // namespace
}  // namespace dropin
