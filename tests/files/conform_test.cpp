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

TEST(Conform, TrainingIsTrueOrFalse) {
  TemporaryFolder folder;
  const std::string path = folder / "case.safetensors";
  save_safetensors(path, {{"input.x", ones({2})}},
                   {{"format", "dropin-golden-1"},
                    {"kind", "module"},
                    {"name", "ReLU"},
                    {"config", "{}"},
                    {"training", "True"}});
  EXPECT_ERROR(
      {
        const CaseResult r = conform(path, kCPU, false);
        if (!r.passed) fail<FileError>({r.error});
      },
      FileError, "training is \"True\"");
}

// A case proves that everything it holds was used: each name misspelt in turn.
TEST(Conform, NamesThatNobodyUsesAreErrors) {
  TemporaryFolder folder;
  MultiheadAttention m({.embed_dim = 8, .num_heads = 2});
  m.eval();
  const Tensor x = random({1, 3, 8}, kFloat32).requires_grad_(), g = random({1, 3, 8}, kFloat32, 8);
  const Tensor pad = tensor({0, 0, 1}, {1, 3}, kBool);
  const Tensor y = m(x, {.key_padding_mask = pad});
  y.backward(g);
  Named all{{"input.x", x.detach()},
            {"input.key_padding_mask", pad},
            {"output.y", y.detach()},
            {"grad_output.y", g},
            {"grad_input.x", x.grad()}};
  for (const auto& [n, p] : m.named_parameters()) {
    all.emplace_back("param." + n, p.detach());
    all.emplace_back("grad_param." + n, p.grad());
  }
  const std::string config = R"({"embed_dim": 8, "num_heads": 2})";
  ASSERT_TRUE(run(folder, "module", "MultiheadAttention", config, all).passed);
  int tried = 0;
  for (std::size_t i = 0; i < all.size(); ++i) {
    Named bad = all;
    std::string& name = bad[i].first;
    name += "s";
    const CaseResult r = run(folder, "module", "MultiheadAttention", config, bad);
    EXPECT_FALSE(r.passed) << name << " went unseen";
    std::string words = r.error;
    for (const TensorCheck& c : r.checks) words += c.detail;
    EXPECT_NE(words.find(all[i].first.substr(all[i].first.find('.') + 1)), std::string::npos)
        << name << ": " << words;
    ++tried;
  }
  EXPECT_EQ(tried, 21);
  Named mask = all;
  mask[1].first = "input.key_padding_maks";
  const CaseResult r = run(folder, "module", "MultiheadAttention", config, mask);
  EXPECT_NE(r.error.find("input.key_padding_maks: MultiheadAttention takes no such input; the "
                         "nearest name is \"key_padding_mask\""),
            std::string::npos)
      << r.error;
}

TEST(Conform, TensorsOfAnotherKindOfCaseAreErrors) {
  TemporaryFolder folder;
  const Tensor x = random({3, 40}, kFloat32);
  const Named fine{{"input.x", x}, {"output.y", x}};
  ASSERT_TRUE(run(folder, "function", "fp32", "{}", fine).passed);
  for (const char* extra : {"param.w", "buffer.w", "grad.1.0", "grad_input.x", "grad_param.w"}) {
    Named bad = fine;
    bad.emplace_back(extra, x);
    const CaseResult r = run(folder, "function", "fp32", "{}", bad);
    EXPECT_FALSE(r.passed) << extra;
    EXPECT_FALSE(r.error.empty()) << extra;
  }
}

}  // namespace
}  // namespace dropin
