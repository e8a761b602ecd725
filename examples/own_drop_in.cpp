// Outsiders' components in dropin's world: a drop-in of a family that is there, and a family of
// their own. Registered in a line each, they are made by name, swapped into a model and checked
// against a golden case; with arguments this is the program dropin, which lists, describes, checks,
// trains and times them too: example_own_drop_in bench AttentivePooling. Exit 0 when all held.
#include "own_drop_in/low_rank_linear.h"
#include "own_drop_in/sequence_pooling.h"

#include <cstdio>
#include <exception>

#include "dropin/program.h"
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

/// A model with a child of the new family, for swap().
class Classifier : public Module {
 public:
  Classifier() {
    pool_ = child<outside::MeanPooling>("pool", {.embed_dim = 8});
    head_ = child<Linear>("head", {.in_features = 8, .out_features = 2});
  }
  Tensor operator()(const Tensor& x) { return head_(pool_(x)); }
  std::string_view type() const override { return "Classifier"; }

 private:
  Child<outside::MeanPooling> pool_;  // whatever member of its family stands there
  Child<Linear> head_;
};

int run() {
  Transformer model(
      {.vocab_size = 32, .embed_dim = 32, .num_layers = 1, .num_heads = 2, .max_len = 16});
  const int64_t before = model.num_parameters();
  std::printf("%s",
              swap(model, "Linear", "LowRankLinear", Json::parse(R"({"rank": 4})")).str().c_str());
  std::printf("parameters: %lld -> %lld\n", static_cast<long long>(before),
              static_cast<long long>(model.num_parameters()));

  const CaseResult r = conform(golden_case());
  for (const TensorCheck& c : r.checks)
    std::printf("%s %s, worst error %.2g of the tolerance\n", c.passed ? "ok  " : "FAIL",
                c.name.c_str(), c.worst);

  Classifier classifier;
  std::printf("%s", swap(classifier, "MeanPooling", "AttentivePooling").str().c_str());
  const Tensor y = classifier(randn({3, 5, 8}));
  return r.passed && model.num_parameters() < before && y.sizes() == Shape{3, 2} ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    registry().add<outside::LowRankLinear>();
    outside::register_pooling(registry());
    return argc > 1 ? run_program(argc, argv) : run();
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 2;
  }
}
