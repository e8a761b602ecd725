// Few-bit tables: what the solver finds, one stream of bits, a user's own table.
#include "activation/tabled.h"
#include "dropin/activation/fewbit.h"
#include "support.h"

namespace dropin {
namespace {

using testing::expect_values;
using testing::max_difference;

TEST(FewBitTable, StoredTablesAreWhatTheProgramFinds) {
  for (const char* name : kTabled)
    for (int bits = 1; bits <= 3; ++bits)
      for (const bool fold : {false, true}) {
        if (fold && !fewbit_even(name)) continue;
        const FewBitTable a = fewbit_table(name, bits, fold),
                          b = solve_fewbit_table(name, bits, fold);
        ASSERT_EQ(a.borders.size(), (1u << bits) - 1);
        for (std::size_t i = 0; i < a.borders.size(); ++i)
          EXPECT_NEAR(a.borders[i], b.borders[i], 1e-9) << name << " " << bits;
        for (std::size_t i = 0; i < a.levels.size(); ++i)
          EXPECT_NEAR(a.levels[i], b.levels[i], 1e-9) << name << " " << bits;
        double inner = 0;
        for (double v : a.borders) inner += v;
        if (!fold && std::string(name) != "selu" && std::string(name) != "elu" &&
            std::string(name) != "celu" && std::string(name) != "mish") {
          EXPECT_LE(inner, 1e-9) << name;
        }
      }
}

TEST(FewBitTable, LeavesTheLeastError) {
  struct Row {
    const char* name;
    int bits;
    bool fold;
    double cost;
  };
  for (const Row& r : {Row{"gelu", 1, false, 1.4105e-1},
                       {"gelu", 2, false, 4.4753e-2},
                       {"gelu", 3, false, 1.1989e-2},
                       {"gelu", 4, false, 3.1624e-3},
                       {"silu", 3, false, 1.7738e-2},
                       {"silu", 4, false, 4.7087e-3},
                       {"sigmoid", 4, false, 8.1913e-4},
                       {"sigmoid", 1, true, 1.0404e-2},
                       {"tanh", 4, false, 6.5599e-3},
                       {"tanh", 2, true, 1.6375e-2},
                       {"selu", 3, false, 1.9112e-2},
                       {"selu", 4, false, 3.9993e-3},
                       {"softplus", 4, false, 3.0132e-3},
                       {"elu", 4, false, 1.2109e-3},
                       {"mish", 4, false, 3.7720e-3},
                       {"softsign", 4, false, 9.0556e-3},
                       {"hardswish", 4, false, 1.0204e-2}}) {
    const FewBitTable t = fewbit_table(r.name, r.bits, r.fold);
    EXPECT_NEAR(fewbit_error(r.name, t, r.fold) / r.cost, 1, 1e-4) << r.name << " " << r.bits;
    for (std::size_t i = 0; i < t.borders.size(); ++i)  // and no border can be moved to gain
      for (const double step : {-1e-3, 1e-3}) {
        FewBitTable moved = t;
        moved.borders[i] += step;
        EXPECT_GE(fewbit_error(r.name, moved, r.fold), fewbit_error(r.name, t, r.fold) * (1 - 1e-9))
            << r.name << " " << r.bits << " border " << i;
      }
  }
  EXPECT_LT(fewbit_error("gelu", fewbit_table("gelu", 5)), 1e-3);
  EXPECT_LT(fewbit_error("tanh", fewbit_table("tanh", 3, false, 8), false, 8), 2.7e-2);
  EXPECT_ERROR(fewbit_table("relu", 3), OptionError, "activation is \"relu\"");
  EXPECT_ERROR(fewbit_table("gelu", 9), OptionError, "bits is 9");
  EXPECT_ERROR(fewbit_table("gelu", 3, true), OptionError, "fold needs an even derivative");
}

TEST(FewBitPack, IsOneBitStream) {
  for (int64_t bits = 1; bits <= 8; ++bits)
    for (const int64_t n : {0, 1, 7, 8, 9, 64, 1027}) {
      Generator g(3);
      const Tensor codes = randint(0, 1 << bits, {n}, kInt64, &g).to(kUInt8);
      const Tensor packed = fewbit_pack(codes, bits);
      ASSERT_EQ(packed.numel(), (n + 7) / 8 * bits);
      const auto c = codes.to_vector<int>(), p = packed.to_vector<int>();
      for (int64_t i = 0; i < packed.numel() * 8; ++i) {
        const int64_t code = i / bits;
        const int want = code < n ? c[static_cast<std::size_t>(code)] >> (i % bits) & 1 : 0;
        ASSERT_EQ(p[static_cast<std::size_t>(i / 8)] >> (i % 8) & 1, want)
            << "bits " << bits << " n " << n << " bit " << i;
      }
      EXPECT_EQ(max_difference(fewbit_unpack(packed, bits, n), codes), 0);
    }
  EXPECT_ERROR(fewbit_pack(full({3}, 4, kUInt8), 2), Error, "does not fit");
  EXPECT_ERROR(fewbit_pack(zeros({3}, kUInt8), 0), OptionError, "bits is 0");
  EXPECT_ERROR(fewbit_pack(zeros({3}), 2), DTypeError, "codes are float32");
  EXPECT_ERROR(fewbit_unpack(zeros({3}, kUInt8), 3, 9), ShapeError, "expected 6 for 9 codes");
}

TEST(FewBitStepwise, ReluTakesAUsersTable) {
  FewBitStepwise m({.borders = {0.5}, .levels = {0.25, 0.75}, .function = "relu"});
  const Tensor x = tensor(std::vector<double>{-1, 0.2, 0.5, 2}).requires_grad_();
  const Tensor y = m(x);
  testing::expect_values(y, {0, 0.2, 0.5, 2});
  sum(y).backward();
  testing::expect_values(x.grad(), {0.25, 0.25, 0.25, 0.75});
  EXPECT_ERROR(FewBitStepwise({.borders = {0}, .levels = {0, 1}, .function = "gelu", .fold = true}),
               OptionError, "FewBitStepwise: fold needs an even derivative");
  EXPECT_ERROR(FewBitStepwise({.borders = {0}, .levels = {0, 1}, .function = "swish"}), OptionError,
               "FewBitStepwise: function is \"swish\"");
}

}  // namespace
}  // namespace dropin
