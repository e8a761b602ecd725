// An outsider's component in dropin's world: registered in one line, then made by name, swapped
// into a model, checked against a golden case and timed. Exit 0 when all of that held.
#include "own_drop_in/low_rank_linear.h"

#include <chrono>
#include <cstdio>
#include <exception>

#include "dropin/registry/conform.h"

namespace {

using namespace dropin;

/// A golden case from a reference of one's own; here it was worked out by hand.
std::string golden_case() {
  const std::string path = "low_rank_linear_case.safetensors";
  // x [1, 2] = (1, 2); down [1, 2] = (3, 4): 11; up [2, 1] = (1, -1)^T; bias (0.5, 0): y = (11.5,
  // -11). dy = (1, 1): dx = (1 - 1) (3, 4) = 0, d up = 11, d bias = 1.
  save_safetensors(path,
                   {{"param.down", tensor({3.0, 4.0}, {1, 2})},
                    {"param.up", tensor({1.0, -1.0}, {2, 1})},
                    {"param.bias", tensor({0.5, 0.0}, {2})},
                    {"input.x", tensor({1.0, 2.0}, {1, 2})},
                    {"output.y", tensor({11.5, -11.0}, {1, 2})},
                    {"grad_output.y", ones({1, 2})},
                    {"grad_input.x", zeros({1, 2})},
                    {"grad_param.up", full({2, 1}, 11.0)},
                    {"grad_param.bias", ones({2})}},
                   {{"format", "dropin-golden-1"},
                    {"kind", "module"},
                    {"name", "LowRankLinear"},
                    {"config", R"({"in_features": 2, "out_features": 2, "rank": 1})"},
                    {"training", "true"},
                    {"rtol", "1e-6"},
                    {"atol", "1e-6"},
                    {"note", "worked out by hand"}});
  return path;
}

double microseconds(Module& m, const Tensor& x) {
  no_grad guard;
  m.call({{"x", x}});
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 50; ++i) m.call({{"x", x}});
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start)
             .count() /
         50;
}

int run() {
  registry().add<outside::LowRankLinear>();

  Transformer model(
      {.vocab_size = 32, .embed_dim = 32, .num_layers = 1, .num_heads = 2, .max_len = 16});
  const std::int64_t before = model.num_parameters();
  std::printf("%s",
              swap(model, "Linear", "LowRankLinear", Json::parse(R"({"rank": 4})")).str().c_str());
  std::printf("parameters: %lld -> %lld\n", static_cast<long long>(before),
              static_cast<long long>(model.num_parameters()));

  const CaseResult r = conform(golden_case());
  for (const TensorCheck& c : r.checks)
    std::printf("%s %s, worst error %.2g of the tolerance\n", c.passed ? "ok  " : "FAIL",
                c.name.c_str(), c.worst);

  const Json wide = Json::parse(R"({"in_features": 512, "out_features": 512})");
  const Box<Module> standard = make("Linear", wide), own = make("LowRankLinear", wide);
  const Tensor x = randn({256, 512});
  const double a = microseconds(*standard, x), b = microseconds(*own, x);
  std::printf("256 rows of 512: Linear %.0f us, LowRankLinear of rank 4 %.0f us\n", a, b);
  return r.passed && model.num_parameters() < before ? 0 : 1;
}

}  // namespace

int main() {
  try {
    return run();
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 2;
  }
}
