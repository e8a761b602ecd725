// The conformance runner: what a case may say in more than one way.
#include "dropin/registry/conform.h"

#include "dropin/ops/bitlinear.h"
#include "dropin/sequence/multihead_attention.h"
#include "dropin/serialize/safetensors.h"
#include "support.h"
#include "temporary.h"

namespace dropin {
namespace {

using testing::random;
using testing::TemporaryFolder;
using Named = std::vector<std::pair<std::string, Tensor>>;

CaseResult run(const TemporaryFolder& folder, const std::string& kind, const std::string& name,
               const std::string& config, const Named& tensors) {
  const std::string path = folder / "case.safetensors";
  save_safetensors(path, tensors,
                   {{"format", "dropin-golden-1"},
                    {"kind", kind},
                    {"name", name},
                    {"config", config},
                    {"training", "false"},
                    {"rtol", "1e-5"},
                    {"atol", "1e-6"},
                    {"note", ""}});
  return conform(path, kCPU, false);
}

TEST(Conform, ASingleResultIsAlsoY) {
  TemporaryFolder folder;
  const BitPackedWeight w = bitlinear_pack_weight(random({4, 8}, kFloat32), "b1", 1);
  const Tensor y = bitlinear_unpack_weight(w.packed, w.scale, "b1", 8);
  for (const char* result : {"output.y", "output.weight"})
    EXPECT_TRUE(run(folder, "function", "bitlinear_unpack_weight", R"({"variant": "b1"})",
                    {{"input.packed", w.packed}, {"input.scale", w.scale}, {result, y}})
                    .passed)
        << result;
  EXPECT_FALSE(run(folder, "function", "bitlinear_unpack_weight", R"({"variant": "b1"})",
                   {{"input.packed", w.packed}, {"input.scale", w.scale}, {"output.y", y + 1.0}})
                   .passed);
}

TEST(Conform, GradientsByAnotherFrameworksNames) {
  TemporaryFolder folder;
  MultiheadAttention m({.embed_dim = 8, .num_heads = 2, .bias = false});
  const Tensor x = random({1, 3, 8}, kFloat32), g = random({1, 3, 8}, kFloat32, 8);
  const Tensor y = m(x);
  y.backward(g);
  StateDict s = m.state_dict(), gradients;
  for (auto& [name, p] : m.named_parameters()) gradients.set(name, p.grad());
  auto joined = [](const StateDict& of) {
    return concat({of.find("q_proj.weight"), of.find("k_proj.weight"), of.find("v_proj.weight")},
                  0);
  };
  Named all{{"param.in_proj_weight", joined(s)},
            {"param.out_proj.weight", s.find("out_proj.weight")},
            {"input.x", x},
            {"output.y", y.detach()},
            {"grad_output.y", g},
            {"grad_param.in_proj_weight", joined(gradients)}};
  CaseResult r = run(folder, "module", "MultiheadAttention",
                     R"({"embed_dim": 8, "num_heads": 2, "bias": false})", all);
  EXPECT_TRUE(r.passed) << r.error;
  EXPECT_EQ(r.checks.size(), 4u);  // y and the three parts
  all.back().second = joined(gradients) + 1.0;
  EXPECT_FALSE(run(folder, "module", "MultiheadAttention",
                   R"({"embed_dim": 8, "num_heads": 2, "bias": false})", all)
                   .passed);
}

}  // namespace
}  // namespace dropin
