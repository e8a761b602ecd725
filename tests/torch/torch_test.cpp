// dropin inside a LibTorch program. Built with -DDROPIN_TORCH=ON where there is a LibTorch.
#include <gtest/gtest.h>
#include <chrono>

#include "dropin/interop/torch.h"
#include "support.h"
#include "torch/worst.h"

namespace dropin {
namespace {

using interop::Layer;

TEST(Torch, TensorsShareTheirMemoryBothWays) {
  torch::Tensor t = torch::arange(6, torch::kFloat32).reshape({2, 3}).transpose(0, 1);
  const Tensor d = interop::from_torch(t);
  EXPECT_EQ(d.sizes(), (Shape{3, 2}));
  EXPECT_EQ(d.data_ptr(), t.data_ptr());
  t[2][1] = 50;
  EXPECT_EQ(d[2][1].item(), 50);
  const torch::Tensor back = interop::to_torch(d.narrow(0, 1, 2));
  EXPECT_EQ(back.sizes(), (std::vector<int64_t>{2, 2}));
  EXPECT_EQ(back[1][1].item<float>(), 50);
  torch::Tensor outlives;
  {
    Tensor own = ones({3});
    outlives = interop::to_torch(own);
  }
  EXPECT_EQ(outlives.sum().item<float>(), 3);
  EXPECT_FALSE(interop::from_torch(torch::Tensor()).defined());
  EXPECT_EQ(interop::from_torch(torch::empty({0, 4})).sizes(), (Shape{0, 4}));
}

TEST(Torch, TensorsThatDoNotFitAreNamed) {
  EXPECT_ERROR(interop::from_torch(torch::zeros({2}, torch::kComplexFloat)), DTypeError,
               "dtype is ComplexFloat");
  EXPECT_ERROR(interop::from_torch(torch::zeros({2, 2}).to_sparse()), Error, "layout is Sparse");
  EXPECT_ERROR(interop::from_torch(torch::zeros({2}, torch::TensorOptions().device(torch::kMeta))),
               DeviceError, "is on meta, expected cpu or cuda");
  EXPECT_ERROR(interop::from_torch(torch::zeros({1, 1, 1, 1, 1, 1, 1, 1, 1})), ShapeError,
               "9 dimensions");
  Layer l("Linear", R"({"in_features": 3, "out_features": 2})");
  EXPECT_ERROR(l->forward(torch::zeros({2, 4})), ShapeError, "expected");
  EXPECT_ERROR(Layer("Linaer"), OptionError, "Linear");
}

TEST(Torch, ALayerComputesAndDifferentiatesAsTorchsOwn) {
  torch::manual_seed(1);
  for (const auto dtype : {torch::kFloat32, torch::kFloat64}) {
    torch::nn::Linear reference(5, 4);
    reference->to(dtype);
    Layer layer = interop::from_layer(*reference);
    const torch::Tensor x = torch::randn({3, 5}, dtype).requires_grad_(),
                        z = x.detach().clone().requires_grad_(), g = torch::randn({3, 4}, dtype);
    const torch::Tensor want = reference->forward(x), got = layer->forward(z);
    want.backward(g);
    got.backward(g);
    const double eps = dtype == torch::kFloat32 ? 1e-5 : 1e-12;
    EXPECT_LT(worst(got, want), eps);
    EXPECT_LT(worst(z.grad(), x.grad()), eps);
    const auto a = layer->named_parameters(), b = reference->named_parameters();
    ASSERT_EQ(a.size(), 2u);
    for (const auto& p : b) EXPECT_LT(worst(a[p.key()].grad(), p.value().grad()), eps) << p.key();
  }
}

TEST(Torch, StateModeAndPlaceFollowTorch) {
  Layer layer("BatchNorm2d", R"({"num_features": 3})");
  EXPECT_TRUE(layer->named_buffers().contains("running_mean"));
  layer->forward(torch::randn({4, 3, 5, 5}) + 7);
  EXPECT_GT(layer->named_buffers()["running_mean"].abs().max().item<float>(), 0.1);
  layer->eval();
  EXPECT_FALSE(layer->module().is_training());
  layer->to(torch::kFloat64);
  EXPECT_EQ(layer->forward(torch::randn({1, 3, 2, 2}, torch::kFloat64)).scalar_type(),
            torch::kFloat64);
  // torch's archives
  Layer a("Linear", R"({"in_features": 3, "out_features": 2})"),
      b("Linear", R"({"in_features": 3, "out_features": 2})");
  std::stringstream file;
  torch::save(a, file);
  torch::load(b, file);
  const torch::Tensor x = torch::randn({2, 3});
  EXPECT_EQ(worst(a->forward(x), b->forward(x)), 0);
  const auto copy = std::dynamic_pointer_cast<interop::LayerImpl>(a->clone());
  EXPECT_EQ(worst(copy->forward(x), a->forward(x)), 0);
  EXPECT_NE(copy->named_parameters()["weight"].data_ptr(),
            a->named_parameters()["weight"].data_ptr());
}

TEST(Torch, TheTapeIsUsedAsTorchsIs) {
  Layer layer("GELU");
  torch::Tensor x = torch::randn({5}).requires_grad_();
  torch::Tensor y = layer->forward(x).sum();
  y.backward({}, /*retain_graph=*/true);
  const torch::Tensor once = x.grad().clone();
  y.backward();
  EXPECT_LT(worst(x.grad(), 2 * once), 1e-6);
  torch::Tensor z = torch::randn({5}).requires_grad_(), w = z * 1;
  y = layer->forward(w).sum();
  w.add_(1);
  EXPECT_ANY_THROW(y.backward()) << "changed in place";
  y = layer->forward(x).sum();
  EXPECT_ANY_THROW(torch::autograd::grad({y}, {x}, {}, true, /*create_graph=*/true))
      << "second derivatives";
  {
    torch::NoGradGuard guard;
    EXPECT_FALSE(layer->forward(x).requires_grad());
  }
}

TEST(Torch, SwapInsideATorchModel) {
  torch::manual_seed(5);
  torch::nn::Sequential net(torch::nn::Linear(8, 16), torch::nn::GELU(), torch::nn::Linear(16, 4));
  const torch::Tensor x = torch::randn({3, 8}), before = net->forward(x);
  const torch::Tensor weight = net->named_parameters()["0.weight"].clone();
  auto report = interop::swap(*net, "GELU", "SiLU");
  EXPECT_EQ(report.replaced, (std::vector<std::string>{"1"}));
  EXPECT_GT(worst(net->forward(x), before), 1e-4);
  report = interop::swap(*net, "Linear", "BitLinear");
  EXPECT_EQ(report.replaced, (std::vector<std::string>{"0", "2"}));
  EXPECT_EQ(worst(net->named_parameters()["0.weight"], weight), 0) << "weights carried over";
  EXPECT_EQ(net->forward(x).sizes(), (std::vector<int64_t>{3, 4}));
  net->forward(x).sum().backward();
  EXPECT_TRUE(net->named_parameters()["0.weight"].grad().defined());

  torch::nn::Sequential images(
      torch::nn::Conv2d(torch::nn::Conv2dOptions(4, 4, 3).padding(1).groups(4).bias(false)));
  interop::swap(*images, "DepthwiseConv2d", "MixConv2d", Json::parse(R"({"kernel_size": [3, 5]})"));
  EXPECT_EQ(images->forward(torch::randn({1, 4, 6, 6})).sizes(),
            (std::vector<int64_t>{1, 4, 6, 6}));

  struct Typed : torch::nn::Module {
    torch::nn::Linear fc{3, 3};
    Layer attention{interop::from_layer(
        *torch::nn::MultiheadAttention(torch::nn::MultiheadAttentionOptions(8, 2)))};
    Typed() { register_module("fc", fc), register_module("attention", attention); }
  } typed;
  EXPECT_ERROR(interop::swap(typed, "Linear", "MXLinear", Json::parse(R"({"no": 1})")), Error, "");
  const auto q = typed.attention->named_parameters()["q_proj.weight"].clone();
  report = interop::swap(typed, "MultiheadAttention", "LongformerAttention",
                         Json::parse(R"({"window": 2})"));
  EXPECT_EQ(report.replaced, (std::vector<std::string>{"attention"}));
  EXPECT_EQ(typed.attention->type(), "LongformerAttention");
  EXPECT_EQ(worst(typed.attention->named_parameters()["q_proj.weight"], q), 0);
  EXPECT_EQ(typed.attention->forward(torch::randn({1, 5, 8})).size(1), 5);
  EXPECT_ERROR(interop::swap(typed, "LayerNorm", "RMSNorm"), OptionError,
               "no LayerNorm that could be replaced");
  EXPECT_ERROR(interop::swap(typed, "LayerNrom", "RMSNorm"), OptionError, "LayerNorm");
}

// What a torch layer becomes computes what the torch layer did, or there is no counterpart.
TEST(Torch, EveryCounterpartIsTheSameFunction) {
  torch::manual_seed(3);
  namespace nn = torch::nn;
  auto same = [](auto layer, const torch::Tensor& x) {
    layer->eval();
    Layer ours = interop::from_layer(*layer);
    ours->eval();
    torch::NoGradGuard guard;
    torch::Tensor want;
    if constexpr (requires { std::get<0>(layer->forward(x)); })
      want = std::get<0>(layer->forward(x));
    else
      want = layer->forward(x);
    const torch::Tensor got = ours->forward(x);
    ASSERT_EQ(got.sizes(), want.sizes()) << ours->type();
    EXPECT_LT(worst(got, want), 1e-5) << ours->type();
  };
  const torch::Tensor rows = torch::linspace(-4, 4, 200).reshape({50, 4});
  const torch::Tensor pictures = torch::randn({2, 4, 7, 6}), signals = torch::randn({2, 4, 9});
  const torch::Tensor sequences = torch::randn({5, 3, 8});  // [L, B, E] and [B, L, E] alike
  same(nn::Linear(4, 3), rows);
  same(nn::GELU(), rows);
  same(nn::GELU(nn::GELUOptions().approximate("tanh")), rows);
  same(nn::SiLU(), rows);
  same(nn::ReLU(), rows);
  same(nn::Sigmoid(), rows);
  same(nn::Tanh(), rows);
  same(nn::LayerNorm(nn::LayerNormOptions({4})), rows);
  same(nn::Conv2d(nn::Conv2dOptions(4, 6, {3, 5}).stride(2).padding({1, 2}).groups(2)), pictures);
  same(nn::Conv1d(nn::Conv1dOptions(4, 6, 3).stride(2).padding(1).dilation(2)), signals);
  same(nn::Embedding(11, 8), torch::randint(0, 11, {2, 5}));
  same(nn::LSTM(nn::LSTMOptions(8, 6).num_layers(2)), sequences);
  same(nn::LSTM(nn::LSTMOptions(8, 6).batch_first(true)), sequences);
  same(nn::GRU(nn::GRUOptions(8, 6)), sequences);
  nn::BatchNorm2d norm(nn::BatchNorm2dOptions(4).eps(1e-3));
  for (int i = 0; i < 3; ++i) norm->forward(torch::randn({8, 4, 3, 3}) * 2 + 1);
  same(norm, pictures);

  EXPECT_FALSE(interop::component_of(*nn::LSTM(nn::LSTMOptions(8, 6).bidirectional(true))));
  EXPECT_FALSE(interop::component_of(
      *nn::Conv2d(nn::Conv2dOptions(4, 4, 3).padding(1).padding_mode(torch::kReflect))));
  EXPECT_FALSE(interop::component_of(*nn::Embedding(nn::EmbeddingOptions(5, 3).max_norm(1.0))));
}

TEST(Torch, AttentionKeepsTorchsLayout) {
  torch::manual_seed(4);
  torch::nn::MultiheadAttention attention(torch::nn::MultiheadAttentionOptions(8, 2));
  attention->eval();
  const torch::Tensor x = torch::randn({5, 3, 8}).requires_grad_();  // [L, B, E]
  Layer layer = interop::from_layer(*attention);
  EXPECT_TRUE(layer->sequence_first());
  layer->eval();
  EXPECT_LT(worst(layer->forward(x), std::get<0>(attention->forward(x, x, x))), 1e-5);
  const torch::Tensor pad = torch::zeros({3, 5}, torch::kBool);
  pad[1][4] = true;
  const torch::Tensor got = layer->call({{"x", x}, {"key_padding_mask", pad}}).at("y");
  EXPECT_LT(worst(got, std::get<0>(attention->forward(x, x, x, pad))), 1e-5);
  got.sum().backward();
  EXPECT_EQ(x.grad().sizes(), x.sizes());
  const auto copy = std::dynamic_pointer_cast<interop::LayerImpl>(layer->clone());
  EXPECT_TRUE(copy->sequence_first());
  // the component itself is batch first
  Layer batch_first(std::make_shared<interop::LayerImpl>(interop::component_of(*attention)));
  EXPECT_LT(worst(batch_first->forward(x.transpose(0, 1)), layer->forward(x).transpose(0, 1)),
            1e-5);
}

TEST(Torch, WorksInInferenceMode) {
  c10::InferenceMode guard;
  Layer layer("Linear", R"({"in_features": 4, "out_features": 3})");
  const torch::Tensor x = torch::ones({2, 4}), before = layer->forward(x);
  layer->parameters()[0].mul_(2);  // inference tensors count no changes; they are seen all the same
  EXPECT_GT(worst(layer->forward(x), before), 1e-3);
  Layer packed("BitLinear", R"({"in_features": 4, "out_features": 3})");
  packed->eval();
  EXPECT_EQ(packed->forward(x).size(1), 3);
}

TEST(Torch, TheBridgeIsThin) {
  Layer layer("ReLU");
  const torch::Tensor x = torch::randn({16});
  const Tensor d = interop::from_torch(x);
  Box<Module> inside = make("ReLU");
  torch::NoGradGuard guard;
  no_grad off;
  auto time = [](auto&& f) {
    double best = 1e9;
    for (int r = 0; r < 20; ++r) {
      const auto start = std::chrono::steady_clock::now();
      for (int i = 0; i < 500; ++i) f();
      best = std::min(
          best, std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start)
                        .count() /
                    500);
    }
    return best;
  };
  const double bridge = time([&] { layer->forward(x); }) - time([&] { inside->call({{"x", d}}); });
  RecordProperty("overhead_us", std::to_string(bridge));
  std::printf("bridge: %.2f us per call\n", bridge);
  EXPECT_LT(bridge, 5);
}

}  // namespace
}  // namespace dropin
